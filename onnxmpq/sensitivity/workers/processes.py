"""Jobs in worker processes of this machine.

    ProcessExecutor ─▶ queue ─▶ thread ═ pipe ═▶ process        as many threads as workers, each with its own process
                                thread ═ pipe ═▶ process

A worker that dies takes only its own job with it. `concurrent.futures` has a process pool, but there one death breaks
the pool and every job in it, a death in the middle of writing a large result can hang the caller, and workers outlive a
caller that is killed.
"""

import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from onnxmpq.errors import InputError, InternalError, OnnxmpqError

P = ParamSpec("P")
T = TypeVar("T")


class WorkerDied(BrokenExecutor):
    """The process that ran a job ended before the job did."""


class ProcessExecutor(Executor):
    """Run jobs in spawned processes, which start when first needed and are replaced when they die.

    Each worker has a pipe of its own to a thread of this process. The end of the pipe tells the thread that the worker
    died, however that happened; a worker ends in the same way with this process.
    """

    def __init__(self, workers: int, *, main: bool = True) -> None:
        """Start nothing yet; without ``main`` workers do not read the program itself, and cannot run what is in it."""
        self.main = main
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], bytes]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = self._killed = False
        self._workers: set[_Worker] = set()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def workers(self) -> int:
        """How many jobs run side by side."""
        return len(self._threads)

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
            worker = _Worker(main=self.main)
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


class _Worker:
    """A spawned process and this side of its pipe."""

    def __init__(self, *, main: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.lost = False
        with theirs, nullcontext() if main else _no_main():
            self.process.start()  # only it holds that end of the pipe now, so that its death closes it

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


@contextmanager
def _no_main() -> Iterator[None]:
    """Let a process that is spawned meanwhile find no program to read: a script may start a search as it is read."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


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
