"""Where jobs run: in this process, in worker processes, or on a dask cluster.

    with open_executor("processes:4") as executor:
        run_jobs(measure, jobs, executor, on_result=keep)

    inline      ``InlineExecutor``     here
    processes   ``ProcessExecutor``    in ``onnxmpq.sensitivity.workers.processes``
    dask        ``ClusterExecutor``    in ``onnxmpq.sensitivity.workers.cluster``

All are executors as `concurrent.futures` has them; ``run_jobs`` is in ``onnxmpq.sensitivity.workers.running``.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from typing import ParamSpec, TypeVar

from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, InternalError, nearest
from onnxmpq.options import MeasureOptions
from onnxmpq.sensitivity.workers.cluster import open_cluster
from onnxmpq.sensitivity.workers.processes import ProcessExecutor

P = ParamSpec("P")
T = TypeVar("T")

KNOWN = ("inline", "processes", "processes:<workers>", "dask:local", "dask:local:<workers>", "dask:tcp://<host>:<port>")
"""What ``open_executor`` takes."""

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


@contextmanager
def open_executor(spec: str) -> Iterator[Executor]:
    """Give the executor that ``spec`` names, and end its workers afterwards; after an error, at once.

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
    elif kind == "processes":
        executor = ProcessExecutor(_workers(spec, rest) if ":" in spec else _cores())
        try:
            yield executor
        except BaseException:
            executor.kill()
            raise
        executor.shutdown()
    elif kind == "dask" and where == "local":
        with open_cluster(None, _workers(spec, count) if rest.startswith("local:") else _cores()) as client:
            yield client
    elif kind == "dask" and "://" in rest:
        with open_cluster(rest, 0) as client:
            yield client
    else:
        hint = nearest(kind, ("inline", "processes", "dask"))
        raise InputError(f"There is no executor '{brief(spec)}'. Known: {', '.join(KNOWN)}.{hint}")


@contextmanager
def opened(options: MeasureOptions) -> Iterator[MeasureOptions]:
    """Give options with the executor that they name, closed afterwards, and with jobs enough for its workers."""
    if not isinstance(options.executor, str):
        yield options
        return
    with open_executor(options.executor) as executor:
        count = options.executor.rpartition(":")[2]
        named = int(count) if count.isdigit() and "//" not in options.executor else 0
        yield replace(options, executor=executor, ahead=options.ahead or max(AHEAD, 2 * named))


def pool_of(options: MeasureOptions) -> Executor:
    """Return the executor of options that were opened; what is inline need not be."""
    if not isinstance(options.executor, str):
        return options.executor
    if options.executor == "inline":
        return InlineExecutor()
    raise InternalError(f"The executor '{options.executor}' is not open.")


def _workers(spec: str, text: str) -> int:
    """Read a number of workers."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= 1024):
        raise InputError(
            f"The executor '{brief(spec)}' needs a number of workers from 1 to 1024 at its end, not '{brief(text)}'."
        )
    return int(text)


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
