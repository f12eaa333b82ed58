"""What a target says, as data classes; one field for every key of its file."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType, get_args

from onnxmpq.artifacts import Grouping, Layer, Neighbours, Option
from onnxmpq.errors import InputError, nearest
from onnxmpq.numerics.formats import activation_type, container_bits, opset_of

CarrierName = NewType("CarrierName", str)
"""The name of a carrier: how codes are stored and turned back."""
DialectName = NewType("DialectName", str)
"""The name of a dialect: how activations and biases are written."""
FileRulesName = NewType("FileRulesName", str)
"""The name of a set of file rules: what is checked on a file itself."""
Proof = Literal["run", "emulated", "rules", "simulated"]
"""How far it is proved that a file is right.

It is ``run`` in its runtime, or on an emulator of the machine; its ``rules`` are checked on the file, and its numbers
simulated; or it is ``simulated`` alone.
"""
Isa = Literal["any", "vnni"]
ISAS: tuple[Isa, ...] = get_args(Isa)
"""For which processors a file is made: ``any`` is right on all of them, ``vnni`` on x86 with VNNI only."""

FloatName = Literal["f32", "f16"]
FLOATS: Mapping[FloatName, str] = {"f32": "FLOAT", "f16": "FLOAT16"}
"""Float types that may stand around integer kernels, and what ONNX calls them."""
PLAIN: Mapping[str, float] = {"alpha": 1.0, "beta": 1.0, "transA": 0}
"""A plain product: what attributes are, for integer kernels, where a rule does not say it."""

ConstantName = Literal["uint8", "int32"]
"""How a constant behind the first input of a follower is written."""
Rounds = Literal["exactly", "to-neighbours"]
"""Whether a machine's own arithmetic gives the nearest code, or now and then a neighbour of it."""
IslandName = Literal["vector", "half"]
"""How a float layer between quantised ones is protected: by scales in a vector, or by computing in half precision."""

LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMul:product", "Gather", "LSTM", "GRU")
"""What a rule of layers may be for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Which model files the runtime loads; a range of opsets and the highest IR version."""

    lowest_opset: int
    highest_opset: int
    highest_ir: int


