"""The measuring engine: every number equals what sessions of whole models give, however it was obtained."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxmpq.api import quantize
from onnxmpq.artifacts import FLOAT, Option, Plan
from onnxmpq.errors import InputError
from onnxmpq.lower.calibrated import Calibrated
from onnxmpq.metrics.losses import Loss, log_softmax
from onnxmpq.options import ROUNDINGS, MeasureOptions, Numbers, VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.runtimes.devices import get_device
from onnxmpq.sensitivity.assemble import _relative_error
from onnxmpq.sensitivity.chain import Chain
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.sensitivity.table import Table, Variant
from onnxmpq.sensitivity.workers import worker
from onnxmpq.sensitivity.workers.executors import open_executor
from onnxmpq.sensitivity.workers.judge import SKETCH, sketch
from onnxmpq.sensitivity.workers.worker import CentreJob, ResponseJob, as_choices
from onnxmpq.targets.space import make_space
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import shared, workspace
from tests.graphs import feeds_for, from_text, layer_chain, rng
from tests.opened import engine_on
from tests.small import MODELS, part

PARTS = ("digits_conv", "digits_attention")
WHOLE = ("digits_cnn", "digits_vit")
OPTIONS = tuple(Option.parse(text) for text in ("w8a8", "w4a8", "w2a8", "w4"))
Array = npt.NDArray[np.float64]
Choices = Mapping[str, Option]


@cache
def digits(count: int) -> list[dict[str, Any]]:
    """Return feeds of one image each."""
    with np.load(MODELS / "digits_calibration.npz") as data:
        images = data["image"]
    return [{"image": images[i : i + 1]} for i in range(count)]


def file_of(name: str) -> Path:
    """Return the file of an embedded model, or of a part of one."""
    return MODELS / f"{name}.onnx" if name in WHOLE else part(name)


@contextmanager
def engine_of(model: str | ir.Model, feeds: Any, *, target: str = "ort-cpu", **more: Any) -> Iterator[Engine]:
    """Open an engine on an embedded model or a part of one, or on a model made here."""
    settings = MeasureOptions(**{key: more.pop(key) for key in MeasureOptions.__slots__ if key in more})
    given = file_of(model) if isinstance(model, str) else ir.to_proto(model)
    with engine_on(given, feeds, settings, target=target, **more) as engine:
        yield engine


class Whole:
    """Runs whole lowered models, as the engine claims to."""

    def __init__(self, engine: Engine) -> None:
        measured, target = engine.calibrated, replace(engine.target, islands=False)
        space = make_space(engine.model, target)
        self.calibrated = Calibrated(engine.model, space, target, measured.numbers, measured.known, memory={})
        self.engine, self.feeds = engine, list(engine.workspace.samples)
        self.reference = self.outputs({})
        labels = engine.workspace.samples.labels
        self.loss = Loss(engine.heads, self.reference, labels)

    def outputs(self, choices: Choices) -> Array:
        """Return the outputs of a plan as features."""
        plan = Plan(self.calibrated.target.name, "", dict(choices))
        model = self.calibrated.lower(plan).model if choices else self.calibrated.model
        session = get_runtime("onnxruntime").session(ir.to_proto(model).SerializeToString(), mode="literal")
        rows = max(self.engine.workspace.samples.batch, 1)
        found = []
        for feed in self.feeds:
            given = session.run(feed)
            found.append(np.concatenate([h.features(given[h.name], rows) for h in self.engine.heads], axis=1))
        return np.concatenate(found)

    def values(self, choices: Choices) -> Array:
        """Return the loss of a plan for every sample."""
        return self.loss.values(self.outputs(choices))


def responses(engine: Engine, variant: Variant, centre: Choices) -> Array:
    """Return what the engine keeps of a variant, all samples."""
    held, choice = as_choices(centre), (variant.unit, str(variant.option))
    jobs = [ResponseJob(held, choice, batch) for batch in range(engine.batches)]
    return np.concatenate([engine.result(job)["response"].astype(np.float64) for job in jobs])


def is_near(got: Array, want: Array, relative: float = 1e-4) -> bool:
    """Tell whether two arrays are equal but for a share of the largest value."""
    return bool(np.abs(got - want).max() <= relative * max(float(np.abs(want).max()), 1e-12))


def plan_of(engine: Engine, seed: int, options: Sequence[Option] = OPTIONS) -> dict[str, Option]:
    """Draw an option for every unit."""
    g = rng(seed)
    found = {}
    for unit in engine.space.units:
        fitting = [option for option in (*options, FLOAT) if option in unit.options]
        found[unit.name] = fitting[int(g.integers(len(fitting)))]
    return {unit: option for unit, option in found.items() if option != FLOAT}


# ---- the same as whole models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target"), [("digits_conv", "ort-cpu"), ("digits_attention", "ort-cpu"), ("digits_attention", "openvino")]
)
def test_responses_are_those_of_whole_models(name: str, target: str) -> None:
    with engine_of(name, digits(3), target=target) as engine:
        whole = Whole(engine)
        table = engine.table(OPTIONS)
        assert {v.unit for v in table.variants} == {u.name for u in engine.space.units if len(u.costs) > 1}
        for row, variant in enumerate(table.variants):
            outputs = whole.outputs({variant.unit: variant.option})
            assert is_near(whole.reference + responses(engine, variant, {}), outputs), variant
            assert table.loss[row] == pytest.approx(whole.loss.values(outputs).mean(), rel=1e-3, abs=1e-7), variant


@pytest.mark.parametrize("name", PARTS)
def test_responses_around_a_quantised_centre_are_those_of_whole_models(name: str) -> None:
    with engine_of(name, digits(3)) as engine:
        whole = Whole(engine)
        centre = plan_of(engine, 1)
        table = engine.table(OPTIONS[:3], centre)
        at_centre = whole.outputs(centre)
        assert table.centre == centre
        assert table.centre_loss.value == pytest.approx(whole.loss.values(at_centre).mean(), rel=1e-3)
        assert any(variant.option == FLOAT for variant in table.variants)
        for row, variant in enumerate(table.variants):
            outputs = whole.outputs({**centre, variant.unit: variant.option})
            assert is_near(at_centre + responses(engine, variant, centre), outputs), variant
            z = outputs - at_centre
            linear = (z * whole.loss.around(at_centre).slope).sum(1).mean()
            scale = np.abs(z * whole.loss.around(at_centre).slope).sum(1).mean()
            assert table.linear[row] == pytest.approx(linear, abs=1e-3 * scale + 1e-9)


# ---- pairs and plans -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_pairs_are_those_of_whole_models(name: str) -> None:
    with engine_of(name, digits(3)) as engine:
        whole = Whole(engine)
        table = engine.table(OPTIONS[:3])
        every = [(a, b) for a, b in combinations(table.variants, 2) if a.unit != b.unit]
        drawn = [every[int(i)] for i in rng(2).choice(len(every), 12, replace=False)]
        together = [pair for pair in every if len({engine.estimator.position(variant) for variant in pair}) == 1]
        assert together
        wanted = [*drawn, *together[:2], *together[-2:]]
        measured = engine.pairs(table, [(b, a) if i % 2 else (a, b) for i, (a, b) in enumerate(wanted)])
        found = {frozenset(pair): estimate.value for pair, estimate in measured.pairs.items()}
        for a, b in wanted:
            want = whole.values({a.unit: a.option, b.unit: b.option}).mean()
            assert found[frozenset((a, b))] == pytest.approx(want, rel=1e-3, abs=1e-7), (a, b)


def test_pairs_between_which_a_follower_joins_are_those_of_whole_models() -> None:
    """Only where both convolutions are quantised do Add and pool run on codes: the pair is more than the two."""
    g = rng(13)
    weights = {name: (g.normal(size=(6, 6, 3, 3)) / 5).astype(np.float32) for name in ("w1", "w2")}
    conv = "Conv<pads = [1, 1, 1, 1]>"
    body = f"h = {conv}(x, w1) a = Add(h, x) b = AveragePool<kernel_shape = [1, 1]>(a) y = {conv}(b, w2)"
    model = from_text(f"g (float[n, 6, 7, 7] x) => (float[n, 6, 7, 7] y) {{ {body} }}", weights)
    with engine_of(model, feeds_for(model, 4)) as engine:
        whole = Whole(engine)

        def written(*variants: Variant) -> frozenset[str | None]:
            plan = Plan(whole.calibrated.target.name, "", {variant.unit: variant.option for variant in variants})
            return frozenset(node.name for node in whole.calibrated.lower(plan).model.graph)

        table = engine.pairs(engine.table(OPTIONS[:2]))
        assert len(table.pairs) == 4
        for (a, b), pair in table.pairs.items():
            assert written(a, b) > written(a) | written(b)
            want = whole.values({a.unit: a.option, b.unit: b.option}).mean()
            assert pair.value == pytest.approx(want, rel=1e-4), (a, b)


@pytest.mark.parametrize("name", PARTS)
def test_losses_of_plans_are_those_of_whole_models(name: str) -> None:
    with engine_of(name, digits(3)) as engine:
        whole = Whole(engine)
        plans = [plan_of(engine, seed) for seed in range(4)]
        for plan, found in zip(plans, engine.losses(plans), strict=True):
            values = whole.values(plan)
            assert found.value == pytest.approx(values.mean(), rel=1e-3)
            assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(3), rel=1e-2)


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kept", "least", "most"), [(0.5, 12, 20), (1.0, 2, 10)], ids=["holes", "all in use"])
def test_a_worker_gives_back_what_it_does_not_use_near_its_ceiling(
    kept: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, given = 400_000_000.0, []

    def resident() -> int:
        nonlocal held
        held += 50_000_000
        return int(held)

    def give_back() -> None:
        nonlocal held
        given.append(held)
        held *= kept

    monkeypatch.setattr(worker, "resident_bytes", resident)
    monkeypatch.setattr(worker, "give_back", give_back)
    with engine_of("digits_conv", digits(4), memory=1_000_000_000, batch=1) as engine:
        jobs = len(engine.table((Option(8, 8), Option(4, 8), Option(3, 8))).variants) * 4
        assert jobs == 120
    assert min(given) > 750_000_000
    assert least <= len(given) <= most


# ---- weights rounded to the data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits_conv", "digits_vit"])
def test_losses_with_gptq_are_those_of_the_exported_file(name: str, tmp_path: Path) -> None:
    feeds, numbers = digits(6), Numbers(rounding="gptq")
    with engine_of(name, feeds, target="generic", numbers=numbers, batch=4) as engine:
        assert not (engine.workspace.folder / "hessians").exists(), "Hessians are counted when a job needs them"
        plans = [plan_of(engine, seed, (Option(3, 8), Option(4, 8), Option(4))) for seed in range(3)]
        whole = Whole(engine)
        for number, (choices, found) in enumerate(zip(plans, engine.losses(plans), strict=True)):
            plan = Plan("generic", "", choices)
            path = tmp_path / f"{number}.onnx"
            quantize(
                file_of(name),
                feeds,
                output=path,
                target="generic",
                plan=plan,
                numbers=numbers,
                verify=VerifyOptions(speed_budget_s=0.0),
            )
            session = get_runtime("onnxruntime").session(path, mode="literal")
            heads = engine.heads
            outputs = [np.concatenate([h.features(session.run(f)[h.name], 1) for h in heads], axis=1) for f in feeds]
            assert found.value == pytest.approx(whole.loss.values(np.concatenate(outputs)).mean(), rel=1e-3)
            assert found.value == pytest.approx(whole.values(choices).mean(), rel=1e-3)


@pytest.mark.parametrize("name", WHOLE)
def test_pieces_put_together_are_those_of_the_whole_model(name: str) -> None:
    with engine_of(name, digits(6), target="generic", numbers=Numbers(rounding="gptq")) as engine:
        options = (Option(8, 8), Option(4, 8), Option(2, 8), Option(4))
        engine.losses([plan_of(engine, 0, options)])
        calibrated = shared(engine.workspace.folder, replace(engine.target, islands=False), engine.calibrated.numbers)
        chain = Chain(calibrated, get_device("cpu"), 1)
        for seed in range(4):
            choices = plan_of(engine, seed, options)
            engine.losses([choices])  # counts what rounding needs
            whole = calibrated.lower(Plan("generic", "", choices)).model
            assert chain.pieces(choices) == chain.splitter.split(whole)


def test_gptq_is_measured_and_nearest_costs_more() -> None:
    losses = []
    for rounding in ROUNDINGS:
        numbers = Numbers(rounding=rounding)
        with engine_of("digits_conv", digits(32), target="generic", numbers=numbers) as engine:
            assert engine.notes == ()
            losses.append(engine.table((Option(3, 8),)).loss)
    assert losses[1].sum() < 0.7 * losses[0].sum()


def test_executors_round_alike_and_what_is_stored_is_not_counted_again(tmp_path: Path) -> None:
    numbers, tables, told = Numbers(rounding="gptq"), [], []
    for spec, store in (("inline", None), ("processes:2", tmp_path / "r.store"), ("inline", tmp_path / "r.store")):
        seen: set[str] = set()
        told.append(seen)
        with (
            open_executor(spec) as executor,
            engine_of(
                "digits_conv",
                digits(6),
                batch=3,
                executor=executor,
                numbers=numbers,
                store=store,
                progress=lambda what, _done, _of, seen=seen: seen.add(what),
            ) as engine,
        ):
            tables.append(replace(engine.table((Option(4, 8),)), cost={}).to_json())
    assert tables[0] == tables[1] == tables[2]
    assert ["count Hessians" in seen for seen in told] == [True, True, False]


# ---- the quadratic part ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE)
def test_gram_is_positive_semidefinite_and_tells_pairs_and_plans(name: str) -> None:
    with engine_of(name, digits(48)) as engine:
        table = engine.table((Option(4, 8), Option(8, 8)))
        eigenvalues = np.linalg.eigvalsh(table.gram)
        assert eigenvalues[0] > -1e-6 * eigenvalues[-1]
        np.testing.assert_array_equal(table.gram, table.gram.T)

        four = [variant for variant in table.variants if variant.option == Option(4, 8)]
        every = list(combinations(four, 2))
        wanted = [every[int(i)] for i in rng(3).choice(len(every), min(60, len(every)), replace=False)]
        measured = engine.pairs(table, wanted)
        exact, told = [], []
        for (a, b), pair in measured.pairs.items():
            i, j = table.index(a), table.index(b)
            exact.append(pair.value - table.loss[i] - table.loss[j] + table.centre_loss.value)
            told.append(table.gram[i, j])
        correlation = np.corrcoef(exact, told)[0, 1]
        print(name, "pairs", correlation)
        assert correlation >= 0.95

        plans = [plan_of(engine, seed, (Option(4, 8), Option(8, 8))) for seed in range(20)]
        losses = [estimate.value for estimate in engine.losses(plans)]
        predicted = np.corrcoef(losses, [table.predict(plan) for plan in plans])[0, 1]
        superposed = np.corrcoef(losses, [engine.superposed(table, plan) for plan in plans])[0, 1]
        alone = np.corrcoef(losses, [table.predict_alone(plan) for plan in plans])[0, 1]
        print(name, "plans: gram", predicted, "superposed", superposed, "alone", alone)
        assert predicted > 0.9
        assert superposed > 0.9


def test_gram_around_a_quantised_centre_is_the_second_derivative() -> None:
    """The predicted loss is exact to second order: halving a response leaves an eighth of the error."""
    with engine_of("digits_conv", digits(8)) as engine:
        centre = {unit.name: Option(8, 8) for unit in engine.space.units if Option(8, 8) in unit.options}
        table = engine.table((Option(4, 8),), centre)
        outputs = engine.result(CentreJob(as_choices(centre), 0))
        loss = engine._assembler.loss(outputs["float"], 0)
        row = int(np.argmax(np.where([v.option != FLOAT for v in table.variants], np.diag(table.gram), 0)))
        z = responses(engine, table.variants[row], centre)
        errors = []
        for step in (0.5, 0.25):
            want = loss.values(outputs["centre"] + step * z).mean()
            told = table.centre_loss.value + step * table.linear[row] + step**2 / 2 * table.gram[row, row]
            errors.append(abs(want - told))
        assert errors[1] < 0.2 * errors[0]


# ---- batches, sketches, heads ----------------------------------------------------------------------------------------


def columns(table: Table) -> dict[str, Array]:
    """Return all arrays of a table."""
    names = ("loss", "loss_error", "linear", "linear_error", "gram", "gram_error", "local", "sqnr_db", "sqnr_error_db")
    return {name: getattr(table, name) for name in names}


@pytest.mark.parametrize("name", PARTS)
def test_the_size_of_batches_changes_nothing_but_rounding(name: str) -> None:
    tables = []
    for batch in (1, 7, 9):
        with engine_of(name, digits(9), batch=batch) as engine:
            assert engine.batches == -(-9 // batch)
            tables.append(engine.table((Option(4, 8),)))
    for table in tables[1:]:
        assert table.samples == 9
        for key, values in columns(table).items():
            assert is_near(values, columns(tables[0])[key], 2e-3), key


def large(seed: int = 4) -> ir.Model:
    """Build two convolutions whose output has more values than are kept."""
    g = rng(seed)
    weights = {"w1": g.normal(size=(8, 3, 3, 3)) / 5, "w2": g.normal(size=(6, 8, 3, 3)) / 8}
    body = "h = Conv<pads = [1, 1, 1, 1]>(x, w1) r = Relu(h) y = Conv<pads = [1, 1, 1, 1]>(r, w2)"
    text = f"g (float[n, 3, 40, 40] x) => (float[n, 6, 40, 40] y) {{ {body} }}"
    return from_text(text, {name: value.astype(np.float32) for name, value in weights.items()})


@pytest.mark.parametrize("name", PARTS)
def test_local_errors_are_those_of_a_table_whose_samples_are_few(name: str) -> None:
    with engine_of(name, digits(7)) as engine:
        errors = engine.local_errors(engine.variants(OPTIONS))
        table = engine.table(OPTIONS)
        assert list(errors) == list(table.variants)
        assert list(errors.values()) == table.local.tolist()
        assert all(error > 0 for error in errors.values())


def test_large_outputs_are_sketched_and_the_table_says_so() -> None:
    model = large()
    with engine_of(model, feeds_for(model, 6)) as engine:
        assert engine.heads[0].width == 6 * 40 * 40 > SKETCH
        table = engine.table((Option(8, 8), Option(4, 8), Option(2, 8)))
        assert table.sketched
        assert table.to_json()["sketched"] is True
        kept = engine.result(CentreJob((), 0))
        assert max(array.shape[-1] for array in kept.values()) == SKETCH, "outputs this wide are not kept"
        assert engine.float_outputs().shape == (6, SKETCH)
        whole = Whole(engine)
        z = np.stack([whole.outputs({v.unit: v.option}) - whole.reference for v in table.variants])
        exact = np.einsum("asf,bsf->ab", z, z) * 2 / engine.heads[0].power / 6
        scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
        assert np.abs((table.gram - exact) / scale).max() < 4 / np.sqrt(SKETCH * 6)
        plan = {table.variants[0].unit: table.variants[0].option}
        with pytest.raises(InputError, match="too large"):
            engine.superposed(table, plan)
    with engine_of("digits_conv", digits(2)) as engine:
        assert not engine.table((Option(8, 8),)).sketched


def test_a_sketch_keeps_inner_products_and_depends_on_its_seed_alone() -> None:
    values = rng(5).normal(size=(12, 30_000))
    found = sketch(values, 0)
    exact, near = values @ values.T / 30_000, found @ found.T / 30_000
    assert found.shape == (12, SKETCH)
    assert np.abs(exact - near).max() < 5 / np.sqrt(SKETCH)
    np.testing.assert_array_equal(found[3:5], sketch(values[3:5], 0))
    assert not np.array_equal(found, sketch(values, 1))


def test_labels_give_cross_entropy() -> None:
    images = np.concatenate([feed["image"] for feed in digits(9)])
    labels = np.arange(9) % 10
    for batch in (0, 4):
        with engine_of("digits_conv", {"image": images, "labels": labels}, loss="ce", batch=batch) as engine:
            whole = Whole(engine)
            table = engine.table((Option(4, 8),))
            want = -np.take_along_axis(log_softmax(whole.reference), labels[:, None], 1).mean()
            assert table.centre_loss.value == pytest.approx(want, rel=1e-5)
            assert np.abs(table.linear).max() > 0
            variant = table.variants[3]
            changed = log_softmax(whole.outputs({variant.unit: variant.option}))
            assert table.loss[3] == pytest.approx(-np.take_along_axis(changed, labels[:, None], 1).mean(), rel=1e-4)
    with pytest.raises(InputError, match="needs labels"), engine_of("digits_conv", digits(3), loss="ce") as engine:
        engine.table(OPTIONS)
    with (
        pytest.raises(InputError, match=r"go from 3 to 11; the output has the classes 0 to 9"),
        engine_of("digits_conv", {"image": images, "labels": np.arange(9) + 3}, loss="ce") as engine,
    ):
        engine.table(OPTIONS)


def worst_logit(outputs: Mapping[str, Any], reference: Mapping[str, Any]) -> Any:
    """Measure the largest change of any logit: a loss of a user's own."""
    return np.abs(outputs["logits"] - reference["logits"]).max(axis=1)


