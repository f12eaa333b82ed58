"""SQNR: a sorted list, a walk to the budgets, and searches that agree where the figure rises along the walk."""

import numpy as np
import pytest

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.errors import InfeasibleError, InputError
from onnxmpq.methods.sqnr import SEARCHES, SearchName, Sqnr, Target, find_last
from onnxmpq.methods.study import Choices
from onnxmpq.sensitivity.table import Variant
from tests.methods.fakes import W2, W4, W8, FakeEngine, drawn, study_of, unit_of


def ladder(parameters: int = 80) -> FakeEngine:
    """Make three units; ``a`` bears low bits best."""
    units = tuple(unit_of(name, parameters) for name in "abc")
    decibels = {
        Variant(unit, option): (20.0 + 5 * bits - 4 * place,)
        for place, unit in enumerate("abc")
        for option, bits in ((W8, 8), (W4, 4), (W2, 2))
    }
    return FakeEngine(units, dict.fromkeys(decibels, 0.1), decibels=decibels)


def test_the_walk_goes_down_the_list_and_stops_at_the_budget() -> None:
    engine = ladder()
    # 60, 56, 52 dB at w8; then 40, 36, 32 at w4; then 30, 26, 22 at w2.
    expected = {
        960: {},
        720: {"a": W8},
        240: {"a": W8, "b": W8, "c": W8},
        200: {"a": W4, "b": W8, "c": W8},
        160: {"a": W4, "b": W4, "c": W8},
        100: {"a": W2, "b": W4, "c": W4},
        60: {"a": W2, "b": W2, "c": W2},
    }
    for size, plan in expected.items():
        draft = Sqnr().propose(study_of(engine, size=size))
        assert draft.plans == (plan,), size
        assert draft.notes == ()


def test_an_entry_that_is_not_cheaper_is_passed_over() -> None:
    engine = ladder()
    engine.decibels = {**engine.decibels, Variant("a", W4): (90.0,)}
    draft = Sqnr().propose(study_of(engine, size=40 + 80 + 80))
    assert draft.plans == ({"a": W4, "b": W8, "c": W8},)


def test_the_worst_output_counts() -> None:
    engine = ladder()
    engine.decibels = {
        variant: (found[0], 30.0 if variant.unit == "b" else 99.0) for variant, found in engine.decibels.items()
    }
    engine.decibels = {**engine.decibels, Variant("a", W8): (25.0, 99.0)}
    order = [dict(Sqnr().propose(study_of(engine, size=size)).plans[0]) for size in (900, 700)]
    assert order == [{"c": W8}, {"a": W4, "c": W8}]


def test_outputs_without_noise_or_without_signal_are_sorted_too() -> None:
    engine = ladder()
    engine.decibels = {
        **engine.decibels,
        Variant("c", W8): (float("inf"),),
        Variant("a", W8): (float("-inf"),),
        Variant("b", W8): (float("nan"),),
    }
    draft = Sqnr().propose(study_of(engine, size=479))
    assert draft.plans == ({"b": W8, "c": W8, "a": W4},)


def test_units_that_must_agree_go_down_together() -> None:
    engine = ladder()
    study = study_of(engine, ties=[(0, 2)], size=719)
    (plan,) = Sqnr().propose(study).plans
    assert plan == {"a": W8, "b": W8, "c": W8}
    assert study.feasible(plan)


def test_a_menu_without_float_starts_at_its_finest_options() -> None:
    engine = ladder()
    study = study_of(engine, options=(W2, W4, W8), size=200)
    assert Sqnr().propose(study).plans == ({"a": W4, "b": W8, "c": W8},)


@pytest.mark.parametrize("seed", range(3))
def test_two_budgets_at_once_are_met(seed: int) -> None:
    generator = np.random.default_rng(seed)
    offered = (Option(8, 8), Option(4), Option(4, 8), Option(2))
    units = tuple(unit_of(f"u{i}", 80, offered) for i in range(4))
    decibels = {Variant(u.name, o): (float(generator.uniform(5, 50)),) for u in units for o in offered}
    engine = FakeEngine(units, dict.fromkeys(decibels, 0.1), decibels=decibels)
    study = study_of(engine, size=4 * 50, bops=4 * 80 * 40)
    (plan,) = Sqnr().propose(study).plans
    assert study.feasible(plan)


