"""Resuming: whatever kills a run, what was measured is kept, nothing runs twice, and the table is the same."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmpq.api import measure
from onnxmpq.artifacts import Option
from onnxmpq.errors import InputError
from onnxmpq.options import MeasureOptions, Numbers
from onnxmpq.sensitivity.stored.store import Store
from onnxmpq.sensitivity.table import Table
from onnxmpq.sensitivity.workers.executors import open_executor
from onnxmpq.workspace.prepare import Prepared, prepare
from tests.asked import asked
from tests.graphs import rng
from tests.opened import engine_on
from tests.processes import Running
from tests.small import small_model

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
MODEL = str(MODELS / "digits_cnn.onnx")
OPTIONS = (Option(4, 8), Option(8, 8))


def digits(count: int) -> dict[str, Any]:
    """Return images."""
    with np.load(MODELS / "digits_calibration.npz") as data:
        return {"image": data["image"][:count]}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a file of samples."""
    path = tmp_path_factory.mktemp("samples") / "s.npz"
    np.savez(path, **digits(60))
    return path


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """Return a model, prepared."""
    return prepare(small_model(), "ort-cpu")


def started(samples: Path, store: Path, output: Path) -> Running:
    """Start measuring in a process of its own."""
    given = ("-c", str(samples), "--store", str(store), "-o", str(output), "--options", "w4a8,w8a8", "--json")
    return Running("measure", MODEL, *given, more={"ONNXMPQ_ONE_PROCESS": "1"})


def told(path: Path) -> dict[str, Any]:
    """Return a table without what it took."""
    data: dict[str, Any] = json.loads(path.read_text())
    data.pop("cost")
    return data


def results(store: Path, mode: str = "rw") -> dict[bytes, tuple[int, float]]:
    """Return row number and seconds of every result, as SQLite has them.

    Who may only read cannot undo what a killed process had half written.
    """
    if not store.exists():
        return {}
    sql = sqlite3.connect(f"file:{store}?mode={mode}", uri=True)
    sql.text_factory = bytes
    try:
        return {key: (row, seconds) for key, row, seconds in sql.execute("SELECT key, rowid, seconds FROM results")}
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return {}  # killed before the store was laid out
    finally:
        sql.close()


def wait_for(store: Path, count: int, process: Running) -> None:
    """Wait until a store has so many results, or the process has ended."""
    limit = time.monotonic() + 60
    while not process.ended() and time.monotonic() < limit:
        try:
            if len(results(store, "ro")) >= count:
                return
        except sqlite3.Error:
            pass  # it is being written
        time.sleep(0.002)


def test_a_run_killed_ten_times_ends_with_the_same_table_and_does_nothing_twice(samples: Path, tmp_path: Path) -> None:
    store = tmp_path / "r.store"
    jobs = len(prepare(MODEL, "ort-cpu").space.units) * 2 + 1
    kept: dict[bytes, tuple[int, float]] = {}
    goals = sorted(int(n) for n in rng(1).choice(np.arange(1, jobs), 10, replace=False))
    killed = 0
    for goal in goals:
        process = started(samples, store, tmp_path / "t.json")
        wait_for(store, goal, process)
        time.sleep(float(rng(goal).uniform(0, 0.01)))
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait().returncode == -signal.SIGKILL
        now = results(store)
        assert kept.items() <= now.items()  # no row was lost, and none was written again
        kept = now
    assert killed >= 8
    assert kept
    assert not (tmp_path / "t.json").exists() or killed < 10
    assert started(samples, store, tmp_path / "t.json").wait().returncode == 0
    final = results(store)
    assert kept.items() <= final.items()
    assert len(final) == jobs
    started(samples, tmp_path / "other.store", tmp_path / "u.json").wait()
    assert told(tmp_path / "t.json") == told(tmp_path / "u.json")
    run = json.loads((tmp_path / "t.json").read_text())["cost"]["jobs_run"]
    if killed == 10:
        assert run == jobs - len(kept)