def test_the_error_of_a_ratio_is_what_resampling_says() -> None:
    g = rng(3)
    signal = g.random(400) + 0.5
    noise = signal * (0.1 + 0.02 * g.normal(size=400)) ** 2
    draws = [g.integers(0, 400, 400) for _ in range(2000)]
    resampled = np.std([10 * np.log10(signal[rows].sum() / noise[rows].sum()) for rows in draws])
    assert 10 / np.log(10) * _relative_error(noise, signal) == pytest.approx(resampled, rel=0.1)
    assert _relative_error(np.zeros(5), np.ones(5)) == 0


def test_a_loss_of_ones_own_is_what_is_measured() -> None:
    with engine_of("digits_conv", digits(6), function=worst_logit) as engine:
        whole = Whole(engine)
        table = engine.table((Option(4, 8),))
        variant = table.variants[5]
        changed = whole.outputs({variant.unit: variant.option})
        want = np.abs(changed - whole.reference).max(axis=1).mean()
        assert table.loss[5] == pytest.approx(want, rel=1e-4)
        assert table.predict({variant.unit: variant.option}) == pytest.approx(want, rel=1e-4)
        assert table.centre_loss.value == 0
        assert np.linalg.eigvalsh(table.gram)[0] > -1e-9
    with (
        pytest.raises(InputError, match="one finite number for each"),
        engine_of("digits_conv", digits(3), function=lambda outputs, _: outputs["logits"]) as engine,
    ):
        engine.table(OPTIONS)


