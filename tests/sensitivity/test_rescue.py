"""A search that fails, or something after it, loses nothing that was found; what cannot hold is told before it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq import api
from onnxmpq.api import quantize
from onnxmpq.artifacts import Check, Option, Plan, Verdict
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.sensitivity.stored.store import Store
from onnxmpq.sensitivity.workers.bundles import run_bundled
from onnxmpq.sensitivity.workers.processes import ProcessExecutor
from onnxmpq.sensitivity.workers.worker import Job
from onnxmpq.verification.verify import verify as verify_file
from onnxmpq.workspace import export
from onnxmpq.workspace.export import Exporter
from tests.asked import asked
from tests.graphs import feeds_for, layer_chain
from tests.processes import python

MODEL = layer_chain("Conv")


class Desk:
    """A folder with a model and its samples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        onnx.save(ir.to_proto(MODEL), str(folder / "m.onnx"))
        np.savez(folder / "s.npz", x=np.concatenate([feed["x"] for feed in feeds_for(MODEL)]))
        (folder / "out").mkdir()

    def there(self) -> set[str]:
        """Return the names of all files below the output folder, hidden ones too."""
        return {path.name for path in (self.folder / "out").rglob("*")}

    def search(self, **changes: Any) -> api.Result:
        """Search a plan, with one thing changed."""
        given: dict[str, Any] = {
            "model": self.folder / "m.onnx",
            "calibration": self.folder / "s.npz",
            "output": self.folder / "out" / "q.onnx",
            "budget": ["size=60%"],
            "effort": "quick",
            "overwrite": True,
            "allow_slower": True,
            "speed_budget_s": 0.0,
        }
        return quantize(**asked(**given | changes))

    def failed(self, kind: type[BaseException] = VerifyError, **changes: Any) -> tuple[str, list[str]]:
        """Search a plan where something fails; return what is said, and the notes of it."""
        with pytest.raises(kind) as told:
            self.search(**changes)
        return str(told.value), getattr(told.value, "__notes__", [])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file fail that would be given out, and those hold that are tried before."""
    real = verify_file

    def verify(*given: Any, **more: Any) -> Verdict:
        found = real(*given, **more)
        if given[3].name == "tried.onnx":
            return found
        return Verdict(found.runtime, (*found.checks, Check("simulation", False, 16.0, "40 dB", "made up")))

    monkeypatch.setattr(export, "verify", verify)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Collect the jobs that run."""
    ran: list[Job] = []

    def counting(work: Any, todo: Any, *rest: Any, **more: Any) -> Any:
        ran.extend(todo)
        return run_bundled(work, todo, *rest, **more)

    monkeypatch.setattr("onnxmpq.sensitivity.engine.run_bundled", counting)
    return ran


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_a_file_that_does_not_hold_leaves_plan_and_measurements(
    desk: Desk, broken: None, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, notes = desk.failed()
    out = desk.folder / "out"
    assert desk.there() == {"q.store", "q.unverified.plan.json"}
    assert "simulation is 16.0 (expected 40 dB; made up)" in text
    assert text.endswith("No model was written.")
    assert f"--store {out / 'q.store'}" in notes[0]
    assert f"onnxmpq apply MODEL {out / 'q.unverified.plan.json'} -c SAMPLES -o {out / 'q.onnx'}" in notes[1]

    monkeypatch.undo()
    with Store.open(out / "q.store", None) as store:
        measured = store.count
    assert f"{measured} results" in notes[0]
    assert measured > 3
    plan = Plan.read(out / "q.unverified.plan.json")
    applied = desk.search(plan=plan, budget=())
    assert applied.plan.choices == plan.choices
    assert applied.plan.method == "gram"


def test_the_same_command_with_the_store_runs_nothing_again(desk: Desk, broken: None, jobs: list[Job]) -> None:
    desk.failed()
    assert jobs
    jobs.clear()
    desk.failed(store=desk.folder / "out" / "q.store")
    assert jobs == []


def test_a_store_that_was_given_stays_where_it_is(desk: Desk, broken: None) -> None:
    mine = desk.folder / "mine.store"
    _, notes = desk.failed(store=mine)
    assert desk.there() == {"q.unverified.plan.json"}
    assert f"results, is in '{mine}'" in notes[0]


def test_what_was_kept_before_is_not_replaced(desk: Desk, broken: None) -> None:
    desk.failed()
    _, notes = desk.failed()
    assert desk.there() == {"q.store", "q.2.store", "q.unverified.plan.json", "q.unverified.plan.2.json"}
    assert "q.2.store" in notes[0]
    assert "q.unverified.plan.2.json" in notes[1]


def stop_at(stage: str, error: BaseException) -> Callable[[str, int, int], None]:
    """Return a progress that raises when some of a stage is done."""

    def report(what: str, done: int, _of: int) -> None:
        if what == stage and done > 2:
            raise error

    return report


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_whatever_ends_a_search_leaves_what_was_measured(error: BaseException, desk: Desk) -> None:
    _, notes = desk.failed(type(error), progress=stop_at("responses", error))
    assert desk.there() == {"q.store"}
    assert len(notes) == 1
    assert "q.store" in notes[0]
    with Store.open(desk.folder / "out" / "q.store", None) as store:
        assert store.verify().ok
        assert store.count > 0


def test_nothing_is_kept_where_nothing_was_measured(desk: Desk) -> None:
    _, notes = desk.failed(
        KeyboardInterrupt, progress=lambda what, *_: stop_at("calibrate", KeyboardInterrupt())(what, 9, 9)
    )
    assert desk.there() == set()
    assert notes == []


def test_a_search_that_ends_well_leaves_its_file_and_plan(desk: Desk) -> None:
    assert desk.search().verdict.ok
    assert desk.there() == {"q.onnx", "q.plan.json"}


def test_a_disk_that_is_full_then_too_is_said(desk: Desk, broken: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("onnxmpq.sensitivity.rescue.shutil.move", full)
    text, notes = desk.failed()
    assert "No model was written." in text
    assert notes == [
        f"What was measured could not be kept beside '{desk.folder / 'out' / 'q.onnx'}': {os.strerror(errno.ENOSPC)}."
    ]


def test_the_command_line_says_where_it_is(desk: Desk) -> None:
    code = (
        "import onnxmpq.api as c\nfrom onnxmpq.errors import VerifyError\n"
        "def fail(*_):\n    raise VerifyError('It does not hold. No model was written.')\n"
        "c._exported = fail\nfrom onnxmpq.cli import main; main()"
    )
    given = ("quantize", "m.onnx", "-c", "s.npz", "-o", "out/q.onnx", "-b", "size=60%", "--effort", "quick", "-q")
    ended = python("-c", code, *given, folder=desk.folder)
    assert (ended.returncode, ended.stdout) == (4, "")
    lines = ended.stderr.splitlines()
    assert lines[0] == "Error: It does not hold. No model was written."
    assert lines[1].endswith("results, is in 'out/q.store': the same command with --store out/q.store goes on.")
    assert lines[2].startswith("The plan that was found is in 'out/q.unverified.plan.json'")
    assert len(lines) == 3


def refuse(job: Job) -> None:
    """Fail on purpose."""
    raise InputError(f"This will not do: {job}.")


def test_what_a_worker_raises_on_purpose_has_no_traceback_in_its_notes() -> None:
    with ProcessExecutor(1) as executor:
        error = executor.submit(refuse, 3).exception()  # type: ignore[arg-type]
    assert isinstance(error, InputError)
    assert not hasattr(error, "__notes__")


# ---- what is tried before --------------------------------------------------------------------------------------------


@pytest.fixture
def rehearsals(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Option]]]:
    """Let files that are tried before a search fail, the first of them or all; collect their plans."""

    def fail(which: str) -> list[dict[str, Option]]:
        seen: list[dict[str, Option]] = []

        def tried(self: Exporter, plan: Plan) -> Verdict:
            seen.append(dict(plan.choices))
            bad = which == "all" or len(seen) == 1
            return Verdict("made up", (Check("simulation", not bad, 16.0, "40 dB", "made up"),))

        monkeypatch.setattr(Exporter, "tried", tried)
        return seen

    return fail


