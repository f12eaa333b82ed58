"""Scales and zero points of least squared error, for a matrix with one of each per row.

    minmax   the smallest scale that clips nothing
    mse      a grid of ratios to that scale, finer ratios around the best, then in turn the best scale for the codes,
             s = Σ w q / Σ q², and the best codes for the scale

Where sums of two products must not saturate, both search under that rule. The matrix is worked on in tiles.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxmpq.numerics import saturation
from onnxmpq.numerics.saturation import Order

Single: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float64]
Choice: TypeAlias = tuple[Single, Single]  # scales and zero points, one each per row, [choices, rows] of several

_TINY = np.finfo(np.float32).tiny
_TILE = 1 << 16  # numbers worked on at a time: they stay in the cache
_RATIOS = np.geomspace(1.0, 0.02, 80)  # steps of 5 %
_LEAST_PAIRED = 0.25  # 8 bits never gain from cutting off more: a row would need 100,000 weights


@dataclass(frozen=True, slots=True)
class Rows:
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
    ) -> "Rows":
        """Find the range of each row."""
        least, most = (end(w, axis=1, initial=0.0).astype(np.float64) for end in (np.min, np.max))
        paired = np.zeros(len(w))
        for order in () if orders is None else (np.arange(w.shape[1]), *orders):
            paired = np.maximum(paired, saturation.least_scale(w, order))
        return Rows(w, importance, *codes, symmetric, orders, least, most, paired)

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

        def keep(choices: Choice) -> npt.NDArray[np.intp]:
            """Take for each row the best of what there was and ``choices``; say which, the former being 0."""
            nonlocal best, error
            errors = np.concatenate([error[None], self.errors(choices)])
            taken: npt.NDArray[np.intp] = np.argmin(errors, axis=0)
            every = np.arange(len(taken))
            error = errors[taken, every]
            scales, zero_points = (np.concatenate([one[None], more]) for one, more in zip(best, choices, strict=True))
            best = scales[taken, every], zero_points[taken, every]
            return taken

        ratios = _RATIOS if self.orders is None else _RATIOS[_RATIOS > _LEAST_PAIRED]
        taken = keep(self.place(ratios[:, None]))
        ratio = ratios[taken - 1]
        for step in (1.025, 1.0125, 1.00625):
            tries = np.stack([ratio, np.minimum(ratio * step, 1.0), ratio / step])
            ratio = tries[keep(self.place(tries[1:])), np.arange(len(ratio))]
        for _ in range(3):
            scale, zero_point = best
            tried = [(np.minimum(self.best_scale(best), start[0]), zero_point)]
            if not self.symmetric:
                tried += [(scale, np.clip(zero_point + move, self.low, self.high)) for move in (-1, 1)]
            keep((np.stack([scale for scale, _ in tried]), np.stack([zero for _, zero in tried])))
        better = self.exact_error(best) < self.exact_error(start)  # never worse than minmax, to the last bit
        return np.where(better, best[0], start[0]), np.where(better, best[1], start[1])

    def errors(self, choices: Choice) -> Floats:
        """Squared error of each row for each choice, [choices, rows]; single precision within a tile."""
        scales, zero_points = choices
        errors = np.zeros(scales.shape)
        factor, low, high = 1 / scales, self.low - zero_points, self.high - zero_points
        for tile, of in self._tiles():
            w = self.w[tile]
            importance = None if self.importance is None else self.importance[tile]
            together = max(_TILE // w.size, 1)
            for first in range(0, len(scales), together):
                some = slice(first, first + together), of, None
                u: Single = np.multiply(w, factor[some])
                q = np.rint(u, out=np.empty_like(u))
                np.maximum(q, low[some], out=q)
                np.minimum(q, high[some], out=q)
                self._hold(q, u, tile)
                u -= q
                errors[some[:2]] += np.einsum("kij,kij->ki", u, u if importance is None else u * importance)
        return errors * scales.astype(np.float64) ** 2

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
