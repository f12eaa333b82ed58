"""Share out the ranges of consecutive layers evenly, channel by channel.

    y = L2(f(L1(x)))   ->   the same, channel c of L1 divided by s, and what L2 makes of that channel multiplied by s

s is the power of two nearest to sqrt(range1 / range2), the ranges being the largest weights of that channel in L1 and
L2. Pairs are taken in turn until none changes. Each step lowers the larger of two ranges and lifts the smaller to less
than that, so the weights, sorted by size, fall in lexicographic order, and this ends. Powers of two leave every
mantissa as it is: the outputs are equal bit for bit, unless a number in between under- or overflows.

Layers are Conv, also grouped or depthwise, Gemm and MatMul with constant float32 weights, L1 with its bias. f is
homogeneous, f(s x) = s f(x) for s > 0: Relu, LeakyRelu, PRelu, Abs, Neg, pools, reductions over positions, and what
only moves numbers within their channel. Kept: Clip, whose bounds are the same for all channels; results that somebody
else reads or that are public; weights and biases that another node reads; channels without weights; numbers that would
leave the normal ones.

It does not belong to `normalise`. Where weights have a scale per channel already, only the ranges of activations can
gain, and even weights may make uneven activations: a keyword-spotting DS-CNN lost 5 dB at w8a8, where ResNets stayed as
they were; at w4a8 these gained 0.3 dB, and one with a transformer behind it 1.2.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxmpq.model.layers import all_graphs, constant, dimensions, is_standard, shape_of, sole_use
from onnxmpq.model.passkit import Pass

_Array: TypeAlias = np.ndarray[Any, Any]
_ELEMENTWISE = frozenset({"Relu", "LeakyRelu", "PRelu", "Abs", "Neg", "Identity"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"})
_SINGLE = np.finfo(np.float32)


@dataclass(frozen=True)
class EqualiseLayers(Pass):
    """Scale weights of consecutive layers by powers of two, so that both have alike ranges in each channel."""

    name: ClassVar[str] = "equalise-layers"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Find the pairs, balance them until all are, then write the weights that changed."""
        weights: dict[ir.Value, _Array] = {}
        links = [link for graph in all_graphs(model) for node in graph for link in _links(node, weights)]
        changed: set[ir.Value] = set()
        while moved := [link for link in links if link.balance()]:
            changed.update(value for link in moved for value in link.values)
        for value in changed:
            value.const_value = ir.tensor(weights[value], name=value.name)
        return ir.passes.PassResult(model, modified=bool(changed))


@dataclass(frozen=True, slots=True)
class _Side:
    """A view of weights whose ``leading`` first axes count channels; writing to it writes to the weights."""

    view: _Array
    leading: int

    def most(self) -> _Array:
        """Return the largest magnitude of each channel, as float64."""
        most: _Array = np.abs(self.view).max(self._rest, initial=0.0).reshape(-1).astype(np.float64)
        return most

    def least(self) -> _Array:
        """Return the smallest magnitude of each channel that is not zero; infinity where there is none."""
        size = np.abs(self.view)
        least: _Array = np.where(size > 0, size, np.inf).min(self._rest, initial=np.inf).reshape(-1).astype(np.float64)
        return least

    def stays_normal(self, exponents: _Array) -> _Array:
        """Tell for which channels times 2**exponent every number keeps its mantissa."""
        least, most = np.ldexp(self.least(), exponents), np.ldexp(self.most(), exponents)
        return (least >= _SINGLE.tiny) & (most <= _SINGLE.max) & (self.least() >= _SINGLE.tiny)

    def scale(self, exponents: _Array) -> None:
        """Multiply each channel by 2**exponent."""
        shape = self.view.shape[: self.leading] + (1,) * (self.view.ndim - self.leading)
        np.ldexp(self.view, exponents.reshape(shape), out=self.view)

    @property
    def _rest(self) -> tuple[int, ...]:
        return tuple(range(self.leading, self.view.ndim))


@dataclass(frozen=True, slots=True)
class _Link:
    """Two layers with the same channels between them, and the initialisers that scaling those changes."""

    values: tuple[ir.Value, ...]
    given: _Side
    biases: tuple[_Side, ...]
    taken: _Side

    def balance(self) -> bool:
        """Make the ranges of each channel as equal as a power of two can; tell whether anything changed."""
        one, other = self.given.most(), self.taken.most()
        alive = np.isfinite(one + other) & (one > 0) & (other > 0)
        ratio = np.log2(one, where=alive, out=np.zeros_like(one)) - np.log2(other, where=alive, out=np.zeros_like(one))
        exponents = np.rint(ratio / 2).astype(np.int32)
        if not exponents.any():
            return False
        for side in (self.given, *self.biases):
            exponents[~side.stays_normal(-exponents)] = 0
        exponents[~self.taken.stays_normal(exponents)] = 0
        if not exponents.any():
            return False
        for side in (self.given, *self.biases):
            side.scale(-exponents)
        self.taken.scale(exponents)
        return True


@dataclass(frozen=True, slots=True)
class _Data:
    """A value and where its channels are: on axis 1 of ``rank``, or, where that is 0, on the last axis.

    ``flat``: each channel stands there several times in a row; how often, the next weight tells.
    """

    value: ir.Value
    rank: int
    flat: bool = False


