"""Quantise weights: codes and scales per tensor, per channel or per block.

code = clip(round(w / scale) + zero_point)        w ≈ (code - zero_point) * scale

minmax   the smallest scale that clips nothing
mse      the scale of least squared error: a grid of ratios to the minmax scale, finer ratios around the best,
         then in turn the best scale for the codes, s = Σ w q / Σ q², and the best codes for the scale

Where sums of two products must not saturate (``onnxmpq.numerics.saturation``), both search under that rule.
"""

import math
import tempfile
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxmpq.errors import InputError, InternalError, nearest
from onnxmpq.model.mapped import BIG
from onnxmpq.numerics import saturation
from onnxmpq.numerics.saturation import Order, Rule

Array: TypeAlias = npt.NDArray[Any]
Single: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float64]
Choice: TypeAlias = tuple[Single, Single]  # scales and zero points, one each per row
Codes: TypeAlias = npt.NDArray[np.int8] | npt.NDArray[np.uint8]

Method: TypeAlias = Literal["minmax", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "mse")
_TINY = np.finfo(np.float32).tiny
_TILE = 1 << 16  # numbers worked on at a time: they stay in the cache
_SLAB = 1 << 21  # numbers whose scales are searched at a time: bounds the memory
_RATIOS = np.geomspace(1.0, 0.02, 80)  # steps of 5 %
_LEAST_PAIRED = 0.25  # 8 bits never gain from cutting off more: a row would need 100,000 weights


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedWeight:
    """Codes of the weight's shape, with scales and zero points shaped as ONNX wants them.

    ``axes`` None: rank 0. One axis: rank 1. Several axes: their lengths. ``block`` (axis, size): the weight's shape
    with that axis divided by size, rounded up. ``zero_point`` is None for signed symmetric codes. ``rule`` is what
    pairs of codes keep, so that no sum saturates.
    """

    codes: Codes
    scale: Single
    zero_point: Codes | None
    bits: int
    axes: tuple[int, ...] | None = None
    block: tuple[int, int] | None = None
    rule: Rule | None = None


