"""Where jobs run: in this process, in worker processes, or on a dask cluster.

    with open_executor("processes:4") as executor:
        run_jobs(measure, jobs, executor, on_result=keep)

Results do not depend on the executor, on the number of workers or on their order, as long as the function is
deterministic. It must be top-level in a module that workers can import, and a job a small picklable value.

A worker that dies takes only its own job with it: the job runs again elsewhere. `concurrent.futures` has a process
pool, but there one death breaks the pool and every job in it, a death in the middle of writing a large result can hang
the caller, and workers outlive a caller that is killed; hence ``ProcessExecutor``.
"""

import multiprocessing
import os
import pickle
import queue
import signal
import socket
import struct
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, ParamSpec, TypeVar

from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, InternalError, OnnxmpqError, RuntimeMissingError, nearest

P = ParamSpec("P")
T = TypeVar("T")
J = TypeVar("J")
R = TypeVar("R")

KNOWN = ("inline", "processes", "processes:<workers>", "dask:local", "dask:local:<workers>", "dask:tcp://<host>:<port>")
"""What ``open_executor`` takes."""

CONNECT_S = 15
"""How long a dask scheduler has to answer, in seconds."""

_CLOSE_S = 5
_GREETING_BYTES = 1 << 16  # a scheduler greets with some two hundred
_GREETING_WORD = b"pickle-protocol"


class WorkerDied(BrokenExecutor):
    """The process that ran a job ended before the job did."""


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


class ProcessExecutor(Executor):
    """Run jobs in spawned processes, which start when first needed and are replaced when they die.

    Each worker has a pipe of its own to a thread of this process. The end of the pipe tells the thread that the worker
    died, however that happened; a worker ends in the same way with this process.
    """

    def __init__(self, workers: int) -> None:
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], bytes]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = self._killed = False
        self._workers: set[_Worker] = set()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue ``fn`` for the next free worker; the death of the worker becomes ``WorkerDied`` in the future."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._tasks.put((future, lambda: pickle.dumps((fn, args, kwargs))))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; finish those submitted, or cancel those that have not begun."""
        with self._lock:
            if cancel_futures:
                with suppress(queue.Empty):
                    while True:
                        if task := self._tasks.get_nowait():
                            task[0].cancel()
            if not self._closed or cancel_futures:
                self._closed = True
                for _ in self._threads:
                    self._tasks.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def kill(self) -> None:
        """End the workers now, and with them the jobs that run."""
        with self._lock:
            self._killed = True
            for worker in self._workers:
                worker.process.kill()
        self.shutdown(cancel_futures=True)

    def _run(self) -> None:
        """Serve one worker: what every thread does."""
        worker: _Worker | None = None
        while task := self._tasks.get():
            worker = self._one(worker, *task)
            del task  # nothing of a job is kept until the next one comes
        if worker:
            self._end(worker)

    def _one(self, worker: "_Worker | None", future: Future[Any], message: Callable[[], bytes]) -> "_Worker | None":
        """Have one job done; return the worker for the next one, None where a new one is needed."""
        if not future.set_running_or_notify_cancel():
            return worker
        try:
            asked = message()
            worker = worker or self._start()
            done, value = pickle.loads(worker.ask(asked))
        except BaseException as error:
            done, value = False, error
        if done:
            future.set_result(value)
        else:
            future.set_exception(value)
        if worker and worker.lost:
            self._end(worker)
            return None
        return worker

    def _start(self) -> "_Worker":
        """Start a worker, unless the executor was killed meanwhile."""
        with self._lock:
            if self._killed:
                raise WorkerDied("The executor was ended.")
            worker = _Worker()
            self._workers.add(worker)
        try:
            worker.greet()
        except BaseException:
            self._end(worker)
            raise
        return worker

    def _end(self, worker: "_Worker") -> None:
        """Let a worker go."""
        with self._lock:
            self._workers.discard(worker)
        worker.end()


class ClusterExecutor(Executor):
    """Run jobs on the cluster of a dask client, and notice when the cluster is gone: futures of dask then stay open."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._jobs: Executor = client.get_executor(pure=False)  # not pure: a job that lost its worker is a new one

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Send ``fn`` to the cluster."""
        self.check()
        return self._jobs.submit(fn, *args, **kwargs)

    def check(self) -> None:
        """Raise InputError where the connection to the cluster is lost for good."""
        if not self._is_open:
            raise InputError(
                "The connection to the dask cluster is lost. Finished results are kept: run the same again when the "
                "cluster is back."
            )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was submitted, or cancel it."""
        if self._is_open:
            self._jobs.shutdown(wait=wait and not cancel_futures)

    @property
    def _is_open(self) -> bool:
        """Tell whether the client is connected, or still trying to be."""
        return self._client.status not in ("closing", "closed")


class _Worker:
    """A spawned process and this side of its pipe."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.lost = False
        with theirs:  # only the process holds that end, so that its death closes the pipe
            self.process.start()

    def greet(self) -> None:
        """Wait until the process is up."""
        try:
            self.connection.recv_bytes()
        except (EOFError, OSError) as error:
            self.process.join(10)
            raise InputError(
                f"The worker processes do not start ({self._ending()}). A script that measures in processes must be a "
                "file, and do its work under `if __name__ == \"__main__\":`. Or measure with the executor 'inline'."
            ) from error

    def ask(self, message: bytes) -> bytes:
        """Send a job and wait for what it gives."""
        try:
            self.connection.send_bytes(message)
            return self.connection.recv_bytes()
        except (EOFError, OSError) as error:
            self.lost = True
            self.process.join(10)
            raise WorkerDied(f"A worker process died at its job ({self._ending()}).") from error

    def end(self) -> None:
        """Close the pipe, at which the process ends, and see that it does."""
        self.connection.close()
        self.process.join(10)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join(10)

    def _ending(self) -> str:
        """Say how the process ended."""
        code = self.process.exitcode
        return f"signal {-code}" if code and code < 0 else f"exit code {code}"