def check(model: ir.Model, feeds: Sequence[Mapping[str, Any]], **more: Any) -> Table:
    """Measure a small model and compare everything with whole models."""
    with engine_of(model, feeds, **more) as engine:
        whole = Whole(engine)
        table = engine.table((*OPTIONS, Option(8, 0)))
        for row, variant in enumerate(table.variants):
            outputs = whole.outputs({variant.unit: variant.option})
            assert is_near(whole.reference + responses(engine, variant, {}), outputs), variant
            want = whole.loss.values(outputs).mean()
            assert table.loss[row] == pytest.approx(want, rel=1e-3, abs=1e-9), variant
        assert table.samples == len(whole.reference)
        assert len(table.variants) > 0
        assert np.isfinite(table.gram).all()
        return table


def test_every_output_counts() -> None:
    g = rng(6)
    weights = {name: (g.normal(size=(12, 12)) / 3).astype(np.float32) for name in ("w1", "w2", "w3")}
    body = "h = MatMul(x, w1) r = Relu(h) a = MatMul(r, w2) p = Softmax(a) e = MatMul(r, w3) i = ArgMax<axis = 1>(a)"
    model = from_text(f"g (float[n, 12] x) => (float[n, 12] p, float[n, 12] e, int64[n, 1] i) {{ {body} }}", weights)
    table = check(model, feeds_for(model, 5))
    assert table.outputs == ("p", "e")
    assert table.loss_name == "kl(p)+power(e)"
    assert table.sqnr_db.shape == (len(table.variants), 2)
    last = {variant.unit: row for row, variant in enumerate(table.variants) if variant.option == Option(8, 8)}
    assert np.isinf(table.sqnr_db).any(axis=1).sum() >= 2  # the head of one output does nothing to the other
    assert len(last) == 3


