"""Targets: what a runtime can execute in few bits, as data.

A target is one TOML file. It says, for each kind of layer, which options there are and how Q/DQ must stand for the
runtime to use its integer kernels; which other operators may run between them on codes; how narrow codes are stored;
and which model files the runtime loads. ``onnxmpq targets NAME`` explains one. The built-in files are in
``onnxmpq/targets/``; anybody's own file is used by its path.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NewType, get_args, get_origin, get_type_hints

from onnxmpq.artifacts import Grouping, Layer, Neighbours, Option, container_bits, parse_options
from onnxmpq.disk.reading import FAULTS, TOML_BYTES, brief, parse_toml, read_text, refuse, shown, strangers
from onnxmpq.errors import InputError, nearest
from onnxmpq.registry import CARRIERS, RUNTIMES

CarrierName = NewType("CarrierName", str)
"""The name of a carrier: how codes are stored and turned back."""
Isa = Literal["any", "vnni"]
ISAS: tuple[Isa, ...] = get_args(Isa)
"""For which processors a file is made: ``any`` is right on all of them, ``vnni`` on x86 with VNNI only."""
ActivationType = Literal["uint8", "int8", "uint16", "int16"]

LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMul:product", "Gather", "LSTM", "GRU")
"""What a rule of layers may be for."""
_HIGHEST = 999  # of opsets and IR versions
_MOST_AXES = 64
WEIGHT_OPSET = {8: 13, 4: 21, 2: 25}
"""Opset that first has a weight type of so many bits, for the main ONNX domain."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Which model files the runtime loads; a range of opsets and the highest IR version."""

    lowest_opset: int
    highest_opset: int
    highest_ir: int


@dataclass(frozen=True, slots=True)
class LayerRule:
    """How layers of one kind are quantised.

    ``output = "quantised"``: the integer kernel needs a Q behind the layer, and every reader sees the DQ of it;
    ``"free"``: it gives float by itself. ``fuses`` names activations that may stand between the layer and that Q.
    ``readers = "all"``: once an input is quantised, all readers of that tensor see its DQ; ``"layer"``: only this one.
    ``softmax``: the sign of an operand that a Softmax gives, where it differs; it never is negative.
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
    weight_rank: int = 0
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

    def activation_type(self, option: Option, producer: str = "") -> ActivationType:
        """Return the type that holds the activations of ``option``, given by an operator called ``producer``."""
        wide = option.activation_bits > 8
        if (self.softmax if self.softmax and producer == "Softmax" else self.activation) == "unsigned":
            return "uint16" if wide else "uint8"
        return "int16" if wide else "int8"

    def carrier(self, option: Option) -> CarrierName | None:
        """Return how codes of ``option`` are stored and turned back into values; None for float weights."""
        if not option.weight_bits:
            return None
        if option.block:
            return self.blocked
        table = self.with_activation if option.activation_bits else self.weight_only
        return table.get(str(container_bits(option.weight_bits)), CarrierName("dq"))


@dataclass(frozen=True, slots=True)
class FollowerRule:
    """An operator without weights that runs on codes when its neighbours are quantised.

    It joins when all its inputs are quantised and its output is asked for; ``pull`` lets it ask for its input itself
    when an integer kernel produces that. ``same_scale``: input and output share one scale.
    """

    op: str
    pull: bool = False
    same_scale: bool = False
    fuses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What one runtime executes. See the fields of the rules for the meaning of each key.

    ``islands``: a float layer between quantised ones needs protection. ``integer_kernels``: layers with activation bits
    are promised to run in integers, and an export in which none does is refused. ``isa``: for which processors.
    """

    name: str
    title: str
    runtime: str
    limits: Limits
    layers: tuple[LayerRule, ...]
    followers: tuple[FollowerRule, ...] = ()
    islands: bool = False
    integer_kernels: bool = True
    isa: Isa = "any"
    notes: tuple[str, ...] = ()

    def variant(self, isa: Isa) -> "Target":
        """Return the target for files that are right on any processor, or for those that need VNNI.

        >>> target("ort-cpu").variant("vnni").name
        'ort-cpu@vnni'
        """
        if isa == "any":
            return dataclasses.replace(self, layers=tuple(rule for rule in self.layers if not rule.isa))
        return dataclasses.replace(self, name=f"{self.name}@{isa}", isa=isa)

    def rule(self, layer: Layer) -> LayerRule | None:
        """Return the first rule that fits ``layer``."""
        for rule in self.layers:
            if (
                rule.op == ("MatMul:product" if layer.op == "MatMul" and not layer.weights else layer.op)
                and (not rule.groupings or layer.grouping in rule.groupings)
                and (not rule.weight_rank or len(layer.weight_shape) == rule.weight_rank)
            ):
                return rule
        return None

    def follower(self, op: str) -> FollowerRule | None:
        """Return the rule for an operator without weights."""
        return next((rule for rule in self.followers if rule.op == op), None)

    def opset_for(self, option: Option, layer: Layer) -> int:
        """Return the opset that the types of ``option`` need."""
        rule = self.rule(layer)
        need = self.limits.lowest_opset
        return need if rule is None else max(need, opset_of(option))


