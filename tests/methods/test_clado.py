"""CLADO: the matrix is its definition, and the plan is the best of all by it."""

from itertools import product

import numpy as np
import pytest

from onnxmpq.artifacts import Option
from onnxmpq.errors import InfeasibleError
from onnxmpq.methods.clado import Clado, CladoStar, clipped, interactions
from onnxmpq.methods.study import Choices, Study
from onnxmpq.sensitivity.table import Variant
from tests.methods.fakes import W2, W4, FakeEngine, drawn, study_of, unit_of


def every_plan(study: Study) -> list[dict[str, Option]]:
    """Return all plans within the budgets."""
    names = [unit.name for unit in study.menu.units]
    plans = [dict(zip(names, options, strict=True)) for options in product(*study.menu.options)]
    return [plan for plan in plans if study.feasible(plan)]


@pytest.mark.parametrize("seed", range(4))
def test_without_clipping_the_plan_is_the_best_by_the_measured_loss(seed: int) -> None:
    engine = drawn(seed, units=4, spread=0.8, base=2.3)
    study = study_of(engine, size=sum(u.parameters for u in engine.units) * 4 // 8)
    draft = Clado(psd=False).propose(study)
    best = min(engine.true_loss(plan) for plan in every_plan(study))
    assert engine.true_loss(draft.plans[0]) == pytest.approx(best)
    assert draft.predicted[0] == pytest.approx(best)
    assert not draft.notes


def test_the_matrix_is_its_definition() -> None:
    engine = drawn(7, units=3, base=1.5)
    study = study_of(engine)
    table = engine.pairs(study.table())
    omega = interactions(table)
    for i, a in enumerate(table.variants):
        for j, b in enumerate(table.variants):
            if a == b:
                wanted = 2 * (engine.true_loss({a.unit: a.option}) - 1.5)
            elif a.unit == b.unit:
                wanted = 0.0
            else:
                both = engine.true_loss({a.unit: a.option, b.unit: b.option})
                wanted = both + 1.5 - engine.true_loss({a.unit: a.option}) - engine.true_loss({b.unit: b.option})
            assert omega[i, j] == pytest.approx(wanted, abs=1e-12)


def test_clipping_takes_negative_eigenvalues_away_and_nothing_else() -> None:
    matrix = np.array([[1.0, 2.0], [2.0, 1.0]])
    assert np.allclose(clipped(matrix), 1.5)
    positive = np.array([[2.0, 1.0], [1.0, 2.0]])
    assert np.allclose(clipped(positive), positive)


def pair_that_cancels(size: int) -> Study:
    """Make two units that undo each other's damage, and a third that is cheap to lower."""
    units = tuple(unit_of(name, 80, (W4, W2)) for name in "abc")
    alone = {Variant(u, o): rise for u, rise in (("a", 1.0), ("b", 1.0), ("c", 0.9)) for o in (W2,)}
    alone |= {Variant(u, W4): 0.01 for u in "abc"}
    cancelled = {("a", "b"): -1.95, ("a", "c"): 1.5, ("b", "c"): 1.5}
    together = {(Variant(first, W2), Variant(second, W2)): change for (first, second), change in cancelled.items()}
    return study_of(FakeEngine(units, alone, together), size=size)


def test_pairs_that_cancel_are_bought_as_they_were_measured() -> None:
    draft = Clado(psd=False).propose(pair_that_cancels(80))
    assert draft.plans[0] == {"a": W2, "b": W2, "c": W4}


def test_the_value_without_clipping_is_told_beside_the_clipped_one() -> None:
    study = pair_that_cancels(80)
    draft = Clado().propose(study)
    assert draft.proofs[0] is not None
    true = draft.predicted[0] or 0.0
    assert true == pytest.approx(study.losses(draft.plans)[0].value)
    assert f"{draft.proofs[0].objective:.6g}" in draft.notes[0]
    assert f"{true:.6g}" in draft.notes[0]
    assert draft.proofs[0].objective > true


def test_the_star_takes_the_least_sum_of_single_losses() -> None:
    engine = drawn(3, units=4, base=0.7)
    study = study_of(engine, size=sum(u.parameters for u in engine.units) * 3 // 8)
    draft = CladoStar().propose(study)

    def alone(plan: Choices) -> float:
        return sum(engine.alone.get(Variant(unit, option), 0.0) for unit, option in plan.items())

    best = min(alone(plan) for plan in every_plan(study))
    assert alone(draft.plans[0]) == pytest.approx(best)
    assert draft.predicted[0] == pytest.approx(0.7 + best)


@pytest.mark.parametrize("method", [Clado(), CladoStar()])
def test_a_budget_that_nothing_meets_is_refused_with_the_least_one(method: Clado | CladoStar) -> None:
    engine = drawn(0, units=3)
    least = sum(u.cost(W2).stored_bytes for u in engine.units)
    with pytest.raises(InfeasibleError, match=rf"\b{least}\b"):
        method.propose(study_of(engine, size=least - 1))
    assert method.propose(study_of(engine, size=least)).plans


def test_runs_of_pairs_are_counted() -> None:
    engine = drawn(0, units=3)
    study = study_of(engine)
    Clado().propose(study)
    assert study.runs == pytest.approx(2 + 9 + 27)
