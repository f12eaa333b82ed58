"""Hessians of layers: what rounding weights to the data must know, counted in one streaming pass.

Every output of a layer is a row of its weight times a column of inputs, x. The Hessian of the squared error of those
outputs is the mean of x xᵀ over all columns of all samples:

    Conv            a column is what one position sees of its group: input channels times kernel
    Gemm, MatMul    a column is a row of the left operand, or a column of the right one where the weight stands left

An early convolution has millions of positions for a Hessian of a few hundred numbers: of each sample a grid of them is
taken, elsewhere in every sample, so that all together are ``ENOUGH``.
"""

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxmpq.artifacts import Layer
from onnxmpq.machine import one_thread, run_ahead, usable_cores
from onnxmpq.model.layers import constant, paddings
from onnxmpq.numerics.gptq import Metric, round_to_hessian
from onnxmpq.numerics.weights import QuantisedWeight, code_limits, grid

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]
Run: TypeAlias = Callable[[Mapping[str, Array]], Mapping[str, Array]]

LARGEST = 4608**2
"""Most numbers of one Hessian: a 3 x 3 convolution of 512 channels still has one.

It takes 170 MB; to factor it takes four times that and a few seconds. Twice the columns would take eight times as long.
"""
TOGETHER_BYTES = 1 << 29
"""Hessians counted in one pass over the samples; more of them take more passes."""
ENOUGH = 1 << 17
"""Inputs of a layer from which its Hessian is counted, or ``_EACH`` for each of its columns where that is more."""
_EACH = 256
_CHUNK = 1 << 22  # numbers of columns laid out at a time
_SMALL = 1 << 22  # numbers of a Hessian up to which it stays factored for the next number of bits
_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


class Feeds(Protocol):
    """Samples, of which it is known how many there are."""

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        """Yield what each sample feeds."""
        ...

    def __len__(self) -> int:
        """Count them."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """How a weight is seen as [groups, rows, columns]: one row for each output, columns as they meet the inputs."""

    shape: tuple[int, ...]
    groups: int
    columns: int
    swapped: bool  # columns stand before rows

    def matrix(self, array: Array) -> Array:
        """Lay out an array of the weight's shape as rows and columns."""
        turned = array.swapaxes(-1, -2) if self.swapped else array
        return turned.reshape(self.groups, -1, self.columns)

    def array(self, matrix: Array) -> Array:
        """Undo ``matrix``."""
        if not self.swapped:
            return matrix.reshape(self.shape)
        *front, last, second = self.shape
        return np.ascontiguousarray(matrix.reshape(*front, second, last).swapaxes(-1, -2))


