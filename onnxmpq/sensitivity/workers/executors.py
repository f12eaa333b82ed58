"""Where jobs run: in this process, in worker processes, or on a dask cluster.

    with open_executor("processes:4") as executor:
        run_jobs(measure, jobs, executor, on_result=keep)

    auto        ``AutoExecutor``       here, or in a process for each core once there is much to do
    inline      ``InlineExecutor``     here
    processes   ``ProcessExecutor``    in ``onnxmpq.sensitivity.workers.processes``
    dask        ``ClusterExecutor``    in ``onnxmpq.sensitivity.workers.cluster``

All are executors as `concurrent.futures` has them; ``run_jobs`` is in ``onnxmpq.sensitivity.workers.running``.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from typing import ParamSpec, TypeVar

from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, InternalError, nearest
from onnxmpq.machine import memory_bytes, usable_cores, wanted_cores
from onnxmpq.options import MeasureOptions
from onnxmpq.sensitivity.workers.cluster import ClusterExecutor, open_cluster
from onnxmpq.sensitivity.workers.processes import ProcessExecutor

P = ParamSpec("P")
T = TypeVar("T")

KNOWN = (
    "auto",
    "inline",
    "processes",
    "processes:<workers>",
    "dask:local",
    "dask:local:<workers>",
    "dask:tcp://<host>:<port>",
)
"""What ``open_executor`` takes."""

MUCH_S = 10.0
"""Seconds of work from which on it is worth the start of processes."""
AHEAD = 16
"""Jobs in flight at least, so that all workers have some."""


class InlineExecutor(Executor):
    """Run each job in the calling thread, at the moment it is submitted."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn``; what it returns or raises is in the future. Only an interrupt is raised here."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class AutoExecutor(Executor):
    """Run jobs here as long as there is little to do; where there is much, in a worker process for each core.

    ``jobs`` is how many there are at most, as many as cores where it is 0. Results are the same.
    """

    def __init__(self, jobs: int = 0) -> None:
        self._most = jobs or usable_cores()
        self._here = InlineExecutor()
        self._workers: ProcessExecutor | None = None

    @property
    def here(self) -> bool:
        """Tell whether jobs run in this process."""
        return self._workers is None

    @property
    def started(self) -> int:
        """How many workers there are, one where jobs run in this process."""
        return 1 if self._workers is None else self._workers.workers

    def expect(self, seconds: float, memory_each: int) -> None:
        """Start workers where jobs take long and memory is there for two."""
        if self._workers is None and (count := self.workers(seconds, memory_each)) > 1:
            self._workers = ProcessExecutor(count, main=False)

    def workers(self, seconds: float, memory_each: int) -> int:
        """Return how many processes of so much memory are worth it and have a core and memory."""
        if seconds <= MUCH_S:
            return 1
        free = memory_bytes()[1]
        return max(1, min(self._most, self._most if free is None else free // max(memory_each, 1)))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn`` here, or hand it to a worker."""
        return (self._workers or self._here).submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers."""
        if self._workers is not None:
            self._workers.shutdown(wait, cancel_futures=cancel_futures)

    def kill(self) -> None:
        """End the workers now."""
        if self._workers is not None:
            self._workers.kill()


@contextmanager
def open_executor(spec: str, jobs: int = 0) -> Iterator[Executor]:
    """Give the executor that ``spec`` names, and end its workers afterwards; after an error, at once.

    ``auto``                    this process; where jobs take long ``jobs`` worker processes, one for each core if 0
    ``inline``                  this process, one job after the other
    ``processes``               as many worker processes as there are cores; ``processes:4`` four of them
    ``dask:local``              a dask cluster on this machine; ``dask:local:2`` with two workers
    ``dask:tcp://host:port``    the dask cluster of the scheduler there

    Unknown ones are an InputError, a missing dask is a RuntimeMissingError.
    """
    kind, _, rest = spec.partition(":")
    where, _, count = rest.partition(":")
    if spec == "inline":
        yield InlineExecutor()
    elif spec == "auto":
        with _ending(AutoExecutor(jobs)) as executor:
            yield executor
    elif kind == "processes":
        with _ending(ProcessExecutor(_workers(spec, rest) if ":" in spec else jobs or usable_cores())) as executor:
            yield executor
    elif kind == "dask" and where == "local":
        workers = _workers(spec, count) if rest.startswith("local:") else jobs or usable_cores()
        with open_cluster(None, workers) as client:
            yield client
    elif kind == "dask" and "://" in rest:
        with open_cluster(rest, 0) as client:
            yield client
    else:
        hint = nearest(kind, ("auto", "inline", "processes", "dask"))
        raise InputError(f"There is no executor '{brief(spec)}'. Known: {', '.join(KNOWN)}.{hint}")


@contextmanager
def _ending(executor: AutoExecutor | ProcessExecutor) -> Iterator[Executor]:
    """Give an executor, and end its workers afterwards; after an error, at once."""
    try:
        yield executor
    except BaseException:
        executor.kill()
        raise
    executor.shutdown()


@contextmanager
def opened(options: MeasureOptions) -> Iterator[MeasureOptions]:
    """Give options with the executor that they name, closed afterwards."""
    if not isinstance(options.executor, str):
        yield options
        return
    with open_executor(options.executor, options.jobs) as executor:
        yield replace(options, executor=executor)


def pool_of(options: MeasureOptions, seconds: float, memory_each: int) -> Executor:
    """Return the executor of options that were opened, for jobs of so many seconds; what is inline need not be.

    A loss of the user's own may be part of the program itself, which workers of ``auto`` do not read.
    """
    if isinstance(options.executor, AutoExecutor) and options.function is None:
        options.executor.expect(seconds, memory_each)
    if not isinstance(options.executor, str):
        return options.executor
    if options.executor in ("auto", "inline"):
        return InlineExecutor()
    raise InternalError(f"The executor '{options.executor}' is not open.")


def side_by_side(options: MeasureOptions, seconds: float, memory_each: int) -> int:
    """Return how many processes will run jobs of so many seconds; a cluster that is there is asked."""
    if not isinstance(options.executor, str):
        if isinstance(options.executor, AutoExecutor) and options.function is None and options.executor.here:
            return options.executor.workers(seconds, memory_each)
        return workers_of(options.executor)
    kind, _, count = options.executor.partition(":")
    if kind == "dask" and "://" in count:
        with open_cluster(count, 0) as executor:
            return workers_of(executor)
    count = count.removeprefix("local").removeprefix(":") if kind == "dask" else count
    if kind in ("processes", "dask"):
        return _workers(options.executor, count) if count else options.jobs or usable_cores()
    here = kind != "auto" or options.function is not None
    return 1 if here else AutoExecutor(options.jobs).workers(seconds, memory_each)


def crowding(options: MeasureOptions, processes: int) -> float:
    """Return by how much so many processes of this machine are slower than one that has a core for itself.

    Others want its cores, too. Of the machines of a cluster nothing is known.
    """
    if isinstance(options.executor, ClusterExecutor) or str(options.executor).startswith("dask:tcp"):
        return 1.0
    return max(1.0, (wanted_cores() + processes) / usable_cores())


def in_flight(executor: Executor) -> int:
    """Return how many jobs are in flight, so that the workers that there are at the moment have some."""
    return max(AHEAD, 2 * workers_of(executor))


def workers_of(executor: Executor) -> int:
    """Return how many jobs an executor runs side by side at the moment; one where it does not tell."""
    if isinstance(executor, AutoExecutor):
        return executor.started
    if isinstance(executor, ProcessExecutor | ClusterExecutor):
        return executor.workers
    known = getattr(executor, "workers", getattr(executor, "_max_workers", 1))  # as pools of the standard library do
    return known if isinstance(known, int) and known > 0 else 1


def runs_here(executor: Executor) -> bool:
    """Tell whether an executor runs jobs in this process."""
    return isinstance(executor, InlineExecutor) or (isinstance(executor, AutoExecutor) and executor.here)


def _workers(spec: str, text: str) -> int:
    """Read a number of workers."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= 1024):
        raise InputError(
            f"The executor '{brief(spec)}' needs a number of workers from 1 to 1024 at its end, not '{brief(text)}'."
        )
    return int(text)
