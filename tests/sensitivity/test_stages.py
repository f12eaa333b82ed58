"""Stages and races: what a search might do is measured on some samples, what it takes on all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.artifacts import FLOAT, Estimate, Option, Plan
from onnxmpq.budgets.limits import parse_limits
from onnxmpq.methods.study import CONTENDERS
from onnxmpq.metrics.losses import mean_and_error
from onnxmpq.options import Constraints, MeasureOptions, Numbers, SearchOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.search.decide import Decision
from onnxmpq.search.loop import Search
from onnxmpq.search.within import within
from onnxmpq.sensitivity.batches import STAGE
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.sensitivity.workers import bundles
from onnxmpq.sensitivity.workers.executors import opened
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace
from tests.methods.fakes import FakeEngine, study_of, unit_of
from tests.opened import engine_on
from tests.small import MODELS, small_model

W8 = Option(8, 8)
SAMPLES = 150


def images(count: int) -> np.ndarray:
    with np.load(MODELS / "digits_evaluation.npz") as data:
        return np.asarray(data["image"][:count])


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Open an engine on many samples, a few to a batch."""
    with engine_on(
        small_model(), {"image": images(SAMPLES)}, MeasureOptions(batch=48, stage=STAGE, blends=False)
    ) as opened:
        yield opened


def test_many_samples_have_a_first_stage_from_everywhere_among_them(engine: Engine) -> None:
    layout = engine.layout
    assert (layout.sizes, layout.first) == ((48, 16, 48, 38), 2)
    assert sorted(layout.places) == list(range(SAMPLES))
    first = np.array(layout.places[:STAGE])
    assert np.diff(first).max() <= 3  # 150 / 64, rounded up
    assert (first[0], first[-1]) == (0, 147)
    assert engine.first_share == STAGE / SAMPLES


def test_outputs_come_back_in_the_order_of_the_samples(engine: Engine) -> None:
    table = engine.table([W8])
    outputs = engine.float_outputs()[engine.own_samples(table)]
    session = get_runtime("onnxruntime").session(small_model(), mode="deployed")
    (logits,) = session.run({"image": images(SAMPLES)}).values()
    np.testing.assert_allclose(outputs, logits, rtol=1e-4, atol=1e-4)


def test_a_table_of_the_first_stage_is_part_of_that_of_all(engine: Engine) -> None:
    some, every = engine.table([W8], batches=engine.first), engine.table([W8])
    assert (some.samples, every.samples) == (STAGE, SAMPLES)
    np.testing.assert_array_equal(engine.sample_losses(some), engine.sample_losses(every)[:, :STAGE])
    assert [len(rows) for *_, rows in engine.responses(some)] == [len(some.variants)] * 2
    assert engine.superposed(some, {}) == pytest.approx(some.centre_loss.value)
    assert some.cost["full_runs"] == every.cost["full_runs"]  # of the samples that they are of
    assert engine.cost(some.variants, 2).seconds < engine.cost(some.variants).seconds


@pytest.mark.parametrize("count", [1, 64, 2 * STAGE - 1])
def test_few_samples_are_one_stage(count: int) -> None:
    with engine_on(small_model(), {"image": images(count)}, MeasureOptions(stage=STAGE, blends=False)) as opened:
        assert (opened.first, opened.first_share) == (opened.batches, 1.0)
        assert opened.layout.places == tuple(range(count))


def test_all_samples_of_a_small_model_are_one_stage() -> None:
    with engine_on(small_model(), {"image": images(SAMPLES)}, MeasureOptions(blends=False)) as opened:
        assert (opened.first_share, opened.samples) == (1.0, SAMPLES)


def test_blends_are_in_the_first_stage_as_they_are_in_all() -> None:
    with engine_on(small_model(), {"image": images(140)}, MeasureOptions(stage=STAGE, blends=True)) as opened:
        first = np.array(opened.layout.places[:STAGE])
        assert ((first < opened.layout.plain).sum(), opened.layout.plain, opened.samples) == (STAGE // 2, 70, 140)
        assert len(opened.own_samples(opened.table([W8], batches=opened.first))) == STAGE // 2
        assert len(opened.own_samples(opened.table([W8]))) == 70


def test_labels_go_with_their_samples() -> None:
    with np.load(MODELS / "digits_evaluation.npz") as data:
        given = {"image": data["image"][:SAMPLES], "labels": data["labels"][:SAMPLES]}
    with engine_on(small_model(), given, MeasureOptions(stage=STAGE, loss="ce")) as opened:
        table = opened.table([W8], batches=opened.first)
        outputs = opened.float_outputs()[:STAGE]
        wanted = given["labels"][list(opened.layout.places[:STAGE])]
    shifted = outputs - outputs.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(STAGE), wanted]
    assert table.centre_loss.value == pytest.approx(losses.mean(), rel=1e-4)


# ---- races -----------------------------------------------------------------------------------------------------------


