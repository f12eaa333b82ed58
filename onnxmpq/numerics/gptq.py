"""GPTQ: round a weight so that the layer's outputs change least, given the Hessian of its inputs.

    least trace((W - Q) H (W - Q)ᵀ)   over codes, scales held        H = mean of x xᵀ over what the columns meet

Column after column is rounded, and the columns that are still open take up what that did to the outputs (Frantar et
al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2023). Columns come in the
order of falling diagonal of H. Scales stay those of the columns' own places, so blocks along the columns are kept too.

Where pairs of columns must not saturate (``onnxmpq.numerics.saturation``), the first of a pair is rounded to where
both together cost least, the second takes what that leaves it, and the open columns take up what it costs.

Shapes: weights, scales, zero points and codes [groups, rows, columns]; Hessians [groups, columns, columns]. The groups
are those of a convolution; everything else has one.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxmpq.numerics import saturation
from onnxmpq.numerics.saturation import LIMIT, Order

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]

DAMPING = 0.01  # of the mean diagonal, as in the paper
_BLOCK = 128  # columns whose effect on the ones behind is applied at once
_SMALL = 128  # columns up to which the groups of a convolution are factored at once


@dataclass(frozen=True, slots=True)
class Metric:
    """A Hessian made ready for rounding, once for all scales: the order of columns, and U of ``inverse_root`` in it."""

    hessian: Array
    order: Array
    roots: Floats

    @classmethod
    def of(cls, hessian: Array, damping: float = DAMPING) -> Self:
        """Sort and factor a Hessian [groups, columns, columns]."""
        order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
        sorted_ = np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None, :], 2)
        return cls(hessian, order, inverse_roots(sorted_.astype(np.float64), damping))


def round_to_hessian(
    weight: Array,
    metric: Metric,
    scale: Array,
    zero_point: Array,
    limits: tuple[int, int],
    *,
    orders: Sequence[Order] = (),
    block: int = _BLOCK,
) -> Floats:
    """Return codes, as whole numbers, whose error in a Hessian's metric is nowhere above that of ``nearest``.

    ``scale`` and ``zero_point`` broadcast over the weight; ``limits`` are the lowest and the highest code. ``orders``
    say which columns of symmetric codes are paired and keep from saturating.
    """
    scale, zero_point = np.broadcast_to(scale, weight.shape), np.broadcast_to(zero_point, weight.shape)
    plain = nearest(weight, scale, zero_point, limits)
    for order in orders:
        saturation.hold(plain, np.asarray(weight, np.float32) / scale, order)
    codes = _fed_back(weight, metric, scale, zero_point, limits, orders, block)
    before, after = (error(weight, each, scale, zero_point, metric.hessian) for each in (plain, codes))
    found: Floats = np.where((after < before)[..., None], codes, plain)
    return found


def nearest(weight: Array, scale: Array, zero_point: Array, limits: tuple[int, int]) -> Floats:
    """Return the codes that QuantizeLinear gives: divide in float32, round half to even, clip."""
    steps = np.rint(np.asarray(weight, np.float32) / scale)
    return np.clip(steps.astype(np.float64) + zero_point, *limits)


def error(weight: Array, codes: Array, scale: Array, zero_point: Array, hessian: Array) -> Floats:
    """Return (w - q) H (w - q)ᵀ of every row, with q as DequantizeLinear gives it, in float32."""
    values = (codes - zero_point).astype(np.float32) * np.asarray(scale, np.float32)
    lost = weight.astype(np.float64) - values
    found: Floats = ((lost @ hessian.astype(np.float64)) * lost).sum(-1)
    return found


def inverse_root(hessian: Floats, damping: float = DAMPING) -> Floats:
    """Return the upper triangular U with UᵀU = (H + d I)⁻¹; d is raised tenfold until H + d I can be factored.

    The damping is a share of the mean diagonal of the columns that are alive at all.
    """
    from scipy.linalg import solve_triangular  # slow to load, and only needed here

    diagonal = np.diag(hessian)
    mean = float(diagonal[diagonal > 0].mean()) if (diagonal > 0).any() else 1.0
    flipped = hessian[::-1, ::-1] / mean
    identity = np.eye(len(hessian))
    while True:
        try:
            lower = np.linalg.cholesky(flipped + damping * identity)
            break
        except np.linalg.LinAlgError:
            damping = max(10 * damping, 1e-12)
    inverse: Floats = solve_triangular(lower, identity, lower=True, check_finite=False)[::-1, ::-1]
    inverse /= np.sqrt(mean)
    return inverse


def inverse_roots(hessians: Floats, damping: float = DAMPING) -> Floats:
    """Return ``inverse_root`` of every group; many small ones, as depthwise convolutions have, are factored at once."""
    groups, columns, _ = hessians.shape
    if groups > 1 and columns <= _SMALL:
        diagonal = np.diagonal(hessians, axis1=1, axis2=2)
        alive = diagonal > 0
        means = np.where(alive, diagonal, 0.0).sum(1) / np.maximum(alive.sum(1), 1)
        means[~alive.any(1)] = 1.0
        flipped = hessians[:, ::-1, ::-1] / means[:, None, None]
        with suppress(np.linalg.LinAlgError):
            inverses = np.linalg.inv(np.linalg.cholesky(flipped + damping * np.eye(columns)))
            found: Floats = np.tril(inverses)[:, ::-1, ::-1] / np.sqrt(means)[:, None, None]
            return found
    return np.stack([inverse_root(each, damping) for each in hessians])


def _fed_back(
    weight: Array,
    metric: Metric,
    scale: Array,
    zero_point: Array,
    limits: tuple[int, int],
    orders: Sequence[Order],
    block: int,
) -> Floats:
    """Round column after column and let the open columns take up the error.

    With U of ``inverse_root``, rounding column j by e moves every open column k by e U[j, k] / U[j, j], and costs
    (e / U[j, j])² once the open ones have done so.
    """
    groups, columns = np.arange(len(weight)), weight.shape[2]
    order, roots = metric.order, metric.roots
    open_ = np.take_along_axis(weight.astype(np.float64), order[:, None, :], 2).swapaxes(1, 2).copy()
    codes = np.empty(weight.shape)
    couples = _Couples(orders, order, roots, codes)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        errors = np.empty((len(weight), end - start, weight.shape[1]))
        for j in range(start, end):
            place = (groups, slice(None), order[:, j])
            step, zero = scale[place].astype(np.float64), zero_point[place]
            code = couples.rounded(j, open_, scale, step, limits) if orders else open_[:, j] / step
            code = np.clip(np.rint(code) + zero, *limits)
            codes[place] = code
            lost = (open_[:, j] - (code - zero) * step) / roots[:, j, j, None]
            errors[:, j - start] = lost
            open_[:, j + 1 : end] -= roots[:, j, j + 1 : end, None] * lost[:, None]
        open_[:, end:] -= roots[:, start:end, end:].swapaxes(1, 2) @ errors
    return codes


class _Couples:
    """Which columns are paired, in the order in which columns are rounded, and the codes there are already."""

    def __init__(self, orders: Sequence[Order], order: Array, roots: Floats, codes: Floats) -> None:
        groups, columns = order.shape
        self.order, self.codes, self.groups = order, codes, np.arange(groups)
        self.turn = np.argsort(order, axis=1)  # when each column is rounded
        self.costs = 1.0 / np.diagonal(roots, axis1=1, axis2=2) ** 2
        self.partners = [np.full(columns, -1) for _ in orders]
        for partner, paired in zip(self.partners, orders, strict=True):
            first, second = saturation.pairs(paired)
            partner[first], partner[second] = second, first

    def rounded(self, j: int, open_: Floats, scale: Array, step: Floats, limits: tuple[int, int]) -> Floats:
        """Return what the j-th columns to be rounded should become: [groups, rows], whole where a limit is met."""
        columns = self.order[:, j]
        wanted = open_[:, j] / step
        low, high = np.full(wanted.shape, limits[0]), np.full(wanted.shape, limits[1])
        target = wanted
        for partner in self.partners:
            other = partner[columns]
            turn = np.where(other >= 0, self.turn[self.groups, other], -1)
            for group in np.flatnonzero(other >= 0):
                if turn[group] < j:
                    there = self.codes[group, :, other[group]]
                    high[group] = np.minimum(high[group], LIMIT - np.maximum(there, 0))
                    low[group] = np.maximum(low[group], -LIMIT - np.minimum(there, 0))
                else:
                    open_other = open_[group, turn[group]] / scale[group, :, other[group]]
                    p, q = self.costs[group, j], self.costs[group, turn[group]]
                    target[group] = _shared(target[group], open_other, p, q, limits)
        return np.clip(np.rint(target), low, high)


def _shared(x: Floats, y: Floats, p: float, q: float, limits: tuple[int, int]) -> Floats:
    """Return the code of x that costs least together with y, both of one sign and too large together; else x."""
    a, b = (np.clip(np.rint(value), *limits) for value in (x, y))
    sign = np.sign(x)
    best = np.rint((p * np.abs(x) + q * (LIMIT - np.abs(y))) / (p + q))
    best = np.clip(best, LIMIT - np.abs(b), np.abs(a))
    found: Floats = np.where(np.abs(a + b) > LIMIT, sign * best, x)
    return found
