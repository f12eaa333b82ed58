"""What a placement is, and how the graph is read for it."""

from dataclasses import dataclass

import onnx_ir as ir

from onnxmpq.artifacts import Layer, Neighbours, Option
from onnxmpq.model.layers import constant, is_standard, sole_use
from onnxmpq.targets.schema import CarrierName, DialectName, FollowerRule, LayerRule

SEVERAL_INPUTS = frozenset({"Add", "Sub", "Mul", "Div", "Concat"})
OUTSIDE = ("", 0)
"""Reads the graph outputs."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A QuantizeLinear and a DequantizeLinear on one tensor.

    ``group`` holds the tensors that share its scale, ``tied`` those of them that do so however unlike their ranges are.
    ``readers`` are the (node, input) that see the dequantised values; ``public`` tells that the graph output of that
    name does, too. ``behind`` is the type of another pair on the tensor, of whose values this one is made.
    """

    tensor: str
    type: str
    bits: int
    group: tuple[str, ...]
    readers: tuple[tuple[str, int], ...]
    public: bool
    tied: tuple[str, ...] = ()
    behind: str = ""


@dataclass(frozen=True, slots=True)
class Island:
    """An input of a float layer that gets a DQ with a vector of equal scales along ``axis``.

    ``half``: the layer computes in half precision instead, which needs no constants.
    """

    node: str
    index: int
    tensor: str
    type: str
    axis: int
    channels: int
    half: bool = False


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant operand of a node on codes, and the type of its own codes.

    ``scaled`` tells that its scale is that of the input times that of the constant in front of it, as of a bias.
    """

    node: str
    index: int
    tensor: str
    type: str
    scaled: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """How one layer is written; ``saturates`` tells which neighbouring products its weight's codes must keep small."""

    layer: Layer
    option: Option
    carrier: CarrierName | None
    bias: bool
    zero_point: bool
    saturates: tuple[Neighbours, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """All that lowering writes, without the numbers, and the dialect that it is written in."""

    forms: tuple[Form, ...]
    pairs: tuple[Pair, ...]
    islands: tuple[Island, ...]
    dialect: DialectName
    constants: tuple[Constant, ...] = ()


def end_of(value: ir.Value, rule: LayerRule | FollowerRule) -> ir.Value:
    """Return the tensor behind the activation that the kernel fuses, or ``value`` itself."""
    reader = sole_use(value)
    if reader is None or reader.op_type not in rule.fuses or not is_standard(reader):
        return value
    if any(bound is not None and constant(bound) is None for bound in reader.inputs[1:]):
        return value
    return reader.outputs[0]


def followed(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """Return the operands on whose codes a follower would compute, constants among them."""
    count = len(node.inputs) if node.op_type in SEVERAL_INPUTS else 1
    return [(index, value) for index, value in enumerate(node.inputs[:count]) if value is not None]


def data_inputs(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """Return the activation inputs of a follower; none when one of several is a constant."""
    inputs = followed(node)
    if any(constant(value) is not None or value.dtype != ir.DataType.FLOAT for _, value in inputs):
        return []
    return inputs


def all_readers(value: ir.Value) -> list[tuple[str, int]]:
    """Return every (node, input) that reads ``value``, and who reads the graph outputs if it is one."""
    return [*((node.name or "", index) for node, index in value.uses()), *[OUTSIDE] * value.is_graph_output()]
