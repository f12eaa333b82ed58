"""Fronts: plans over one budget, each measured, and a file of each."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmpq
from onnxmpq.api import quantize
from onnxmpq.artifacts import Plan
from onnxmpq.errors import InputError
from onnxmpq.options import MeasureOptions, SearchOptions, VerifyOptions
from onnxmpq.search.front import Front, pareto
from onnxmpq.sensitivity.stored.store import Store
from tests.asked import asked
from tests.small import MODELS, small_model

MODEL = small_model()
TIED = ("stage1.*", "stage2.*")


def samples(count: int = 16) -> dict[str, np.ndarray]:
    """Return the first calibration images."""
    with np.load(MODELS / "digits_calibration.npz") as data:
        return {"image": data["image"][:count]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for a store and fronts."""
    return tmp_path_factory.mktemp("pareto")


def front_of(folder: Path, **more: Any) -> Front:
    """Return a front of the embedded model with few units to decide."""
    given: dict[str, Any] = {"points": 5, "ties": TIED, "store": folder / "p.store"}
    return pareto(MODEL, samples(), **asked(**given | more))


@pytest.fixture(scope="module")
def front(folder: Path) -> Front:
    """Return a front over sizes, which is also written to front.json."""
    found = front_of(folder, ties=())
    found.write(folder / "front.json")
    return found


def rising(values: Sequence[float]) -> bool:
    """Tell whether every value is above the one before."""
    return all(a < b for a, b in pairwise(values))


def test_larger_points_lose_less(front: Front) -> None:
    assert len(front.points) >= 3
    assert rising([point.file_bytes for point in front.points])
    assert rising([-point.loss.value for point in front.points])
    assert front.float_file_bytes == MODEL.stat().st_size


def test_points_of_the_method_have_a_prediction_and_a_bound(front: Front) -> None:
    drawn = [point for point in front.points if point.source == "gram"]
    assert drawn
    for point in drawn:
        assert point.predicted is not None
        assert point.bound is not None
        assert point.gap is not None
        assert point.gap < 0.2  # a refined plan is predicted by superposition, the bound is of the quadratic model
        assert point.usage == point.file_bytes


def test_no_uniform_plan_is_below_the_front(front: Front, folder: Path) -> None:
    for option in ("w4a8", "w2a8"):
        even = quantize(
            MODEL,
            samples(),
            output=folder / "even.onnx",
            overwrite=True,
            budget=["size=99%"],
            search=SearchOptions(method="uniform", options=[option]),
            measure=MeasureOptions(blends=True, store=folder / "p.store"),
            verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
        )
        assert even.decision is not None
        within = [point.loss.value for point in front.points if point.file_bytes <= even.file_bytes]
        assert min(within) <= even.decision.loss.value


def test_a_point_becomes_a_file_of_the_size_told(front: Front, folder: Path) -> None:
    for number in (1, len(front.points)):
        plan = Plan.read(folder / "front.json", number)
        assert plan == front.plans[number - 1]
        made = quantize(
            MODEL,
            samples(),
            output=folder / "point.onnx",
            overwrite=True,
            plan=plan,
            verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
        )
        assert made.file_bytes == front.points[number - 1].file_bytes
        assert made.plan.choices == plan.choices


def test_a_front_is_read_one_point_at_a_time(front: Front, folder: Path) -> None:
    count = len(front.points)
    with pytest.raises(InputError, match=rf"is a front of {count} plans: choose one with --point 1 to {count}\.$"):
        Plan.read(folder / "front.json")
    with pytest.raises(InputError, match=f"and none of them is {count + 1}: choose one with"):
        Plan.read(folder / "front.json", count + 1)
    (folder / "plan.json").write_text(json.dumps(front.plans[0].to_json()))
    with pytest.raises(InputError, match="is one plan and no front: leave --point out"):
        Plan.read(folder / "plan.json", 1)
    (folder / "broken.json").write_text('{"points": [3]}')
    with pytest.raises(InputError, match="has schema None; this version of onnxmpq reads schema 1"):
        Plan.read(folder / "broken.json", 1)


def test_json_has_every_point(front: Front, folder: Path) -> None:
    data = json.loads((folder / "front.json").read_text())
    assert data == front.to_json()
    assert data["over"] == "size"
    for point in data["points"]:
        assert {"limit", "usage", "file_bytes", "predicted", "bound", "gap", "loss", "loss_error", "plan"} <= set(point)


def test_a_front_again_measures_nothing(front: Front, folder: Path) -> None:
    with Store.open(folder / "p.store", None) as store:
        before = store.count
    assert front_of(folder, ties=()) == front
    with Store.open(folder / "p.store", None) as store:
        assert store.count == before


@pytest.mark.parametrize("over", ["bits", "bops", "memory"])
def test_fronts_run_over_other_budgets(over: str, folder: Path) -> None:
    found = front_of(folder, over=over)
    assert found.over == over
    assert rising([point.usage for point in found.points])
    assert rising([-point.loss.value for point in found.points])
    if over == "bits":
        assert 2 <= found.points[0].usage <= found.points[-1].usage <= 8


def test_other_budgets_and_decisions_by_hand_hold_for_every_point(folder: Path) -> None:
    found = front_of(folder, over="bits", budget=["size=25%"], keep=["head/Gemm=w8a8"])
    assert found.points
    assert all(point.file_bytes <= 0.255 * found.float_file_bytes for point in found.points)
    assert all(str(point.choices["head/Gemm"]) == "w8a8" for point in found.points)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"over": "siez"}, "no budget 'siez'.*Did you mean 'size'"),
        ({"over": "drop"}, "what is lost is its other axis"),
        ({"points": 1}, "ask for 2 or more"),
    ],
)
def test_what_is_no_front_is_refused(more: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        front_of(folder, **more)


def test_the_function_is_the_public_name() -> None:
    assert onnxmpq.pareto is pareto
    assert onnxmpq.Front is Front


@pytest.mark.parametrize("method", ["sqnr", "local"])
def test_any_method_gives_a_front(tmp_path: Path, method: str) -> None:
    with np.load(MODELS / "digits_calibration.npz") as data:
        samples = {name: data[name][:8] for name in data.files}
    given = {"options": ["w8a8", "w4a8"], "points": 4, "store": tmp_path / "x.store", "effort": "quick"}
    found = pareto(MODEL, samples, **asked(method=method, **given))
    sources = {point.source for point in found.points}
    assert method in sources
    assert sources <= {method, "uniform w8a8", "uniform w4a8"}
    assert [point.file_bytes for point in found.points] == sorted(point.file_bytes for point in found.points)
    losses = [point.loss.value for point in found.points]
    assert losses == sorted(losses, reverse=True)
