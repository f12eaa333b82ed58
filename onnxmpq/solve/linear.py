"""Problems without a quadratic part: a multiple-choice knapsack, proved by HiGHS on a small core.

The multipliers of the linear relaxation give every option a price: no choice that takes the option is better than
the Lagrangian bound plus that price. HiGHS solves the problem over the cheap options, the core. What is left out is
bounded by its prices; where that does not prove the core's answer, the core grows to all the options that an answer
better than the best known could take. Where the tolerances of HiGHS are all that is missing, those options are a
problem of smaller costs, which is solved in turn.
"""

from dataclasses import dataclass, replace
from math import inf
from time import perf_counter

import numpy as np
import scipy

from onnxmpq.solve import highs
from onnxmpq.solve.reduce import Floats, Integers, Mask, Reduced
from onnxmpq.solve.solution import relative_gap

CORE = 50  # options that the first core holds beyond the cheapest of each unit, and as many for every row
GROWTH = 8
CUTS = 20  # rounds of them, before rows are tightened
ROUNDING = 1e-13  # of the sums in a Lagrangian bound, taken from it
PROOF = 1e-12  # of the sums in an objective: what its bound, summed in another order, may differ by
EPSILON = 2.0**-52  # of float64, for every term of a sum


@dataclass(frozen=True, slots=True)
class Decision:
    """One option per unit, in the positions and units of value of the reduced problem.

    ``time`` says that the gap was not proved; ``picked`` is None where nothing was found. The bound is proved.
    """

    status: highs.Outcome
    picked: Integers | None
    objective: float
    bound: float

    def proves(self, gap: float) -> bool:
        """Tell whether the bound is within a relative gap of the objective."""
        return self.picked is not None and relative_gap(self.objective, self.bound) <= gap


INFEASIBLE = Decision("infeasible", None, inf, inf)


def solve_linear(reduced: Reduced, time_limit: float, gap: float, seed: int, start: Integers | None = None) -> Decision:
    """Return the best choice by the linear part alone, proved to a relative gap; it keeps the rows exactly."""
    deadline = perf_counter() + time_limit
    reduced = replace(reduced.without_quadratic(), identity=np.arange(reduced.options), fixed=np.zeros(0, np.int64))
    if not reduced.units:
        return nothing_left(reduced)
    priced = _prices(reduced)
    if priced is None:
        return INFEASIBLE
    prices, floor = priced
    best = Decision("time", None, inf, floor)
    if start is not None and reduced.feasible(start):
        best = settled(reduced, start, floor, _spread(reduced))
    dear = np.sort(prices[prices > 0.0])
    count, radius = CORE * (1 + len(reduced.limits)), 0.0
    while not best.proves(gap) and perf_counter() < deadline:
        radius = max(GROWTH * radius, float(dear[count]) if count < len(dear) else inf)
        radius, count = min(radius, best.objective - floor), GROWTH * count
        keep = prices <= radius
        outside = floor + float(prices[~keep].min(initial=inf))
        core = reduced.restrict(keep)
        found = _solve_core(core, deadline, gap, seed)
        bound = max(best.bound, min(found.bound, outside))
        picked = best.picked
        if found.picked is not None and found.objective < best.objective:
            picked = np.sort(np.concatenate([core.identity[found.picked], core.fixed]))
        best = replace(best, bound=bound) if picked is None else settled(reduced, picked, bound, _spread(core))
        if outside >= best.objective:  # nothing that is left out can help
            break
    if best.bound == inf:
        return INFEASIBLE
    if best.picked is not None and not best.proves(gap):
        best = _sharpened(reduced, prices <= best.objective - floor, best, deadline, gap, seed)
    return replace(best, status="optimal" if best.proves(gap) else "time")


def _sharpened(reduced: Reduced, keep: Mask, best: Decision, deadline: float, gap: float, seed: int) -> Decision:
    """Solve again over what a better choice could take, where costs are smaller and tolerances of HiGHS count less."""
    assert best.picked is not None
    keep[best.picked] = True
    core = reduced.restrict(keep)
    if _spread(core) >= _spread(reduced) or perf_counter() >= deadline:
        return best
    start = np.flatnonzero(np.isin(core.identity, best.picked))
    found = solve_linear(core, deadline - perf_counter(), gap, seed, start)
    if found.picked is None:
        return best
    picked = np.sort(np.concatenate([core.identity[found.picked], core.fixed]))
    return settled(reduced, picked, max(best.bound, found.bound), _spread(core))


def settled(reduced: Reduced, picked: Integers, bound: float, scale: float) -> Decision:
    """Return a choice with its bound; a bound that differs by the rounding of sums is the objective itself.

    The bound was found with costs of the size of ``scale``.
    """
    objective = reduced.value(picked)
    sums = abs(reduced.constant) + float(np.abs(reduced.linear[picked]).sum())
    rounding = PROOF * sums + EPSILON * reduced.units * scale
    return Decision("time", picked, objective, objective if objective - bound <= rounding else bound)


