"""Executors: the same results everywhere, jobs survive their workers, and an interrupt keeps what is done."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxmpq.api import measure
from onnxmpq.errors import InputError, InternalError
from onnxmpq.options import MeasureOptions
from onnxmpq.sensitivity.workers.bundles import Load, bundled, run_bundled
from onnxmpq.sensitivity.workers.executors import (
    AutoExecutor,
    InlineExecutor,
    crowding,
    in_flight,
    open_executor,
    opened,
    runs_here,
    side_by_side,
    workers_of,
)
from onnxmpq.sensitivity.workers.processes import ProcessExecutor, WorkerDied
from onnxmpq.sensitivity.workers.running import run_jobs
from tests.sensitivity.jobs import (
    Job,
    big_then_die,
    die,
    die_once,
    draw,
    fail_at_three,
    fail_oddly,
    identity,
    nap,
    where,
)
from tests.small import MODELS, small_model

ROOT = Path(__file__).parents[2]
needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
SPECS = [
    "inline",
    "processes:1",
    "processes:3",
    pytest.param("dask:local:1", marks=needs_dask),
    pytest.param("dask:local:2", marks=needs_dask),
]


def collect(executor: Executor, count: int = 12) -> dict[int, bytes]:
    """Run ``draw`` on some jobs; return the bytes of each result."""
    results: dict[int, bytes] = {}

    def keep(job: Job, result: npt.NDArray[np.float64]) -> None:
        assert job.seed not in results
        results[job.seed] = result.tobytes()

    run_jobs(draw, (Job(seed) for seed in range(count)), executor, on_result=keep)
    return results


@pytest.mark.parametrize("spec", SPECS)
def test_results_are_the_same_whatever_the_executor(spec: str) -> None:
    with open_executor(spec) as executor:
        found = collect(executor)
    assert found == {seed: draw(Job(seed)).tobytes() for seed in range(12)}


def test_any_executor_of_the_standard_library_will_do() -> None:
    with ThreadPoolExecutor(3) as executor:
        assert collect(executor) == {seed: draw(Job(seed)).tobytes() for seed in range(12)}


def test_several_processes_work_and_end() -> None:
    pids: set[int] = set()
    with open_executor("processes:3") as executor:
        run_jobs(nap, map(Job, range(30)), executor, on_result=lambda _, pid: pids.add(pid))
    assert len(pids) == 3
    assert os.getpid() not in pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("spec", ["processes:2", pytest.param("dask:local:2", marks=needs_dask)])
def test_a_job_whose_worker_died_runs_again(spec: str, tmp_path: Path) -> None:
    results: dict[int, int] = {}
    jobs = [Job(seed, str(tmp_path)) for seed in range(9)]
    with open_executor(spec) as executor:
        run_jobs(die_once, jobs, executor, on_result=lambda job, result: results.update({job.seed: result}))
    assert results == {seed: seed**2 for seed in range(9)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "4", "7"]


def test_a_job_that_kills_every_worker_is_named(tmp_path: Path) -> None:
    done: list[int] = []
    with (
        open_executor("processes:2") as executor,
        pytest.raises(InputError, match=r"died 3 times at the job Job\(seed=5, .*exit code 9.*memory"),
    ):
        run_jobs(die, [Job(5, str(tmp_path))], executor, on_result=lambda job, _: done.append(job.seed))
    assert not done
    assert len(list(tmp_path.iterdir())) == 3


def test_a_death_in_the_middle_of_a_large_result_is_noticed() -> None:
    died = 0
    with ProcessExecutor(1) as executor:
        for _ in range(10):  # the timer may also come before, or after
            if died == 3:
                break
            died += isinstance(executor.submit(big_then_die, Job(0)).exception(timeout=30), WorkerDied)
        assert executor.submit(identity, Job(1)).result(timeout=30) == Job(1)
    assert died


@pytest.mark.parametrize("spec", ["inline", "processes:2", pytest.param("dask:local:2", marks=needs_dask)])
def test_what_a_job_raises_is_raised_and_not_tried_again(spec: str, tmp_path: Path) -> None:
    done: set[int] = set()
    jobs = (Job(seed, str(tmp_path)) for seed in range(1000))
    with open_executor(spec) as executor, pytest.raises(KeyError, match="three"):
        run_jobs(fail_at_three, jobs, executor, on_result=lambda job, _: done.add(job.seed), ahead=2)
    assert 3 not in done
    assert len(list(tmp_path.glob("3.*"))) == 1
    assert len(list(tmp_path.iterdir())) < 1000


def test_workers_start_where_there_is_much_to_do_and_memory_for_them() -> None:
    with open_executor("auto", 2) as executor:
        assert isinstance(executor, AutoExecutor)
        executor.expect(0.1, 1)
        executor.expect(1e6, 10**15)
        assert runs_here(executor)
        assert executor.submit(where, Job(1)).result() == os.getpid()
        executor.expect(1e6, 1)
        assert not runs_here(executor)
        assert executor.submit(where, Job(1)).result() != os.getpid()
    with open_executor("auto", 1) as executor:
        assert isinstance(executor, AutoExecutor)
        executor.expect(1e6, 1)
        assert runs_here(executor)


UNGUARDED = """
import sys
import onnxmpq
import onnxmpq.sensitivity.workers.executors as executors
from tests.small import MODELS, small_model

