"""On which processors a file gives the same sums: read off its stored codes, and shown on samples where it does not.

    find_layers(model)      the integer layers of a file, whichever tool wrote it
    examine(layers, target) those whose codes break a rule, pair by pair (see ``onnxmpq.numerics.saturation``)
    measure(...)            how far from exact their sums are on samples, with kernels without VNNI emulated

A layer is read in three forms:

    QDQ         DequantizeLinear(codes), DequantizeLinear([Cast of] weight codes) -> Conv, Gemm, MatMul
    operators   QLinearConv, QLinearMatMul
    dynamic     MatMulInteger; ConvInteger multiplies with its operands exchanged, in kernels that do not saturate
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxmpq.artifacts import Grouping, Layer
from onnxmpq.model.folded import folded
from onnxmpq.model.layers import all_nodes, constant
from onnxmpq.numerics.hessians import Reading, View
from onnxmpq.numerics.saturation import TOP_CODE, Order, excess, lost, rule
from onnxmpq.runtimes import Runtime
from onnxmpq.targets import Target

Array: TypeAlias = npt.NDArray[Any]
Feed = Mapping[str, Array]

EXACT = "exact on x86 with and without VNNI, on ARM64"
LOWEST = -128
SHOWN_SAMPLES = 4
_COLUMNS = 4096  # of one sample that are summed
_OPERATORS = {  # codes of the input, their zero point, codes of the weight
    "QLinearConv": ("Conv", 0, 2, 3),
    "QLinearMatMul": ("MatMul", 0, 2, 3),
    "MatMulInteger": ("MatMul", 0, 2, 1),
}
_QDQ = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class IntegerLayer:
    """A layer that multiplies 8-bit codes: ``codes`` of its weight, None where two activations are multiplied.

    ``tensor`` holds the codes of its input, ``zero_point`` is their zero point or the name of the tensor that has it.
    """

    node: ir.Node
    op: str
    codes: Array | None
    tensor: str
    zero_point: int | str

    @property
    def name(self) -> str:
        """Return the name of its node."""
        return self.node.name or ""

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """Return the axes of its weight that nothing is summed over."""
        rank = self.codes.ndim if self.codes is not None else 2
        match self.op:
            case "Conv":
                return (0,)
            case "Gemm" if self.node.attributes.get_int("transB", 0):
                return (0,)
            case _:
                return tuple(axis for axis in range(rank) if axis != rank - 2)

    @property
    def view(self) -> View:
        """Return how its weight is laid out as [groups, rows, columns]."""
        assert self.codes is not None
        shape = self.codes.shape
        match self.op:
            case "Conv":
                return View(shape, self.node.attributes.get_int("group", 1), math.prod(shape[1:]), swapped=False)
            case "Gemm":
                swapped = not self.node.attributes.get_int("transB", 0)
                return View(shape, 1, shape[0] if swapped else shape[1], swapped)
            case _:
                return View(shape, math.prod(shape[:-2]), shape[-2], swapped=True)

    def orders(self, target: Target) -> tuple[Order, ...]:
        """Return how kernels of a target without VNNI pair its products."""
        shape = self.codes.shape if self.codes is not None else (2, 2)
        found = target.rule(self._as_layer())
        paired = rule(found.saturates, shape, self.channel_axes) if found is not None else None
        return paired.orders if paired is not None else ()

    def _as_layer(self) -> Layer:
        weights = ("weight",) if self.codes is not None else ()
        shape = self.codes.shape if self.codes is not None else ()
        groups = self.node.attributes.get_int("group", 1) if self.op == "Conv" else 1
        grouping: Grouping = "dense"
        if groups > 1:
            grouping = "depthwise" if shape[:2] == (groups, 1) else "grouped"
        axes = self.channel_axes
        return Layer(self.name, self.op, grouping, weights, shape, "FLOAT", axes, (0,), "", "", "", 0, in_body=False)


@dataclass(frozen=True, slots=True)
class Unsafe:
    """A layer whose sums depend on the processor: how many of its pairs break the rule, and the largest of them.

    ``pairs`` is 0 where two activations are multiplied, whose codes are not known. ``lowest``: a code is -128, which
    ARM64 without dot products cannot square. ``agreement_db`` compares its sums on samples with exact ones.
    """

    layer: IntegerLayer
    pairs: int
    of: int
    largest: int
    lowest: bool
    agreement_db: float | None = None

    def __str__(self) -> str:
        """Say what is wrong with the layer."""
        parts = []
        if self.layer.codes is None:
            parts.append("multiplies two activations")
        elif self.pairs:
            share = f"{self.pairs:,} of {self.of:,} pairs above 128, up to {self.largest}"
            seen = "" if self.agreement_db is None else f"; its sums without VNNI: {_decibel(self.agreement_db)} here"
            parts.append(share + seen)
        if self.lowest:
            parts.append("has the code -128")
        return f"'{self.layer.name}' ({self.layer.op}: {', '.join(parts)})"


def _decibel(value: float) -> str:
    return "exact" if value == np.inf else f"{value:.0f} dB"


def find_layers(model: ir.Model) -> Iterator[IntegerLayer]:
    """Yield the layers of a quantised file that multiply 8-bit codes with signed ones."""
    for node in all_nodes(model):
        if node.op_type in _OPERATORS and node.domain in ("", "ai.onnx"):
            op, x, zero, w = _OPERATORS[node.op_type]
            tensor = constant(_input(node, w))
            if tensor is not None and tensor.dtype == ir.DataType.INT8:
                yield _layer(node, op, np.asarray(tensor.numpy()), _input(node, x), _input(node, zero))
        elif node.op_type in _QDQ and node.domain in ("", "ai.onnx"):
            yield from _from_qdq(node)


def _from_qdq(node: ir.Node) -> Iterator[IntegerLayer]:
    left, right = (_dequantised(_input(node, index)) for index in (0, 1))
    if left is None or right is None or constant(_input(left, 0)) is not None or _width(left) != 8:
        return
    codes = _weight_codes(_input(right, 0))
    if codes is None and _width(right) == 8 and node.op_type == "MatMul":
        yield _layer(node, "MatMul", None, _input(left, 0), _input(left, 2))
    elif codes is not None and codes.dtype.kind == "i":
        yield _layer(node, node.op_type, codes, _input(left, 0), _input(left, 2))


def _layer(node: ir.Node, op: str, codes: Array | None, x: ir.Value | None, zero: ir.Value | None) -> IntegerLayer:
    known = constant(zero)
    zero_point: int | str = int(np.asarray(known.numpy()).reshape(-1)[0]) if known is not None else 0
    if known is None and zero is not None:
        zero_point = zero.name or ""
    return IntegerLayer(node, op, codes, x.name or "" if x is not None else "", zero_point)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _dequantised(value: ir.Value | None) -> ir.Node | None:
    """Return the DequantizeLinear that gives a value."""
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _width(node: ir.Node) -> int:
    """Return the bits of the codes that a DequantizeLinear of activations reads; 8 where it does not tell."""
    zero = _input(node, 2)
    dtype = zero.dtype if zero is not None else None
    return dtype.bitwidth if dtype is not None else 8


def _weight_codes(value: ir.Value | None) -> Array | None:
    """Return stored codes, also where they are widened or put together first; None for codes that are computed."""
    codes = folded(value)
    if codes is None:
        return None
    return codes.astype(np.int8 if codes.dtype.name in ("int8", "int4", "int2") else np.uint8)


def examine(layers: Iterable[IntegerLayer], target: Target) -> tuple[Unsafe, ...]:
    """Return the layers whose sums differ between processors for some input, in the order of the file."""
    found = []
    for layer in layers:
        orders = layer.orders(target)
        if layer.codes is None:
            found += [Unsafe(layer, 0, 0, 0, lowest=False)] if orders else []
            continue
        rows = layer.view.matrix(layer.codes)
        over = [excess(rows, order) for order in orders]
        count = max((int((each > 0).sum()) for each in over), default=0)
        lowest = bool((layer.codes == LOWEST).any())
        if count or lowest:
            largest = 128 + max((int(each.max(initial=0)) for each in over), default=0) if count else 0
            pairs = max((each.size for each in over), default=0)
            found.append(Unsafe(layer, count, pairs, largest, lowest))
    return tuple(found)


def measure(
    unsafe: Sequence[Unsafe], target: Target, reference: Runtime, path: Path, feeds: Sequence[Feed]
) -> tuple[Unsafe, ...]:
    """Add how far from exact the sums of layers are on samples, each with its exact inputs."""
    wanted = [each for each in unsafe if each.pairs]
    if not wanted:
        return tuple(unsafe)
    names = {each.layer.tensor for each in wanted}
    names |= {each.layer.zero_point for each in wanted if isinstance(each.layer.zero_point, str)}
    session = reference.session(path, mode="literal", outputs=sorted(names))
    powers = {each.layer.name: np.zeros(2) for each in wanted}
    for feed in feeds[:SHOWN_SAMPLES]:
        values = session.run(feed)
        for each in wanted:
            powers[each.layer.name] += _powers(each.layer, target, values)
    found = []
    for each in unsafe:
        signal, noise = powers.get(each.layer.name, np.zeros(2))
        decibel = float(10 * np.log10(signal / noise)) if noise > 0 and signal > 0 else np.inf
        found.append(replace(each, agreement_db=decibel) if each.pairs else each)
    return tuple(found)


def _powers(layer: IntegerLayer, target: Target, values: Mapping[str, Array]) -> Array:
    """Return the power of a layer's sums, zero points taken off, and of what saturation takes from them."""
    codes = values[layer.tensor]
    zero = layer.zero_point if isinstance(layer.zero_point, int) else int(values[layer.zero_point].reshape(-1)[0])
    found = np.zeros(2)
    for exact, taken in sums(layer, codes, zero, layer.orders(target)):
        found += (float((exact**2).sum()), float((taken**2).sum()))
    return found


