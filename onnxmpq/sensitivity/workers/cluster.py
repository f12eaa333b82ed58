"""Jobs on a dask cluster, a new one on this machine or one that is there.

    open_cluster(None, 4)                 a scheduler and four workers, ended afterwards
    open_cluster("tcp://host:8786", 0)    those of the scheduler there, if a scheduler it is

Dask is loaded here, where it is used.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, RuntimeMissingError

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_S = 15
"""How long a dask scheduler has to answer, in seconds."""

_CLOSE_S = 5
_ASKED_S = 2.0  # how long the number of workers is taken to be what it was
_GREETING_BYTES = 1 << 16  # a scheduler greets with some two hundred
_GREETING_WORD = b"pickle-protocol"


class ClusterExecutor(Executor):
    """Run jobs on the cluster of a dask client, and notice when the cluster is gone: futures of dask then stay open."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._workers, self._asked = 1, -_ASKED_S
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

    @property
    def workers(self) -> int:
        """How many jobs the cluster runs side by side; it is asked again now and then: workers join and leave."""
        self.check()
        if time.monotonic() >= self._asked + _ASKED_S:
            jobs: list[int] = list(self._client.nthreads().values())
            self._workers, self._asked = max(sum(jobs), 1), time.monotonic()
        return self._workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was submitted, or cancel it."""
        if self._is_open:
            self._jobs.shutdown(wait=wait and not cancel_futures)

    @property
    def _is_open(self) -> bool:
        """Tell whether the client is connected, or still trying to be."""
        return self._client.status not in ("closing", "closed")


@contextmanager
def open_cluster(address: str | None, workers: int) -> Iterator[Executor]:
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
