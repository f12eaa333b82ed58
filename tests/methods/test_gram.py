"""``gram``: measured losses alone decide, and calibration that misleads does not take it behind uniform plans."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.api import quantize
from onnxmpq.artifacts import FLOAT, Estimate, Option
from onnxmpq.methods.gram import Gram
from onnxmpq.methods.study import Choices, Study
from onnxmpq.options import Constraints, Effort, SearchOptions, VerifyOptions
from onnxmpq.search.decide import decide
from tests.methods.fakes import W2, W4, W8, FakeEngine, drawn, study_of
from tests.small import MODELS, small_model


def opened(engine: FakeEngine, effort: Effort = "default", share: float = 0.15) -> Study:
    """Open a study of a drawn model under a size."""
    study = study_of(engine, size=int(share * engine.space.float_bytes))
    study.effort = effort
    return study


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("effort", ["quick", "default", "extensive"])
def test_the_plan_is_the_best_of_all_that_were_measured(effort: Effort, seed: int) -> None:
    engine = drawn(seed)
    study = opened(engine, effort)
    draft = Gram().propose(study)
    assert all(study.feasible(plan) for plan in draft.plans)
    measured = [engine.true_loss(plan) for plan in engine.measured if study.feasible(plan)]
    assert engine.true_loss(draft.plans[0]) == pytest.approx(min(measured))


@pytest.mark.parametrize("seed", range(6))
def test_more_effort_never_measures_worse(seed: int) -> None:
    losses = []
    for effort in ("quick", "default", "extensive"):
        engine = drawn(seed, units=7, spread=0.6)
        losses.append(engine.true_loss(Gram().propose(opened(engine, effort)).plans[0]))
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_what_looks_better_around_a_plan_is_taken_only_if_it_measures_better(seed: int) -> None:
    first = Gram().propose(opened(drawn(seed), "quick")).plans[0]
    engine = drawn(seed)
    formula = drawn(seed).true_loss

    def misleading(plan: Choices) -> float:
        """Promise a gain from every single change of the first plan, and keep it for no two together."""
        changed = sum(plan.get(unit.name, FLOAT) != first.get(unit.name, FLOAT) for unit in engine.units)
        if len(plan) < 2:
            return formula(plan)
        return formula(first) * (1.0 if not changed else 0.9 if changed == 1 else 10.0)

    engine.measure = misleading
    chosen = Gram().propose(opened(engine)).plans[0]
    assert misleading(chosen) <= formula(first)
    assert len([plan for plan in engine.measured if misleading(plan) > formula(first)]) > 0


@pytest.mark.parametrize("seed", range(4))
def test_what_is_decided_is_never_behind_a_uniform_plan(seed: int) -> None:
    engine = drawn(seed)
    rng = np.random.default_rng(seed)
    told: dict[tuple[Option, ...], float] = {}

    def noisy(plan: Choices) -> float:
        key = tuple(plan.get(unit.name, FLOAT) for unit in engine.units)
        return told.setdefault(key, float(rng.exponential()))

    engine.measure = noisy
    decision = decide(opened(engine, share=0.3), Gram())
    assert decision.uniforms
    assert all(decision.loss.value <= loss.value for _, loss in decision.uniforms.values())
    assert decision.loss.value <= decision.proposed_loss.value


@pytest.mark.parametrize("kind", ["noise", "one class"])
def test_corrupted_calibration_is_not_behind_uniform_and_is_told(kind: str, tmp_path: Path) -> None:
    with np.load(MODELS / "digits_evaluation.npz") as data:
        images, labels = data["image"], data["labels"]
    model = small_model()
    if kind == "noise":
        model = MODELS / "digits_cnn.onnx"
        images = np.random.default_rng(0).normal(size=(24, *images.shape[1:])).astype(np.float32)
    else:
        images = images[labels == 3][:24]
    result = quantize(
        model,
        {"image": images},
        output=tmp_path / "q.onnx",
        budget=["size=26%"],
        constraints=Constraints(keep=["stage2.*=w4a8"]),
        search=SearchOptions(effort="quick"),
        verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
    )
    decision = result.decision
    assert decision is not None
    assert decision.uniforms
    assert all(decision.loss.value <= loss.value for _, loss in decision.uniforms.values())
    # The model takes noise for one class, too.
    assert any(re.search(r"puts \d+% of the calibration samples in class", note) for note in result.notes)


def test_options_that_save_nothing_over_finer_ones_are_not_measured() -> None:
    engine = drawn(0)
    study = study_of(engine, size=int(0.15 * engine.space.float_bytes))
    row = study.rows[0]
    starts = np.cumsum([0, *(len(options) for options in study.menu.options)])
    same = row.weights.copy()
    for unit, options in enumerate(study.menu.options):  # four bits take what eight take
        same[starts[unit] + options.index(W4)] = same[starts[unit] + options.index(W8)]
    study.rows = (replace(row, weights=same),)
    draft = Gram().propose(study)
    assert study.first is not None
    assert {variant.option for variant in study.first.variants} == {W8, W2}
    assert all(option != W4 for plan in draft.plans for option in plan.values())


def test_units_that_are_tied_keep_every_option() -> None:
    engine = drawn(1)
    study = study_of(engine, ties=[(0, 1)], size=int(0.15 * engine.space.float_bytes))
    study.rows = tuple(replace(row, weights=np.zeros_like(row.weights)) for row in study.rows)
    Gram().propose(study)
    assert study.first is not None
    kept = {unit.name: {v.option for v in study.first.variants if v.unit == unit.name} for unit in engine.units}
    assert [len(kept[unit.name]) for unit in engine.units[:3]] == [3, 3, 1]


class Unsure(FakeEngine):
    """A model whose losses are known to a hundredth."""

    def losses(self, plans: Sequence[Choices]) -> list[Estimate]:
        """Measure plans."""
        return [Estimate(found.value, 0.01 * found.value) for found in super().losses(plans)]


@pytest.mark.parametrize("effort", ["default", "extensive"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_rounds_are_made_where_a_loss_is_large_or_not_foretold(scale: float, effort: Effort) -> None:
    made = []
    for spread in (0.0, 0.3):
        model = drawn(1, units=20, spread=spread)
        engine = Unsure(
            model.units,
            {variant: scale * rise for variant, rise in model.alone.items()},
            {pair: scale * rise for pair, rise in model.together.items()},
        )
        told = Gram().propose(opened(engine, effort)).notes[0]
        made.append(int(re.findall(r"Rounds around a plan: (\d+)", told)[0]))
    assert (made[0] > 0) == (scale > 1.0 or effort == "extensive"), "without interactions all losses are foretold"
    assert made[1] > 0
