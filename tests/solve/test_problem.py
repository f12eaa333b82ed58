"""Problems: what is refused and how it is told, what counts exactly, and what a solution says."""

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from onnxmpq.errors import InfeasibleError, InputError
from onnxmpq.solve.problem import Budget, Implication, Problem
from onnxmpq.solve.solution import Shortfall, Solution, relative_gap

GOOD = Problem(
    units=("a", "b"),
    options=(("4", "8"), ("4", "8", "16")),
    linear=np.arange(5.0),
    quadratic=np.arange(25.0).reshape(5, 5),
    budgets=(Budget("bytes", np.array([1, 2, 3, 4, 5]), 6),),
    constant=1.0,
)


def test_positions_value_and_usage_follow_the_definition() -> None:
    assert GOOD.sizes.tolist() == [2, 3]
    assert GOOD.starts.tolist() == [0, 2]
    assert GOOD.positions((1, 2)).tolist() == [1, 4]
    assert GOOD.value((1, 2)) == 1.0 + (1.0 + 4.0) + (6.0 + 9.0 + 21.0 + 24.0)
    assert replace(GOOD, quadratic=None).value((1, 2)) == 6.0
    assert GOOD.usage((1, 2)) == (7,)
    assert isinstance(GOOD.usage((1, 2))[0], int)


def test_every_rule_is_kept_or_not() -> None:
    assert GOOD.feasible((1, 1))
    assert not GOOD.feasible((1, 2))
    assert not replace(GOOD, forbidden=((0, 1),)).feasible((1, 1))
    assert not replace(GOOD, groups=((0, 1),)).feasible((0, 1))
    assert replace(GOOD, groups=((0, 1),)).feasible((1, 1))
    ruled = replace(GOOD, implications=(Implication(0, 1, 1, (0, 2)),))
    assert not ruled.feasible((1, 1))
    assert ruled.feasible((1, 0))
    assert ruled.feasible((0, 1))


def test_groups_compare_names_and_not_positions() -> None:
    problem = replace(GOOD, options=(("8", "4"), ("4", "8", "16")), groups=((0, 1),))
    assert problem.feasible((1, 0))
    assert not problem.feasible((0, 0))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"units": ("a",)}, "There are 1 units and 2 lists of options."),
        ({"options": (("4", "8", "12", "16", "32"), ())}, "Unit 'b' has no options."),
        ({"options": (("4", "4"), ("4", "8", "16"))}, "Unit 'a' has two options of one name."),
        ({"linear": np.arange(4.0)}, r"Linear has shape \(4,\), expected \(5,\)."),
        ({"linear": np.array([0, 0, nan, 0, 0])}, "Linear has a value that is not a finite number for 'b' at '4'."),
        ({"linear": np.array([0, -inf, 0, 0, 0])}, "Linear has a value that is not a finite number for 'a' at '8'."),
        ({"quadratic": np.zeros((5, 4))}, r"Quadratic has shape \(5, 4\), expected \(5, 5\)."),
        ({"quadratic": np.diag([0, 0, 0, 0, nan])}, "Quadratic has a value .* for 'b' at '16'."),
        ({"budgets": (Budget("bytes", np.zeros((5, 1)), 0),)}, r"Budget 'bytes' has shape \(5, 1\), expected \(5,\)."),
        ({"budgets": (Budget("bytes", np.array([inf] * 5), 0),)}, "Budget 'bytes' has a value .* for 'a' at '4'."),
        ({"budgets": (Budget("bytes", np.zeros(5), nan),)}, "The limit of budget 'bytes' is nan, expected a finite"),
        ({"budgets": (Budget("bytes", np.zeros(5), inf),)}, "The limit of budget 'bytes' is inf, expected a finite"),
        ({"constant": nan}, "The constant is nan, expected a finite number."),
        ({"groups": ((0, 2),)}, "A group names unit 2, expected 0 to 1."),
        ({"groups": ((-1, 0),)}, "A group names unit -1, expected 0 to 1."),
        ({"forbidden": ((0, 2),)}, "Option 2 of unit 0 is forbidden, and there is none."),
        ({"forbidden": ((2, 0),)}, "Option 0 of unit 2 is forbidden, and there is none."),
        ({"implications": (Implication(0, 2, 1, (0,)),)}, "option=2.* names a unit or option that there is none of."),
        ({"implications": (Implication(0, 0, 1, (3,)),)}, r"allowed=\(3,\).* names a unit or option"),
        ({"implications": (Implication(0, 0, 2, ()),)}, "other=2.* names a unit or option"),
        ({"implications": (Implication(-1, 0, 1, ()),)}, "unit=-1.* names a unit or option"),
    ],
)
def test_a_fault_is_named(change: dict[str, object], fault: str) -> None:
    with pytest.raises(InputError, match=f"The assignment problem cannot be used.*{fault}"):
        replace(GOOD, **change)  # type: ignore[arg-type]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        replace(GOOD, linear=np.zeros(1), constant=inf, forbidden=((5, 5),))
    assert all(word in str(caught.value) for word in ("Linear has shape", "constant", "forbidden"))