def test_a_model_with_a_body_is_measured() -> None:
    g = rng(7)
    weights = {name: (g.normal(size=(8, 8)) / 3).astype(np.float32) for name in ("w1", "w2", "w3")}
    text = """g (float[n, 8] x) => (float[n, 8] y) {
        h = MatMul(x, w1)
        s = ReduceSum<keepdims = 0>(h)
        zero = Constant<value = float {0.0}>()
        c = Greater(s, zero)
        k = If(c) <
            then_branch = t () => (float[n, 8] p) { p = MatMul(h, w2) },
            else_branch = e () => (float[n, 8] q) { q = MatMul(h, w3) }
        >
        y = Relu(k)
    }"""
    model = from_text(text, weights)
    table = check(model, feeds_for(model, 6))
    assert len({variant.unit for variant in table.variants}) == 3


def test_a_model_with_a_fixed_batch_is_measured() -> None:
    g = rng(8)
    weights = {name: (g.normal(size=(8, 8)) / 3).astype(np.float32) for name in ("w1", "w2")}
    body = "h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2)"
    model = from_text(f"g (float[4, 8] x) => (float[4, 8] y) {{ {body} }}", weights)
    table = check(model, [{"x": g.normal(size=(4, 8)).astype(np.float32)} for _ in range(3)])
    assert table.samples == 12


