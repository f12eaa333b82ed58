"""What QNN's HTP takes from a file and computes wrongly, or in half precision without a word.

Each was seen on the provider's x86 emulator, which accepted the file: what it refuses by itself is none of these rules,
but for open dimensions, which it tells badly.

    DQ ─▶ operator ─▶ [Relu, Clip] ─▶ Q       what a rule looks at: an operator, the codes that it reads and gives
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.filerules.base import Broken, FileRules, Rule
from onnxmpq.model.layers import all_nodes, constant, dimensions, is_standard

_SEEN = "seen on the x86 emulator of onnxruntime-qnn 2.7.0, SoC 57"
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SAME_SCALE = frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Resize"})
_ONE_TYPE = (
    _WEIGHTED
    | _SAME_SCALE
    | frozenset(
        {
            *("Add", "Sub", "Mul", "Div", "Concat", "Transpose", "Slice", "Relu", "Pad", "AveragePool"),
            *(
                "GlobalAveragePool",
                "ReduceMean",
                "Softmax",
                "Sigmoid",
                "Tanh",
                "Gelu",
                "HardSwish",
                "LayerNormalization",
            ),
        }
    )
)
_MOVING = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "MaxPool", "Identity"})
"""What onnxruntime moves Q/DQ past."""
_FEW = 64
"""Float products of fewer channels were wrong between layers of 16 bits; of so many, right."""
_HIGHEST_RANK = 5
_NARROW = frozenset({ir.DataType.INT2, ir.DataType.UINT2})
_WORDS = frozenset({ir.DataType.INT16, ir.DataType.UINT16})
_PRODUCTS = frozenset(
    {
        *((ir.DataType.UINT8, second) for second in (ir.DataType.UINT8, ir.DataType.INT8)),
        *((ir.DataType.UINT16, second) for second in (ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.INT16)),
        *((ir.DataType.INT8, second) for second in (ir.DataType.INT8,)),
        *((ir.DataType.INT16, second) for second in (ir.DataType.INT8, ir.DataType.INT16)),
    }
)
_SIGNED = frozenset({ir.DataType.INT4, ir.DataType.INT8, ir.DataType.INT16})


def _rule(name: str, says: str) -> Rule:
    return Rule(name, says, _SEEN)


TWO_BITS = _rule(
    "two-bit-codes",
    "2-bit codes are widened by a Cast in front of their DequantizeLinear: read directly they come out wrong.",
)
BLOCK_ZEROS = _rule("block-zero-points", "Blocks of weights have no zero points: they come out wrong.")
BLOCKS = _rule("blocks", "Weights have a scale for a tensor or a channel: a product with blocks runs in float16.")
SIGNED_PAD = _rule(
    "signed-pad", "A Pad works on unsigned codes, or on signed ones whose zero point is 0: others come out wrong."
)
SMALL_FLOAT = _rule(
    "small-float-product",
    f"No float product of fewer than {_FEW} channels stands between 16-bit codes: it comes out wrong.",
)
ONE_TYPE = _rule("one-type", "An operator gives codes of the type of its first input: it runs in float16 else.")
NARROW_BIAS = _rule("bias", "A bias is float, or has int32 codes: with others a layer runs in float16.")
ADDED_BIAS = _rule(
    "added-bias", "What is added to a product without a Q between is a float constant: with codes it runs in float16."
)
SAME_SCALE = _rule(
    "same-scale",
    "An operator that moves codes has one scale and zero point in front and behind: it runs in float16 else.",
)
NORM = _rule(
    "norm-parameters",
    "A LayerNormalization has a weight of the sign of its codes in 8 bits and an int32 bias: it runs in float16 else.",
)
PRODUCT = _rule(
    "product-types",
    "A product of two activations has types that HTP multiplies in integers, without cutting one to 8 bits.",
)
SYMMETRIC = _rule("product-zero-point", "The second operand of a product in int16 has a zero point of 0.")
OUTPUT = _rule("output", "A layer on codes gives codes: without a Q behind it runs in float16.")
LONE_FLOAT = _rule(
    "lone-float",
    "A float layer with a bias between codes has Casts to float16 around it: onnxruntime quantises it else.",
)
STATIC = _rule("static-shapes", "Inputs have fixed shapes.")
RANK = _rule("rank", f"Tensors have at most {_HIGHEST_RANK} axes.")


@dataclass(frozen=True, slots=True)
class _Codes:
    """The codes on one side of an operator: their type, and the DQ or Q with their scale and zero point."""

    node: ir.Node

    @property
    def type(self) -> ir.DataType | None:
        """The type of the codes."""
        zero = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        if zero is not None and zero.dtype is not None:
            return zero.dtype
        codes = self.node.inputs[0] if self.node.op_type == "DequantizeLinear" else self.node.outputs[0]
        return codes.dtype if codes is not None else None

    @property
    def numbers(self) -> tuple[object, object]:
        """The scale and the zero point, as far as they are constants."""
        return _number(self.node, 1), _number(self.node, 2) or 0.0

    @property
    def zero_points(self) -> bool:
        """Tell whether there is a zero point that is not 0, or none that could be looked at."""
        if len(self.node.inputs) < 3 or self.node.inputs[2] is None:
            return False
        zeros = constant(self.node.inputs[2])
        return zeros is None or bool(np.any(zeros.numpy().astype(np.int64) != 0))

    @property
    def blocked(self) -> bool:
        """Tell whether scales are those of blocks."""
        return self.node.attributes.get_int("block_size", 0) > 0


def _number(node: ir.Node, index: int) -> object:
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = constant(value)
    if tensor is None:
        return value and value.name
    return float(tensor.numpy().reshape(-1)[0]) if tensor.size == 1 else value and value.name


def _producer(value: ir.Value | None, op: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op else None


def _read(node: ir.Node, index: int) -> _Codes | None:
    """Return the codes that an operand comes from."""
    found = _producer(node.inputs[index], "DequantizeLinear") if index < len(node.inputs) else None
    return _Codes(found) if found is not None else None


@dataclass(frozen=True)
class _Site:
    """A node with what it reads and gives in codes; activations and a bias may stand in front of the Q."""

    node: ir.Node

    @property
    def op(self) -> str:
        """The operator."""
        return self.node.op_type

    @cached_property
    def first(self) -> _Codes | None:
        """The codes of the first input."""
        return _read(self.node, 0)

    @cached_property
    def second(self) -> _Codes | None:
        """The codes of the second input."""
        return _read(self.node, 1)

    @cached_property
    def given(self) -> tuple[_Codes, ...]:
        """The codes that are made of the output."""
        return tuple(
            _Codes(each) for value in self.ends for each, _ in value.uses() if each.op_type == "QuantizeLinear"
        )

    @cached_property
    def added(self) -> ir.Node | None:
        """The Add of a constant bias right behind a product."""
        uses = self.node.outputs[0].uses() if self.op == "MatMul" else ()
        reader = next(iter(uses))[0] if len(uses) == 1 else None
        return reader if reader is not None and reader.op_type == "Add" and self._adds_constant(reader) else None

    @property
    def ends(self) -> Iterator[ir.Value]:
        """The output, and those of what may be fused behind it."""
        value = self.added.outputs[0] if self.added is not None else self.node.outputs[0]
        yield value
        for reader, _ in value.uses():
            if reader.op_type in ("Relu", "Clip"):
                yield reader.outputs[0]

    def _adds_constant(self, add: ir.Node) -> bool:
        other = add.inputs[1] if add.inputs[0] is self.node.outputs[0] else add.inputs[0]
        codes = _producer(other, "DequantizeLinear")
        return constant(other if codes is None else codes.inputs[0]) is not None

    @property
    def weight(self) -> ir.Value | None:
        """The second operand of a layer, where it is a constant in any form."""
        value = self.node.inputs[1] if len(self.node.inputs) > 1 else None
        while value is not None and (producer := value.producer()) is not None:
            if producer.op_type not in ("DequantizeLinear", "Cast", "Mul", "Transpose", "Reshape"):
                break
            value = producer.inputs[0]
        return value if constant(value) is not None else None


class QnnRules(FileRules):
    """The rules of HTP."""

    name: ClassVar[str] = "qnn"
    rules: ClassVar[tuple[Rule, ...]] = (
        *(TWO_BITS, BLOCK_ZEROS, BLOCKS, SIGNED_PAD, SMALL_FLOAT, ONE_TYPE, NARROW_BIAS, ADDED_BIAS),
        *(SAME_SCALE, NORM, PRODUCT, SYMMETRIC, OUTPUT, LONE_FLOAT, STATIC, RANK),
    )

    def check(self, model: ir.Model) -> Iterator[Broken]:
        """Look at the inputs, then at every node."""
        for value in model.graph.inputs:
            if None in (dimensions(value) or (None,)):
                yield Broken(STATIC, value.name or "", f"its shape is {value.shape or 'not known'}")
        for node in all_nodes(model):
            if is_standard(node):
                for rule, what in _faults(_Site(node)):
                    yield Broken(rule, node.name or node.outputs[0].name or "", what)


Fault = tuple[Rule, str]


def _faults(site: _Site) -> Iterator[Fault]:
    if site.op == "DequantizeLinear":
        yield from _weight_codes(_Codes(site.node))
    for look in _LOOKS:
        yield from look(site)


def _weight_codes(codes: _Codes) -> Iterator[Fault]:
    if codes.type in _NARROW:
        yield TWO_BITS, f"it reads {_named(codes.type)} codes"
    if codes.blocked and (codes.zero_points or codes.type not in _SIGNED):
        yield BLOCK_ZEROS, f"it reads blocks of {_named(codes.type)} codes with zero points"


def _blocks(site: _Site) -> Iterator[Fault]:
    if site.op in _WEIGHTED and site.first is not None and site.second is not None and site.second.blocked:
        yield BLOCKS, "its weight has scales of blocks"


def _pad(site: _Site) -> Iterator[Fault]:
    for codes in (site.first, *site.given) if site.op == "Pad" else ():
        if codes is not None and codes.type in _SIGNED and codes.zero_points:
            yield SIGNED_PAD, f"its {_named(codes.type)} codes have a zero point that is not 0"
            return


def _small_float(site: _Site) -> Iterator[Fault]:
    node, value = site.node, site.node.inputs[0] if site.node.inputs else None
    if site.op not in ("MatMul", "Gemm") or site.first is None or site.second is not None or site.weight is None:
        return
    shape, weight = dimensions(value), dimensions(site.weight)
    words = site.first.type in _WORDS and any(codes.type in _WORDS for codes in site.given)
    if words and weight and min(filter(None, weight[-2:]), default=0) < _FEW and len(shape or ()) < 4:
        yield SMALL_FLOAT, f"{node.op_type} of {' x '.join(map(str, weight))} in float between 16-bit codes"


def _one_type(site: _Site) -> Iterator[Fault]:
    if site.op not in _ONE_TYPE or site.first is None or not site.given:
        return
    operands = [site.first]
    if site.op in ("Add", "Sub", "Mul", "Div", "Concat"):
        others = [_read(site.node, index) for index in range(1, len(site.node.inputs))]
        if None in others:  # it is meant to be in float
            return
        operands += [found for found in others if found is not None]
    for codes in (*operands[1:], *site.given):
        if codes.type != site.first.type:
            yield ONE_TYPE, f"it reads {_named(site.first.type)} and has {_named(codes.type)} codes, too"
            return


def _bias(site: _Site) -> Iterator[Fault]:
    if site.op in ("Conv", "ConvTranspose", "Gemm") and site.first is not None:
        codes = _read(site.node, 2)
        if codes is not None and codes.type != ir.DataType.INT32:
            yield NARROW_BIAS, f"its bias has {_named(codes.type)} codes"
    if site.added is not None and site.first is not None and any(_read(site.added, index) for index in (0, 1)):
        yield ADDED_BIAS, "its bias has codes"


def _same_scale(site: _Site) -> Iterator[Fault]:
    if site.op not in _SAME_SCALE or site.first is None:
        return
    for codes in site.given:
        if codes.numbers != site.first.numbers:
            yield SAME_SCALE, f"scale and zero point are {site.first.numbers} in front and {codes.numbers} behind"
            return


def _norm(site: _Site) -> Iterator[Fault]:
    if site.op != "LayerNormalization" or site.first is None or not site.given:
        return
    kinds = {ir.DataType.UINT8: ir.DataType.UINT8, ir.DataType.UINT16: ir.DataType.UINT8}
    wanted = (kinds | {ir.DataType.INT8: ir.DataType.INT8}).get(site.first.type or ir.DataType.UNDEFINED)
    weight, bias = site.second, _read(site.node, 2)
    if wanted is None:
        yield NORM, f"it reads {_named(site.first.type)} codes"
    elif weight is None or weight.type != wanted:
        yield (
            NORM,
            f"its weight has {_named(weight.type) if weight else 'no'} codes beside {_named(site.first.type)} ones",
        )
    elif bias is None or bias.type != ir.DataType.INT32:
        yield NORM, f"its bias has {_named(bias.type) if bias else 'no'} codes"


def _product(site: _Site) -> Iterator[Fault]:
    first, second = site.first, site.second
    if site.op != "MatMul" or first is None or second is None or site.weight is not None:
        return
    if first.type is None or second.type is None or (first.type, second.type) not in _PRODUCTS:
        yield PRODUCT, f"it multiplies {_named(first.type)} by {_named(second.type)}"
    elif second.type == ir.DataType.INT16 and second.zero_points:
        yield SYMMETRIC, "that of its second operand is not 0"


def _output(site: _Site) -> Iterator[Fault]:
    if site.op in _WEIGHTED and site.first is not None and site.second is not None and not site.given:
        yield OUTPUT, "no QuantizeLinear reads its output"


def _lone_float(site: _Site) -> Iterator[Fault]:
    if site.op not in ("Conv", "ConvTranspose", "Gemm") and site.added is None:
        return
    behind = any(_reaches(value, "QuantizeLinear") for value in site.ends)
    if site.second is None and site.weight is not None and behind and _comes_from(site.node.inputs[0]):
        yield LONE_FLOAT, "its weight is float, and it stands between codes"


def _comes_from(value: ir.Value | None) -> bool:
    """Tell whether a value is that of codes, in another order or shape."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _MOVING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "DequantizeLinear"


def _reaches(value: ir.Value, op: str) -> bool:
    """Tell whether a value, in whatever order or shape, is read by an operator."""
    return any(
        node.op_type == op or (node.op_type in _MOVING and _reaches(node.outputs[0], op)) for node, _ in value.uses()
    )


def _rank(site: _Site) -> Iterator[Fault]:
    for value in site.node.outputs:
        if len(dimensions(value) or ()) > _HIGHEST_RANK:
            yield RANK, f"'{value.name}' has {len(dimensions(value) or ())}"


def _named(kind: ir.DataType | None) -> str:
    return kind.name.lower() if kind is not None else "unknown"


_LOOKS: tuple[Callable[[_Site], Iterator[Fault]], ...] = (
    *(_blocks, _pad, _small_float, _one_type, _bias, _same_scale, _norm, _product, _output, _lone_float, _rank),
)
