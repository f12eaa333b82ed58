"""Moments of what a layer meets in the network that is quantised so far, and of what it should give there.

    second   mean of q qᵀ            q what the columns of its weight meet behind layers that are quantised
    cross    mean of f qᵀ            f what they meet in the float model, at the same places of the same samples
    beside   mean of (r - s) qᵀ      r and s what its output is added to, in the float and in the quantised network

Most samples are for fitting; the others, in blocks, since neighbours are often alike, judge what was fitted. Products
are formed in float32, a few samples at a time, and summed in float64 in the order of the samples.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxmpq.numerics.hessians import View, squares, sure

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]

_WAITING = 1 << 21  # numbers of columns that are multiplied at once
_BLOCK, _BLOCKS = 8, 16  # samples of a block at most, and blocks at least
_JUDGES = 4  # of so many blocks, the last one judges


def judges(number: int, count: int) -> bool:
    """Tell whether one of ``count`` samples is for judging.

    >>> [judges(number, 8) for number in range(8)]
    [False, False, False, True, False, False, False, True]
    """
    block = max(1, min(_BLOCK, count // _BLOCKS))
    return number // block % _JUDGES == _JUDGES - 1


@dataclass(frozen=True, slots=True)
class Moments:
    """Means over ``count`` places: [groups, columns, columns], of ``beside`` [groups, rows, columns]; means of each."""

    count: int
    second: Floats
    cross: Floats
    beside: Floats
    mean: Floats
    float_mean: Floats
    beside_mean: Floats

    @property
    def known(self) -> bool:
        """Whether all of them are numbers, and there is anything to fit to."""
        every = (self.second, self.cross, self.beside, self.mean, self.float_mean, self.beside_mean)
        return bool(self.second.any() and all(np.isfinite(each).all() for each in every))

    @property
    def sure(self) -> Floats:
        """The second moments as far as so many places tell them."""
        return sure(self.second, self.mean, self.count)

    def wanted(self, weight: Floats) -> Floats:
        """Return the moments of what a layer with such a weight should give, against what it meets."""
        found: Floats = weight @ self.cross + self.beside
        return found


class Counting:
    """Counts the moments of one weight of so many ``rows`` in each group."""

    def __init__(self, view: View, rows: int) -> None:
        square, tall = (view.groups, view.columns, view.columns), (view.groups, rows, view.columns)
        shapes = (square, square, tall, square[:2], square[:2], tall[:2])
        self._sums = [np.zeros(shape) for shape in shapes]
        self._enough = min(_WAITING, 4 * view.groups * view.columns**2)
        self._waiting: list[tuple[Array, ...]] = []
        self._there = self._count = 0
        self._lacks = False  # whether anything was added besides

    def add(self, met: Array, plain: Array, beside: Array | None) -> None:
        """Add columns [groups, columns, how many] in both networks, and what the output lacks besides, if anything."""
        self._waiting.append((met, plain) if beside is None else (met, plain, beside))
        self._there += met.size
        if self._there >= self._enough:
            self._multiply()

    def moments(self) -> Moments:
        """Return means over all that was added, which nothing can be added to any more."""
        self._multiply()
        second, cross, beside, mean, float_mean, beside_mean = self._sums
        lacking = (beside, beside_mean) if self._lacks else ()  # else zeros that take no memory until they are written
        for total in (second, cross, mean, float_mean, *lacking):
            total /= max(self._count, 1)
        return Moments(self._count, second, cross, beside, mean, float_mean, beside_mean)

    def _multiply(self) -> None:
        """Form the products of what waits."""
        if not self._waiting:
            return
        met, plain, *more = (np.concatenate(arrays, axis=2) for arrays in zip(*self._waiting, strict=True))
        second, cross, beside, mean, float_mean, beside_mean = self._sums
        turned = met.swapaxes(1, 2)
        with np.errstate(over="ignore", invalid="ignore"):
            second += squares(met)
            cross += plain @ turned
            mean += met.sum(2)
            float_mean += plain.sum(2)
            for lacking in more:
                beside += lacking @ turned
                beside_mean += lacking.sum(2)
                self._lacks = True
        self._count += met.shape[2]
        self._waiting, self._there = [], 0
