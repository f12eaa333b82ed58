"""Certificates: what proves a bound, and an independent check that needs no optimiser.

A certificate is a tree of steps. Each step is a box (options that are still looked at), the multipliers and prices
that bound it, and the boxes that remain to be shown once the options that its bound rules out are gone. Checking takes
one eigenvalue and one pass over the matrix per step; nothing of the search is trusted.
"""

from dataclasses import dataclass, field

import numpy as np

from onnxmpq.machine import one_thread
from onnxmpq.solve.bound import Bounded, Multipliers, bounded, minorant
from onnxmpq.solve.problem import Problem
from onnxmpq.solve.reduce import Floats, Mask, Reduced, limited, presolve

TRIED = 4096  # plans in a box without multipliers that are tried one by one


@dataclass(slots=True)
class Step:
    """A box of the presolved problem, what bounds it, and what it leaves to show."""

    mask: Mask
    multipliers: Multipliers | None = None
    prices: Floats | None = None
    children: list["Step"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Proof that no plan within ``limits`` is below ``bound``.

    ``presolved_limits`` are the limits, at least as loose, that presolving saw. ``complete`` says that it covers the
    bound of the solution it came with, and not only the first one on the way there.
    """

    bound: float
    root: Step
    limits: tuple[float, ...]
    presolved_limits: tuple[float, ...]
    complete: bool


def verify(problem: Problem, certificate: Certificate) -> bool:
    """Tell whether a certificate proves its bound for a problem.

    Presolving is repeated; relaxation, search and HiGHS have no part in it.
    """
    budgets = problem.budgets
    if not len(budgets) == len(certificate.limits) == len(certificate.presolved_limits):
        return False
    for budget, limit, loosest in zip(budgets, certificate.limits, certificate.presolved_limits, strict=True):
        if not budget.limit <= limit <= loosest:
            return False
    presolved = presolve(limited(problem, certificate.presolved_limits))
    if not presolved.feasible:
        return True
    reduced = presolved.tightened(certificate.limits).reduced
    if certificate.root.mask.shape != (reduced.options,) or not certificate.root.mask.all():
        return False
    with one_thread():
        return _shown(reduced, certificate.root, certificate.bound / presolved.scale)


def _shown(root: Reduced, first: Step, claimed: float) -> bool:
    """Tell whether every plan of the first step's box is at or above the claim."""
    waiting = [first]
    while waiting:
        step = waiting.pop()
        possible = root.completable(step.mask)
        if possible is None:
            continue
        reduced = root.restrict(possible)
        if step.multipliers is None or step.prices is None:
            if not _tried(reduced, claimed):
                return False
            continue
        if step.multipliers.matrix.shape != (reduced.options + 1, reduced.options + 1):
            return False
        result = _bounded(reduced, step.multipliers, step.prices)
        if not np.isfinite(result.value):
            return False
        if result.value >= claimed:
            continue
        left = np.zeros(root.options, dtype=bool)
        left[possible] = True
        free = np.flatnonzero(possible & ~root.settled(possible))
        left[free[result.value + result.added >= claimed]] = False
        if not _covered(root, left, [child.mask for child in step.children]):
            return False
        waiting += step.children
    return True


def _bounded(reduced: Reduced, multipliers: Multipliers, prices: Floats) -> Bounded:
    return bounded(reduced, multipliers, prices, minorant(reduced, multipliers))


def _covered(root: Reduced, box: Mask, parts: list[Mask]) -> bool:
    """Tell whether parts that differ from the box in at most one common unit hold all of its plans."""
    possible = root.completable(box)
    if possible is None:
        return True
    if not parts:
        return False
    missing = np.array([possible & ~part for part in parts])
    units = np.unique(root.owner[np.flatnonzero(missing.any(0))])
    return len(units) <= 1 and not missing.all(0).any()


def _tried(reduced: Reduced, claimed: float) -> bool:
    """Tell whether no plan of a small box is below the claim, by trying all."""
    if np.prod(reduced.sizes.astype(float)) > TRIED:
        return False
    return all(reduced.value(picked) >= claimed or not reduced.feasible(picked) for picked in reduced.plans())
