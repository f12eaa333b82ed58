"""Where channels of a tensor can be made smaller and the weights behind it larger, so that outputs stay.

    x = LayerNorm(h) * g + b    ->   the same, with g / s and (b - z) / s
    y = x W + c                 ->   y = x' (s W) + (c + z W)          x' = (x - z) / s

s and z are one number for each channel. In front stand constants that make the channels: scale and bias of a LayerNorm,
or of a Mul and an Add; the weight and bias of a Conv, a Gemm or a MatMul, also behind a Relu, which lets s through and
no z. Behind it every layer takes part that reads the tensor, also behind a mean over positions, what only picks some,
and attention, of which the tensor is the values. What else reads it, such as the sum of a residual branch, gets
x' s + z, from nodes of its own.

Kept: tensors that are public or that nobody multiplies by a constant; weights that another node reads, too.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir

from onnxmpq.model.layers import constant, dimensions, is_standard, plain_product, shape_of, sole_use

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "Identity"})
_PICKS = frozenset({"ReduceMean", "Gather", "Identity"})

Role = Literal["divided", "shifted", "multiplied", "absorbing"]
"""What becomes of a constant: c / s, (c - z) / s, c s, c + z W."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A constant operand of a node, and the axis that counts the channels of the tensor."""

    node: ir.Node
    index: int
    axis: int
    role: Role

    @property
    def value(self) -> ir.Value:
        """The constant."""
        value = self.node.inputs[self.index]
        assert value is not None
        return value


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer behind a tensor: its weight, the constant that is added to what it gives if there is one, its input."""

    weight: Operand
    bias: Operand | None
    tensor: str


@dataclass(frozen=True, slots=True)
class Spot:
    """A tensor whose channels can be divided; ``front`` is what is divided, ``others`` what reads it besides layers.

    ``shifts``: z may be other than zero. ``axis`` counts channels.
    """

    tensor: ir.Value
    channels: int
    axis: int
    front: tuple[Operand, ...]
    readers: tuple[Reader, ...]
    others: tuple[tuple[ir.Node, int], ...]
    shifts: bool


def find_spots(model: ir.Model) -> tuple[Spot, ...]:
    """Return the places of the main graph, in the order of its nodes; no constant is in two of them in one role."""
    found, taken = list[Spot](), set[tuple[ir.Node, int, Role]]()
    for node in model.graph:
        spot = _spot(node) if is_standard(node) and len(node.outputs) > 0 else None
        if spot is None:
            continue
        uses = {(operand.node, operand.index, operand.role) for operand in _operands(spot)}
        if not uses & taken:
            taken |= uses
            found.append(spot)
    return tuple(found)


def _operands(spot: Spot) -> Iterator[Operand]:
    yield from spot.front
    for reader in spot.readers:
        yield reader.weight


def _spot(node: ir.Node) -> Spot | None:
    """Return the place whose tensor is the output of ``node``, if there is one."""
    tensor = node.outputs[0]
    if tensor.is_graph_output() or tensor.dtype != ir.DataType.FLOAT or not tensor.uses():
        return None
    front = _front(node)
    if not front:
        return None
    axis = 1 if front[0].node.op_type == "Conv" else -1
    channels = shape_of_operand(front[0])[front[0].axis]
    readers, others = list[Reader](), list[tuple[ir.Node, int]]()
    for use in tensor.uses():
        behind = _readers(use.node, use.idx, tensor, channels, axis)
        readers += behind
        others += [] if behind else [(use.node, use.idx)]
    if not readers or (others and not _is_norm(front)) or any(other.graph is not node.graph for other, _ in others):
        return None
    shifted = any(operand.role == "shifted" for operand in front)
    shifts = shifted and axis == -1 and node.op_type not in ("Relu", "LeakyRelu")
    return Spot(
        tensor,
        channels,
        axis,
        front,
        tuple(readers),
        tuple(others),
        shifts and all(reader.bias is not None for reader in readers),
    )


def _is_norm(front: tuple[Operand, ...]) -> bool:
    """Tell whether a scale and a bias for each channel make a tensor, as the end of a LayerNorm does."""
    return front[0].node.op_type in ("LayerNormalization", "Mul")


def shape_of_operand(operand: Operand) -> tuple[int, ...]:
    """Return the shape of a constant operand."""
    tensor = constant(operand.value)
    assert tensor is not None
    return shape_of(tensor)


# ---- in front --------------------------------------------------------------------------------------------------------


def _front(node: ir.Node) -> tuple[Operand, ...]:
    """Return the constants that make the channels of what a node gives; the first one says how many there are."""
    match node.op_type:
        case "LayerNormalization" if node.attributes.get_int("axis", -1) in (-1, _rank(node.outputs[0]) - 1):
            return _vectors(node, {1: "divided", 2: "shifted"})
        case "Mul":
            return _side(node, "divided")
        case "Add":
            return _behind_add(node)
        case "Conv" | "Gemm" | "MatMul":
            return _layer(node)
        case op if op in _HOMOGENEOUS and node.inputs[0] is not None:
            before = node.inputs[0].producer()
            return _front(before) if before is not None and _alone(node.inputs[0], node) else ()
        case _:
            return ()


def _rank(value: ir.Value) -> int:
    return len(dimensions(value) or ())


def _alone(value: ir.Value, node: ir.Node) -> bool:
    """Tell whether a node is all that reads a value."""
    before = value.producer()
    return sole_use(value) is node and before is not None and before.graph is node.graph and is_standard(before)


def _is_float(value: ir.Value | None) -> bool:
    tensor = constant(value)
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT


def _vectors(node: ir.Node, roles: dict[int, Role]) -> tuple[Operand, ...]:
    """Return operands that are vectors; none where one of them is not, or they differ in length."""
    given: dict[int, Role] = {
        i: role for i, role in roles.items() if i < len(node.inputs) and node.inputs[i] is not None
    }
    shapes = set()
    for index in given:
        if not _is_float(node.inputs[index]):
            return ()
        shapes.add(shape_of_operand(Operand(node, index, 0, "divided")))
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        return ()
    return tuple(Operand(node, index, 0, role) for index, role in given.items())


def _side(node: ir.Node, role: Role) -> tuple[Operand, ...]:
    """Return the operand of a Mul or an Add that is a constant vector along the last axis."""
    for index, value in enumerate(node.inputs):
        other = node.inputs[1 - index]
        vector = _vectors(node, {index: role}) if _is_float(value) and constant(other) is None else ()
        channels = shape_of_operand(vector[0])[0] if vector else 0
        if channels > 1 and (dimensions(other) or (None,))[-1] == channels:
            return vector
    return ()


def _behind_add(node: ir.Node) -> tuple[Operand, ...]:
    """Return a bias along the last axis, and in front of it the scale of a Mul or the weight of a MatMul."""
    bias = _side(node, "shifted")
    if not bias:
        return ()
    source = node.inputs[1 - bias[0].index]
    before = source.producer() if source is not None and _alone(source, node) else None
    if before is None:
        return ()
    scale = _side(before, "divided") if before.op_type == "Mul" else _weight_in_front(before)
    matches = scale and shape_of_operand(scale[0])[scale[0].axis] == shape_of_operand(bias[0])[0]
    return (*scale, *bias) if matches else ()


def _weight_in_front(node: ir.Node) -> tuple[Operand, ...]:
    """Return the weight of a MatMul by its columns, if nobody else reads it."""
    if node.op_type != "MatMul" or not _is_weight(node):
        return ()
    return (Operand(node, 1, 1, "divided"),)


def _layer(node: ir.Node) -> tuple[Operand, ...]:
    """Return weight and bias of a layer, by what it gives."""
    if node.op_type == "MatMul":
        return _weight_in_front(node)
    if not _is_weight(node) or not plain_product(node):
        return ()
    turned = node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1
    weight = Operand(node, 1, 0 if turned else 1, "divided")
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return (weight,)
    bias = _vectors(node, {2: "shifted"})
    matches = bias and shape_of_operand(bias[0])[0] == shape_of_operand(weight)[weight.axis]
    return (weight, *bias) if matches else ()


def _is_weight(node: ir.Node) -> bool:
    """Tell whether the second operand is a float32 weight that nobody else reads: of rank 2, or of a Conv."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None or not _is_float(value) or sole_use(value) is not node:
        return False
    rank = len(shape_of_operand(Operand(node, 1, 0, "divided")))
    return rank > 2 if node.op_type == "Conv" else rank == 2