def test_where_the_walk_gets_stuck_an_integer_program_chooses() -> None:
    # Less size costs bit operations and the other way round; only giving up both at once would do.
    few, fast = Option(4), Option(8, 8)
    engine = FakeEngine((unit_of("a", 80, (fast, few)), unit_of("b", 80, (fast, few))), {})
    study = study_of(engine, options=(few, fast), size=120, bops=80 * 192)
    draft = Sqnr().propose(study)
    assert study.feasible(draft.plans[0])
    assert sorted(map(str, draft.plans[0].values())) == ["w4", "w8a8"]


def test_a_budget_that_nothing_meets_is_refused_with_the_least_one() -> None:
    with pytest.raises(InfeasibleError, match=r"\b60\b"):
        Sqnr().propose(study_of(ladder(), size=59))


# ---- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("shape", ["line", "exponential", "steps", "flat"])
def test_all_searches_find_the_same_on_figures_that_rise(search: SearchName, shape: str) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        count = int(generator.integers(1, 60))
        rises = {
            "line": np.ones(count),
            "exponential": np.exp(0.3 * np.arange(count)),
            "steps": generator.integers(0, 2, count).astype(float),
            "flat": np.zeros(count),
        }[shape]
        figures = np.cumsum(rises)
        for most in (figures[0] - 1, figures[0], figures[count // 2] + 1e-9, figures[-1], figures[-1] + 1):
            target = Target(figures.tolist().__getitem__, count, float(most))
            holding = np.flatnonzero(figures <= most)
            assert find_last(target, search) == (holding[-1] if len(holding) else 0)


@pytest.mark.parametrize("search", ["binary", "interpolation"])
def test_few_plans_are_looked_at(search: SearchName) -> None:
    figures = np.exp(0.05 * np.arange(300))
    for most in np.linspace(1.0, figures[-1], 25):
        target = Target(figures.tolist().__getitem__, 300, float(most))
        find_last(target, search)
        assert len(target.seen) <= 2 * np.log2(300) + 4


def test_a_straight_figure_is_interpolated_at_once() -> None:
    target = Target(float, 1001, 700.5)
    assert find_last(target, "interpolation") == 700
    assert len(target.seen) <= 8


@pytest.mark.parametrize("search", SEARCHES)
def test_the_walk_stops_at_the_last_plan_that_holds_the_target(search: SearchName) -> None:
    engine = ladder()
    engine.measure = lambda plan: 0.01 * sum(32 - option.weight_bits for option in plan.values())
    draft = Sqnr(search=search, most=0.81).propose(study_of(engine))
    assert draft.plans == ({"a": W4, "b": W4, "c": W8},)
    assert "plans were looked at" in draft.notes[0]
    assert len(draft.notes) == 1


def test_a_figure_of_the_callers_own_is_held() -> None:
    asked: list[Choices] = []

    def figure(plan: Choices) -> float:
        assert plan not in asked
        asked.append(plan)
        return len(plan) / 3

    draft = Sqnr(most=0.7, figure=figure).propose(study_of(ladder()))
    assert draft.plans == ({"a": W8, "b": W8},)


def test_budgets_go_before_the_target() -> None:
    engine = ladder()
    engine.measure = lambda plan: float(len([o for o in plan.values() if o != FLOAT]))
    draft = Sqnr(most=1.0).propose(study_of(engine, size=240))
    assert draft.plans == ({"a": W8, "b": W8, "c": W8},)
    assert any("Even the finest plan within the budgets exceeds 1" in note for note in draft.notes)


def test_a_figure_that_falls_along_the_walk_is_told() -> None:
    engine = ladder()
    dip = {"a": W8, "b": W8}
    engine.measure = lambda plan: 0.9 if plan == {"a": W8} else 0.2 if plan == dip else 0.5 * len(plan)
    notes = [" ".join(Sqnr(search=search, most=0.6).propose(study_of(engine)).notes) for search in SEARCHES]
    assert "does not rise all along the walk" in notes[1]


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="no search 'bisect'"):
        Sqnr(search="bisect")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="set 'most'"):
        Sqnr(figure=lambda plan: 0.0)


def test_random_models_end_within_any_budget_that_can_be_met() -> None:
    for seed in range(10):
        engine = drawn(seed, units=6)
        generator = np.random.default_rng(seed)
        engine.decibels = {variant: (float(generator.uniform(0, 60)),) for variant in engine.alone}
        least = sum(unit.cost(W2).stored_bytes for unit in engine.units)
        for size in (least, least + 1, 2 * least, 5 * least, 16 * least):
            study = study_of(engine, size=size)
            assert study.feasible(Sqnr().propose(study).plans[0])
