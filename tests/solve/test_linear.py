"""Linear problems: the true optimum, rows kept to the byte, and a bound that holds."""

from dataclasses import replace
from itertools import pairwise
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings

from onnxmpq.solve import highs, linear
from onnxmpq.solve.linear import Decision, solve_linear
from onnxmpq.solve.problem import Budget, Problem
from onnxmpq.solve.reduce import Presolved, merged, presolve
from tests.solve.brute import best_value, every_choice
from tests.solve.strategies import problems


def choices_of(presolved: Presolved, decision: Decision) -> tuple[int, ...]:
    """Return what was decided in terms of the problem."""
    assert decision.picked is not None
    reduced = presolved.reduced
    return presolved.choices(np.concatenate([reduced.identity[decision.picked], reduced.fixed]))


def knapsacks(units: int, options: int, budgets: int, seed: int, tight: float = 0.35) -> Problem:
    """Return a problem of some size, damages falling and weights growing with the bits."""
    rng = np.random.default_rng(seed)
    size = np.round(np.exp(rng.normal(11, 1.3, units))).astype(np.int64)
    bits = np.arange(2, options + 2)
    damage = np.outer(np.exp(rng.normal(size=units)), 4.0**-bits) * np.exp(rng.normal(0, 0.1, (units, options)))
    known = []
    for index in range(budgets):
        uses = np.round(np.exp(rng.normal(5, 1, units) * min(index, 1))).astype(np.int64)
        weights = np.outer(size * uses, bits) + rng.integers(0, 100, (units, options))
        least, most = weights.min(1).sum(), weights.max(1).sum()
        known.append(Budget(f"budget{index}", weights.ravel(), int(least + tight * (most - least))))
    names = tuple(str(count) for count in bits)
    return Problem(tuple(f"u{i}" for i in range(units)), (names,) * units, damage.ravel(), budgets=tuple(known))


def check_against_brute_force(problem: Problem, presolved: Presolved) -> None:
    """Compare the decision with all choices there are."""
    truth = best_value(problem)
    if not presolved.feasible:
        assert truth == inf
        return
    decision = solve_linear(presolved.reduced, 30.0, 0.0, 0)
    if truth == inf:
        assert decision == linear.INFEASIBLE
        return
    assert decision.status == "optimal"
    choices = choices_of(presolved, decision)
    assert problem.feasible(choices)
    size = 1e-9 * (1.0 + float(np.abs(problem.linear).max()))
    assert problem.value(choices) == pytest.approx(truth, abs=size)
    assert decision.objective * presolved.scale == pytest.approx(truth, abs=size)
    assert decision.bound * presolved.scale <= truth + size


@settings(deadline=None, max_examples=300)
@given(problems(quadratic=False))
def test_the_optimum_is_that_of_brute_force(problem: Problem) -> None:
    check_against_brute_force(problem, presolve(problem))


@settings(deadline=None, max_examples=150)
@given(problems(quadratic=False))
def test_the_optimum_does_not_depend_on_presolve(problem: Problem) -> None:
    check_against_brute_force(problem, merged(problem))


@settings(deadline=None, max_examples=60)
@given(problems(quadratic=True))
def test_a_quadratic_part_is_left_out(problem: Problem) -> None:
    with_it, without = merged(problem).reduced, merged(problem).reduced.without_quadratic()
    assert str(solve_linear(with_it, 30.0, 0.0, 0)) == str(solve_linear(without, 30.0, 0.0, 0))


@pytest.mark.parametrize("seed", range(3))
def test_a_large_problem_is_proved(seed: int) -> None:
    presolved = presolve(knapsacks(400, 8, 3, seed))
    decision = solve_linear(presolved.reduced, 60.0, 1e-4, 0)
    assert decision.status == "optimal"
    assert decision.bound >= decision.objective * (1 - 1e-4)
    assert presolved.problem.feasible(choices_of(presolved, decision))


def test_a_smaller_gap_never_contradicts_a_larger_one() -> None:
    reduced = presolve(knapsacks(60, 5, 2, 7)).reduced
    decisions = [solve_linear(reduced, 60.0, gap, 0) for gap in (1e-2, 1e-4, 0.0)]
    assert all(decision.status == "optimal" for decision in decisions)
    best = min(decision.objective for decision in decisions)
    assert all(decision.bound <= best * (1 + 1e-12) for decision in decisions)
    assert decisions[-1].objective == best


def test_the_core_grows_until_the_proof_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    reduced = presolve(knapsacks(30, 4, 2, 1)).reduced
    whole = solve_linear(reduced, 60.0, 0.0, 0)
    monkeypatch.setattr(linear, "CORE", 0)
    monkeypatch.setattr(linear, "GROWTH", 2)
    small = solve_linear(reduced, 60.0, 0.0, 0)
    assert (small.status, small.objective) == ("optimal", whole.objective)


