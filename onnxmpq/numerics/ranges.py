"""Ranges: the quantisers that follow from what was counted of tensors.

samples ── calibrate ──▶ Ranges ── choose_range ──▶ Range ── quantiser ──▶ Affine
           (one pass)    (a histogram per tensor; stored)     (pure functions: another method or type costs no pass)
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxmpq.errors import InputError, nearest
from onnxmpq.numerics.histograms import HALF, Histogram
from onnxmpq.options import ACTIVATION_RANGES as METHODS
from onnxmpq.options import ActivationRanges as Method

Floats: TypeAlias = npt.NDArray[np.float64]

EVERYTHING = (-math.inf, math.inf)
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class QuantisedType:
    """An integer type of 2 to 16 bits. Odd widths use 2**bits codes of the next container."""

    bits: int
    signed: bool = False
    symmetric: bool = False

    @property
    def codes(self) -> tuple[int, int]:
        """Lowest and highest code."""
        low = -(1 << (self.bits - 1)) if self.signed else 0
        return low, low + (1 << self.bits) - 1


@dataclass(frozen=True, slots=True)
class Range:
    """The values that codes should cover."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Affine:
    """x ≈ (code - zero_point) * scale, codes from low_code to high_code."""

    scale: np.float32
    zero_point: int
    low_code: int
    high_code: int


def quantiser(bounds: Range, kind: QuantisedType, limit: tuple[float, float] = EVERYTHING) -> Affine:
    """Place the codes over ``bounds``, of which only the part within ``limit`` counts (Relu: (0, inf)).

    Zero always has a code. Where there is nothing to cover the scale is 1.
    """
    ends = np.clip([bounds.low, bounds.high], *limit)
    scale, zero_point = _place(ends[:1], ends[1:], kind)
    return Affine(np.float32(scale[0]), int(zero_point[0]), *kind.codes)


def _place(low: Floats, high: Floats, kind: QuantisedType) -> tuple[Floats, Floats]:
    """Scales, rounded to float32, and zero points for many ranges at once.

    Asymmetric: s = (high - low) / (q_max - q_min), z = q_min - round(low / s), the range widened to hold zero.
    Symmetric: z in the middle, s the smallest that clips nothing; an unsigned one without negatives is asymmetric.
    """
    first, last = kind.codes
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    scale = (high - low) / (last - first)
    middle = first + (1 << (kind.bits - 1))
    even = np.maximum(high / (last - middle), low / (first - middle))
    centred = kind.symmetric & ((low < 0) | kind.signed)
    scale = np.where(centred, even, scale)
    scale = np.where(scale < _TINY, 1.0, scale).astype(np.float32).astype(np.float64)
    return scale, np.where(centred, middle, np.clip(first - np.rint(low / scale), first, last))


def choose_range(
    stats: Histogram,
    method: Method,
    kind: QuantisedType,
    *,
    percentile: float = 99.99,
    limit: tuple[float, float] = EVERYTHING,
) -> Range:
    """Choose what the codes of ``kind`` should cover. Values beyond ``limit`` count as if they were at it.

    minmax: everything. percentile: all but (100 - percentile) / 2 percent at either end. mse: least expected squared
    error. entropy: least information lost (KL divergence).
    """
    if method not in METHODS:
        raise InputError(
            f"There is no range method '{method}'. Choose one of: {', '.join(METHODS)}.{nearest(method, METHODS)}"
        )
    density = _Density.of(stats, limit)
    if method == "percentile":
        return _between(density, percentile)
    if method == "mse":
        return _least_error(density, kind)
    if method == "entropy":
        return _least_divergence(stats, Range(density.low, density.high), kind)
    return Range(density.low, density.high)


def expected_error(
    stats: Histogram, bounds: Range, kind: QuantisedType, limit: tuple[float, float] = EVERYTHING
) -> float:
    """Sum of squared errors of all counted values, if ``bounds`` were chosen; values spread evenly within a bin."""
    ends = np.clip([bounds.low, bounds.high], *limit)
    return float(_errors(_Density.of(stats, limit), *_place(ends[:1], ends[1:], kind), kind)[0])


@dataclass(frozen=True, slots=True)
class _Density:
    """A histogram as a density: ``mass[j]`` spread evenly over ``edges[j] .. edges[j + 1]``, the rest at points.

    Bins end at the exact minimum and maximum, and at the limits. Exact zeros are apart: they have no error.
    """

    low: float
    high: float
    edges: Floats
    mass: Floats
    ends: Floats  # what stands at ``low`` and at ``high`` itself
    zeros: int

    @staticmethod
    def of(stats: Histogram, limit: tuple[float, float]) -> "_Density":
        width = 2.0**stats.exponent
        low, high = (float(end) for end in np.clip([stats.min, stats.max], *limit))
        zeros = stats.zeros if low <= 0 <= high else 0
        mass = stats.counts.astype(np.float64)
        mass[HALF] -= zeros
        edges = np.clip(np.arange(-HALF, HALF + 1) * width, low, high).astype(np.float64)
        wide = np.flatnonzero(np.diff(edges) > 1e-6 * width)
        first, last = (wide[0], wide[-1] + 1) if wide.size else (HALF, HALF)
        ends = np.array([mass[:first].sum(), mass[last:].sum()])
        return _Density(low, high, edges[first : last + 1], mass[first:last], ends, zeros)

    def merged(self, factor: int) -> "_Density":
        """Make bins wider by ``factor``, for a first look."""
        starts = np.arange(0, self.mass.size, factor)
        edges = np.append(self.edges[:-1][starts], self.edges[-1])
        return _Density(self.low, self.high, edges, np.add.reduceat(self.mass, starts), self.ends, self.zeros)