def sums(layer: IntegerLayer, codes: Array, zero_point: int, orders: Sequence[Order]) -> Iterator[tuple[Array, Array]]:
    """Yield exact sums of a layer, zero points taken off, and what kernels without VNNI add to them: [rows, columns].

    Several orders are taken as the worst of them. One pair of arrays comes for each group and part of the input.
    """
    assert layer.codes is not None
    shift = 0 if codes.dtype.kind == "u" else TOP_CODE // 2 + 1  # kernels shift signed codes
    weight = layer.view.matrix(layer.codes).astype(np.int32)
    node = layer.node if layer.node.op_type == layer.op else _renamed(layer)
    for columns in Reading(layer.tensor, node, layer.view).columns(codes.astype(np.float32) - zero_point):
        for group, x in enumerate(columns[..., :: max(1, columns.shape[-1] // _COLUMNS)]):
            exact = weight[group].astype(np.float64) @ x
            inputs = np.rint(x).astype(np.int32) + zero_point + shift
            worst = np.zeros_like(exact)
            for order in orders:
                for row, taken in lost(weight[group], inputs, order):
                    worst[row] = np.where(np.abs(taken) > np.abs(worst[row]), taken, worst[row])
            yield exact, worst


def _renamed(layer: IntegerLayer) -> ir.Node:
    """Return a node of the plain operator with the attributes of a quantised one."""
    return ir.Node("", layer.op, [None], list(layer.node.attributes.values()))


def told(unsafe: Sequence[Unsafe], count: int, isa: str) -> tuple[str, str]:
    """Say on which processors a file is exact, and what stands against the others."""
    if not count:
        return "no sums of 8-bit codes", ""
    if not unsafe:
        return EXACT, f"{count} integer layers, proved on their codes"
    pairs = [each for each in unsafe if each.pairs or each.layer.codes is None]
    where = (
        "exact on x86 with VNNI"
        + ("" if pairs else " and without it")
        + ("" if any(each.lowest for each in unsafe) else ", on ARM64")
    )
    asked = "as --isa vnni asks; " if isa == "vnni" else ""
    worst = sorted(
        unsafe, key=lambda each: (each.agreement_db if each.agreement_db is not None else np.inf, -each.pairs)
    )
    more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
    return where, f"{asked}not elsewhere: {'; '.join(map(str, worst[:3]))}{more}"