# ---- behind ----------------------------------------------------------------------------------------------------------


def _readers(node: ir.Node, index: int, tensor: ir.Value, channels: int, axis: int) -> list[Reader]:
    """Return the layers that a use of a tensor leads to; none where it does not lead to layers alone."""
    if index != 0 or not is_standard(node) or not isinstance(node.graph, ir.Graph) or node.graph is not tensor.graph:
        return []
    if node.op_type in _PICKS and axis == -1 and _keeps_channels(node, tensor):
        return _readers_of(node.outputs[0], channels, axis)
    if axis == -1 and (mixed := _mixed(node, channels)) is not None:
        return [replace(reader, bias=None) for reader in _readers_of(mixed, channels, axis)]
    reader = _reader(node, tensor, axis)
    matches = reader is not None and shape_of_operand(reader.weight)[reader.weight.axis] == channels
    return [reader] if reader is not None and matches else []


def _readers_of(tensor: ir.Value, channels: int, axis: int) -> list[Reader]:
    """Return the layers that read a tensor; none where something else does, too."""
    if tensor.is_graph_output():
        return []
    behind = [_readers(use.node, use.idx, tensor, channels, axis) for use in tensor.uses()]
    return [reader for found in behind for reader in found] if behind and all(behind) else []


def _mixed(node: ir.Node, channels: int) -> ir.Value | None:
    """Return what attention makes of values, whose positions it mixes and whose channels stay in their order.

    [n, t, c]  Reshape  [n, t, heads, c / heads]  Transpose  p @ [n, heads, t, c / heads]  Transpose  Reshape  [n, t, c]
    """
    heads = (dimensions(node.outputs[0]) or ())[2:]
    if (
        node.op_type != "Reshape"
        or len(heads) != 2
        or None in heads
        or math.prod(size or 0 for size in heads) != channels
    ):
        return None
    value = node.outputs[0]
    for op, index in (("Transpose", 0), ("MatMul", 1), ("Transpose", 0), ("Reshape", 0)):
        reader = sole_use(value)
        if reader is None or reader.op_type != op or not is_standard(reader) or reader.graph is not node.graph:
            return None
        if reader.inputs[index] is not value or (op == "Transpose" and not _swaps_heads(reader)):
            return None
        value = reader.outputs[0]
    return value if (dimensions(value) or (None,))[-1] == channels else None