executors.MUCH_S = 0.0
print("read", flush=True)
table = onnxmpq.measure(
    small_model(),
    MODELS / "digits_calibration.npz",
    options=("w4a8",),
    measure=onnxmpq.MeasureOptions(jobs=2, samples=8),
)
print(len(table.variants), table.loss.sum())
"""


def test_a_program_without_a_guard_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(UNGUARDED, "utf-8")
    path = os.pathsep.join(sys.path)
    ended = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    told, figures = ended.stdout.splitlines()
    assert told == "read"
    expected = measure(
        small_model(),
        MODELS / "digits_calibration.npz",
        options=("w4a8",),
        measure=MeasureOptions(executor="inline", samples=8),
    )
    assert figures == f"{len(expected.variants)} {expected.loss.sum()}"


def test_an_error_carries_the_traceback_of_its_worker() -> None:
    with ProcessExecutor(1) as executor:
        error = executor.submit(fail_at_three, Job(3, "/")).exception()
        assert isinstance(error, KeyError | PermissionError)
        assert "in fail_at_three" in error.__notes__[0]
        odd = executor.submit(fail_oddly, Job(3)).exception()
        assert isinstance(odd, InternalError)
        assert "OddError: 1 3" in str(odd)
        assert executor.submit(identity, Job(1)).result() == Job(1)


def test_what_cannot_be_sent_to_a_worker_is_raised() -> None:
    with ProcessExecutor(1) as executor:
        assert "pickle" in str(executor.submit(lambda: 1).exception())
        assert executor.submit(identity, Job(1)).result() == Job(1)


@pytest.mark.parametrize(("spec", "ahead", "most"), [("inline", 8, 1), ("processes:2", 4, 4), ("processes:2", 1, 1)])
def test_few_jobs_are_in_flight(spec: str, ahead: int, most: int) -> None:
    taken, given, peak = 0, 0, 0

    def jobs() -> Iterator[Job]:
        nonlocal taken, peak
        for seed in range(30):
            taken += 1
            peak = max(peak, taken - given)
            yield Job(seed)

    def keep(job: Job, result: Job) -> None:
        nonlocal given
        given += 1

    with open_executor(spec) as executor:
        run_jobs(identity, jobs(), executor, on_result=keep, ahead=ahead)
    assert (taken, given) == (30, 30)
    assert peak <= most


@pytest.mark.parametrize("spec", ["inline", "processes:2", pytest.param("dask:local:2", marks=needs_dask)])
def test_an_interrupt_keeps_what_was_handed_over(spec: str) -> None:
    kept: list[int] = []

    def keep(job: Job, result: int) -> None:
        if len(kept) == 5:
            raise KeyboardInterrupt
        kept.append(job.seed)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), open_executor(spec) as executor:
        run_jobs(nap, map(Job, range(10_000)), executor, on_result=keep)
    assert len(kept) == len(set(kept)) == 5
    assert time.monotonic() - begun < 30


SCRIPT = """
import signal, sys, time
from onnxmpq.sensitivity.workers.executors import open_executor
from onnxmpq.sensitivity.workers.running import run_jobs

