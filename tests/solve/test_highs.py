"""HiGHS behind arrays: what it answers is what the arrays mean, and it never prints."""

from dataclasses import replace
from math import inf

import highspy
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.errors import InternalError
from onnxmpq.solve import highs
from onnxmpq.solve.problem import Budget, Problem
from onnxmpq.solve.reduce import Floats, Reduced, merged
from tests.solve.strategies import problems


def reduced_of(problem: Problem) -> Reduced:
    """Return the problem in flat form with all its options."""
    return merged(problem).reduced


def lagrangian(reduced: Reduced, costs: Floats, multipliers: Floats) -> float:
    """Return the bound that multipliers prove."""
    priced = costs + multipliers @ reduced.rows
    least = np.minimum.reduceat(priced, reduced.starts).sum()
    return float(least - multipliers @ (reduced.limits + reduced.tolerances))


def two_by_two(limit: int = 3) -> Problem:
    """Return two units that would both take the heavy option."""
    budget = Budget("bytes", np.array([1, 2, 1, 2]), limit)
    return Problem(("a", "b"), (("4", "8"), ("4", "8")), np.array([5.0, 0.0, 3.0, 0.0]), budgets=(budget,))


@settings(deadline=None, max_examples=150)
@given(problems(quadratic=False), st.integers(0, 2**32 - 1))
def test_multipliers_prove_the_value_of_the_linear_relaxation(problem: Problem, seed: int) -> None:
    reduced = reduced_of(problem)
    knapsack = highs.Knapsack(reduced)
    rng = np.random.default_rng(seed)
    for costs in (reduced.linear, rng.normal(size=reduced.options), 1e6 * rng.random(reduced.options)):
        answer = knapsack.solve(costs)
        if answer is None:
            assert highs.knapsack(reduced, costs) is None
            continue
        multipliers, x = answer
        assert (multipliers >= 0.0).all()
        np.testing.assert_allclose(np.add.reduceat(x, reduced.starts), 1.0, atol=1e-9)
        np.testing.assert_array_less(reduced.rows @ x, reduced.limits + reduced.tolerances + 1e-6 * reduced.row_scales)
        size = float(np.abs(costs).max()) + 1e-12
        assert lagrangian(reduced, costs, multipliers) == pytest.approx(costs @ x, abs=1e-5 * size)


def test_rows_that_clash_have_no_relaxation() -> None:
    assert highs.knapsack(reduced_of(two_by_two(1)), np.zeros(4)) is None


@pytest.mark.parametrize(("limit", "possible"), [(0.0, True), (-1.0, False)])
def test_nothing_left_to_decide_is_judged_by_what_the_rows_allow(limit: float, possible: bool) -> None:
    left = reduced_of(two_by_two()).restrict(np.array([False, True, False, True]))
    assert left.units == 0
    answer = highs.knapsack(replace(left, limits=np.array([limit])), np.zeros(0))
    assert (answer is not None) == possible


@settings(deadline=None, max_examples=60)
@given(problems(quadratic=True, budgets=(0, 1), rules=False))
def test_the_relaxation_is_a_point_of_the_simplices(problem: Problem) -> None:
    x = highs.relaxed(reduced_of(problem), 10.0)
    if x is None:
        return
    assert ((x >= 0.0) & (x <= 1.0)).all()
    np.testing.assert_allclose(np.add.reduceat(x, reduced_of(problem).starts), 1.0, atol=1e-6)


def test_the_relaxation_of_a_convex_problem_is_its_minimum() -> None:
    problem = Problem(("a",), (("4", "8"),), np.array([0.0, -1.0]), np.zeros((2, 2)))
    x = highs.relaxed(reduced_of(problem), 10.0)
    assert x is not None
    np.testing.assert_allclose(x, [0.0, 1.0], atol=1e-6)


def test_a_relaxation_without_time_is_none_or_a_point() -> None:
    problem = Problem(("a",), (("4", "8"),), np.zeros(2), np.eye(2))
    x = highs.relaxed(reduced_of(problem), 0.0)
    assert x is None or x.shape == (2,)


