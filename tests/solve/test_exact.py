"""The second opinion: linearised products give the true optimum of quadratic problems."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings

from onnxmpq.solve.exact import linearised
from onnxmpq.solve.linear import INFEASIBLE
from onnxmpq.solve.problem import Problem
from onnxmpq.solve.reduce import merged, presolve
from tests.solve.brute import best_value
from tests.solve.strategies import problems


@settings(deadline=None, max_examples=150)
@given(problems(quadratic=True, units=(1, 4)))
def test_the_optimum_is_that_of_brute_force(problem: Problem) -> None:
    truth = best_value(problem)
    for presolved in (presolve(problem), merged(problem)):
        if not presolved.feasible:
            assert truth == inf
            continue
        reduced = presolved.reduced
        decision = linearised(reduced, 30.0, 0.0, 0)
        if truth == inf:
            assert decision == INFEASIBLE
            continue
        assert decision.status == "optimal"
        assert decision.picked is not None
        choices = presolved.choices(np.concatenate([reduced.identity[decision.picked], reduced.fixed]))
        assert problem.feasible(choices)
        assert problem.value(choices) == pytest.approx(truth, abs=1e-7)
        assert decision.bound * presolved.scale <= truth + 1e-7


def test_a_linear_problem_needs_no_interactions() -> None:
    problem = Problem(("a", "b"), (("4", "8"), ("4", "8")), np.array([1.0, 0.0, 0.0, 2.0]), np.zeros((4, 4)))
    decision = linearised(merged(problem).reduced, 30.0, 0.0, 0)
    assert decision.picked is not None
    assert (decision.objective, decision.picked.tolist()) == (0.0, [1, 2])
