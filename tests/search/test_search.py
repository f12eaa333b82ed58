"""Searching: plans within budgets to the byte, the least that can be had, drops, and runs that go on."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmpq.api import Result, inspect, quantize
from onnxmpq.artifacts import FLOAT, Plan
from onnxmpq.errors import InfeasibleError, InputError
from onnxmpq.sensitivity.workers.bundles import run_bundled
from onnxmpq.sensitivity.workers.judge import Results
from onnxmpq.sensitivity.workers.worker import Job, Worker
from tests.asked import asked
from tests.small import MODELS, small_model

MODEL = small_model()
FLOAT_BYTES = MODEL.stat().st_size
COUNT = 16
TWO = ("w4a8", "w2a8")
FEW = ("stage.*=w4a8",)
"""Kept as they are, so that few units are left to decide."""


def images(name: str, count: int) -> dict[str, np.ndarray]:
    """Return the first samples of an embedded data set."""
    with np.load(MODELS / f"digits_{name}.npz") as data:
        return {key: data[key][:count] for key in data.files}


class Desk:
    """A folder with a store, so that everything is measured once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def search(self, *budget: str, model: Path = MODEL, **more: Any) -> Result:
        """Search a plan of a model."""
        blends = more.get("method", "gram") == "gram"
        given: dict[str, Any] = {
            "output": self.folder / "q.onnx",
            "overwrite": True,
            "budget": budget,
            "effort": "quick",
            "store": self.folder / ("q.store" if blends else "plain.store"),
            "allow_slower": True,
            "speed_budget_s": 0.0,
        }
        return quantize(model, images("calibration", COUNT), **asked(**given | more))

    def refused(self, *budget: str, **more: Any) -> str:
        """Search a plan where there is none, and return what is told."""
        with pytest.raises(InfeasibleError) as error:
            self.search(*budget, **more)
        return str(error.value)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Open a folder for all tests."""
    return Desk(tmp_path_factory.mktemp("search"))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the jobs that run."""
    ran: list[Any] = []

    def counting(work: Any, todo: Any, *rest: Any, **more: Any) -> Any:
        ran.extend(todo)
        return run_bundled(work, todo, *rest, **more)

    monkeypatch.setattr("onnxmpq.sensitivity.engine.run_bundled", counting)
    return ran


# ---- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["20%", "46kB"])
def test_a_file_is_within_its_size_to_the_byte_and_makes_use_of_it(size: str, desk: Desk) -> None:
    result = desk.search(f"size={size}")
    amounts = {"20%": 0.2 * FLOAT_BYTES, "46kB": 46_000}
    assert 0.97 * amounts[size] < result.file_bytes <= amounts[size]
    assert result.path.stat().st_size == result.file_bytes
    assert result.verdict["size"].ok is True  # the bytes of tensors are those predicted


def test_options_that_write_very_different_graphs_are_within_their_size_too(desk: Desk) -> None:
    whole, options = MODELS / "digits_cnn.onnx", ["float", "w8a8", "w2a8"]
    more: dict[str, Any] = {"method": "clado-star", "store": desk.folder / "whole.store"}
    result = desk.search("size=50%", model=whole, options=options, keep=["stage2.*=w4"], **more)
    assert 0.95 * 0.5 * whole.stat().st_size < result.file_bytes <= 0.5 * whole.stat().st_size


def test_several_budgets_hold_at_once(desk: Desk) -> None:
    result = desk.search("size=26%", "bops=5%", "bits=3.5", "memory=40%")
    units = result.space.units
    choices = result.plan.choices
    bops = sum(unit.cost(choices.get(unit.name, FLOAT)).bops for unit in units)
    bits = sum(unit.parameters * choices.get(unit.name, FLOAT).weight_bits for unit in units)
    assert result.file_bytes <= 0.26 * FLOAT_BYTES
    assert bops <= 0.05 * sum(unit.cost(FLOAT).bops for unit in units)
    assert bits <= 3.5 * sum(unit.parameters for unit in units)