@dataclass(frozen=True, slots=True)
class Reading:
    """How one layer reads an input against a weight: ``tensor`` becomes columns."""

    tensor: str
    node: ir.Node
    view: View

    def columns(self, value: Array, most: float = math.inf, turn: int = 0) -> Iterator[Array]:
        """Yield what the columns of the weight meet in one sample, [groups, columns, how many], a part at a time.

        Of more than ``most`` positions of a convolution a grid is taken, which ``turn`` moves about.
        """
        x = np.asarray(value, np.float32)
        if self.node.op_type == "Conv":
            yield from self._windows(x, most, turn)
        else:
            yield self._operand(x)

    def _operand(self, x: Array) -> Array:
        """Lay out an operand of a product; the weight's own batch axes are the groups."""
        if self.node.op_type == "Gemm":
            return (x if self.node.attributes.get_int("transA", 0) else x.T)[None]
        weight_is_left = not self.view.swapped
        x = x[:, None] if x.ndim == 1 and weight_is_left else x[None] if x.ndim == 1 else x
        turned = x if weight_is_left else x.swapaxes(-1, -2)  # [..., columns, how many]
        batch = self.view.shape[:-2]
        if not batch:
            return np.moveaxis(turned, -2, 0).reshape(1, self.view.columns, -1)
        full = np.broadcast_shapes(batch, turned.shape[:-2])
        spread = np.broadcast_to(turned, (*full, *turned.shape[-2:]))
        own = tuple(  # axes along which every group meets inputs of its own
            axis for axis in range(len(full)) if axis >= len(full) - len(batch) and batch[axis - len(full)] > 1
        )
        other = tuple(axis for axis in range(len(full)) if axis not in own)
        order = (*own, len(full), *other, len(full) + 1)
        return spread.transpose(order).reshape(self.view.groups, self.view.columns, -1)

    def _windows(self, x: Array, most: float, turn: int) -> Iterator[Array]:
        """Lay out what each output position of a convolution sees."""
        kernel = self.view.shape[2:]
        strides = self.node.attributes.get_ints("strides") or [1] * len(kernel)
        dilations = self.node.attributes.get_ints("dilations") or [1] * len(kernel)
        pads = paddings(self.node, x.shape[2:], kernel, strides, dilations)
        padded = np.pad(x, [(0, 0), (0, 0), *pads]) if any(map(any, pads)) else x
        outputs = [
            (size - dilation * (width - 1) - 1) // stride + 1
            for size, width, stride, dilation in zip(padded.shape[2:], kernel, strides, dilations, strict=True)
        ]
        steps = _steps(outputs, most / len(padded))
        starts = [turn // math.prod(steps[:axis]) % step for axis, step in enumerate(steps)]
        taken = [len(range(start, size, step)) for start, size, step in zip(starts, outputs, steps, strict=True)]
        begin = [start * stride for start, stride in zip(starts, strides, strict=True)]
        strides = [stride * step for stride, step in zip(strides, steps, strict=True)]
        each = max(x.shape[1] * math.prod(kernel) * math.prod(taken[1:]), 1)
        height = max(1, _CHUNK // each)
        for image in padded:
            for first in range(0, taken[0], height):
                counts = [min(height, taken[0] - first), *taken[1:]]
                offsets = [begin[0] + first * strides[0], *begin[1:]]
                found = np.empty((len(image), *kernel, *counts), np.float32)
                for tap in np.ndindex(*kernel):
                    window = tuple(
                        slice(o + k * d, o + k * d + s * (n - 1) + 1, s)
                        for o, k, d, s, n in zip(offsets, tap, dilations, strides, counts, strict=True)
                    )
                    found[(slice(None), *tap)] = image[(slice(None), *window)]
                yield found.reshape(self.view.groups, self.view.columns, -1)


def _steps(outputs: Sequence[int], most: float) -> list[int]:
    """Return the steps of a grid of about ``most`` positions, no finer along one axis than along the others."""
    steps = [1] * len(outputs)
    while math.prod(-(-size // step) for size, step in zip(outputs, steps, strict=True)) > max(most, 1):
        axis = max(range(len(steps)), key=lambda axis: (outputs[axis] / steps[axis], -axis))
        steps[axis] += 1
    return steps


def find_readings(model: ir.Model, layers: Iterable[Layer]) -> tuple[dict[str, tuple[Reading, ...]], dict[str, str]]:
    """Return who reads each weight, and for weights that have no Hessian the reason."""
    nodes = {node.name or "": node for node in model.graph}
    readings: dict[str, list[Reading]] = {}
    reasons: dict[str, str] = {}
    for layer in layers:
        for name in layer.weights:
            found = "inside the body of an If or a Loop" if layer.in_body else _reading(layer, nodes[layer.node])
            if isinstance(found, str):
                reasons[name] = found
            else:
                readings.setdefault(name, []).append(found)
    for name, shared in readings.items():
        if len({reading.view for reading in shared}) > 1:
            reasons[name] = "layers share it that lay it out differently"
    return {name: tuple(shared) for name, shared in readings.items() if name not in reasons}, reasons


def _reading(layer: Layer, node: ir.Node) -> Reading | str:
    """Return how a layer reads its input, or why it cannot be told."""
    if layer.op not in ("Conv", "Gemm", "MatMul") or len(layer.inputs) != 1 or len(layer.weights) != 1:
        return f"no Hessian is counted for {layer.op}"
    value, shape = node.inputs[layer.inputs[0]], layer.weight_shape
    if value is None or value.dtype not in _TYPES or constant(value) is not None:
        return "its input cannot be observed"
    match layer.op:
        case "Conv":
            view = View(shape, node.attributes.get_int("group", 1), math.prod(shape[1:]), swapped=False)
        case "Gemm":
            swapped = not node.attributes.get_int("transB", 0)
            view = View(shape, 1, shape[0] if swapped else shape[1], swapped)
        case _:
            swapped = layer.inputs == (0,)
            view = View(shape, math.prod(shape[:-2]), shape[-2] if swapped else shape[-1], swapped)
    if view.groups * view.columns**2 > LARGEST:
        return f"its Hessian of {view.columns} columns would take {view.groups * view.columns**2 * 8 // 10**6} MB"
    return Reading(value.name or "", node, view)


def passes(wanted: Mapping[str, tuple[Reading, ...]], room: int) -> list[dict[str, tuple[Reading, ...]]]:
    """Divide weights into passes over the samples, each with Hessians of ``room`` bytes or with a single one."""
    parts: list[dict[str, tuple[Reading, ...]]] = []
    left = 0
    for name, view in _views(wanted):
        size = 8 * view.groups * view.columns**2
        if not parts or size > left:
            parts.append({})
            left = room
        parts[-1][name] = wanted[name]
        left -= size
    return parts


def count(
    run: Run,
    samples: Feeds,
    wanted: Mapping[str, tuple[Reading, ...]],
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[str, "Counted"]]:
    """Run every sample once and yield what is counted for each weight; ``run`` gives the tensors that are read.

    Samples come one by one, whatever batches they were given in. Products are formed in float32, part by part, and
    summed in float64, those of each weight in the order of the samples: weights share the cores, and samples are
    run while others are counted. A Hessian that is not finite is given as zeros: no weight matters more than another
    then.
    """
    feeds = max(len(samples), 1)
    most = {name: max(ENOUGH, _EACH * view.columns) / feeds for name, view in _views(wanted)}
    sums = {name: _Sum(view) for name, view in _views(wanted)}

    def add(name: str, values: Mapping[str, Array], number: int) -> None:
        for reading in wanted[name]:
            for x in reading.columns(values[reading.tensor], most[name], number):
                sums[name].add(x)

    with one_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        counting: list[Future[None]] = []
        for number, values in enumerate(run_ahead(run, samples), 1):
            for future in counting:
                future.result()
            counting = [pool.submit(add, name, values, number) for name in wanted]
            if progress:
                progress(number)
        for future in counting:
            future.result()
    for name in wanted:
        yield name, sums.pop(name).counted()


class _Sum:
    """A sum of x xᵀ: columns wait until there are enough for a product, which costs much for few of them."""

    def __init__(self, view: View) -> None:
        self.total = np.zeros((view.groups, view.columns, view.columns))
        self.sums = np.zeros((view.groups, view.columns))
        self.enough = min(4 * view.columns, max(_CHUNK // (view.groups * view.columns), 1))
        self.waiting: list[Array] = []
        self.there = self.count = 0

    def add(self, x: Array) -> None:
        """Add columns [groups, columns, how many]."""
        self.waiting.append(x)
        self.there += x.shape[-1]
        if self.there >= self.enough:
            self._multiply()

    def counted(self) -> "Counted":
        """Return what is known over all that was added."""
        self._multiply()
        count = max(self.count, 1)
        second, mean = self.total / count, self.sums / count
        if not np.isfinite(second).all():
            second, mean = np.zeros_like(second), np.zeros_like(mean)
        return Counted(second, mean, self.count)

    def _multiply(self) -> None:
        if self.waiting:
            x = self.waiting[0] if len(self.waiting) == 1 else np.concatenate(self.waiting, axis=2)
            with np.errstate(over="ignore", invalid="ignore"):
                self.total += squares(x)
                self.sums += x.sum(2, dtype=np.float64)
            self.count += self.there
        self.waiting, self.there = [], 0


def _views(wanted: Mapping[str, tuple[Reading, ...]]) -> Iterator[tuple[str, View]]:
    """Yield how each weight is seen, which is the same for all its readers."""
    return ((name, readings[0].view) for name, readings in wanted.items())


def squares(x: Array) -> Array:
    """Return x xᵀ for each group; a single group takes the path that forms one half only."""
    return (x[0] @ x[0].T)[None] if len(x) == 1 else x @ x.swapaxes(1, 2)


@dataclass(frozen=True, slots=True)
class Counted:
    """What the columns of a weight meet, over ``count`` places: mean of x xᵀ [groups, columns, columns], mean of x."""

    second: Floats
    mean: Floats
    count: int

    @property
    def hessian(self) -> Floats:
        """The Hessian that a weight is rounded with."""
        return sure(self.second, self.mean, self.count)


def sure(second: Floats, mean: Floats, count: int) -> Floats:
    """Return second moments as far as ``count`` places tell them: more evenly spread than they were counted.

    Chen, Wiesel, Eldar and Hero, "Shrinkage Algorithms for MMSE Covariance Estimation", 2010: of what is known of few
    places, so much is pulled towards columns that are alike and tell nothing of each other. Means are known well, and
    are left out of it. Codes that are rounded with this fit less to chance, and so do losses on the same samples.
    """
    size = second.shape[1]
    around = second - mean[:, :, None] * mean[:, None, :]
    trace = np.trace(around, axis1=1, axis2=2)
    square = np.einsum("gij,gij->g", around, around)
    spread = square - trace**2 / size
    share = (square * (1 - 2 / size) + trace**2) / np.maximum((count + 1 - 2 / size) * spread, 1e-300)
    share = np.clip(share, 0.0, 1.0)
    around *= -share[:, None, None]
    around[:, range(size), range(size)] += (share * trace / size)[:, None]
    around += second
    return around


@dataclass(frozen=True, slots=True)
class Hessians:
    """Hessians, and the weights rounded with them, as files of a folder that all workers see.

    One Hessian is in memory at a time. Whoever rounds a weight first leaves the codes for the others.
    """

    folder: Path
    _factored: dict[str, Metric] = field(default_factory=dict, compare=False, repr=False)

    def __contains__(self, weight: str) -> bool:
        return self._file(weight).is_file()

    def keep(self, weight: str, hessian: Floats) -> None:
        """Keep the Hessian of a weight, in float32."""
        _write(self._file(weight), hessian.astype(np.float32))

    def take(self, others: "Hessians") -> None:
        """Have all Hessians of another place, until they are kept anew here."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in others.folder.glob("hessian_*.npy"):
            try:
                os.link(file, self.folder / file.name)
            except OSError:  # a file system without links
                shutil.copyfile(file, self.folder / file.name)

    def rounded(self, name: str, weight: Array, quantised: QuantisedWeight, view: View) -> QuantisedWeight:
        """Return ``quantised`` with codes that change the layer's outputs least; its scales stay."""
        scale, zero_point = grid(quantised)
        orders = quantised.rule.orders if quantised.rule is not None else ()
        identity = f"{name}\0{quantised.bits}\0{quantised.axes}\0{quantised.block}\0".encode()
        identity += b"".join(order.tobytes() + b"\0" for order in orders)
        file = self._file(identity + np.asarray(quantised.scale).tobytes() + zero_point.tobytes(), "codes")
        if file.is_file():
            return replace(quantised, codes=np.load(file))
        symmetric = quantised.zero_point is None
        limits = code_limits(quantised.bits, signed=quantised.codes.dtype.kind == "i", symmetric=symmetric)
        steps, zeros = (view.matrix(np.broadcast_to(each, weight.shape)) for each in (scale, zero_point))
        metric = self._metric(name)
        codes = view.array(round_to_hessian(view.matrix(weight), metric, steps, zeros, limits, orders=orders))
        found = codes.astype(np.int8) if quantised.codes.dtype == np.int8 else codes.astype(np.uint8)
        _write(file, found)
        return replace(quantised, codes=found)

    def _metric(self, weight: str) -> Metric:
        """Read and factor a Hessian; a small one stays for the next number of bits."""
        found = self._factored.get(weight)
        if found is None:
            found = Metric.of(np.load(self._file(weight)))
            self._factored.clear()
            if found.roots.size <= _SMALL:
                self._factored[weight] = found
        return found

    def _file(self, name: str | bytes, kind: str = "hessian") -> Path:
        digest = hashlib.sha256(name.encode() if isinstance(name, str) else name).hexdigest()
        return self.folder / f"{kind}_{digest[:40]}.npy"


def _write(file: Path, array: Array) -> None:
    """Write an array so that others see all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as draft:
        np.save(draft, array)
    os.replace(draft.name, file)


def told(reasons: Mapping[str, str], weights: Sequence[str]) -> tuple[str, ...]:
    """Say which of ``weights`` are rounded to the nearest code all the same, and why; one sentence for each reason."""
    by_reason: dict[str, list[str]] = {}
    for name in dict.fromkeys(weights):
        if name in reasons:
            by_reason.setdefault(reasons[name], []).append(f"'{name}'")
    return tuple(
        f"GPTQ left {len(names)} weight{'s' * (len(names) > 1)} rounded to nearest ({why}): "
        + ", ".join(names[:4])
        + (f" and {len(names) - 4} more." if len(names) > 4 else ".")
        for why, names in by_reason.items()
    )