def test_sequences_of_different_lengths_are_measured() -> None:
    g = rng(9)
    weights = {name: (g.normal(size=(8, 8)) / 3).astype(np.float32) for name in ("w1", "w2")}
    body = "h = MatMul(x, w1) r = Relu(h) a = MatMul(r, w2) y = ReduceMean<axes = [1], keepdims = 0>(a)"
    model = from_text(f"g (float[n, t, 8] x) => (float[n, 8] y) {{ {body} }}", weights)
    table = check(model, [{"x": g.normal(size=(1, length, 8)).astype(np.float32)} for length in (3, 5, 3, 9)])
    assert table.samples == 4


def test_classes_on_the_second_axis_are_found() -> None:
    g = rng(10)
    weights = {"w": (g.normal(size=(5, 3, 1, 1))).astype(np.float32)}
    text = "g (float[n, 3, 4, 4] x) => (float[n, 5, 4, 4] y) { h = Conv(x, w) y = Softmax<axis = 1>(h) }"
    model = from_text(text, weights)
    with engine_of(model, feeds_for(model, 3)) as engine:
        (head,) = engine.heads
        assert (head.kind, head.classes, head.axis, head.width) == ("kl", 5, -3, 80)
        table = engine.table((Option(4, 8),))
        session = get_runtime("onnxruntime").session(ir.to_proto(model).SerializeToString(), mode="literal")
        p = np.concatenate([session.run(feed)["y"] for feed in feeds_for(model, 3)])
        unit = engine.space.units[0].name
        whole = Whole(engine)
        logs = log_softmax(whole.outputs({unit: Option(4, 8)}).reshape(3, 4, 4, 5)).transpose(0, 3, 1, 2)
        assert table.loss[0] == pytest.approx((p * (np.log(p) - logs)).sum(1).mean(), rel=1e-3)


