"""Models with planted outliers come back; what was kept is told and applied again; other models stay as they are."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.planted import CALIBRATION, EVALUATION, MODELS, planted
from onnxmpq.api import measure
from onnxmpq.artifacts import Plan
from onnxmpq.errors import InputError
from onnxmpq.exchange.plans import export_overrides
from onnxmpq.options import Numbers, Smoothing
from onnxmpq.runtimes import get_runtime
from onnxmpq.search.constraints import tried
from onnxmpq.search.from_table import plan_from
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace
from tests.asked import asked, untimed
from tests.small import part

SOME = {"image": np.load(CALIBRATION)["image"][:48]}
NOT_SMOOTHED = Numbers(rounding="nearest", smooth="off")
SMOOTH: tuple[Smoothing, ...] = ("off", "0.5", "0.75", "channels")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the vision transformer with outliers behind eight of its LayerNorms, and in its values."""
    return planted(tmp_path_factory.mktemp("planted") / "vit.onnx", also=("blocks.",))


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one block of it with outliers."""
    return planted(tmp_path_factory.mktemp("planted") / "block.onnx", part("digits_attention"))


def scores(path: Path) -> np.ndarray:
    """Return what a float model gives for some digits."""
    return next(iter(get_runtime("onnxruntime").session(path, mode="deployed").run(SOME).values()))


def test_outliers_change_nothing_in_float(whole: Path) -> None:
    np.testing.assert_allclose(scores(whole), scores(MODELS / "digits_vit.onnx"), atol=1e-3)


def test_a_collapsed_transformer_comes_back_to_within_a_point(whole: Path, tmp_path: Path) -> None:
    falls = {}
    for smooth in ("off", "auto"):
        result = untimed(
            whole,
            CALIBRATION,
            output=tmp_path / f"{smooth}.onnx",
            numbers=Numbers(smooth="off" if smooth == "off" else "auto"),
            evaluation=EVALUATION,
            **asked(option="w8a8", as_asked=True, allow_slower=True),
        )
        assert result.accuracy is not None
        falls[smooth] = result.accuracy.before - result.accuracy.after
    assert falls["off"] > 0.1
    assert falls["auto"] < 0.01
    assert result.plan.ranges["smooth"] in SMOOTH[1:]
    assert any("outliers were moved into weights" in note for note in result.notes)
    assert [node.op_type for node in onnx.load(result.path).graph.node].count("LayerNormalization") == 9


def test_a_plan_is_applied_as_it_was_made(block: Path, tmp_path: Path) -> None:
    made = untimed(block, SOME, output=tmp_path / "a.onnx", **asked(option="w8a8", allow_slower=True))
    assert made.plan.ranges["smooth"] in SMOOTH[1:]
    again = untimed(block, SOME, output=tmp_path / "b.onnx", plan=made.plan_path)
    assert again.path.read_bytes() == made.path.read_bytes()
    assert again.plan == made.plan
    without = dataclasses.replace(made.plan, ranges=Numbers(smooth="off").told())
    other = untimed(block, SOME, output=tmp_path / "c.onnx", plan=without, **asked(as_asked=True))
    assert other.path.read_bytes() != made.path.read_bytes()


def test_a_search_is_on_the_smoothed_model_and_its_table_says_so(block: Path, tmp_path: Path) -> None:
    quick = asked(effort="quick", allow_slower=True, blends=False, store=tmp_path / "s.store")
    numbers = Numbers(rounding="nearest")
    found = untimed(block, SOME, output=tmp_path / "a.onnx", budget=["bits=6"], numbers=numbers, **quick)
    assert found.plan.ranges["smooth"] in SMOOTH[1:]
    again = untimed(block, SOME, output=tmp_path / "b.onnx", plan=found.plan_path)
    assert again.path.read_bytes() == found.path.read_bytes()
    table = measure(block, SOME, numbers=numbers)
    planned = plan_from(table, budget=["bits=6"])
    assert planned.plan.ranges == found.plan.ranges
    with pytest.raises(InputError, match="model"):
        untimed(block, SOME, output=tmp_path / "c.onnx", budget=["bits=6"], numbers=NOT_SMOOTHED, **quick)


@pytest.mark.parametrize("option", ["w8", "w8a8"])
def test_a_model_without_outliers_stays_as_it_is(option: str, tmp_path: Path) -> None:
    files = []
    for smooth in ("off", "auto"):
        numbers = Numbers(smooth="off" if smooth == "off" else "auto")
        given = {"output": tmp_path / f"{option}.{smooth}.onnx", "numbers": numbers}
        result = untimed(part("digits_attention"), SOME, **given, **asked(option=option, allow_slower=True))
        assert "smooth" not in result.plan.ranges
        assert not any("mooth" in note for note in result.notes)
        files.append(result.path.read_bytes())
    assert files[0] == files[1]


def test_weights_alone_are_not_smoothed(block: Path, tmp_path: Path) -> None:
    result = untimed(block, SOME, output=tmp_path / "w8.onnx", **asked(option="w8", allow_slower=True))
    assert "smooth" not in result.plan.ranges


def test_few_samples_judge_nothing(block: Path, tmp_path: Path) -> None:
    few = {"image": SOME["image"][:15]}
    result = untimed(block, few, output=tmp_path / "few.onnx", **asked(option="w8a8", as_asked=True))
    assert "smooth" not in result.plan.ranges


def test_every_way_gives_the_same_in_float_and_another_model(block: Path) -> None:
    prepared, want, digests = prepare(block, "ort-cpu"), scores(block), set()
    for smooth in SMOOTH:
        with workspace(prepared, SOME, Numbers(smooth=smooth)) as place:
            got = get_runtime("onnxruntime").session(place.loadable(place.prepared.model), mode="plain").run(SOME)
            assert place.prepared.space == prepared.space
            assert place.calibrated.numbers.smooth == smooth
            digests.add(place.prepared.smoothed)
        np.testing.assert_allclose(next(iter(got.values())), want, atol=2e-3)
    assert len(digests) == len(SMOOTH)


def test_a_store_is_for_one_smoothing(block: Path, tmp_path: Path) -> None:
    prepared, identities = prepare(block, "ort-cpu"), []
    for smooth in ("off", "0.5", "0.75"):
        numbers = Numbers(smooth=next(one for one in SMOOTH if one == smooth))
        with workspace(prepared, SOME, numbers) as place, Engine(place) as engine:
            identities.append(engine.identity)
    assert len({each["model"] for each in identities}) == 3
    assert len({each["ranges"] for each in identities}) == 1
    assert identities[0]["model"] == prepared.source.sha256


def test_nothing_is_measured_where_nothing_is_tried(block: Path) -> None:
    prepared = prepare(block, "ort-cpu")
    for choices in ({}, tried(prepared.space)):
        with workspace(prepared, SOME, Numbers(), tried=choices) as place:
            assert (place.calibrated.numbers.smooth == "off") == (not choices)


def test_what_is_no_better_is_not_kept(block: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.refit.accept.Judge.figures", lambda *_: (np.linspace(0.1, 0.2, 12), 0.1))
    prepared = prepare(block, "ort-cpu")
    with workspace(prepared, SOME, Numbers(), tried=tried(prepared.space)) as place:
        assert (place.calibrated.numbers.smooth, place.prepared.smoothed) == ("off", "")
        assert place.prepared.model is prepared.model
        (note,) = place.notes(Plan("ort-cpu", "", {}))
    assert note == "Smoothing 2 tensors whose channels are uneven is no better, and was not done."


def test_overrides_are_refused_for_a_smoothed_plan(block: Path) -> None:
    plan = Plan("ort-cpu", "", tried(prepare(block, "ort-cpu").space), ranges={"smooth": "channels"})
    with pytest.raises(InputError, match=r"moves outliers into weights \(channels\).* Make a plan with --smooth off"):
        export_overrides(block, plan, SOME)