def opset_of(option: Option) -> int:
    """Return the lowest opset that has the types of ``option``; 0 for float."""
    weights = WEIGHT_OPSET[container_bits(option.weight_bits)] if option.weight_bits else 0
    return max(weights, 21 if option.block or option.activation_bits > 8 else 0)


def builtin_names() -> tuple[str, ...]:
    """Return the names of the targets that come with onnxmpq."""
    folder = resources.files("onnxmpq") / "targets" / "builtin"
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


def target(name: str) -> Target:
    """Return a built-in target by name, or read one from a ``.toml`` file.

    ``@vnni`` behind either asks for files that run on x86 with VNNI only.
    """
    base, isa = split_isa(name)
    return _whole(base).variant(isa)


def split_isa(name: str) -> tuple[str, Isa]:
    """Take ``@vnni`` off the name of a target.

    >>> split_isa("ort-cpu@vnni"), split_isa("ort-cpu")
    (('ort-cpu', 'vnni'), ('ort-cpu', 'any'))
    """
    base, at, told = name.rpartition("@")
    if not at or told.endswith(".toml"):
        return name, "any"
    for isa in ISAS:
        if isa == told:
            return base, isa
    raise InputError(f"A target has no variant '@{told}'. Known: {', '.join(ISAS)}.{nearest(told, ISAS)}")


def _whole(name: str) -> Target:
    """Read a target with the rules of all its variants."""
    if name.endswith(".toml"):
        return parse_target(read_text(Path(name), "target", TOML_BYTES), name)
    if name not in builtin_names():
        known = ", ".join(builtin_names())
        raise InputError(
            f"There is no target '{name}'. Built in: {known}; or give the path of a .toml file."
            + nearest(name, builtin_names())
        )
    return _builtin(name)


@cache
def _builtin(name: str) -> Target:
    return parse_target(
        (resources.files("onnxmpq") / "targets" / "builtin" / f"{name}.toml").read_text(encoding="utf-8"), name
    )


def parse_target(text: str, where: str) -> Target:
    """Read the TOML text of a target; every fault is told, with its line."""
    try:
        data = parse_toml(text)
    except ValueError as error:
        raise InputError(f"Target '{where}' is not TOML: {brief(str(error), 200)}.") from error
    schema = data.pop("schema", None)
    if type(schema) is not int or schema != 1:
        raise InputError(f"Target '{where}' has no 'schema = 1'; this version of onnxmpq reads schema 1.")
    reader = _Reader(text)
    result: Target = reader.record(Target, data, "")
    if not reader.faults:
        reader.check(result)
    refuse(reader.faults, f"Target '{where}',")
    return result


