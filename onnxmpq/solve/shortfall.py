"""How far budgets that cannot be met are from being met, and the plan that comes nearest."""

from dataclasses import replace
from time import perf_counter

import numpy as np
import scipy

from onnxmpq.solve import highs
from onnxmpq.solve.linear import solve_linear
from onnxmpq.solve.reduce import Floats, Integers, Presolved, Reduced, merged
from onnxmpq.solve.solution import Shortfall

GAP = 1e-4  # of the common share, which is told, not promised


def shortfall(presolved: Presolved, time_limit: float, seed: int = 0) -> tuple[tuple[int, ...], Shortfall | None]:
    """Return the choices that come nearest, and what each budget needs alone and together.

    Without a shortfall there are no choices: the groups, implications and forbidden options have no solution even
    without budgets, or the time was up before one was found.
    """
    deadline = perf_counter() + time_limit
    problem = presolved.problem
    whole = merged(replace(problem, quadratic=None))  # what was presolved has lost options for the budgets' sake
    plans = []
    for index in range(len(problem.budgets)):
        plan = _least(whole.reduced, index, deadline - perf_counter(), seed)
        if plan is None:
            return (), None
        plans.append(plan)
    if not plans:
        return (), None
    plans.append(_together(whole.reduced, deadline - perf_counter(), seed, plans))
    usages = [problem.usage(whole.choices(plan)) for plan in plans]
    found = Shortfall(
        budgets=tuple(budget.name for budget in problem.budgets),
        limits=tuple(budget.limit for budget in problem.budgets),
        alone=tuple(usage[index] for index, usage in enumerate(usages[:-1])),
        together=usages[-1],
    )
    return whole.choices(plans[-1]), found


def _rules(reduced: Reduced, costs: Floats) -> Reduced:
    """Return the problem with other costs and without its budgets."""
    rest = slice(reduced.budgets, None)
    return replace(
        reduced,
        linear=costs,
        constant=0.0,
        rows=reduced.rows[rest],
        limits=reduced.limits[rest],
        tolerances=reduced.tolerances[rest],
        row_scales=reduced.row_scales[rest],
        budgets=0,
    )


def _least(reduced: Reduced, budget: int, seconds: float, seed: int) -> Integers | None:
    """Return the choice that uses least of a budget, whatever it uses of the others."""
    return solve_linear(_rules(reduced, reduced.rows[budget]), seconds, 0.0, seed).picked


def _together(reduced: Reduced, seconds: float, seed: int, plans: list[Integers]) -> Integers:
    """Return the choice that exceeds its limits by the smallest common share, the plans included."""
    shares = _shares(reduced)
    best = min(plans, key=lambda plan: _overrun(reduced, shares, plan))
    base = highs.assignment(reduced, np.zeros(reduced.options))
    rows = np.concatenate([np.ones(reduced.units), 1.0 / reduced.row_scales])
    common = np.zeros(len(rows))
    common[reduced.units : reduced.units + reduced.budgets] = -shares
    column = scipy.sparse.csr_array((common * rows)[:, None])
    model = replace(
        base,
        costs=np.append(base.costs, 1.0),
        matrix=scipy.sparse.csr_array(scipy.sparse.hstack([base.matrix, column], format="csr")),
        lower=np.append(base.lower, 0.0),
        upper=np.append(base.upper, np.inf),
        integral=np.arange(reduced.options + 1) < reduced.options,
    )
    answer = highs.milp(model, seconds, GAP, seed)
    if answer.values is None:
        return best
    found = highs.picked(reduced, answer.values)
    rules = slice(reduced.budgets, None)
    kept = (reduced.rows[rules][:, found].sum(1) <= reduced.limits[rules]).all()
    return min(best, found, key=lambda plan: _overrun(reduced, shares, plan)) if kept else best


def _shares(reduced: Reduced) -> Floats:
    """Return what a share of one means in every budget: its limit, or its size where the limit is not positive."""
    limits = reduced.limits[: reduced.budgets]
    return np.where(limits > 0.0, limits, reduced.row_scales[: reduced.budgets])


def _overrun(reduced: Reduced, shares: Floats, picked: Integers) -> float:
    """Return the largest share by which the choice exceeds a limit."""
    used = reduced.rows[: reduced.budgets, picked].sum(1)
    return float(((used - reduced.limits[: reduced.budgets]) / shares).max(initial=0.0))