def _serve(connection: Connection) -> None:
    """Do jobs until the other end of the pipe is closed: what a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the one that started us decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        connection.send_bytes(b"up")
        while True:
            connection.send_bytes(_done(connection.recv_bytes()))


def _end_with_parent() -> None:
    """Wait for the end of the process that started this one, and do not finish the job."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _done(message: bytes) -> bytes:
    """Do one job; give what it returned, or what it raised with the traceback as a note."""
    try:
        function, args, kwargs = pickle.loads(message)
        return pickle.dumps((True, function(*args, **kwargs)), protocol=5)
    except BaseException as error:
        text = traceback.format_exc()
        if not isinstance(error, OnnxmpqError):  # what was raised on purpose says all there is to say
            error.add_note(f"In a worker process:\n{text}")
        try:
            told = pickle.dumps((False, error))
            pickle.loads(told)  # some exceptions can be written and not read
        except Exception:
            told = pickle.dumps((False, InternalError(f"A job failed in a worker process:\n{text}")))
        return told


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
        with _dask(None, _workers(spec, count) if rest.startswith("local:") else _cores()) as client:
            yield client
    elif kind == "dask" and "://" in rest:
        with _dask(rest, 0) as client:
            yield client
    else:
        hint = nearest(kind, ("inline", "processes", "dask"))
        raise InputError(f"There is no executor '{brief(spec)}'. Known: {', '.join(KNOWN)}.{hint}")


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


@contextmanager
def _dask(address: str | None, workers: int) -> Iterator[Executor]:
    """Give an executor on the dask cluster at ``address``, or on a new local one."""
    try:
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise RuntimeMissingError(
            'Measuring on dask needs the package distributed. Install it: pip install "onnxmpq[dask]".'
        ) from error
    with ExitStack() as stack:
        cluster = address
        try:
            if address is not None:
                _check_scheduler(address)
            else:
                # One job at a time per worker, and no limit on memory: dask would stop or restart workers on account of
                # memory that runtimes keep in reserve, and measuring has a ceiling of its own.
                cluster = stack.enter_context(
                    distributed.LocalCluster(
                        n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0"
                    )
                )
            client = stack.enter_context(_client(distributed.Client, cluster))
        except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
            what = f"No dask scheduler answers at '{address}'" if address else "A local dask cluster does not start"
            hint = (
                "Start one with `dask scheduler`, or correct the address."
                if address
                else "A script must do its work under `if __name__ == \"__main__\":`. Or choose 'processes'."
            )
            told = brief(str(error) or type(error).__name__, 300)
            raise InputError(f"{what}: {told}. {hint}") from error
        executor = ClusterExecutor(client)
        try:
            yield executor
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
        executor.shutdown()


def _client(kind: Any, cluster: Any) -> Any:
    """Connect a client of dask. One that cannot be made keeps its thread running, unless it is closed like another."""
    client = kind.__new__(kind)
    try:
        client.__init__(cluster, timeout=CONNECT_S, set_as_default=False)
    except BaseException:
        with suppress(Exception):
            client.close(timeout=_CLOSE_S)
        with suppress(Exception):
            client._loop_runner.stop()
        raise
    return client


def _check_scheduler(address: str) -> None:
    """Raise OSError where something else than a scheduler answers: dask believes whatever length it is told.

    A scheduler greets whoever connects. Where nobody answers at all, dask tries again and says so.
    """
    if not address.startswith("tcp://"):
        return
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) < 6):
        raise ValueError(f"'{port}' is no port")
    end = time.monotonic() + CONNECT_S
    try:
        opened = socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S)
    except OSError:
        return
    with opened:
        (length,) = struct.unpack("<Q", _received(opened, 8, end))
        if length > _GREETING_BYTES or _GREETING_WORD not in _received(opened, length, end):
            raise OSError("what answers there is something else")


def _received(opened: socket.socket, count: int, end: float) -> bytes:
    """Return so many bytes, if they come in time."""
    content = b""
    while len(content) < count:
        opened.settimeout(max(end - time.monotonic(), 0.001))
        try:
            part = opened.recv(count - len(content))
        except TimeoutError:
            raise OSError(f"nothing, or not enough, came in {CONNECT_S} seconds") from None
        if not part:
            raise OSError("the connection was closed")
        content += part
    return content


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
    ahead: int = 8,
    retries: int = 2,
) -> None:
    """Run ``function`` on every job and hand each result to ``on_result`` in this thread, as they come.

    ``jobs`` is read as it is needed: at most ``ahead`` jobs are submitted and not yet handed over. To keep all workers
    busy it should be twice their number.

    A job whose worker died runs again, ``retries`` times; then InputError names it. (A process pool of
    `concurrent.futures` cannot replace workers and raises BrokenProcessPool; ``open_executor("processes")`` can.) What
    a job raises itself is not tried again: results that came with it are handed over, the others are cancelled, and it
    is raised. So is an interrupt, and what ``on_result`` raises; everything handed over by then is the caller's.
    """
    todo = iter(jobs)
    again: deque[_Flight] = deque()
    flying: dict[Future[R], _Flight] = {}
    exhausted = False
    try:
        while True:
            while len(flying) < ahead and not (exhausted and not again):
                if again:
                    flight = again.popleft()
                else:
                    try:
                        flight = _Flight(next(todo))
                    except StopIteration:
                        exhausted = True
                        break
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
                    again.append(_Flight(flight.job, flight.deaths + 1))
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