# ---- traces ----------------------------------------------------------------------------------------------------------


def test_fisher_traces_are_those_of_a_softmax_regression() -> None:
    """For logits W x the trace of the Fisher matrix is E |x|² (1 - |p|²); every draw is unbiased for it."""
    g = rng(11)
    weights = {"w": (g.normal(size=(6, 4)) / 2).astype(np.float32), "b": np.zeros(4, np.float32)}
    model = from_text("g (float[n, 6] x) => (float[n, 4] y) { h = MatMul(x, w) y = Add(h, b) }", weights)
    feeds = feeds_for(model, 400)
    with engine_of(model, feeds) as engine:
        (trace,) = engine.traces(draws=8).values()
        x = np.concatenate([feed["x"] for feed in feeds])
        p = np.exp(log_softmax(x.astype(np.float64) @ weights["w"].astype(np.float64)))
        want = ((x**2).sum(1) * (1 - (p**2).sum(1))).mean()
        print("trace", trace, want)
        assert trace.value == pytest.approx(want, rel=0.25)


def test_fisher_traces_of_an_embedded_model_are_positive() -> None:
    with engine_of("digits_conv", digits(8)) as engine:
        traces = engine.traces(draws=1)
        assert set(traces) == {unit.name for unit in engine.space.units}
        assert all(trace.value > 0 and np.isfinite(trace.error) for trace in traces.values())


