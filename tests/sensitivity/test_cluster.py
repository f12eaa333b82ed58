"""Dask clusters: those that are there are used, and what is none is told soon, in one sentence."""

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from onnxmpq.errors import InputError, RuntimeMissingError
from onnxmpq.options import MeasureOptions
from onnxmpq.sensitivity.workers.cluster import ClusterExecutor
from onnxmpq.sensitivity.workers.executors import open_executor, side_by_side
from onnxmpq.sensitivity.workers.running import run_jobs
from tests.sensitivity.jobs import Job, draw, nap
from tests.sensitivity.test_executors import collect, needs_dask


def test_missing_dask_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RuntimeMissingError, match=r'pip install "onnxmpq\[dask\]"'):
        open_executor("dask:local").__enter__()


@needs_dask
def test_a_wrong_number_of_dask_workers_is_refused() -> None:
    with pytest.raises(InputError, match="number of workers"):
        open_executor("dask:local:many").__enter__()


@needs_dask
def test_an_absent_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.sensitivity.workers.cluster.CONNECT_S", 1)
    before = set(threading.enumerate())
    with pytest.raises(InputError, match="No dask scheduler answers at 'tcp://"):
        open_executor("dask:tcp://127.0.0.1:9").__enter__()
    assert set(threading.enumerate()) <= before


def http(connection: socket.socket) -> None:
    """Answer whatever comes as a server of pages does."""
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def drip(connection: socket.socket) -> None:
    """Send one byte now and then, without end."""
    with suppress(OSError):
        while True:
            connection.sendall(b"\1")
            time.sleep(0.2)


def greeting(length: int, content: bytes) -> Callable[[socket.socket], None]:
    """Return what sends a length and something behind it, and waits for the other to go."""

    def send(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(struct.pack("<Q", length) + content)
            while connection.recv(1000):
                pass

    return send


SERVERS: dict[str, Callable[[socket.socket], None]] = {
    "a server of pages": http,
    "silence": greeting(0, b""),
    "nothing but silence": lambda connection: time.sleep(1.5),
    "one byte now and then": drip,
    "random bytes": lambda connection: connection.sendall(np.random.default_rng(0).bytes(10_000)),
    "a huge length": greeting(2**62, b""),
    "a length that fits into memory": greeting(2**33, bytes(1000)),
    "a length without an end": greeting(1000, b"x"),
    "a text": greeting(1000, bytes(1000)),
    "the end": lambda connection: connection.close(),
}


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Answer every connection to a port of this machine; give the address of the scheduler that is not there."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"dask:tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert not thread.is_alive()


@needs_dask
@pytest.mark.parametrize("name", SERVERS)
def test_what_is_no_scheduler_is_told_soon(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.sensitivity.workers.cluster.CONNECT_S", 1)
    before = set(threading.enumerate())
    with serving(SERVERS[name]) as spec:
        begun = time.monotonic()
        with pytest.raises(InputError, match=r"^No dask scheduler answers at 'tcp://[^']*': .* Start one with") as told:
            open_executor(spec).__enter__()
        assert time.monotonic() - begun < 10
    assert "\n" not in str(told.value)
    assert set(threading.enumerate()) <= before


@needs_dask
def test_what_greets_like_a_scheduler_and_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out in dask, which believes the length of the second answer."""
    monkeypatch.setattr("onnxmpq.sensitivity.workers.cluster.CONNECT_S", 2)
    answers, before = iter([greeting(15, b"pickle-protocol")]), set(threading.enumerate())
    with serving(lambda connection: next(answers, greeting(2**62, b""))(connection)) as spec:
        begun = time.monotonic()
        with pytest.raises(InputError, match="No dask scheduler answers at"):
            open_executor(spec).__enter__()
        assert time.monotonic() - begun < 20
    assert set(threading.enumerate()) <= before


@needs_dask
@pytest.mark.parametrize(
    "address",
    [
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://:x",
        "tcp://127.0.0.1:٤",
        "tcp://127.0.0.1:99999",
        "tls://127.0.0.1:9",
        "x://y:9",
    ],
)
def test_an_address_that_is_none_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.sensitivity.workers.cluster.CONNECT_S", 1)
    with pytest.raises(InputError, match=f"No dask scheduler answers at '{address}'"):
        open_executor(f"dask:{address}").__enter__()


@needs_dask
def test_a_scheduler_that_is_there_is_found() -> None:
    with open_executor("dask:local:1") as executor:
        assert isinstance(executor, ClusterExecutor)
        with open_executor(f"dask:{executor._client.scheduler.address}") as other:
            assert side_by_side(MeasureOptions(executor=f"dask:{executor._client.scheduler.address}"), 0.1, 1) == 1
            assert collect(other, 3) == {seed: draw(Job(seed)).tobytes() for seed in range(3)}


@needs_dask
def test_a_lost_cluster_ends_the_run() -> None:
    kept: list[int] = []

    def run() -> None:
        with open_executor("dask:local:1") as executor:
            assert isinstance(executor, ClusterExecutor)

            def keep(job: Job, result: int) -> None:
                kept.append(job.seed)
                if len(kept) == 3:
                    executor._client.close()

            run_jobs(nap, map(Job, range(1000)), executor, on_result=keep)

    with pytest.raises(InputError, match="connection to the dask cluster is lost"):
        run()
    assert 3 <= len(kept) < 1000