def test_slow_integer_kernels_do_not_break_a_budget(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.guard.kernels.SLOWER_THAN_FLOAT", 99.0)
    result = desk.search("bops=7%", allow_slower=False, keep=FEW)
    units, choices = result.space.units, result.plan.choices
    bops = sum(unit.cost(choices.get(unit.name, FLOAT)).bops for unit in units)
    assert bops <= 0.07 * sum(unit.cost(FLOAT).bops for unit in units)
    result = desk.search("size=24%", allow_slower=False, keep=FEW)
    assert result.file_bytes <= 0.24 * FLOAT_BYTES


def test_decisions_by_hand_hold(desk: Desk) -> None:
    names = [unit.name for unit in inspect(MODEL).units]
    kept, tied, excluded = names[0], names[3:5], names[-1]
    result = desk.search("size=30%", keep=[f"{kept}=w2a8"], ties=[",".join(tied)], exclude=[excluded])
    choices = result.plan.choices
    assert str(choices[kept]) == "w2a8"
    assert choices[tied[0]] == choices[tied[1]]
    assert excluded not in choices


@pytest.mark.parametrize("method", ["gram", "sqnr", "uniform"])
def test_no_method_is_worse_than_a_uniform_plan_of_the_same_budgets(method: str, desk: Desk) -> None:
    decision = desk.search("size=26%", method=method).decision
    assert decision is not None
    assert {"w4a8", "w2a8"} <= set(decision.uniforms)
    assert all(decision.loss.value <= loss.value for _, loss in decision.uniforms.values())


def test_what_was_measured_and_proved_is_told(desk: Desk) -> None:
    result = desk.search("size=26%", method="clado-star")
    data = result.to_json()["decision"]
    assert data["loss"] > 0
    assert data["loss_error"] > 0
    assert data["full_runs"] > 2
    assert data["proof"]["status"] == "optimal"
    assert data["proof"]["bound"] <= data["proof"]["objective"]
    assert len(data["agreement"]["splits"]) == 2
    assert result.plan.method == "clado-star"
    assert result.plan.ranges["rounding"] == "sequential"


# ---- what cannot be met ----------------------------------------------------------------------------------------------


def test_the_least_size_is_told_and_can_be_had(desk: Desk) -> None:
    told = desk.refused("size=5%")
    found = re.fullmatch(
        r"No plan meets the budgets\. size=5% cannot be met: the least is ([\d,]+) \([\d.]+% of float\)\.", told
    )
    assert found, told
    least = int(found[1].replace(",", ""))
    assert desk.search(f"size={least}").file_bytes == least
    assert f"the least is {least:,}" in desk.refused(f"size={least - 1}")


def test_the_least_of_other_budgets_can_be_had(desk: Desk) -> None:
    told = re.search(r"bops=0.1% cannot be met: the least is ([\d,]+)", desk.refused("bops=0.1%"))
    assert told
    desk.search(f"bops={told[1].replace(',', '')}")
    assert "bits=1.5 cannot be met: the least is 2." in desk.refused("bits=1.5")


def test_budgets_that_fit_alone_and_not_together_are_told(desk: Desk) -> None:
    told = desk.refused("size=26%", "bops=7%", options=("w8a8", "w4"))  # few bytes, or few bits times bits
    assert "size=26% cannot be met together with the others. The nearest plan takes" in told
    assert "bops=7% cannot be met together with the others. The nearest plan takes" in told


def test_a_search_needs_a_budget_and_a_plan_none(desk: Desk) -> None:
    with pytest.raises(InputError, match="A search needs a budget: size=30%"):
        desk.search(method="gram")
    with pytest.raises(InputError, match="leave out the budget, or the plan"):
        desk.search("size=30%", plan=Plan("ort-cpu", "none", {}))


# ---- drops -----------------------------------------------------------------------------------------------------------


def test_the_smallest_file_that_keeps_held_out_accuracy_is_found(desk: Desk) -> None:
    result = desk.search("drop=2%", evaluation=images("evaluation", 200), options=TWO, ties=["stage.*"])
    assert result.accuracy is not None
    assert max(result.accuracy.before - result.accuracy.after, 0) + 2 * result.accuracy.difference_error <= 0.02
    assert result.file_bytes < 0.25 * FLOAT_BYTES
    assert "The metric falls by" in " ".join(result.notes)


def test_without_labels_classes_must_stay(desk: Desk) -> None:
    result = desk.search("drop=20%", "size=30%", options=TWO, ties=["stage.*"])
    assert result.accuracy is None
    fall = re.search(r"The metric falls by ([\d.]+) ± ([\d.]+) points", " ".join(result.notes))
    assert fall
    assert float(fall[1]) + 2 * float(fall[2]) <= 20
    assert result.file_bytes <= 0.3 * FLOAT_BYTES


def test_a_drop_that_nothing_keeps_is_told(desk: Desk) -> None:
    told = desk.refused("drop=0.001%", options=["w2a8"])
    assert "No plan of w2a8 is within drop=0.001%. Of the best one that was found: The metric falls by " in told
    assert "size=5% cannot be met" not in told


# ---- going on --------------------------------------------------------------------------------------------------------


def test_the_same_search_again_runs_no_job(desk: Desk, jobs: list[Any]) -> None:
    first = desk.search("size=24%", effort="default", keep=FEW)
    jobs.clear()
    again = desk.search("size=24%", effort="default", keep=FEW)
    assert jobs == []
    assert again.plan == first.plan


def test_an_interrupted_search_goes_on_and_runs_no_job_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(Worker, "__call__", _recorded(ran, 12))
    with pytest.raises(KeyboardInterrupt):
        Desk(tmp_path).search("size=24%", keep=FEW)
    assert not (tmp_path / "q.onnx").exists()
    monkeypatch.setattr(Worker, "__call__", _recorded(ran, 0))
    resumed = Desk(tmp_path).search("size=24%", keep=FEW)
    assert len(ran) == len(set(ran))
    assert resumed.decision is not None


_RUN = Worker.__call__


def _recorded(ran: list[Job], stop: int) -> Callable[[Worker, Job], Results]:
    def run(worker: Worker, job: Job) -> Results:
        if stop and len(ran) == stop:
            raise KeyboardInterrupt
        ran.append(job)
        return _RUN(worker, job)

    return run


def test_a_seed_gives_the_same_file_wherever_it_runs(tmp_path: Path) -> None:
    first, second = (
        Desk(tmp_path).search(
            "size=24%",
            output=tmp_path / f"{name}.onnx",
            store=tmp_path / f"{name}.store",
            seed=3,
            effort="default",
            keep=FEW,
        )
        for name in ("first", "second")
    )
    assert first.plan == second.plan
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.decision is not None
    assert second.decision is not None
    assert first.decision.loss == second.decision.loss
    assert first.decision.runs == second.decision.runs