def test_a_start_that_is_the_optimum_is_kept() -> None:
    reduced = presolve(knapsacks(30, 4, 2, 1)).reduced
    first = solve_linear(reduced, 60.0, 0.0, 0)
    again = solve_linear(reduced, 60.0, 0.0, 0, first.picked)
    assert again.objective == first.objective
    assert again.status == "optimal"


def test_a_start_that_breaks_a_row_is_not_believed() -> None:
    reduced = presolve(knapsacks(30, 4, 2, 1)).reduced
    heavy = reduced.starts + reduced.sizes - 1
    assert not reduced.feasible(heavy)
    decision = solve_linear(reduced, 60.0, 0.0, 0, heavy)
    assert decision.picked is not None
    assert reduced.feasible(decision.picked)


def test_without_time_a_start_keeps_its_lagrangian_bound() -> None:
    reduced = presolve(knapsacks(30, 4, 2, 1)).reduced
    light = reduced.starts
    decision = solve_linear(reduced, 0.0, 0.0, 0, light)
    assert decision.status == "time"
    assert decision.picked is not None
    assert decision.picked.tolist() == light.tolist()
    assert -inf < decision.bound <= solve_linear(reduced, 60.0, 0.0, 0).objective


def test_without_time_and_start_there_is_a_bound_and_no_choice() -> None:
    decision = solve_linear(presolve(knapsacks(30, 4, 2, 1)).reduced, 0.0, 0.0, 0)
    assert (decision.status, decision.picked, decision.objective) == ("time", None, inf)
    assert decision.bound > -inf


def subset_sums(limit_below: int) -> Problem:
    """Return a problem whose best answer fills a budget of some terabytes to the byte.

    One byte is below every tolerance that HiGHS has; taking one byte more would be better.
    """
    rng = np.random.default_rng(3)
    weights = rng.integers(10**12, 2 * 10**12, size=12)
    problem = Problem(
        units=tuple("abcdefghijkl"),
        options=(("no", "yes"),) * 12,
        linear=np.array([[0.0, -weight / 1e12] for weight in weights]).ravel(),
        budgets=(Budget("bytes", np.array([[0, weight] for weight in weights]).ravel(), 0),),
    )
    plan = (1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1, 0)
    budget = problem.budgets[0]
    return replace(problem, budgets=(replace(budget, limit=problem.usage(plan)[0] - limit_below),))


@pytest.mark.parametrize("below", [0, 1])
def test_a_byte_in_terabytes_counts(below: int) -> None:
    problem = subset_sums(below)
    presolved = presolve(problem)
    decision = solve_linear(presolved.reduced, 30.0, 0.0, 0)
    choices = choices_of(presolved, decision)
    assert problem.feasible(choices)
    feasible = [problem.usage(known)[0] for known in every_choice(problem) if problem.feasible(known)]
    assert problem.usage(choices)[0] == max(feasible)
    assert decision.status == "optimal"


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let HiGHS exceed budgets by a percent; return how many rows each of its models had."""
    exact, rows = highs.milp, []

    def milp(model: highs.Model, time_limit: float, gap: float, seed: int) -> highs.Answer:
        rows.append(model.matrix.shape[0])
        is_budget = np.array([not np.isin(row, (0.0, 1.0)).all() for row in model.matrix.toarray()])
        loose = replace(model, row_upper=model.row_upper * np.where(is_budget, 1.01, 1.0))
        return exact(loose, time_limit, gap, seed)

    monkeypatch.setattr(highs, "milp", milp)
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_rows_exceeded_within_a_tolerance_are_cut_off(careless: list[int], seed: int) -> None:
    problem = knapsacks(8, 3, 2, seed)
    check_against_brute_force(problem, merged(problem))


def test_some_of_these_needed_cuts(careless: list[int]) -> None:
    for seed in range(6):
        solve_linear(merged(knapsacks(8, 3, 2, seed)).reduced, 30.0, 0.0, 0)
    assert any(second > first for first, second in pairwise(careless))


@pytest.mark.parametrize("seed", range(6))
def test_limits_are_lowered_where_cuts_do_not_end(
    careless: list[int], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    problem = knapsacks(8, 3, 2, seed)
    monkeypatch.setattr(linear, "CUTS", 1)
    presolved = merged(problem)
    decision = solve_linear(presolved.reduced, 30.0, 0.0, 0)
    assert decision.picked is None or presolved.reduced.feasible(decision.picked)
    assert decision.bound * presolved.scale <= best_value(problem) * (1 + 1e-9)


def test_damages_of_many_magnitudes_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    problem = knapsacks(8, 3, 1, 2)
    steep = replace(problem, linear=problem.linear * np.repeat(10.0 ** rng.integers(-9, 3, 8), 3))
    check_against_brute_force(steep, presolve(steep))


def test_equal_seeds_give_equal_answers() -> None:
    reduced = presolve(knapsacks(80, 5, 3, 9)).reduced
    first, second = (solve_linear(reduced, 60.0, 1e-3, 4) for _ in range(2))
    assert str(first) == str(second)