def _links(node: ir.Node, weights: dict[ir.Value, _Array]) -> Iterator[_Link]:
    """Yield the link from ``node`` to the layer behind it, if there is one; ``weights`` keeps copies to work on."""
    if not _is_layer(node):
        return
    channels = _channels(node)
    adder, bias = _bias(node)
    if bias is not None and not _is_vector(bias, channels):
        return
    data = _Data((adder or node).outputs[0], _rank(node))
    while (reader := _reader(data.value, node)) is not None:
        if _is_layer(reader):
            break
        behind = _through(reader, data)
        if behind is None:
            return
        data = behind
    if reader is None:
        return
    first, second = node.inputs[1], reader.inputs[1]
    assert first is not None
    assert second is not None
    for value in (first, second, *([bias] if bias is not None else [])):
        if value not in weights:
            weights[value] = _own(value)
    taken = _taken(reader, weights[second], channels, data)
    if taken is None:
        return
    given = _Side(np.moveaxis(weights[first], _output_axis(node), 0), 1)
    biases = () if bias is None else (_Side(weights[bias].reshape(-1), 1),)
    yield _Link((first, second, *([bias] if bias is not None else [])), given, biases, taken)


def _own(value: ir.Value) -> _Array:
    tensor = constant(value)
    assert tensor is not None
    return np.array(tensor.numpy(), np.float32, order="C")


def _is_layer(node: ir.Node) -> bool:
    """Tell whether a node is a layer whose weight is ours to change."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or not is_standard(node) or node.inputs[1] is None:
        return False
    tensor = constant(node.inputs[1])
    if tensor is None or not _is_ours(node.inputs[1]) or node.attributes.get_int("transA", 0) != 0:
        return False
    rank = len(tensor.shape)
    return rank == 2 if node.op_type != "Conv" else rank > 2


def _is_ours(value: ir.Value) -> bool:
    """Tell whether one node alone reads a float32 constant."""
    tensor = constant(value)
    return (
        tensor is not None
        and tensor.dtype == ir.DataType.FLOAT
        and len(value.uses()) == 1
        and not value.is_graph_output()
    )


def _shape(node: ir.Node) -> tuple[int, ...]:
    tensor = constant(node.inputs[1])
    assert tensor is not None
    return shape_of(tensor)


def _output_axis(node: ir.Node) -> int:
    return 0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1 else 1


def _channels(node: ir.Node) -> int:
    return _shape(node)[_output_axis(node)]


def _rank(node: ir.Node) -> int:
    """Return the rank of what a Conv gives; 0 for layers whose channels stand last."""
    return len(_shape(node)) if node.op_type == "Conv" else 0


def _bias(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """Return the bias of a layer, and the Add behind a MatMul if it adds it."""
    if node.op_type != "MatMul":
        return None, node.inputs[2] if len(node.inputs) > 2 else None
    adder = sole_use(node.outputs[0])
    if adder is None or adder.op_type != "Add" or not is_standard(adder) or adder.graph is not node.graph:
        return None, None
    other = adder.inputs[1 if adder.inputs[0] is node.outputs[0] else 0]
    return (None, None) if constant(other) is None else (adder, other)


def _is_vector(bias: ir.Value, channels: int) -> bool:
    """Tell whether a bias is ours to change, and one number for each channel."""
    tensor = constant(bias)
    if tensor is None or not _is_ours(bias):
        return False
    shape = shape_of(tensor)
    return math.prod(shape) == channels and shape[-1:] == (channels,)


def _reader(value: ir.Value, layer: ir.Node) -> ir.Node | None:
    """Return the one node that reads ``value``, if it does so as data and in the same graph."""
    reader = sole_use(value)
    known = reader is not None and reader.graph is layer.graph and is_standard(reader) and reader.inputs[0] is value
    return reader if known and reader is not None and len(reader.outputs) == 1 else None


def _through(node: ir.Node, data: _Data) -> _Data | None:
    """Follow channels through a homogeneous operator; None where they mix, move or cannot be told."""
    output = node.outputs[0]
    if node.op_type in _ELEMENTWISE:
        return _Data(output, data.rank, data.flat)
    if not data.rank:
        return None
    positions = list(range(2, data.rank))
    match node.op_type:
        case op if op in _POOLS:
            return _Data(output, data.rank)
        case "Flatten" if node.attributes.get_int("axis", 1) == 1:
            return _Data(output, 0, flat=True)
        case "Reshape" if _flattens(dimensions(data.value), dimensions(output)):
            return _Data(output, 0, flat=True)
        case "ReduceMean" | "ReduceSum" | "ReduceMax" | "Squeeze":
            if _axes(node, data.rank) != positions:
                return None
            kept = node.op_type != "Squeeze" and node.attributes.get_int("keepdims", 1) == 1
            return _Data(output, data.rank if kept else 0)
        case _:
            return None


def _flattens(before: tuple[int | None, ...] | None, after: tuple[int | None, ...] | None) -> bool:
    """Tell whether a reshape joins all axes but the first."""
    if before is None or after is None or len(after) != 2 or None in before[1:]:
        return False
    return after[1] == math.prod(size or 0 for size in before[1:])


def _axes(node: ir.Node, rank: int) -> list[int] | None:
    """Return the axes that a node reduces, sorted; None where they are not written down."""
    tensor = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = node.attributes.get_ints("axes") if tensor is None else tensor.numpy().reshape(-1).tolist()
    return None if axes is None else sorted(int(axis) % rank for axis in axes)


def _taken(node: ir.Node, weight: _Array, channels: int, data: _Data) -> _Side | None:
    """Look at a weight by the channels it takes, or return None if they are not those of ``data``."""
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        if data.rank != weight.ndim or weight.shape[1] * groups != channels:
            return None
        outputs, inputs = weight.shape[:2]
        return _Side(weight.reshape(groups, outputs // groups, inputs, -1).swapaxes(1, 2), 2)
    if data.rank:
        return None
    rows = weight.T if node.attributes.get_int("transB", 0) == 1 else weight
    if rows.shape[0] % channels or (not data.flat and rows.shape[0] != channels):
        return None
    return _Side(rows.reshape(channels, -1, rows.shape[1]), 1)
