"""What a model says of a plan, corrected by what it said of others that were measured.

    predicted = value · median of (measured / value) over other plans, near ones counting most

A model of second order exaggerates damage that saturates, or misses what adds up, and does so alike for plans of about
the same loss. The plan's own measurement takes no part, so that what is predicted can be held against it.
"""

from collections.abc import Sequence

import numpy as np

NEAR = 0.7  # of a logarithm: how far values may be apart for one plan to tell much of another
_LEAST = 1e-3  # the say of plans that are far away, where none are near
_FEWEST = 2  # plans that correct a model at least


def linked(value: float, others: Sequence[tuple[float, float]]) -> float:
    """Return what is predicted for a plan of some value by a model; ``others`` are values and measured losses.

    >>> linked(0.2, [(0.1, 0.05), (0.3, 0.15), (0.4, 0.2)])
    0.1
    """
    known = np.array([pair for pair in others if min(pair) > 0])
    if value <= 0 or len(known) < _FEWEST:
        return value
    values, ratios = np.log(known[:, 0]), known[:, 1] / known[:, 0]
    says = np.exp(-0.5 * ((values - np.log(value)) / NEAR) ** 2) + _LEAST
    order = np.argsort(ratios, kind="stable")
    middle = np.searchsorted(says[order].cumsum(), 0.5 * says.sum())
    return float(value * ratios[order][middle])