class _Reader:
    """Turn TOML tables into the data classes above; ``faults`` keeps what does not fit, with its line."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.faults: list[str] = []

    def fault(self, key: str, table: str, message: str) -> None:
        """Keep a fault with the line of ``key`` in ``table`` (``layers[2]`` is the third ``[[layers]]``)."""
        line = "Line" if self.faults else "line"
        number = self._line(key, table) if len(self.faults) < FAULTS else 0  # the others are counted and not told
        self.faults.append(f"{line} {number}: {message}")

    def _line(self, key: str, table: str) -> int:
        name, _, index = table.rstrip("]").partition("[")
        start, seen = 0, -1
        for number, line in enumerate(self.lines):
            if name and re.match(rf"\s*\[\[?\s*{re.escape(name)}\s*\]", line):
                seen, start = seen + 1, number
                if seen == int(index or 0):
                    break
        for number in range(start, len(self.lines)):
            if re.match(rf"\s*\[?{re.escape(key)}\]?\b", self.lines[number]):
                return number + 1
        return start + 1

    def record(self, kind: Any, data: Any, table: str) -> Any:
        """Read one table as the data class ``kind``; None where it cannot be read."""
        if not isinstance(data, dict):
            self.fault(table.partition("[")[0], "", f"'{table}' must be a table, not {shown(data)}.")
            return None
        fields = {f.name: f for f in dataclasses.fields(kind)}
        hints = get_type_hints(kind)
        before = len(self.faults)
        for key, hint in strangers(data, fields):
            self.fault(key, table, f"unknown key '{brief(key)}'. Known: {', '.join(fields)}.{hint}")
        values = {key: self.value(hints[key], value, key, table) for key, value in data.items() if key in fields}
        for name, f in fields.items():
            if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                self.fault(table.partition("[")[0], table, f"'{name}' is missing in {table or 'the target'}.")
        return kind(**values) if len(self.faults) == before else None

    def value(self, hint: Any, value: Any, key: str, table: str) -> Any:
        """Read one value of type ``hint``; None where it does not fit."""
        origin, arguments = get_origin(hint), get_args(hint)
        if hint == tuple[Option, ...]:
            return self._options(value, key, table)
        if origin is tuple:
            if not isinstance(value, list):
                return self.fault(key, table, f"'{key}' must be a list, not {shown(value)}.")
            if dataclasses.is_dataclass(arguments[0]):
                return tuple(self.record(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
            return tuple(self.value(arguments[0], item, key, table) for item in value)
        if origin is Literal:
            if value not in arguments:
                return self.fault(key, table, f"'{key}' is {shown(value)}; allowed: {', '.join(map(repr, arguments))}.")
            return value
        if hint is CarrierName:
            names = tuple(CARRIERS.homes())
            if value not in names:
                return self.fault(key, table, f"'{key}' is {shown(value)}; allowed: {', '.join(map(repr, names))}.")
            return value
        if origin is not None:  # a mapping of carriers
            if not isinstance(value, dict):
                return self.fault(key, table, f"'{key}' must be a table such as {{ 8 = \"dq\" }}, not {shown(value)}.")
            if strange := value.keys() - {"8", "4", "2"}:
                told = f"'{key}' has '{brief(min(strange))}'; codes are 8, 4 or 2 bits wide in a file."
                return self.fault(key, table, told)
            return {k: self.value(arguments[1], v, key, table) for k, v in value.items()}
        if dataclasses.is_dataclass(hint):
            return self.record(hint, value, key)
        if type(value) is not hint:
            return self.fault(key, table, f"'{key}' must be of type {hint.__name__}, not {type(value).__name__}.")
        return value

    def _options(self, value: Any, key: str, table: str) -> tuple[Option, ...] | None:
        before = len(self.faults)
        texts = self.value(tuple[str, ...], value, key, table)
        try:
            return parse_options(texts) if len(self.faults) == before else None
        except InputError as error:
            self.fault(key, table, str(error))
            return None

    def check(self, result: Target) -> None:
        """Refuse what is well written and cannot work."""
        if result.runtime not in RUNTIMES.names():
            known = ", ".join(map(repr, RUNTIMES.names()))
            told = (
                f"'runtime' is '{brief(result.runtime)}'; allowed: {known}.{nearest(result.runtime, RUNTIMES.names())}"
            )
            self.fault("runtime", "", told)
        low, high, highest_ir = result.limits.lowest_opset, result.limits.highest_opset, result.limits.highest_ir
        if not 10 <= low <= high <= _HIGHEST:
            told = f"opsets {shown(low)} to {shown(high)} are not a range that starts at 10 or later."
            self.fault("lowest_opset", "limits", told)
        if not 1 <= highest_ir <= _HIGHEST:
            self.fault("highest_ir", "limits", f"{shown(highest_ir)} is no version of the IR.")
        for index, rule in enumerate(result.layers):
            if not 0 <= rule.weight_rank <= _MOST_AXES:
                self.fault("weight_rank", f"layers[{index}]", f"{shown(rule.weight_rank)} is no number of axes.")
            self.known("op", (rule.op,), LAYER_OPS, f"layers[{index}]")
            for key in ("fuses", "blocks_not_before"):
                self.known(key, getattr(rule, key), _operators(), f"layers[{index}]")
            for option in rule.options:
                key, why = _obstacle(rule, option, high)
                if why:
                    self.fault(key, f"layers[{index}]", f"'{option}' {why}")
        for index, follower in enumerate(result.followers):
            self.known("op", (follower.op,), _operators(), f"followers[{index}]")
            self.known("fuses", follower.fuses, _operators(), f"followers[{index}]")

    def known(self, key: str, names: Sequence[str], known: Collection[str], table: str) -> None:
        """Refuse names of operators that there are not."""
        for name in names:
            if name not in known:
                few = f" Known: {', '.join(known)}." if len(known) <= len(LAYER_OPS) else " ONNX has no such operator."
                self.fault(key, table, f"'{key}' has '{brief(name)}'.{few}{nearest(name, known)}")


@cache
def _operators() -> frozenset[str]:
    """Return the names of all operators that ONNX has; help and completion do not wait for onnx."""
    import onnx

    return frozenset(schema.name for schema in onnx.defs.get_all_schemas())


def _obstacle(rule: LayerRule, option: Option, highest_opset: int) -> tuple[str, str]:
    """Say which key of a rule stands against ``option``, and why; nothing where it can be written."""
    from onnxmpq.carriers.base import carrier  # help and completion do not wait for onnx

    named = rule.carrier(option)
    held = carrier(named) if named else None
    if option.weight_bits > 8 or option.activation_bits not in (0, 8, 16):
        return "options", "cannot be written: weights have 2 to 8 bits, activations 8 or 16."
    if opset_of(option) > highest_opset:
        return "options", f"needs opset {opset_of(option)}, above highest_opset {highest_opset}."
    if rule.op == "MatMul:product" and option.weight_bits:
        return "options", "cannot be had: a product of two activations has no weight; use a8."
    if held is None:
        return "", ""
    if option.block and not held.blocks:
        return "blocked", f"cannot be carried by '{named}': it holds no blocks; use 'dq'."
    if option.activation_bits and not held.integers:
        return "with_activation", f"with '{named}' would be computed in float; use 'dq' or 'cast8'."
    if held.ops and rule.op not in held.ops:
        return "weight_only", f"cannot be carried by '{named}': that is for {', '.join(held.ops)}, not {rule.op}."
    return "", ""