@dataclass(frozen=True, slots=True)
class LayerRule:
    """How layers of one kind are quantised.

    ``groupings``, ``weight_rank`` and ``least_channels`` say which layers it fits: the first rule that does counts.
    ``floats``, ``weight_on`` and ``attributes`` are what its integer kernels need: the float type around them, the
    factor that the weight is, and values of attributes; a layer that is otherwise takes no bits of activations.
    ``output = "quantised"``: the integer kernel needs a Q behind the layer, and every reader sees the DQ of it;
    ``"free"``: it gives float by itself. ``fuses`` names activations that may stand between the layer and that Q.
    ``readers = "all"``: once an input is quantised, all readers of that tensor see its DQ; ``"layer"``: only this one.
    ``softmax``: the sign of an operand that a Softmax gives, where it differs; it never is negative.
    ``signed_second`` names widths of activations at which the second operand of a product has signed codes.
    ``blocks_not_before`` names operators in front of which the runtime has no kernel for blocked weights.
    ``saturates``: which neighbouring products kernels without VNNI add in 16 bits (see
    ``onnxmpq.numerics.saturation``); codes of weights are kept so small that no such sum saturates. ``isa = "vnni"``:
    the rule is for files that need VNNI.
    """

    op: str
    options: tuple[Option, ...]
    groupings: tuple[Grouping, ...] = ()
    activation: Literal["unsigned", "signed"] = "unsigned"
    softmax: Literal["", "unsigned", "signed"] = ""
    signed_second: tuple[int, ...] = ()
    weight_rank: int = 0
    least_channels: int = 0
    floats: tuple[FloatName, ...] = ("f32",)
    weight_on: Literal["right", "any"] = "right"
    attributes: Mapping[str, float] = field(default_factory=lambda: PLAIN)
    output: Literal["quantised", "free"] = "free"
    readers: Literal["all", "layer"] = "layer"
    fuses: tuple[str, ...] = ()
    bias: Literal["int32", "float"] = "float"
    zero_point: bool = True
    with_activation: Mapping[str, CarrierName] = field(default_factory=dict)
    weight_only: Mapping[str, CarrierName] = field(default_factory=dict)
    blocked: CarrierName = CarrierName("dq")
    blocks_not_before: tuple[str, ...] = ()
    saturates: tuple[Neighbours, ...] = ()
    isa: Literal["", "vnni"] = ""
    why: str = ""

    def fits(self, layer: Layer) -> bool:
        """Tell whether the rule is for a layer."""
        return (
            self.op == ("MatMul:product" if layer.op == "MatMul" and not layer.weights else layer.op)
            and (not self.groupings or layer.grouping in self.groupings)
            and (not self.weight_rank or len(layer.weight_shape) == self.weight_rank)
            and (not self.least_channels or fewest_channels(layer) >= self.least_channels)
        )

    def activation_type(self, option: Option, producer: str = "", index: int = 0) -> str:
        """Return the type that holds the activations of ``option``.

        They are given by an operator called ``producer``, and are operand ``index`` of the layer.
        """
        sign = self.softmax if self.softmax and producer == "Softmax" else self.activation
        if index and option.activation_bits in self.signed_second:
            sign = "signed"
        return activation_type(option, signed=sign == "signed").name

    def carrier(self, option: Option) -> CarrierName | None:
        """Return how codes of ``option`` are stored and turned back into values; None for float weights."""
        if not option.weight_bits:
            return None
        if option.block:
            return self.blocked
        table = self.with_activation if option.activation_bits else self.weight_only
        own = table.get(str(option.weight_bits))
        return own or table.get(str(container_bits(option.weight_bits)), CarrierName("dq"))

    def opset(self, option: Option) -> int:
        """Return the lowest opset in which ``option`` can be written."""
        from onnxmpq.carriers.base import carrier  # help and completion do not wait for onnx

        named = self.carrier(option)
        return carrier(named).opset(option) if named else opset_of(option)