def nothing_left(reduced: Reduced) -> Decision:
    """Return the only choice there is."""
    picked = np.zeros(0, np.int64)
    kept = reduced.feasible(picked)
    return Decision("optimal", picked, reduced.constant, reduced.constant) if kept else INFEASIBLE


def _prices(reduced: Reduced) -> tuple[Floats, float] | None:
    """Return what each option adds to the Lagrangian bound at least, and that bound; None when the rows clash."""
    relaxation = highs.knapsack(reduced, reduced.linear)
    if relaxation is None:
        return None
    multipliers, _ = relaxation
    costs = reduced.linear + multipliers @ reduced.rows
    least = np.minimum.reduceat(costs, reduced.starts)
    parts = np.concatenate([[reduced.constant], least, -multipliers * (reduced.limits + reduced.tolerances)])
    return costs - least[reduced.owner], float(parts.sum() - ROUNDING * np.abs(parts).sum())


def _solve_core(core: Reduced, deadline: float, gap: float, seed: int) -> Decision:
    """Solve the integer program over what is left."""
    if not core.units:
        return nothing_left(core)
    core = replace(core, row_scales=_row_scales(core))
    scale = _spread(core) or 1.0
    return solve_exactly(core, _model(core, scale), scale, deadline, gap, seed)


def solve_exactly(core: Reduced, model: highs.Model, scale: float, deadline: float, gap: float, seed: int) -> Decision:
    """Solve a model by HiGHS; where an answer exceeds a row within its tolerance, cut it off and solve again.

    The first columns of the model are the options, its first rows the one-hot rows, then the rows of the core. Its
    values are those of the core divided by ``scale``.
    """
    bound = -inf
    for attempt in range(2 * CUTS):
        cutting = attempt < CUTS
        answer = highs.milp(model, deadline - perf_counter(), gap, seed)
        if cutting:
            bound = max(bound, answer.bound * scale)
        if answer.values is None:
            break
        picked = highs.picked(core, answer.values)
        excess = core.rows[:, picked].sum(1) - (core.limits + core.tolerances)
        if (excess <= 0.0).all():
            return replace(settled(core, picked, bound, scale), status=answer.outcome)
        row = int(excess.argmax())
        # A cut loses no choice that keeps the rows; a lower limit may, so that the bound is the one from before.
        model = _cut(model, core, row, picked) if cutting else _lowered(model, core, row, float(excess[row]))
    return INFEASIBLE if bound == inf else Decision("time", None, inf, bound)


def _spread(core: Reduced) -> float:
    """Return the largest difference of an option's cost to the least of its unit."""
    if not core.units:
        return 0.0
    return float((core.linear - np.minimum.reduceat(core.linear, core.starts)[core.owner]).max())


def _model(core: Reduced, scale: float) -> highs.Model:
    """Return the integer program, its values divided by the scale."""
    base = np.minimum.reduceat(core.linear, core.starts)
    model = highs.assignment(core, (core.linear - base[core.owner]) / scale)
    integral = np.ones(core.options, dtype=bool)
    return replace(model, integral=integral, constant=float(core.constant + base.sum()) / scale)


def _row_scales(core: Reduced) -> Floats:
    """Return powers of two, so that integers stay exact, of the size of the rows that are left."""
    largest = np.maximum(np.abs(core.limits), np.abs(core.rows).max(1, initial=0.0))
    return 2.0 ** np.ceil(np.log2(np.where(largest > 0.0, largest, 1.0)))


def _cut(model: highs.Model, core: Reduced, row: int, picked: Integers) -> highs.Model:
    """Add that not all of a cover are taken: options that weigh at least what was picked, of enough units."""
    weights = core.rows[row]
    spare = weights[picked] - np.minimum.reduceat(weights, core.starts)
    excess = weights[picked].sum() - (core.limits[row] + core.tolerances[row])
    lightest = np.argsort(spare, kind="stable")
    cover = np.ones(core.units, dtype=bool)
    cover[lightest[np.cumsum(spare[lightest]) < excess]] = False
    taken = cover[core.owner] & (weights >= weights[picked][core.owner])
    columns = np.flatnonzero(taken)
    shape = (1, model.matrix.shape[1])
    added = scipy.sparse.csr_array((np.ones(len(columns)), (np.zeros(len(columns), np.int64), columns)), shape=shape)
    matrix = scipy.sparse.vstack([model.matrix, added], format="csr")
    return replace(
        model,
        matrix=scipy.sparse.csr_array(matrix),
        row_lower=np.append(model.row_lower, -inf),
        row_upper=np.append(model.row_upper, cover.sum() - 1.0),
    )


def _lowered(model: highs.Model, core: Reduced, row: int, excess: float) -> highs.Model:
    """Lower the limit of a row by more than it was exceeded."""
    upper = model.row_upper.copy()
    upper[core.units + row] -= 2.0 * excess / core.row_scales[row]
    return replace(model, row_upper=upper)