# ---- executors -------------------------------------------------------------------------------------------------------


def everything(engine: Engine) -> tuple[Table, list[Any]]:
    """Measure a table, pairs, plans and local errors."""
    table = engine.table((Option(4, 8),))
    table = engine.pairs(table, list(combinations(table.variants, 2))[::9])
    plans = engine.losses([plan_of(engine, seed) for seed in range(3)])
    return replace(table, cost={}), [*plans, engine.local_errors(engine.variants(OPTIONS))]


def same(a: tuple[Table, list[Any]], b: tuple[Table, list[Any]]) -> bool:
    """Tell whether two results are equal bit for bit."""
    return a[0].to_json() == b[0].to_json() and a[1] == b[1]


@pytest.fixture(scope="module")
def inline() -> tuple[Table, list[Any]]:
    """Return what the executor inline gives."""
    with engine_of("digits_small", digits(6), batch=3) as engine:
        return everything(engine)


@pytest.mark.parametrize("spec", ["processes:2", "dask:local:2"])
def test_executors_give_the_same_bits(spec: str, inline: tuple[Table, list[Any]]) -> None:
    if spec.startswith("dask"):
        pytest.importorskip("distributed")
    with (
        open_executor(spec) as executor,
        engine_of("digits_small", digits(6), batch=3, executor=executor, ahead=4) as engine,
    ):
        assert same(everything(engine), inline)