def test_an_interrupt_leaves_a_store_and_says_how_to_go_on(samples: Path, tmp_path: Path) -> None:
    store = tmp_path / "r.store"
    process = started(samples, store, tmp_path / "t.json")
    wait_for(store, 5, process)
    os.kill(process.pid, signal.SIGINT)
    ended = process.wait()
    error = ended.stderr
    assert ended.returncode == 130, error
    assert ended.stdout == ""
    with Store.open(store, None) as kept:
        assert kept.verify().ok
        assert f"Interrupted: {kept.count} results are in '{store}'. The same command goes on from there." in error
        assert kept.count >= 5
    assert "Traceback" not in error
    assert not (tmp_path / "t.json").exists()


def test_a_dask_worker_that_is_killed_costs_nothing_but_its_job(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with engine_on(MODEL, digits(4), MeasureOptions(batch=1)) as engine:
        want = told_of(engine.table(OPTIONS), tmp_path / "want.json")
    dead: list[int] = []
    reports: list[int] = []

    def kill_one(what: str, done: int, _of: int) -> None:
        if what == "responses":
            reports.append(done)
        if len(reports) == 20 and not dead:
            pids = executor._client.run(os.getpid)  # type: ignore[attr-defined]
            dead.append(next(iter(pids.values())))
            os.kill(dead[0], signal.SIGKILL)

    with open_executor("dask:local:2") as executor:
        with engine_on(MODEL, digits(4), MeasureOptions(batch=1), executor=executor, progress=kill_one) as engine:
            table = engine.table(OPTIONS)
            assert table.cost["jobs_run"] == engine.store.count == table.cost["jobs"]
    assert dead
    assert told_of(table, tmp_path / "got.json") == want


def told_of(table: Table, path: Path) -> dict[str, Any]:
    """Return a table as it is written, without what it took."""
    table.write(path)
    return told(path)


# ---- what a store is for ---------------------------------------------------------------------------------------------


def table_from(store: Path, *, model: str = "", data: Mapping[str, Any] | None = None, **more: Any) -> Table:
    """Measure with a store."""
    return measure(model or small_model(), data or digits(3), options=("w8a8",), **asked(store=store, **more))


def test_nothing_runs_again_where_all_is_there(tmp_path: Path) -> None:
    store = tmp_path / "r.store"
    first, again = table_from(store), table_from(store)
    assert first.cost["jobs_run"] == first.cost["jobs"] > 7
    assert again.cost["jobs_run"] == 0
    assert told_of(first, tmp_path / "a.json") == told_of(again, tmp_path / "b.json")


@pytest.mark.parametrize(
    ("part", "more"),
    [
        ("another model", {"model": MODEL}),
        ("other samples", {"data": {"image": digits(3)["image"] * np.float32(1.01)}}),
        ("other samples", {"data": digits(4)}),
        ("other ranges", {"numbers": Numbers(activations="minmax")}),
        ("other ranges", {"numbers": Numbers(rounding="gptq")}),
        ("another target", {"target": "openvino"}),
        ("another loss", {"loss": "power"}),
        ("another batch size", {"batch": 2}),
        ("another engine|another version of the measuring engine", {"seed": 1}),
        ("another runtime", {"threads": 2}),
        ("another runtime", {"device": "host"}),
    ],
)
def test_a_store_made_for_something_else_is_refused(part: str, more: dict[str, Any], tmp_path: Path) -> None:
    store = tmp_path / "r.store"
    table_from(store)
    before = store.read_bytes()
    with pytest.raises(InputError, match=part):
        table_from(store, **more)
    assert store.read_bytes() == before


def test_a_damaged_result_is_measured_again(tmp_path: Path) -> None:
    store = tmp_path / "r.store"
    first = table_from(store)
    sql = sqlite3.connect(store)
    sql.execute("UPDATE results SET arrays = substr(arrays, 1, length(arrays) - 1) || x'ff' WHERE rowid IN (3, 7)")
    sql.commit()
    sql.close()
    with pytest.warns(RuntimeWarning, match="damaged result"):
        again = table_from(store)
    assert again.cost["jobs_run"] == 2
    assert told_of(first, tmp_path / "a.json") == told_of(again, tmp_path / "b.json")
    assert table_from(store).cost["jobs_run"] == 0