@dataclass(frozen=True, slots=True)
class FollowerRule:
    """An operator without weights that runs on codes when its neighbours are quantised.

    It joins when all its inputs are quantised and its output is asked for; ``pull`` lets it ask for its input itself
    when an integer kernel produces that. ``same_scale``: input and output share one scale; where they are
    ``unlike_apart``, an input whose range is far below that of the others keeps a scale of its own. ``constants``: an
    operand may be a constant, which is quantised like the others. ``parameters`` says how the constants behind the
    first input are written, one after the other; without all of them it does not join.
    """

    op: str
    pull: bool = False
    constants: bool = False
    parameters: tuple[ConstantName, ...] = ()
    same_scale: bool = False
    unlike_apart: bool = False
    fuses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetVariant:
    """What is otherwise on some machines that run the files of a target, never on the one that makes them.

    ``isa``, ``soc`` and ``provider`` are the facts that tell those machines. Its rules are looked at before the others.
    """

    name: str
    title: str = ""
    isa: Literal["", "vnni"] = ""
    soc: str = ""
    provider: str = ""
    runtime: str = ""
    stand_in: str = ""
    proof: Literal["", "run", "emulated", "rules", "simulated"] = ""
    rules: FileRulesName = FileRulesName("")
    dialect: DialectName = DialectName("")
    layers: tuple[LayerRule, ...] = ()
    followers: tuple[FollowerRule, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What one runtime executes. See the fields of the rules for the meaning of each key.

    ``stand_in``: what is used where ``runtime`` is not installed; nothing: a file is made only where it is.
    ``proof``: how far a file is proved right where the runtime is; ``rules``: what is checked on the file itself.
    ``menu``: what a search chooses from unless it is told, and its first option is what every unit gets without one.
    ``together``: units that read one tensor take one option, since the runtime fuses them only then.
    ``dialect``: how quantised activations and integer biases are written.
    ``converts``: a tensor is quantised once, in the type that its producer gives, and converted for readers of another.
    ``passes``: what models go through for it beside normalising.
    ``rounds``: how near to the nearest code the machine's own arithmetic comes.
    ``static_shapes``: the runtime loads no file with open dimensions.
    ``islands``: a float layer between quantised ones needs protection, which ``island`` is. ``integer_kernels``: layers
    with activation bits are promised to run in integers, and an export in which none does is refused. ``isa``: for
    which processors.
    """

    name: str
    title: str
    runtime: str
    limits: Limits
    layers: tuple[LayerRule, ...]
    followers: tuple[FollowerRule, ...] = ()
    stand_in: str = ""
    proof: Proof = "run"
    rules: FileRulesName = FileRulesName("")
    menu: tuple[Option, ...] = ()
    together: bool = False
    dialect: DialectName = DialectName("qdq")
    islands: bool = False
    island: IslandName = "vector"
    converts: bool = False
    static_shapes: bool = False
    passes: tuple[str, ...] = ()
    rounds: Rounds = "exactly"
    soc: str = ""
    integer_kernels: bool = True
    isa: Isa = "any"
    notes: tuple[str, ...] = ()

    variants: tuple[TargetVariant, ...] = field(default=(), repr=False)

    def variant(self, asked: str) -> "Target":
        """Return the target for files that are right on any processor, or for the machines of one of its variants.

        >>> from onnxmpq.targets import target
        >>> target("ort-cpu").variant("vnni").name
        'ort-cpu@vnni'
        """
        if asked == "any":
            return dataclasses.replace(self, layers=tuple(rule for rule in self.layers if not rule.isa))
        own = next((one for one in self.variants if one.name == asked), None)
        known = list(dict.fromkeys((*ISAS, *(one.name for one in self.variants))))
        if own is None and asked not in known:
            raise InputError(f"A target has no variant '@{asked}'. Known: {', '.join(known)}.{nearest(asked, known)}")
        isa: Isa = "vnni" if asked == "vnni" or (own is not None and own.isa) else "any"
        found = dataclasses.replace(self, name=f"{self.name}@{asked}", isa=isa)
        if isa == "any":
            found = dataclasses.replace(found, layers=tuple(rule for rule in self.layers if not rule.isa))
        if own is None:
            return found
        return dataclasses.replace(
            found,
            title=own.title or self.title,
            runtime=own.runtime or self.runtime,
            stand_in=own.stand_in or self.stand_in,
            proof=own.proof or self.proof,
            rules=own.rules or self.rules,
            dialect=own.dialect or self.dialect,
            soc=own.soc or self.soc,
            layers=(*own.layers, *found.layers),
            followers=(*own.followers, *self.followers),
            notes=(*own.notes, *self.notes),
        )

    def rule(self, layer: Layer) -> LayerRule | None:
        """Return the first rule that fits ``layer``."""
        return next((rule for rule in self.layers if rule.fits(layer)), None)

    def follower(self, op: str) -> FollowerRule | None:
        """Return the rule for an operator without weights."""
        return next((rule for rule in self.followers if rule.op == op), None)

    def opset_for(self, option: Option, layer: Layer) -> int:
        """Return the opset that ``option`` needs, as it is carried."""
        rule, need = self.rule(layer), self.limits.lowest_opset
        return need if rule is None else max(need, rule.opset(option))


def fewest_channels(layer: Layer) -> int:
    """Return the fewer of the channels that a layer reads and gives, in one group of several; 0 without a weight.

    A depthwise convolution has as many as it has groups.
    """
    shape = layer.weight_shape
    if not shape:
        return 0
    if layer.grouping == "depthwise":
        return max(shape[:2])
    inner = next(axis for axis in range(len(shape)) if axis not in layer.channel_axes)
    return min(shape[layer.channel_axes[-1]], shape[inner])