def integers(costs: list[float], rows: list[list[float]], upper: list[float]) -> highs.Model:
    """Return a binary program with rows from above."""
    count = len(costs)
    return highs.Model(
        costs=np.array(costs),
        matrix=scipy.sparse.csr_array(np.array(rows)),
        row_lower=np.full(len(rows), -inf),
        row_upper=np.array(upper),
        lower=np.zeros(count),
        upper=np.ones(count),
        integral=np.ones(count, dtype=bool),
    )


def test_integers_come_back_rounded_with_their_bound() -> None:
    answer = highs.milp(integers([-2.0, -3.0], [[2.0, 3.0]], [4.0]), 10.0, 0.0, 0)
    assert answer.outcome == "optimal"
    assert answer.values is not None
    assert answer.values.tolist() == [0.0, 1.0]
    assert answer.bound == pytest.approx(-3.0)


def test_a_program_without_solution_is_infeasible() -> None:
    answer = highs.milp(integers([1.0], [[-1.0]], [-2.0]), 10.0, 0.0, 0)
    assert (answer.outcome, answer.values, answer.bound) == ("infeasible", None, inf)


def test_a_constant_is_part_of_the_bound() -> None:
    answer = highs.milp(replace(integers([-1.0], [[1.0]], [1.0]), constant=10.0), 10.0, 0.0, 0)
    assert answer.bound == pytest.approx(9.0)


def test_no_time_is_told_as_such() -> None:
    rng = np.random.default_rng(0)
    model = integers((-rng.random(60)).tolist(), rng.random((20, 60)).tolist(), [10.0] * 20)
    assert highs.milp(model, 0.0, 0.0, 0).outcome == "time"


def test_an_option_that_it_does_not_take_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highs, "TIGHTEST", -1.0)
    with pytest.raises(InternalError, match=r"HiGHS [\d.]+ does not take the option mip_feasibility_tolerance=-1\.0"):
        highs.milp(integers([1.0], [[1.0]], [1.0]), 10.0, 0.0, 0)


def test_an_ending_that_means_nothing_to_us_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(highs.OUTCOMES, "kOptimal")
    with pytest.raises(InternalError, match="ended with kOptimal"):
        highs.milp(integers([1.0], [[1.0]], [1.0]), 10.0, 0.0, 0)


def test_a_model_that_is_broken_is_refused() -> None:
    with pytest.raises(InternalError, match="refused a model"):
        highs.milp(replace(integers([1.0], [[1.0]], [1.0]), upper=np.zeros(0)), 10.0, 0.0, 0)


def test_every_ending_in_the_table_is_one_of_highs() -> None:
    assert set(highs.OUTCOMES) <= set(highspy.HighsModelStatus.__members__)


def test_it_never_prints(capfd: pytest.CaptureFixture[str]) -> None:
    reduced = reduced_of(two_by_two())
    highs.knapsack(reduced, reduced.linear)
    highs.relaxed(reduced, 1.0)
    highs.milp(integers([1.0], [[1.0]], [1.0]), 10.0, 0.0, 0)
    assert capfd.readouterr() == ("", "")


def test_somebody_else_may_have_run_it_with_other_threads() -> None:
    other = highspy.Highs()  # type: ignore[no-untyped-call]
    other.silent()
    other.setOptionValue("threads", 2)
    highspy.Highs.resetGlobalScheduler(True)
    other.addVariable(0.0, 1.0)
    other.run()
    assert highs.knapsack(reduced_of(two_by_two()), np.zeros(4)) is not None
    assert highs.milp(integers([1.0], [[1.0]], [1.0]), 10.0, 0.0, 0).outcome == "optimal"


def test_the_version_is_told() -> None:
    known = highspy.Highs()  # type: ignore[no-untyped-call]
    assert highs.version() == f"HiGHS {known.version()}"


def test_picked_takes_the_largest_of_every_unit() -> None:
    reduced = reduced_of(two_by_two())
    assert highs.picked(reduced, np.array([0.4, 0.6, 1.0, 2e-16])).tolist() == [1, 2]
