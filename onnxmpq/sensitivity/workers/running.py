"""Running many jobs on an executor, whatever happens to its workers.

    jobs ─▶ submitted, a few ahead ─▶ landed ─▶ on_result, in this thread, as they come
               ▲                         │
               └─ again ◀─ worker died ──┤
                                         └─▶ the job itself failed: raised

Results do not depend on the executor, on the number of workers or on their order, as long as the function is
deterministic. It must be top-level in a module that workers can import, and a job a small picklable value.
"""

import concurrent.futures
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

from onnxmpq.errors import InputError
from onnxmpq.sensitivity.workers.cluster import ClusterExecutor

J = TypeVar("J")
R = TypeVar("R")


@dataclass(slots=True)
class _Flight:
    """A job that was submitted, and how many workers it has lost."""

    job: Any
    deaths: int = 0


def run_jobs(
    function: Callable[[J], R],
    jobs: Iterable[J],
    executor: Executor,
    *,
    on_result: Callable[[J, R], None],
    ahead: int | Callable[[], int] = 8,
    retries: int = 2,
    split: Callable[[J], Iterable[J]] = lambda job: (job,),
    wait: Callable[..., Any] = concurrent.futures.wait,
) -> None:
    """Run ``function`` on every job and hand each result to ``on_result`` in this thread, as they come.

    ``jobs`` is read as it is needed: at most ``ahead`` jobs are submitted and not yet handed over. To keep all workers
    busy it should be twice their number; a function of it is asked again and again, since workers join and leave.

    A job whose worker died runs again, ``retries`` times, in the parts that ``split`` makes of it; then InputError
    names it. (A process pool of `concurrent.futures` cannot replace workers and raises BrokenProcessPool;
    ``open_executor("processes")`` can.) What a job raises itself is not tried again: results that came with it are
    handed over, the others are cancelled, and it is raised. So is an interrupt, and what ``on_result`` raises;
    everything handed over by then is the caller's. ``wait`` waits for futures as that of `concurrent.futures` does.
    """
    todo = map(_Flight, jobs)
    again: deque[_Flight] = deque()
    flying: dict[Future[R], _Flight] = {}
    try:
        while True:
            most = ahead() if callable(ahead) else ahead
            while len(flying) < most and (flight := again.popleft() if again else next(todo, None)):
                future = executor.submit(function, flight.job)
                flying[future] = flight
                if future.done():
                    break  # hand over before the next is begun: an inline executor has run the job by now
            if not flying:
                return
            # The limit lets an interrupt in on systems where a lock does not.
            landed, _ = wait(flying, timeout=1.0, return_when=FIRST_COMPLETED)
            if not landed and isinstance(executor, ClusterExecutor):
                executor.check()
            failures: list[BaseException] = []
            for future in landed:
                flight = flying.pop(future)
                error = _error(future)
                if error is None:
                    on_result(flight.job, future.result())
                elif not _worker_died(error):
                    failures.append(error)
                elif flight.deaths < retries:
                    parts = list(split(flight.job))
                    deaths = flight.deaths + 1 if len(parts) == 1 else 0  # which part it was nobody knows
                    again.extend(_Flight(part, deaths) for part in parts)
                else:
                    failures.append(_given_up(flight, error))
            del landed
            if failures:
                raise failures[0]
    finally:
        for future in flying:
            future.cancel()


def _error(future: "Future[Any]") -> BaseException | None:
    """Return what a finished future raised; a cancelled one was lost by its cluster."""
    try:
        return future.exception()
    except CancelledError as error:
        return error


def _worker_died(error: BaseException) -> bool:
    """Tell the death of a worker from an exception of the job; dask has a class of its own for it.

    Its client trips over a future that changes while it is handed on, too: nothing of the job is in that error.
    """
    if isinstance(error, BrokenExecutor | CancelledError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None and trace.tb_frame.f_code.co_name == "_cascade_future":
        return True
    return any(
        kind.__name__ == "KilledWorker" and kind.__module__.startswith("distributed.") for kind in type(error).__mro__
    )


def _given_up(flight: _Flight, error: BaseException) -> InputError:
    """Say that a job kills its workers."""
    job = repr(flight.job)
    given_up = InputError(
        f"A worker died {flight.deaths + 1} times at the job {job[:200]}{'...' * (len(job) > 200)}: {error} "
        "Most often memory runs out: use fewer workers or a lower memory limit. Finished results are kept."
    )
    given_up.__cause__ = error
    return given_up
