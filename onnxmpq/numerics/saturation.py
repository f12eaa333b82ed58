"""Sums that saturate: what x86 kernels without VNNI do to 8-bit codes, and the rule that keeps it from happening.

    code of an activation (0 to 255)  x  code of a weight (-127 to 127)      two neighbours -> one sum of 16 bits

The instruction (``vpmaddubsw``) clips the sum of two neighbouring products to 16 bits; everything behind it is summed
in 32. Which two products are neighbours lies in how a kernel lays out the contraction:

flat        (2j, 2j + 1) along kernel positions, then input channels: a matrix product of unfolded inputs
positions   (2j, 2j + 1) among the input channels of one kernel position, each filled up to an even number

They differ for an odd number of input channels only. A matrix product has one position.

The rule: two neighbouring weights of one sign have codes with |a| + |b| <= 128, since 255 * 128 < 2**15. Of different
signs, they cannot leave 16 bits. It holds for all inputs, and whether it holds can be read off the stored codes.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxmpq.artifacts import Neighbours

Array: TypeAlias = npt.NDArray[Any]
Order: TypeAlias = npt.NDArray[np.intp]
"""Places of the contraction as they are paired, (0, 1), (2, 3) ...; -1 stands for nothing. Of even length."""

LIMIT = 128
TOP_CODE = 255
_LOWEST, _HIGHEST = -(1 << 15), (1 << 15) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """How a weight is paired: ``orders`` of the contraction, which is what ``axes``, those of channels, leave.

    It is flattened in the order of the axes: input channels come first, the kernel behind them.
    """

    axes: tuple[int, ...]
    orders: tuple[Order, ...]


def rule(saturates: Iterable[Neighbours], shape: Sequence[int], axes: Sequence[int]) -> Rule | None:
    """Return the rule for a weight whose channels lie along ``axes``; None where nothing is paired.

    >>> [order.tolist() for order in rule(["flat", "positions"], (8, 3, 1, 2), (0,)).orders]
    [[0, 2, 4, 1, 3, 5], [0, 2, 4, -1, 1, 3, 5, -1]]
    """
    channels = tuple(sorted(axis % len(shape) for axis in axes))
    summed = [size for axis, size in enumerate(shape) if axis not in channels]
    inputs, positions = (summed[0], math.prod(summed[1:])) if summed else (0, 1)
    places = np.arange(inputs * positions).reshape(inputs, positions).T
    found: list[Order] = []
    for kind in dict.fromkeys(saturates):
        order = evened(places if kind == "positions" else places.reshape(1, -1)).reshape(-1)
        if len(pairs(order)[0]) and not any(np.array_equal(order, other) for other in found):
            found.append(order)
    return Rule(channels, tuple(found)) if found else None


def evened(places: Order) -> Order:
    """Fill every row up to an even number of places."""
    return np.pad(places, ((0, 0), (0, places.shape[1] % 2)), constant_values=-1)


def pairs(order: Order) -> tuple[Order, Order]:
    """Return the first and the second places of all pairs; what has no neighbour is left out.

    >>> [places.tolist() for places in pairs(np.array([0, 2, 4, -1, 1, 3]))]
    [[0, 1], [2, 3]]
    """
    first, second = order[0::2], order[1::2]
    both = (first >= 0) & (second >= 0)
    return first[both], second[both]


def hold(codes: Array, wanted: Array, order: Order | None = None, importance: Array | None = None) -> None:
    """Make ``codes`` keep the rule, in place, at the least squared distance from ``wanted``, both [..., contraction].

    Codes only shrink, so that a rule that they kept before is kept afterwards. ``importance`` weighs the distances.
    Without an ``order`` the places are paired as they stand, and there is an even number of them.
    """
    first, second = (slice(0, None, 2), slice(1, None, 2)) if order is None else pairs(order)
    sums = codes[..., first] + codes[..., second]
    if not (high := np.abs(sums) > LIMIT).any():
        return
    *rows, which = np.nonzero(high)
    places = np.arange(codes.shape[-1])
    a, b = (*rows, places[first][which]), (*rows, places[second][which])
    sign = np.sign(sums[high])
    x, y = wanted[a] * sign, wanted[b] * sign
    if importance is None:
        best = (LIMIT + x - y) / 2
    else:
        weights = np.broadcast_to(importance, codes.shape)
        p, q = weights[a] + 1e-30, weights[b] + 1e-30
        best = (p * x + q * (LIMIT - y)) / (p + q)
    best = np.clip(np.rint(best), LIMIT - np.abs(codes[b]), np.abs(codes[a]))
    codes[a], codes[b] = sign * best, sign * (LIMIT - best)


def laid_out(array: Array, order: Order) -> Array:
    """Lay the contraction, which is the last axis, out as ``order`` pairs it; nothing becomes 0."""
    return np.concatenate([array, np.zeros((*array.shape[:-1], 1), array.dtype)], axis=-1)[..., order]


def laid_back(array: Array, order: Order) -> Array:
    """Undo ``laid_out``."""
    return np.ascontiguousarray(array[..., _places(order)])


def behind(order: Order, other: Order) -> Order:
    """Return ``other`` for what is laid out as ``order``."""
    return np.where(other >= 0, _places(order)[other], -1)


def _places(order: Order) -> Order:
    """Return where an order puts each place of the contraction."""
    found = np.empty(int((order >= 0).sum()), np.intp)
    found[order[order >= 0]] = np.flatnonzero(order >= 0)
    return found


def least_scale(weights: Array, order: Order) -> Array:
    """Return for every row of weights [..., contraction] the scale from which on no pair has to be held."""
    first, second = pairs(order)
    sums = np.abs(weights[..., first].astype(np.float64) + weights[..., second])
    same = weights[..., first] * weights[..., second] > 0
    found: Array = np.max(np.where(same, sums, 0.0), axis=-1, initial=0.0) / LIMIT
    return found


def excess(codes: Array, order: Order) -> Array:
    """Return by how much every pair of stored codes [..., contraction] exceeds the rule; 0 where it is kept."""
    first, second = pairs(order)
    a, b = codes[..., first].astype(np.int32), codes[..., second].astype(np.int32)
    found: Array = np.maximum(np.abs(a + b) - LIMIT, 0)
    return found


def lost(codes: Array, inputs: Array, order: Order) -> Iterator[tuple[int, Array]]:
    """Yield what saturation takes from the sums of every row of codes [rows, contraction] that it can touch.

    ``inputs`` are codes of activations, unsigned, [contraction, columns]; a figure comes for each column. Signed codes
    are shifted by 128 first, as kernels do it.
    """
    first, second = pairs(order)
    over = excess(codes, order) > 0
    for row in np.flatnonzero(over.any(axis=1)):
        a, b = first[over[row]], second[over[row]]
        products = codes[row, a, None] * inputs[a].astype(np.int32) + codes[row, b, None] * inputs[b].astype(np.int32)
        yield int(row), (np.clip(products, _LOWEST, _HIGHEST) - products).sum(axis=0)