def _swaps_heads(node: ir.Node) -> bool:
    return list(node.attributes.get_ints("perm") or ()) == [0, 2, 1, 3]


def _keeps_channels(node: ir.Node, tensor: ir.Value) -> bool:
    """Tell whether a node takes a mean over positions, or picks some, and leaves the last axis as it is."""
    rank = _rank(tensor)
    match node.op_type:
        case "Identity":
            return True
        case "Gather":
            return rank > 1 and node.attributes.get_int("axis", 0) % rank != rank - 1
        case _:
            tensor_of_axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
            axes = node.attributes.get_ints("axes") if tensor_of_axes is None else tensor_of_axes.numpy().tolist()
            return bool(axes) and rank > 1 and all(int(each) % rank != rank - 1 for each in axes or ())


def _reader(node: ir.Node, tensor: ir.Value, axis: int) -> Reader | None:
    """Return a layer that reads a tensor as its data, if its weight is its own."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or not _is_weight(node) or not plain_product(node):
        return None
    name = tensor.name or ""
    if node.op_type == "Conv":
        dense = node.attributes.get_int("group", 1) == 1
        return Reader(Operand(node, 1, 1, "multiplied"), None, name) if dense and axis == 1 else None
    if axis == 1:
        return None
    if node.op_type == "Gemm":
        turned = node.attributes.get_int("transB", 0) == 1
        return Reader(Operand(node, 1, 1 if turned else 0, "multiplied"), _absorbing(node, 2), name)
    adder = sole_use(node.outputs[0])
    index = 1 if adder is not None and adder.inputs[0] is node.outputs[0] else 0
    adds = adder is not None and adder.op_type == "Add" and is_standard(adder) and adder.graph is node.graph
    return Reader(Operand(node, 1, 0, "multiplied"), _absorbing(adder, index) if adds and adder else None, name)


def _absorbing(node: ir.Node, index: int) -> Operand | None:
    """Return a vector that is added to what a layer gives."""
    found = _vectors(node, {index: "absorbing"})
    return found[0] if found else None
