"""Budgets that cannot be met: how far they are from it, and the plan that comes nearest."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings

from onnxmpq.solve.problem import Budget, Implication, Problem
from onnxmpq.solve.reduce import presolve
from onnxmpq.solve.shortfall import GAP, shortfall
from tests.solve.brute import any_allowed, best_value, least_overrun, least_usage, overrun
from tests.solve.strategies import problems

TWO = Problem(
    units=("a", "b"),
    options=(("4", "8"), ("4", "8")),
    linear=np.zeros(4),
    budgets=(Budget("bytes", np.array([10, 20, 10, 20]), 19), Budget("work", np.array([7, 5, 7, 5]), 100)),
)


def test_least_alone_and_together_are_told() -> None:
    choices, found = shortfall(presolve(TWO), 10.0)
    assert choices == (0, 0)
    assert found is not None
    assert (found.budgets, found.limits) == (("bytes", "work"), (19, 100))
    assert (found.alone, found.together) == ((20, 10), (20, 14))
    assert str(found) == (
        "'bytes' allows 19: at least 20 by itself, 20 together with the others. "
        "'work' allows 100: 10 would do by itself, 14 together with the others."
    )


def test_budgets_that_only_clash_together_share_the_overrun() -> None:
    weights = np.array([10, 20, 30]), np.array([30, 20, 10])
    budgets = tuple(Budget(f"budget{index}", known, 15) for index, known in enumerate(weights))
    problem = Problem(("a",), (("2", "4", "8"),), np.zeros(3), budgets=budgets)
    choices, found = shortfall(presolve(problem), 10.0)
    assert choices == (1,)
    assert found is not None
    assert (found.alone, found.together) == ((10, 10), (20, 20))


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_that_is_not_positive_is_measured_by_its_weights(limit: int) -> None:
    problem = replace(TWO, budgets=(Budget("bytes", np.array([10, 20, 10, 20]), limit),))
    choices, found = shortfall(presolve(problem), 10.0)
    assert choices == (0, 0)
    assert found is not None
    assert found.together == (20,)


def test_options_lost_to_one_budget_count_for_another() -> None:
    budgets = Budget("bytes", np.array([10, 20, 10, 20]), 25), Budget("work", np.array([9, 1, 9, 1]), 15)
    presolved = presolve(replace(TWO, budgets=budgets))
    _, found = shortfall(presolved, 10.0)
    assert found is not None
    assert found.alone == (20, 2)


def test_rules_that_contradict_one_another_have_no_shortfall() -> None:
    never = tuple(Implication(0, option, 1, ()) for option in range(2))
    assert shortfall(presolve(replace(TWO, implications=never)), 10.0) == ((), None)
    assert shortfall(presolve(replace(TWO, implications=never, budgets=())), 10.0) == ((), None)


def test_grouped_units_may_not_take_what_their_own_rule_bars() -> None:
    problem = replace(TWO, groups=((0, 1),), implications=(Implication(0, 0, 1, (1,)),))
    choices, found = shortfall(presolve(problem), 10.0)
    assert choices == (1, 1)
    assert found is not None
    assert found.alone == (40, 10)


def test_without_time_nothing_is_claimed() -> None:
    assert shortfall(presolve(TWO), 0.0) == ((), None)


@settings(deadline=None, max_examples=150)
@given(problems(quadratic=False, budgets=(1, 3)))
def test_it_agrees_with_brute_force(problem: Problem) -> None:
    choices, found = shortfall(presolve(problem), 30.0)
    if not any_allowed(problem):
        assert (choices, found) == ((), None)
        return
    assert found is not None
    assert replace(problem, budgets=()).feasible(choices)
    assert found.together == problem.usage(choices)
    expected = [least_usage(problem, index) for index in range(len(problem.budgets))]
    np.testing.assert_allclose(found.alone, expected, rtol=1e-9, atol=1e-12)
    assume(all(budget.limit > 0 for budget in problem.budgets))
    nearest = max(least_overrun(problem), 0.0)
    assert overrun(problem, choices) <= nearest * (1 + 2 * GAP) + 1e-8


@settings(deadline=None, max_examples=40)
@given(problems(quadratic=False, budgets=(2, 2)))
def test_limits_of_the_plan_that_comes_nearest_can_be_met(problem: Problem) -> None:
    choices, found = shortfall(presolve(problem), 30.0)
    if found is None:
        return
    met = tuple(
        replace(budget, limit=max(budget.limit, used))
        for budget, used in zip(problem.budgets, found.together, strict=True)
    )
    assert best_value(replace(problem, budgets=met)) <= problem.value(choices) + 1e-9


def test_every_choice_is_considered_where_rules_couple_units() -> None:
    rule = Implication(0, 0, 1, (1,))
    problem = replace(TWO, implications=(rule,))
    _, found = shortfall(presolve(problem), 10.0)
    assert found is not None
    assert found.alone[0] == min(
        problem.usage(known)[0] for known in product(range(2), range(2)) if known[0] != 0 or known[1] == 1
    )