def test_a_problem_without_units_is_one() -> None:
    empty = Problem((), (), np.zeros(0), np.zeros((0, 0)))
    assert empty.value(()) == 0.0
    assert empty.feasible(())


@pytest.mark.parametrize(
    ("weights", "exact"),
    [
        (np.array([1, 2]), True),
        (np.array([1, 2], dtype=np.uint8), True),
        (np.array([-1, 2]), True),
        (np.array([1.0, 2.0]), False),
        (np.array([2**52, 2**52 - 1]), True),
        (np.array([2**52, 2**52]), False),
        (np.array([2**62, 2**62]), False),
        (np.array([-(2**52), 2**52]), False),
    ],
)
def test_a_budget_is_exact_while_float64_holds_its_sums(weights: np.ndarray, exact: bool) -> None:
    budget = Budget("bytes", weights, 10)
    assert budget.exact is exact
    assert (budget.tolerance == 0.0) is exact


def test_real_weights_may_exceed_a_limit_by_rounding() -> None:
    problem = replace(GOOD, budgets=(Budget("ms", np.full(5, 0.1), 0.2 - 1e-13),))
    assert problem.feasible((0, 0))
    assert not replace(problem, budgets=(Budget("ms", np.full(5, 0.1), 0.2 - 1e-8),)).feasible((0, 0))


def test_integers_may_not_exceed_a_limit_at_all() -> None:
    weights = np.array([2**51, 1, 2**51, 1, 1])
    assert replace(GOOD, budgets=(Budget("bytes", weights, 2**52),)).feasible((0, 0))
    assert not replace(GOOD, budgets=(Budget("bytes", weights, 2**52 - 1),)).feasible((0, 0))


@pytest.mark.parametrize(
    ("objective", "bound", "gap"),
    [(2.0, 1.0, 0.5), (-2.0, -3.0, 0.5), (1.0, 1.0, 0.0), (1.0, 2.0, 0.0), (0.0, -1.0, inf), (inf, inf, nan)],
)
def test_the_gap_is_a_share_of_the_objective(objective: float, bound: float, gap: float) -> None:
    if gap == gap:
        assert relative_gap(objective, bound) == gap


def test_a_solution_tells_its_gap_and_passes_its_check() -> None:
    solution = Solution("gap", (0, 0), 2.0, 1.0, (4,), 0, 0.1, 1, "HiGHS")
    assert solution.gap == 0.5
    assert solution.checked() is solution


def test_no_solution_is_told_with_its_shortfall() -> None:
    shortfall = Shortfall(("bytes",), (5,), (7,), (8,))
    solution = Solution("infeasible", (0, 0), 2.0, inf, (8,), 0, 0.1, 0, "HiGHS", None, shortfall)
    with pytest.raises(InfeasibleError, match=r"No plan meets the budgets\. 'bytes' allows 5: at least 7 by itself, 8"):
        solution.checked()
    with pytest.raises(InfeasibleError, match="contradict one another"):
        replace(solution, shortfall=None).checked()