def _errors(density: _Density, scale: Floats, zero_point: Floats, kind: QuantisedType) -> Floats:
    """Expected sum of squared errors for many quantisers at once, exact for the density.

    With u = x / s and n(u) the code nearest to u, the integral of (t - n(t))² from 0 to u is
    G(u) = n / 12 + (u - n)³ / 3, also where n is cut off at the first or last code. A bin of mass m from a to b
    has the error s² m (G(b/s) - G(a/s)) s / (b - a).
    """
    first, last = (code - zero_point[:, None] for code in kind.codes)
    ends = np.array([density.low, density.high]) / scale[:, None]
    error = ((ends - np.clip(np.rint(ends), first, last)) ** 2 * density.ends).sum(axis=1)
    if density.mass.size:
        u = density.edges / scale[:, None]
        n = np.rint(u)
        np.clip(n, first, last, out=n)
        u -= n
        integral = u * u  # in place from here on: these are the largest arrays there are
        integral *= u
        integral /= 3
        n /= 12
        integral += n
        slope = density.mass / np.diff(density.edges)
        # einsum, not @: its sums do not depend on the number of threads.
        error -= np.einsum("ij,j->i", integral, np.diff(slope, prepend=0.0, append=0.0)) * scale
    return np.asarray(error * scale**2, np.float64)


def _between(density: _Density, percentile: float) -> Range:
    """Cut off the same share of values at either end."""
    if not density.mass.size:
        return Range(density.low, density.high)
    mass = density.mass.copy()
    mass[min(int(np.searchsorted(density.edges, 0.0, "right")), mass.size) - 1] += density.zeros
    below = density.ends[0] + np.concatenate([[0.0], np.cumsum(mass)])
    share = np.array([100.0 - percentile, 100.0 + percentile]) / 200.0
    low, high = np.interp(share * (below[-1] + density.ends[1]), below, density.edges)
    return Range(float(low), float(high))


def _least_error(density: _Density, kind: QuantisedType) -> Range:
    """Search both ends: all pairs of a coarse grid of ratios, then ever finer steps around the best pair."""
    if not density.mass.size:
        return Range(density.low, density.high)
    most = max(-density.low, density.high)
    ends = (-most, most) if kind.symmetric else (density.low, density.high)
    joint = not kind.symmetric and density.low < 0 < density.high

    def cover(ratios: Floats) -> tuple[Floats, Floats]:
        return np.maximum(density.low, ends[0] * ratios[:, 0]), np.minimum(density.high, ends[1] * ratios[:, 1])

    def best(density: _Density, ratios: Floats) -> Floats:
        return ratios[[np.argmin(_errors(density, *_place(*cover(ratios), kind), kind))]]

    def pairs(ratios: Floats) -> Floats:
        both = [np.repeat(ratios, ratios.size), np.tile(ratios, ratios.size)] if joint else [ratios, ratios]
        return np.stack(both, axis=1)

    found = best(density.merged(8), pairs(np.exp2(-np.arange(16) / 2)))
    for step in (0.25, 0.125, 0.0625, 0.03125):
        around = np.minimum(found * pairs(np.exp2(step * np.arange(-1, 2))), 1.0)
        found = best(density, np.concatenate([around, np.ones((1, 2))]))  # never worse than minmax
    low, high = cover(found)
    return Range(float(low[0]), float(high[0]))


def _least_divergence(stats: Histogram, bounds: Range, kind: QuantisedType) -> Range:
    """Choose the magnitude t whose clipping and rounding lose least: min KL(P_t || Q_t), Migacz, TensorRT, GTC 2017.

    P_t: the bins of |x| up to t, the outliers added to the last one. Q_t: the same bins without outliers, joined to as
    many levels as there are codes for |x|, each level spread over its bins that P_t has filled; an empty one counts
    1e-4 values, as in MXNet. Exact zeros are left out, since they cost nothing.
    """
    both = bounds.low < 0 < bounds.high
    levels = 1 << (kind.bits - 1 if both or (kind.symmetric and kind.signed) else kind.bits)
    above, below = stats.counts[HALF:].astype(np.float64), stats.counts[:HALF][::-1].astype(np.float64)
    above[0] -= stats.zeros
    counts, width = above * (bounds.high > 0) + below * (bounds.low < 0), 2.0**stats.exponent
    used = math.ceil(max(-bounds.low, bounds.high) / width)
    counts[used - 1] += counts[used:].sum()
    counts = counts[:used]
    if used > 2048:
        counts, width = np.add.reduceat(counts, np.arange(0, used, 2)), 2 * width
    total, least, most = counts.sum(), math.inf, max(-bounds.low, bounds.high)
    if not total:
        return bounds
    for size in (*range(max(levels, 128), counts.size, 16), counts.size):  # below 128, few levels fit anything
        p, inside = counts[:size].copy(), counts[:size]
        p[-1] += total - inside.sum()
        filled = p > 0
        starts = np.arange(min(levels, size)) * size // min(levels, size)
        share = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(filled, starts, dtype=np.int64), 1)
        q = np.maximum(np.repeat(share, np.diff(starts, append=size))[filled], 1e-4)
        p = p[filled]
        loss = float((p * np.log(p / q)).sum()) / total + math.log(q.sum() / total)
        if loss <= least:
            least, most = loss, size * width
    return Range(max(bounds.low, -most), min(bounds.high, most))