class Kept(MutableMapping[tuple[object, ...], QuantisedWeight]):
    """Quantised weights by key, for whoever lowers many plans; codes of large ones lie in files and are mapped."""

    def __init__(self, folder: Path) -> None:
        """Keep codes in a folder of their own within ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="codes-", dir=folder))
        self._known: dict[tuple[object, ...], QuantisedWeight] = {}
        self._files = 0

    def __setitem__(self, key: tuple[object, ...], weight: QuantisedWeight) -> None:
        if weight.codes.nbytes >= BIG:
            self._files += 1
            file = self._folder / f"{self._files}.npy"
            np.save(file, weight.codes)
            weight = replace(weight, codes=np.load(file, mmap_mode="r"))
        self._known[key] = weight

    def __getitem__(self, key: tuple[object, ...]) -> QuantisedWeight:
        return self._known[key]

    def __delitem__(self, key: tuple[object, ...]) -> None:
        del self._known[key]

    def __iter__(self) -> Iterator[tuple[object, ...]]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a weight becomes a matrix with one row for each scale, and back."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]  # kept, in order; all but the blocked axis where there are blocks
    block: tuple[int, int] | None

    @staticmethod
    def of(shape: tuple[int, ...], axes: tuple[int, ...] | None, block: tuple[int, int] | None) -> "_Layout":
        rank = len(shape)
        if block is not None:
            block = (block[0] % max(rank, 1), block[1])
            axes = tuple(axis for axis in range(rank) if axis != block[0])
        return _Layout(shape, tuple(sorted(axis % rank for axis in axes or ())), block)

    @property
    def _order(self) -> tuple[int, ...]:
        return self.axes + tuple(axis for axis in range(len(self.shape)) if axis not in self.axes)

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scale as ONNX wants it."""
        kept = tuple(self.shape[axis] for axis in self.axes)
        if self.block is None:
            return kept
        axis, size = self.block
        return (*kept[:axis], -(-self.shape[axis] // size), *kept[axis:])

    def rows(self, array: Array) -> Array:
        """Make the matrix; a ragged last block is filled up with zeros, which cost no error."""
        moved = array.transpose(self._order)
        if self.block is None:
            kept = math.prod(self.scale_shape)
            return np.ascontiguousarray(moved.reshape(kept, moved.size // max(kept, 1)))
        size = self.block[1]
        if filler := -moved.shape[-1] % size:
            moved = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, filler)])
        return np.ascontiguousarray(moved.reshape(-1, size))

    def array(self, rows: Array) -> Array:
        """Undo ``rows``."""
        order = self._order
        moved = tuple(self.shape[axis] for axis in order)
        if self.block is not None:
            rows = rows.reshape(*moved[:-1], -1)[..., : moved[-1]]
        return np.asarray(rows.reshape(moved).transpose(np.argsort(order)), order="C")  # keeps rank 0

    def scales(self, column: Array) -> Array:
        """Shape one value per row as ONNX wants it."""
        if self.block is None:
            return column.reshape(self.scale_shape)
        axis = self.block[0]
        kept = tuple(self.shape[a] for a in self.axes)
        return np.ascontiguousarray(np.moveaxis(column.reshape(*kept, -1), -1, axis))

    def spread(self, scale: Array) -> Array:
        """Repeat scales or zero points so that they broadcast over the weight."""
        if self.block is not None:
            axis, size = self.block
            return np.repeat(scale, size, axis)[(slice(None),) * axis + (slice(self.shape[axis]),)]
        return scale.reshape([self.shape[a] if a in self.axes else 1 for a in range(len(self.shape))])


def quantise_weight(
    weight: Array,
    *,
    bits: int,
    signed: bool = True,
    symmetric: bool = True,
    axes: tuple[int, ...] | None = None,
    block: tuple[int, int] | None = None,
    method: Method = "mse",
    narrow: bool | None = None,
    importance: Array | None = None,
    rule: Rule | None = None,
) -> QuantisedWeight:
    """Quantise ``weight`` to ``bits`` from 2 to 8, with one scale per index of ``axes``, or per block.

    ``narrow`` leaves the lowest code of a symmetric type unused; default: above 4 bits, so that -128 never occurs.
    ``importance`` weighs squared errors; it broadcasts over the weight, e.g. with shape (1, inputs, 1, 1).
    ``rule`` says how signed symmetric codes are paired: pairs of one sign then add up to 128 at most.
    """
    if method not in METHODS:
        raise InputError(
            f"There is no weight method '{method}'. Choose one of: {', '.join(METHODS)}.{nearest(method, METHODS)}"
        )
    if not 2 <= bits <= 8 or (axes is not None and block is not None):
        raise InternalError(f"Weights have 2 to 8 bits, and axes or blocks: bits={bits}, axes={axes}, block={block}.")
    if not np.isfinite(weight).all():
        raise InputError("The weight has NaN or infinite values. Export the model again.")
    if importance is not None and (not np.isfinite(importance).all() or np.min(importance, initial=0) < 0):
        raise InternalError("The importance of a weight has negative, NaN or infinite values.")
    if rule is not None and not (signed and symmetric and (block or axes is not None)):
        raise InternalError("Only signed symmetric codes per channel or per block can be kept from saturating.")
    layout = _Layout.of(weight.shape, axes, block)
    rows = layout.rows(np.asarray(weight, np.float32))
    weigh = None if importance is None else layout.rows(np.broadcast_to(importance, weight.shape).astype(np.float32))
    low, high = code_limits(bits, signed=signed, symmetric=symmetric, narrow=narrow)
    if 2 * max(-low, high) <= saturation.LIMIT:
        rule = None  # such codes never add up to more
    orders: tuple[Order, ...] = ()
    others: tuple[Order, ...] | None = None
    if rule is not None:  # what pairs across blocks is held afterwards
        orders = rule.orders if block is None else (saturation.evened(np.arange(block[1])[None])[0],)
        rows = saturation.laid_out(rows, orders[0])
        weigh = None if weigh is None else saturation.laid_out(weigh, orders[0])
        others = tuple(saturation.behind(orders[0], other) for other in orders[1:])
    codes = np.empty(rows.shape, np.int8 if signed else np.uint8)
    scale, zero_point = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    slab = max(1, min(_SLAB // max(1, rows.shape[1]), _SLAB // 256))
    for start in range(0, len(rows), slab):
        of = slice(start, start + slab)
        part = _Rows.of(rows[of], None if weigh is None else weigh[of], (low, high), symmetric, others)
        scale[of], zero_point[of] = part.place(1.0) if method == "minmax" else part.least_error()
        codes[of] = part.codes(scale[of], zero_point[of])
    if orders:
        codes = saturation.laid_back(codes, orders[0])
    found = QuantisedWeight(
        codes=layout.array(codes),
        scale=layout.scales(scale),
        zero_point=None if symmetric and signed else layout.scales(zero_point.astype(codes.dtype)),
        bits=bits,
        axes=axes,
        block=block,
        rule=rule,
    )
    return found if block is None else held(found, weight)


def held(q: QuantisedWeight, weight: Array) -> QuantisedWeight:
    """Return ``q`` with codes that keep its rule, as near to the weight as they can be."""
    if q.rule is None:
        return q
    layout = _Layout.of(weight.shape, q.rule.axes, None)
    codes = layout.rows(q.codes.astype(np.float32))
    wanted = layout.rows(np.asarray(weight, np.float32) / grid(q)[0])
    for order in q.rule.orders:
        saturation.hold(codes, wanted, order)
    return replace(q, codes=layout.array(codes).astype(np.int8))  # only symmetric codes have a rule


def code_limits(
    bits: int, *, signed: bool = True, symmetric: bool = True, narrow: bool | None = None
) -> tuple[int, int]:
    """Return the lowest and the highest code of a type; ``narrow`` as for ``quantise_weight``."""
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    return low + (symmetric and (bits > 4 if narrow is None else narrow)), high


def grid(q: QuantisedWeight) -> tuple[Single, Single]:
    """Return the scale and the zero point of every single weight; both broadcast over the codes."""
    layout = _Layout.of(q.codes.shape, q.axes, q.block)
    zero_point = np.zeros(1) if q.zero_point is None else layout.spread(q.zero_point)
    return layout.spread(q.scale), zero_point.astype(np.float32)


def dequantise(q: QuantisedWeight) -> Single:
    """Do what ONNX DequantizeLinear does: (code - zero_point) * scale, in float32."""
    layout = _Layout.of(q.codes.shape, q.axes, q.block)
    codes = q.codes.astype(np.float32)
    if q.zero_point is not None:
        codes -= layout.spread(q.zero_point)
    return codes * layout.spread(q.scale)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A weight as a matrix with a scale per row, how much each squared error counts, and the codes there are.

    Unless ``orders`` are None, neighbouring columns (0, 1), (2, 3) ... and those that they pair keep from saturating.
    """

    w: Single
    importance: Single | None
    low: int
    high: int
    symmetric: bool
    orders: tuple[Order, ...] | None
    least: Floats  # of each row, widened to hold zero
    most: Floats
    paired: Floats  # the scale that pairs ask for

    @staticmethod
    def of(
        w: Single,
        importance: Single | None,
        codes: tuple[int, int],
        symmetric: bool,
        orders: tuple[Order, ...] | None,
    ) -> "_Rows":
        """Find the range of each row."""
        least, most = (end(w, axis=1, initial=0.0).astype(np.float64) for end in (np.min, np.max))
        paired = np.zeros(len(w))
        for order in () if orders is None else (np.arange(w.shape[1]), *orders):
            paired = np.maximum(paired, saturation.least_scale(w, order))
        return _Rows(w, importance, *codes, symmetric, orders, least, most, paired)

    def place(self, ratio: float | Floats) -> Choice:
        """Scales that cover this share of each row's range, and zero points."""
        least, most = self.least * ratio, self.most * ratio
        if self.symmetric:
            middle = 0 if self.low < 0 else (self.high + 1) // 2
            scale = np.maximum(most / (self.high - middle), least / (self.low - middle))
            scale = _positive(np.maximum(scale, self.paired * ratio))
            return scale, np.full(scale.shape, middle, np.float32)
        scale = _positive((most - least) / (self.high - self.low))
        return scale, np.clip(self.low - np.rint(least / scale), self.low, self.high).astype(np.float32)

    def least_error(self) -> Choice:
        """Search scales and zero points of least squared error, each row by itself."""
        start = best = self.place(1.0)
        error = np.full(len(self.w), np.inf)

        def keep(choices: Sequence[Choice]) -> npt.NDArray[np.intp]:
            """Take for each row the best of what there was and ``choices``; say which, the former being 0."""
            nonlocal best, error
            errors = np.concatenate([error[None], self.errors(choices)])
            taken: npt.NDArray[np.intp] = np.argmin(errors, axis=0)
            every = np.arange(len(taken))
            error = errors[taken, every]
            scales, zero_points = (np.stack(parts) for parts in zip(best, *choices, strict=True))
            best = scales[taken, every], zero_points[taken, every]
            return taken

        ratios = _RATIOS if self.orders is None else _RATIOS[_RATIOS > _LEAST_PAIRED]
        taken = keep([self.place(float(r)) for r in ratios])
        ratio = ratios[taken - 1]
        for step in (1.025, 1.0125, 1.00625):
            tries = np.stack([ratio, np.minimum(ratio * step, 1.0), ratio / step])
            ratio = tries[keep([self.place(tries[1]), self.place(tries[2])]), np.arange(len(ratio))]
        for _ in range(3):
            scale, zero_point = best
            tried = [(np.minimum(self.best_scale(best), start[0]), zero_point)]
            if not self.symmetric:
                tried += [(scale, np.clip(zero_point + move, self.low, self.high)) for move in (-1, 1)]
            keep(tried)
        better = self.exact_error(best) < self.exact_error(start)  # never worse than minmax, to the last bit
        return np.where(better, best[0], start[0]), np.where(better, best[1], start[1])

    def errors(self, choices: Sequence[Choice]) -> Floats:
        """Squared error of each row for each choice; single precision within a tile."""
        errors = np.zeros((len(choices), len(self.w)))
        inverse = [(1 / scale, self.low - zero, self.high - zero) for scale, zero in choices]
        for tile, of in self._tiles():
            w = self.w[tile]
            u, q = np.empty_like(w), np.empty_like(w)
            for k, (factor, low, high) in enumerate(inverse):
                np.multiply(w, factor[of, None], out=u)
                np.rint(u, out=q)
                np.maximum(q, low[of, None], out=q)
                np.minimum(q, high[of, None], out=q)
                self._hold(q, u, tile)
                u -= q
                weighed = u if self.importance is None else u * self.importance[tile]
                errors[k, of] += np.einsum("ij,ij->i", u, weighed)
        return errors * np.array([scale for scale, _ in choices], np.float64) ** 2

    def best_scale(self, choice: Choice) -> Single:
        """Fit the scale to the codes: s = Σ w q / Σ q²."""
        wq, qq = np.zeros(len(self.w)), np.zeros(len(self.w))
        for tile, of in self._tiles():
            q = self._rounded(tile, of, choice)
            weighed = q if self.importance is None else q * self.importance[tile]
            wq[of] += np.einsum("ij,ij->i", self.w[tile], weighed)
            qq[of] += np.einsum("ij,ij->i", q, weighed)
        return np.where(wq > 0, np.maximum(wq / np.where(qq > 0, qq, 1.0), _TINY), choice[0]).astype(np.float32)

    def exact_error(self, choice: Choice) -> Floats:
        """Squared error of each row as dequantising gives it, in double precision."""
        error = np.zeros(len(self.w))
        for tile, of in self._tiles():
            lost = self._rounded(tile, of, choice) * choice[0][of, None] - self.w[tile].astype(np.float64)
            weighed = lost if self.importance is None else lost * self.importance[tile]
            error[of] += np.einsum("ij,ij->i", lost, weighed)
        return error

    def codes(self, scale: Single, zero_point: Single) -> Single:
        """Give the codes as QuantizeLinear does: divide, round half to even, clip."""
        codes = np.empty_like(self.w)
        for tile, of in self._tiles():
            codes[tile] = self._rounded(tile, of, (scale, zero_point)) + zero_point[of, None]
        return codes

    def _rounded(self, tile: tuple[slice, slice], of: slice, choice: Choice) -> Single:
        """Give codes less their zero point for one tile."""
        scale, zero_point = choice[0][of, None], choice[1][of, None]
        wanted = self.w[tile] / scale
        codes: Single = np.clip(np.rint(wanted), self.low - zero_point, self.high - zero_point)
        self._hold(codes, wanted, tile)
        return codes

    def _hold(self, codes: Single, wanted: Single, tile: tuple[slice, slice]) -> None:
        """Keep pairs of codes from saturating, in place."""
        for order in () if self.orders is None else (None, *self.orders):
            saturation.hold(codes, wanted, order, None if self.importance is None else self.importance[tile])

    def _tiles(self) -> Iterator[tuple[tuple[slice, slice], slice]]:
        """Cut the matrix into tiles; a tile has whole rows where places of a row are paired."""
        return _tiles(self.w.shape, _TILE if self.orders is None else max(_TILE, self.w.shape[1]))


def _positive(scale: Floats) -> Single:
    """Round to float32; 1 where there is nothing to cover, and no denormals, whose reciprocal overflows."""
    return np.where(scale > 0, np.maximum(scale, _TINY), 1.0).astype(np.float32)


def _tiles(shape: tuple[int, ...], size: int) -> Iterator[tuple[tuple[slice, slice], slice]]:
    """Cut a matrix into tiles of ``size`` numbers; with each come its rows."""
    height = max(1, min(shape[0], size // max(1, shape[1])))
    for i in range(0, shape[0], height):
        for j in range(0, shape[1], size):
            yield (slice(i, i + height), slice(j, j + size)), slice(i, i + height)
