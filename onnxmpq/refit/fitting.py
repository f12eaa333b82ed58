"""What a weight should be behind layers that are quantised, so that its layer gives what is wanted there.

    least  mean || W f + r - s - V q ||²  +  d || V - W ||²        V = (W C + R + d W) (H + d I)⁻¹

q and f are what its columns meet in the quantised and in the float network, H = mean q qᵀ, C = mean f qᵀ, and R = mean
(r - s) qᵀ for a layer whose output is added to s where it was added to r: it makes up for what that lacks (Moments).
How much W is pulled towards itself, d, is what is best on samples that nothing was fitted to; W as it is where no fit
helps them. Every layer in front was fitted to the others, so that errors on these alone would be too good.
"""

import numpy as np
from scipy.linalg import solve

from onnxmpq.refit.moments import Array, Floats, Moments

PULLS = (0.1, 1.0, 10.0)
"""Candidates for d, as shares of the mean diagonal of H.

A hundredth fits better still where samples are many, and fits to chance where they are few.
"""
_LEAST = 1e-12


def fitted(weight: Array, fit: Moments, judge: Moments) -> Floats | None:
    """Return what a weight [groups, rows, columns] should be, fitted to some moments and judged by others.

    None: as it is.
    """
    plain = weight.astype(np.float64)
    wanted, judged = fit.wanted(plain), judge.wanted(plain)
    best, least = None, _error(plain, judge.second, judged)
    for pull in PULLS:
        target = _solved(plain, fit.second, wanted, pull)
        error = _error(target, judge.second, judged)
        if error < least:
            best, least = target, error
    return best


def moved(weight: Array, target: Floats, fit: Moments) -> Floats:
    """Return by how much a bias must change for the mean output to be as wanted with a target: one for each row."""
    before = (weight.astype(np.float64) * fit.float_mean[:, None]).sum(2) + fit.beside_mean
    found: Floats = (before - (target * fit.mean[:, None]).sum(2)).reshape(-1)
    return found


def _solved(weight: Floats, second: Floats, wanted: Floats, pull: float) -> Floats:
    """Return what errs least with some pull."""
    pulls = np.maximum(pull * np.diagonal(second, axis1=1, axis2=2).mean(1), _LEAST)[:, None]
    right = (wanted + pulls[:, None] * weight).swapaxes(1, 2)
    left, every = second.copy(), range(second.shape[1])
    left[:, every, every] += pulls
    if len(left) > 1:
        found: Floats = np.linalg.solve(left, right)
    else:  # one large matrix: half of the work
        found = solve(left[0].T, right[0], assume_a="pos", overwrite_a=True, overwrite_b=True, check_finite=False)[None]
    return found.swapaxes(1, 2)


def _error(target: Floats, second: Floats, wanted: Floats) -> float:
    """Return the mean squared error of a layer with a target, less what is the same for every target."""
    return float(((target @ second) * target).sum() - 2 * (wanted * target).sum())
