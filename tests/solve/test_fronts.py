"""Fronts: monotone, proved point by point, and equal to solving every point by itself."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from onnxmpq.errors import InputError
from onnxmpq.solve import solve, solve_front, verify
from tests.solve.test_solver import chained


def limits_of(count: int, seed: int, points: int) -> list[int]:
    """Return limits from less than anything can meet to more than anything takes, in a mixed order."""
    weights = chained(count, seed).budgets[0].weights.reshape(count, 3)
    least, most = int(weights.min(1).sum()), int(weights.max(1).sum())
    limits = [least - 1, least, *np.linspace(least + 1, most - 1, points).astype(int).tolist(), most, most + 5]
    return [limits[i] for i in np.random.default_rng(seed).permutation(len(limits))]


@pytest.mark.parametrize("seed", range(2))
def test_every_point_is_proved_and_the_front_is_monotone(seed: int) -> None:
    problem, limits = chained(16, seed, budgets=2), limits_of(16, seed, 3)
    front = solve_front(problem, "budget0", limits, gap=1e-4, proof=True)
    for limit, point in zip(limits, front, strict=True):
        only = replace(problem, budgets=(replace(problem.budgets[0], limit=limit), problem.budgets[1]))
        alone = solve(only)
        assert point.status == alone.status
        assert point.objective == pytest.approx(alone.objective, rel=2e-4)
        if point.status != "infeasible":
            assert only.feasible(point.choices)
            assert point.bound <= alone.objective + 1e-12
            assert point.certificate is None or verify(only, point.certificate)
    solved = [point for _, point in sorted(zip(limits, front, strict=True), key=lambda pair: pair[0])]
    feasible = [point for point in solved if point.status != "infeasible"]
    assert len(feasible) == len(limits) - 1
    for tighter, looser in pairwise(feasible):
        assert looser.objective <= tighter.objective
        assert looser.bound <= tighter.bound


def test_a_limit_so_tight_that_options_fall_away_at_once_is_solved() -> None:
    problem = chained(10, 0, share=0.9)
    weights = problem.budgets[0].weights.reshape(10, 3)
    least, most = int(weights.min(1).sum()), int(weights.max(1).sum())
    limits = [least + (most - least) * share // 100 for share in (1, 3, 8, 15, 40, 90)]
    front = solve_front(problem, "budget0", limits)
    for limit, point in zip(limits, front, strict=True):
        alone = solve(replace(problem, budgets=(replace(problem.budgets[0], limit=limit),)))
        assert point.objective == pytest.approx(alone.objective, rel=2e-3)


def test_a_budget_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="expected one of 'budget0'"):
        solve_front(chained(4, 0), "bytes", [1])
    assert solve_front(chained(4, 0), "budget0", []) == ()