@dataclass
class Noisy(FakeEngine):
    """A model whose plans lose what ``level`` says, on 20 samples that agree on which plan is better; 5 come first."""

    level: Mapping[Option, float] = field(default_factory=dict)
    whole: list[dict[str, Option]] = field(default_factory=list)
    batches: int = 4
    first: int = 1
    first_share: float = 0.25

    def sample_losses_of(self, plans: Sequence[Mapping[str, Option]], batches: int) -> np.ndarray:
        """Return losses that differ much from sample to sample, and little between plans."""
        if batches == self.batches:
            self.whole += [dict(plan) for plan in plans]
        hard = np.random.default_rng(0).uniform(0.5, 2.0, 20)
        chosen = [plan.get("a", FLOAT) for plan in plans]
        jitter = [np.random.default_rng(option.weight_bits).normal(1.0, 0.02, 20) for option in chosen]
        rows = [hard + self.level[option] * own for option, own in zip(chosen, jitter, strict=True)]
        return np.reshape(rows, (len(rows), 20))[:, : 5 * batches]

    def losses(self, plans: Sequence[Mapping[str, Option]]) -> list[Estimate]:
        """Measure plans on all samples."""
        return estimates(self.sample_losses_of(plans, self.batches))


def estimates(losses: np.ndarray) -> list[Estimate]:
    return [Estimate(*mean_and_error(row)) for row in losses]


def test_only_plans_that_may_be_the_best_are_measured_on_all_samples() -> None:
    options = [Option(8), Option(6), Option(4), Option(3), Option(2)]
    level = {FLOAT: 0.0, **dict(zip(options, (0.1, 0.1001, 0.3, 0.5, 0.9), strict=True))}
    engine = Noisy((unit_of("a", 80, options),), {}, level=level)
    study = study_of(engine)
    plans = [{"a": option} for option in options]
    losses = study.raced(plans)
    assert sorted(plan["a"].weight_bits for plan in engine.whole) == [6, 8]
    assert [study.settled(plan) for plan in plans] == [True, True, False, False, False]
    truth = [loss.value for loss in estimates(engine.sample_losses_of(plans, 4))]
    assert [loss.value for loss in losses[:2]] == truth[:2]
    np.testing.assert_allclose([loss.value for loss in losses[2:]], truth[2:], rtol=0.02)
    assert losses[4].error >= losses[0].error
    assert study.runs == pytest.approx(5 * 0.25 + 2 * 0.75)
    engine.whole.clear()
    assert study.raced(plans) == losses
    assert engine.whole == []
    assert len(list(study.tried())) == 5
    assert study.improves(plans[0], plans[2])
    assert not study.improves(plans[2], plans[0])


def test_few_of_many_equals_are_measured_on_all_samples() -> None:
    options = [Option(bits) for bits in (8, 7, 6, 5, 4, 3, 2)]
    engine = Noisy((unit_of("a", 80, options),), {}, level={FLOAT: 0.0, **dict.fromkeys(options, 0.1)})
    study = study_of(engine)
    study.raced([{"a": option} for option in options])
    assert len(engine.whole) == CONTENDERS


def raced_search(measure: MeasureOptions) -> tuple[Decision, bytes, list[tuple[str, bytes]]]:
    """Search with stages and races; return the decision, the bits of its table, and those of every stored result."""
    with (
        opened(measure) as pooled,
        workspace(prepare(small_model(), "ort-cpu"), {"image": images(SAMPLES)}, Numbers.searched()) as place,
        Search(
            Exporter(place), Plan("ort-cpu", "", {}), SearchOptions(effort="quick"), pooled, Constraints()
        ) as search,
    ):
        decision = within(search, parse_limits(["size=24%"]))
        assert decision.table is not None
        found = {key: search.engine.store.get(key) or {} for key in search.engine.store.keys()}
        bits = [(key, b"".join(found[key][name].tobytes() for name in sorted(found[key]))) for key in sorted(found)]
        return decision, decision.table.gram.tobytes() + decision.table.loss.tobytes(), bits


def test_a_raced_search_in_two_processes_gives_the_bits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    options = MeasureOptions(stage=STAGE, blends=False, batch=48)
    here, table, results = raced_search(replace(options, executor="inline"))
    for much in (bundles.MUCH, 0.0):  # job by job, and in bundles, as if there were many workers
        monkeypatch.setattr(bundles, "MUCH", much)
        there, other, others = raced_search(replace(options, executor="processes:2"))
        assert (there.choices, there.loss, there.tried) == (here.choices, here.loss, here.tried)
        assert other == table
        assert others == results


def test_what_a_search_takes_was_measured_on_all_samples(tmp_path: Path) -> None:
    store = MeasureOptions(store=tmp_path / "s.store", stage=STAGE, blends=False)
    with (
        workspace(prepare(small_model(), "ort-cpu"), {"image": images(SAMPLES)}, Numbers.searched()) as place,
        Search(Exporter(place), Plan("ort-cpu", "", {}), SearchOptions(), store, Constraints()) as search,
    ):
        decision = within(search, parse_limits(["size=24%"]))
        assert decision.table is not None
        assert decision.table.samples == STAGE
        assert decision.loss == search.engine.losses([decision.choices])[0]
        assert all(decision.loss.value <= loss.value for _, loss in decision.uniforms.values())
        assert decision.agreement is not None
