"""Presolve: a smaller problem of the same value, and the way back from it."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.errors import InputError
from onnxmpq.solve.problem import Budget, Implication, Problem
from onnxmpq.solve.reduce import Integers, Presolved, Reduced, merged, presolve, undominated
from tests.solve.brute import best_value, every_choice
from tests.solve.strategies import problems

THREE = Problem(
    units=("a", "b", "c"),
    options=(("4", "8"), ("8", "4", "16"), ("4", "8")),
    linear=np.array([4.0, 0.0, 0.0, 5.0, 1.0, 3.0, 0.0]),
)


def names(presolved: Presolved) -> list[tuple[str, ...]]:
    """Return which options of which units every merged option stands for."""
    problem = presolved.problem
    labels = [f"{unit}{name}" for unit, known in zip(problem.units, problem.options, strict=True) for name in known]
    return [tuple(labels[entry] for entry in members) for members in presolved.members]


def all_picks(reduced: Reduced) -> list[Integers]:
    """Return every choice of a reduced problem."""
    picks: list[list[int]] = [[]]
    for start, size in zip(reduced.starts, reduced.sizes, strict=True):
        picks = [[*known, int(start) + option] for known in picks for option in range(size)]
    return [np.array(known, dtype=np.int64) for known in picks]


def original(presolved: Presolved, picked: Integers) -> tuple[int, ...]:
    """Return the choices that options of the reduced problem stand for."""
    reduced = presolved.reduced
    return presolved.choices(np.concatenate([reduced.identity[picked], reduced.fixed]))


def same(left: float, right: float) -> bool:
    """Tell whether two sums agree but for rounding."""
    return left == pytest.approx(right, abs=1e-9)


def test_groups_are_merged_by_option_name() -> None:
    presolved = merged(replace(THREE, groups=((0, 1),)))
    assert names(presolved) == [("a4", "b4"), ("a8", "b8"), ("c4",), ("c8",)]
    assert presolved.reduced.sizes.tolist() == [2, 2]
    assert (presolved.reduced.linear * presolved.scale).tolist() == [9.0, 0.0, 3.0, 0.0]


def test_groups_that_overlap_are_one() -> None:
    presolved = merged(replace(THREE, groups=((0, 1), (1, 2))))
    assert names(presolved) == [("a4", "b4", "c4"), ("a8", "b8", "c8")]


def test_groups_keep_their_distance_from_other_units() -> None:
    assert names(merged(replace(THREE, groups=((2, 0),))))[:2] == [("a4", "c4"), ("a8", "c8")]


def test_forbidden_options_are_not_there() -> None:
    presolved = merged(replace(THREE, forbidden=((1, 0),)))
    assert ("b8",) not in names(presolved)
    assert presolved.picked((0, 0, 0)) is None
    assert presolved.picked((0, 1, 0)) is not None


def test_a_forbidden_option_goes_for_its_whole_group() -> None:
    assert names(merged(replace(THREE, groups=((0, 1),), forbidden=((1, 0),))))[0] == ("a4", "b4")


def test_groups_without_a_common_option_are_refused() -> None:
    problem = replace(THREE, options=(("4", "8"), ("2", "3", "16"), ("4", "8")), groups=((0, 1),))
    with pytest.raises(InputError, match="'a', 'b' have no allowed option in common"):
        presolve(problem)


def test_a_unit_without_an_allowed_option_is_refused() -> None:
    with pytest.raises(InputError, match="'a' has no allowed option"):
        presolve(replace(THREE, forbidden=((0, 0), (0, 1))))


def test_the_diagonal_is_folded_and_entries_of_one_unit_are_dropped() -> None:
    quadratic = np.arange(49.0).reshape(7, 7)
    presolved = merged(replace(THREE, quadratic=quadratic))
    reduced = presolved.reduced
    np.testing.assert_allclose(reduced.linear * presolved.scale, THREE.linear + np.diag(quadratic))
    assert not reduced.quadratic[reduced.owner[:, None] == reduced.owner[None, :]].any()
    np.testing.assert_array_equal(reduced.quadratic, reduced.quadratic.T)


def test_what_members_of_a_group_do_to_one_another_becomes_linear() -> None:
    quadratic = np.zeros((7, 7))
    quadratic[0, 3] = 6.0  # a at 4 with b at 4
    presolved = merged(replace(THREE, quadratic=quadratic, groups=((0, 1),)))
    assert (presolved.reduced.linear * presolved.scale)[0] == 4.0 + 5.0 + 6.0


def test_values_are_scaled_by_a_power_of_two() -> None:
    presolved = merged(replace(THREE, linear=THREE.linear * 1e6))
    assert np.log2(presolved.scale) == round(np.log2(presolved.scale))
    assert 0.5 < np.abs(presolved.reduced.linear).max() < 2.0


def test_a_problem_of_zeros_has_a_scale() -> None:
    assert merged(replace(THREE, linear=np.zeros(7))).scale == 1.0


def test_an_implication_is_a_row_and_pairs_that_never_meet() -> None:
    rule = Implication(0, 0, 1, (0, 2))
    reduced = merged(replace(THREE, quadratic=np.zeros((7, 7)), implications=(rule,))).reduced
    assert reduced.rows.tolist() == [[1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 0.0]]
    assert (reduced.limits.tolist(), reduced.budgets) == ([0.0], 0)
    others = reduced.never & (reduced.owner[:, None] != reduced.owner[None, :])
    assert np.argwhere(others).tolist() == [[0, 3], [3, 0]]


def test_an_implication_of_an_option_that_is_forbidden_says_nothing() -> None:
    problem = replace(THREE, forbidden=((0, 0),), implications=(Implication(0, 0, 1, ()),))
    assert presolve(problem).feasible
    assert not len(merged(problem).reduced.rows)


def test_an_implication_within_a_group_bars_the_option_itself() -> None:
    problem = replace(THREE, groups=((0, 1),), implications=(Implication(0, 0, 1, (0,)),))
    presolved = presolve(problem)
    assert presolved.feasible
    assert {original(presolved, picked)[0] for picked in all_picks(presolved.reduced)} == {1}
    never = replace(problem, implications=(Implication(0, 0, 1, ()), Implication(0, 1, 1, ())))
    assert not presolve(never).feasible


@pytest.mark.parametrize(("limit", "left"), [(7, [1, 1, 1]), (8, [1, 2, 1]), (9, [2, 3, 2]), (6, None)])
def test_options_that_nothing_completes_are_dropped(limit: int, left: list[int] | None) -> None:
    budget = Budget("bytes", np.array([2, 4, 2, 3, 4, 3, 5]), limit)
    reduced = merged(replace(THREE, budgets=(budget,))).reduced
    keep = reduced.completable(np.ones(7, dtype=bool))
    assert (None if keep is None else np.add.reduceat(keep.astype(int), reduced.starts).tolist()) == left


def test_options_that_are_dropped_drop_others_through_rules() -> None:
    # b at 8 is too heavy; a at 4 needs it, so a at 4 goes as well.
    budget = Budget("bytes", np.array([0, 0, 9, 0, 0, 0, 0]), 5)
    problem = replace(THREE, budgets=(budget,), implications=(Implication(0, 0, 1, (0,)),))
    keep = merged(problem).reduced.completable(np.ones(7, dtype=bool))
    assert keep is not None
    assert np.flatnonzero(~keep).tolist() == [0, 2]


@pytest.mark.parametrize("options", [(), (("4", "8"),)])
def test_rows_are_judged_where_nothing_is_left_to_decide(options: tuple[tuple[str, ...], ...]) -> None:
    count = 2 * len(options)
    for limit, possible in ((0, True), (-1, False)):
        budget = Budget("bytes", np.zeros(count, dtype=np.int64), limit)
        problem = Problem(("a",)[: len(options)], options, np.arange(count) * 1.0, budgets=(budget,))
        assert presolve(problem).feasible == possible


def test_an_option_that_another_beats_everywhere_is_dropped() -> None:
    budget = Budget("bytes", np.array([1, 1, 1, 2, 3, 1, 2]), 100)
    reduced = merged(replace(THREE, budgets=(budget,))).reduced
    keep = undominated(reduced, np.ones(7, dtype=bool))
    assert np.flatnonzero(keep).tolist() == [1, 2, 5, 6]  # c at 4 is dearer and lighter


def test_of_equal_options_one_stays() -> None:
    reduced = merged(Problem(("a",), (("4", "8", "16"),), np.zeros(3))).reduced
    assert undominated(reduced, np.ones(3, dtype=bool)).sum() == 1


def test_interactions_save_an_option_that_is_dearer_by_itself() -> None:
    quadratic = np.zeros((7, 7))
    quadratic[0, 3] = -10.0
    reduced = merged(replace(THREE, quadratic=quadratic)).reduced
    assert undominated(reduced, np.ones(7, dtype=bool))[0]
    quadratic[0, 3] = -3.0
    reduced = merged(replace(THREE, quadratic=quadratic)).reduced
    assert not undominated(reduced, np.ones(7, dtype=bool))[0]


def test_a_start_comes_back_as_it_was_given() -> None:
    presolved = merged(replace(THREE, groups=((0, 1),)))
    for choices in ((0, 1, 0), (1, 0, 1)):
        picked = presolved.picked(choices)
        assert picked is not None
        assert presolved.choices(picked) == choices
    assert presolved.picked((0, 0, 0)) is None


def test_thousands_of_units_without_interactions_take_little_memory() -> None:
    count = 2000
    options = (tuple(map(str, range(8))),) * count
    rng = np.random.default_rng(0)
    budget = Budget("bytes", np.tile(np.arange(8), count), 5 * count)
    linear = -np.sort(-rng.random((count, 8)), axis=1).ravel()
    reduced = presolve(Problem(tuple(map(str, range(count))), options, linear, budgets=(budget,))).reduced
    assert reduced.is_linear
    assert (reduced.options, reduced.quadratic.shape) == (8 * count, (8 * count, 8 * count))
    assert reduced.quadratic.strides == reduced.never.strides == (0, 0)
    assert reduced.restrict(rng.random(8 * count) < 0.9).quadratic.strides == (0, 0)


@settings(deadline=None, max_examples=200)
@given(problems())
def test_merging_keeps_every_choice_and_its_value(problem: Problem) -> None:
    presolved = merged(problem)
    found = {}
    for picked in all_picks(presolved.reduced):
        choices = original(presolved, picked)
        found[choices] = presolved.reduced.feasible(picked)
        assert same(presolved.reduced.value(picked) * presolved.scale, problem.value(choices))
        again = presolved.picked(choices)
        assert again is not None
        assert again.tolist() == picked.tolist()
    for choices in every_choice(problem):
        assert problem.feasible(choices) == found.get(choices, False)


@settings(deadline=None, max_examples=300)
@given(problems())
def test_presolve_keeps_the_optimum(problem: Problem) -> None:
    presolved = presolve(problem)
    truth = best_value(problem)
    if not presolved.feasible:
        assert truth == inf
        return
    reduced = presolved.reduced
    best = min((reduced.value(picked) for picked in all_picks(reduced) if reduced.feasible(picked)), default=inf)
    assert same(best * presolved.scale, truth)
    for picked in all_picks(reduced):
        choices = original(presolved, picked)
        assert same(reduced.value(picked) * presolved.scale, problem.value(choices))
        assert reduced.feasible(picked) == problem.feasible(choices)


@settings(deadline=None, max_examples=150)
@given(problems(), st.integers(0, 2**32 - 1))
def test_restricting_keeps_values_and_rows(problem: Problem, seed: int) -> None:
    reduced = merged(problem).reduced
    rng = np.random.default_rng(seed)
    keep = rng.random(reduced.options) < 0.6
    keep[reduced.starts + rng.integers(reduced.sizes)] = True
    smaller = reduced.restrict(keep)
    assert smaller.rows.shape == (len(reduced.rows), smaller.options)
    for picked in all_picks(smaller):
        whole = np.sort(np.concatenate([smaller.identity[picked], smaller.fixed]))
        assert keep[whole].all()
        assert same(smaller.value(picked), reduced.value(whole))
        assert smaller.feasible(picked) == reduced.feasible(whole)


@settings(deadline=None, max_examples=150)
@given(problems(budgets=(1, 3)))
def test_no_choice_that_keeps_the_rules_uses_a_dropped_option(problem: Problem) -> None:
    presolved = merged(problem)
    reduced = presolved.reduced
    keep = reduced.completable(np.ones(reduced.options, dtype=bool))
    for picked in all_picks(reduced):
        if reduced.feasible(picked):
            assert keep is not None
            assert keep[picked].all()