def test_the_order_of_jobs_changes_nothing(inline: tuple[Table, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    run = Engine.run

    def backwards(self: Engine, jobs: Sequence[Any], what: str) -> None:
        run(self, [jobs[int(i)] for i in rng(12).permutation(len(jobs))], what)

    monkeypatch.setattr(Engine, "run", backwards)
    with engine_of("digits_small", digits(6), batch=3) as engine:
        assert same(everything(engine), inline)


# ---- a failure leaves nothing behind ---------------------------------------------------------------------------------


def test_an_engine_that_cannot_open_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        pytest.raises(InputError, match="Give --memory"),
        engine_of("digits_cnn", digits(2), memory=1000),
    ):
        pytest.fail("it is open")
    assert list(tmp_path.iterdir()) == []


def test_options_that_no_unit_has_are_refused() -> None:
    model = layer_chain("Gemm")
    with engine_of(model, feeds_for(model)) as engine, pytest.raises(InputError, match="No unit has any"):
        engine.table((Option(5, 5),))


def test_a_target_is_read_once_wherever_workers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (resources.files("onnxmpq") / "targets" / "builtin" / "ort-cpu.toml").read_text("utf-8")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    prepared = prepare(str(MODELS / "digits_cnn.onnx"), "mine.toml")
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "mine.toml").unlink()
    with (
        open_executor("processes:1") as pool,
        workspace(prepared, digits(4)) as opened,
        Engine(opened, MeasureOptions(executor=pool)) as engine,
    ):
        table = engine.table(OPTIONS[:1])
    assert table.target == "ort-cpu"


def test_what_an_input_fixes_first_need_not_be_a_batch() -> None:
    """A state of two layers beside a signal of any batch: every sample has one row."""
    w = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    text = (
        "g (float[a, 16] x, float[2, b, 8] s) => (float[a, 8] y, float[2, b, 8] t) { y = MatMul(x, w) t = Add(y, s) }"
    )
    generator = np.random.default_rng(1)
    samples = [
        {
            "x": generator.normal(size=(1, 16)).astype(np.float32),
            "s": generator.normal(size=(2, 1, 8)).astype(np.float32),
        }
        for _ in range(6)
    ]
    with engine_of(from_text(text, {"w": w}), samples) as engine:
        table = engine.table((Option(8, 8), Option(4, 8)))
        assert (table.samples, engine.float_outputs().shape) == (6, (6, 24))
        assert 0 < table.loss[0] < table.loss[1]
        np.testing.assert_allclose(engine.losses([{table.variants[0].unit: Option(8, 8)}])[0].value, table.loss[0])
