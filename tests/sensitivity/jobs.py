"""Jobs that executors are tried on. Workers that are started for them load this module and nothing large."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Job:
    """A seed, and a folder where jobs leave traces."""

    seed: int
    folder: str = ""


class OddError(Exception):
    """Can be written by pickle, and not read."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} {second}")


def draw(job: Job) -> npt.NDArray[np.float64]:
    return np.random.default_rng(job.seed).normal(size=(100, 100)).cumsum()


def identity(job: Job) -> Job:
    return job


def where(job: Job) -> int:
    return os.getpid()


def die_once(job: Job) -> int:
    """Kill the worker at the first try of every third job: some by exit, some by signal."""
    trace = Path(job.folder) / str(job.seed)
    if job.seed % 3 == 1 and not trace.exists():
        trace.touch()
        if job.seed % 2:
            os._exit(7)
        os.kill(os.getpid(), signal.SIGKILL)
    return job.seed**2


def die(job: Job) -> int:
    Path(job.folder, f"{time.monotonic_ns()}").touch()
    os._exit(9)


def fail_at_three(job: Job) -> int:
    Path(job.folder, f"{job.seed}.{time.monotonic_ns()}").touch()
    if job.seed == 3:
        raise KeyError("three")
    return job.seed


def fail_oddly(job: Job) -> int:
    raise OddError(1, job.seed)


def big_then_die(job: Job) -> bytes:
    """Die in the middle of writing a result that is larger than a pipe."""
    threading.Timer(0.05, os._exit, (1,)).start()
    return bytes(50 << 20)


def nap(job: Job) -> int:
    time.sleep(0.05)
    return os.getpid()