def test_what_cannot_hold_is_told_before_anything_is_searched(
    desk: Desk, jobs: list[Job], rehearsals: Callable[..., list[dict[str, Option]]]
) -> None:
    seen = rehearsals("all")
    text, _ = desk.failed()
    assert text.startswith(
        "Before the search was begun the smallest file was tried, and it does not hold in onnxruntime"
    )
    assert "Neither does the largest. No model was written. Give other --options, or another --target." in text
    assert [set(choices.values()) for choices in seen] == [{Option(2, 8)}, {Option(8, 8)}]
    assert not [job for job in jobs if type(job).__name__ == "ResponseJob"]
    assert "q.unverified.plan.json" not in desk.there()


def test_few_bits_that_do_not_hold_are_a_note(desk: Desk, rehearsals: Callable[..., list[dict[str, Option]]]) -> None:
    rehearsals("first")
    result = desk.search()
    assert result.verdict.ok
    assert any(
        note.startswith("The smallest file that was on offer does not hold in onnxruntime") for note in result.notes
    )


def test_the_file_that_is_tried_is_really_verified(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    real = verify_file

    def verify(*given: Any, **more: Any) -> Verdict:
        names.append(given[3].name)
        return real(*given, **more)

    monkeypatch.setattr(export, "verify", verify)
    desk.search()
    assert names == ["tried.onnx", "q.onnx"]


def test_a_plain_quantise_tries_nothing_before(desk: Desk, rehearsals: Callable[..., list[dict[str, Option]]]) -> None:
    seen = rehearsals("all")
    assert desk.search(budget=(), effort="default").verdict.ok
    assert seen == []