def nap(seconds):
    time.sleep(seconds)
    return seconds

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore interrupts
    with open_executor(sys.argv[1]) as executor:
        run_jobs(nap, [0, 0, 0, 60, 60, 60, 60], executor, on_result=lambda job, _: print("done", job, flush=True))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of process groups")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_run(sent: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group and a kill the run alone: in the middle of long jobs, nothing is left over."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "script.py", "processes:2"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout
        assert [run.stdout.readline().strip() for _ in range(3)] == ["done 0"] * 3
        begun = time.monotonic()
        if sent == signal.SIGINT:
            os.killpg(run.pid, sent)
        else:
            run.kill()
        errors = run.communicate(timeout=30)[1]  # ends when the last process that holds the pipe does
    assert run.returncode == -sent
    assert time.monotonic() - begun < 20
    assert errors.count("Traceback") == (sent == signal.SIGINT)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    shown = subprocess.run(
        [sys.executable, "script.py", "processes:1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 1
    assert "InputError: The worker processes do not start" in shown.stderr
    assert '`if __name__ == "__main__":`' in shown.stderr


class Forgetful(Executor):
    """Lose every job a number of times, as a cluster loses futures."""

    def __init__(self, times: int) -> None:
        self.times = times

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        future: Future[object] = Future()
        if self.times:
            self.times -= 1
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_result(fn(*args, **kwargs))
        return future


def test_lost_futures_are_submitted_again() -> None:
    done: list[Job] = []
    run_jobs(identity, [Job(1), Job(2)], Forgetful(2), on_result=lambda job, _: done.append(job), ahead=1)
    assert done == [Job(1), Job(2)]
    with pytest.raises(InputError, match="died 3 times") as caught:
        run_jobs(identity, [Job(1)], Forgetful(9), on_result=lambda job, _: done.append(job))
    assert isinstance(caught.value.__cause__, CancelledError)


def test_a_pool_that_cannot_replace_workers_says_so() -> None:
    class Broken(InlineExecutor):
        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            raise BrokenProcessPool("broken")

    with pytest.raises(BrokenProcessPool):
        run_jobs(identity, [Job(1)], Broken(), on_result=lambda *_: None)


def test_no_jobs_are_no_work() -> None:
    with open_executor("processes:2") as executor:
        run_jobs(identity, [], executor, on_result=lambda *_: None)


def test_a_closed_executor_takes_no_jobs() -> None:
    with open_executor("processes:1") as executor:
        pass
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(identity, Job(1))


@pytest.mark.parametrize(
    ("spec", "workers"),
    [("inline", 1), ("auto", 1), ("processes:3", 3), pytest.param("dask:local:2", 2, marks=needs_dask)],
)
def test_how_many_jobs_run_side_by_side_is_known_before_and_while_they_do(spec: str, workers: int) -> None:
    options = MeasureOptions(executor=spec, jobs=7)
    assert side_by_side(options, 0.1, 1) == workers
    with opened(options) as pooled:
        assert isinstance(pooled.executor, Executor)
        assert workers_of(pooled.executor) == workers
        assert side_by_side(pooled, 0.1, 1) == workers
        assert in_flight(pooled.executor) == 16


@pytest.mark.parametrize(
    ("spec", "processes", "slower"),
    [("inline", 1, 1.0), ("processes:4", 4, 1.5), ("processes:16", 16, 4.5), ("dask:tcp://there:8786", 200, 1.0)],
)
def test_processes_share_the_cores_that_others_leave(
    spec: str, processes: int, slower: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmpq.sensitivity.workers.executors.usable_cores", lambda: 4)
    monkeypatch.setattr("onnxmpq.sensitivity.workers.executors.wanted_cores", lambda: 2.0)
    assert crowding(MeasureOptions(executor=spec), processes) == slower


def test_twice_as_many_jobs_are_in_flight_as_there_are_workers() -> None:
    with open_executor("processes:40") as executor:
        assert in_flight(executor) == 80
    with ThreadPoolExecutor(30) as pool:
        assert in_flight(pool) == 60


def test_jobs_in_flight_follow_the_workers_that_there_are() -> None:
    peak, flying, done = 0, 0, 0

    def jobs() -> Iterator[Job]:
        nonlocal peak, flying
        for seed in range(30):
            flying += 1
            peak = max(peak, flying)
            yield Job(seed)

    def keep(job: Job, result: Job) -> None:
        nonlocal flying, done
        flying, done = flying - 1, done + 1

    with open_executor("processes:1") as executor:
        run_jobs(identity, jobs(), executor, on_result=keep, ahead=lambda: 1 if done < 5 else 6)
    assert (done, flying) == (30, 0)
    assert 1 < peak <= 7


def test_a_bundle_whose_worker_died_runs_again_job_by_job(tmp_path: Path) -> None:
    done: list[Job] = []
    jobs = [Job(seed, str(tmp_path)) for seed in range(9)]
    load = Load(dict.fromkeys(jobs, 1.0), lambda job: job.seed // 5, lambda _: 5.0)
    with open_executor("processes:2") as executor:
        assert len(bundled(jobs, load, 2)) < 9
        run_bundled(die_once, jobs, executor, on_result=lambda job, _: done.append(job), load=load)
    assert sorted(done, key=lambda job: job.seed) == jobs


def test_in_a_bundle_the_job_that_kills_its_workers_is_named(tmp_path: Path) -> None:
    jobs = [Job(seed, str(tmp_path)) for seed in range(2)]
    load = Load(dict.fromkeys(jobs, 1.0), lambda _: 0, lambda _: 5.0)
    with (
        open_executor("processes:1") as executor,
        pytest.raises(InputError, match=r"at the job \(Job\(seed=\d, [^)]*\),\)"),
    ):
        run_bundled(die, jobs, executor, on_result=lambda *_: None, load=load)


@pytest.mark.parametrize("spec", ["", "threads", "inline:2", "dask", "dask:here", "dask:localhost", "processes2"])
def test_an_unknown_executor_is_refused_with_the_known_ones(spec: str) -> None:
    with pytest.raises(InputError, match=f"no executor '{spec}'. Known: auto, inline, processes, .*dask:tcp"):
        open_executor(spec).__enter__()


@pytest.mark.parametrize(
    "spec",
    [
        "processes:",
        "processes:0",
        "processes:x",
        "processes:-1",
        "processes:9999",
        "processes:²",
        "processes:٤",
        pytest.param(f"processes:{'9' * 5000}", id="digits"),
    ],
)
def test_a_wrong_number_of_workers_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="number of workers"):
        open_executor(spec).__enter__()


def test_what_the_client_of_a_cluster_trips_over_is_no_fault_of_the_job() -> None:
    tripped: list[int] = []

    def _cascade_future() -> None:
        raise TypeError("cannot unpack non-iterable int object")

    class Tripping(InlineExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            found: Future[Any] = Future()
            if tripped:
                found.set_result(fn(*args))
                return found
            tripped.append(1)
            try:
                _cascade_future()
            except TypeError as error:
                found.set_exception(error)
            return found

    results: dict[int, int] = {}
    run_jobs(abs, [-3], Tripping(), on_result=results.__setitem__)
    assert results == {-3: 3}
