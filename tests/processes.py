"""Python and the command line in processes of their own, which import this tree."""

import atexit
import json
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "passes")))}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # a hundred processes would compile the same modules


def python(
    *arguments: str,
    folder: Path | None = None,
    timeout: float = 300,
    more: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder``, with ``more`` in its environment."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | dict(more or {}),
        cwd=folder,
        timeout=timeout,
        check=False,
    )


# ---- commands, without what loading takes ----------------------------------------------------------------------------


@cache
def _warm() -> "subprocess.Popen[str]":
    """Start the process whose children commands are; it ends with this one."""
    warm = subprocess.Popen(
        [sys.executable, "-m", "tests.warm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | {"PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"},  # calls are counted that change files
        cwd=ROOT,
    )
    atexit.register(warm.communicate)
    return warm


def _tell(line: str) -> None:
    """Tell the warm process something."""
    warm = _warm()
    assert warm.stdin
    warm.stdin.write(f"{line}\n")
    warm.stdin.flush()


def _answer(line: str = "") -> int:
    """Return the number that the warm process answers, to ``line`` if there is one."""
    if line:
        _tell(line)
    warm = _warm()
    assert warm.stdout
    return int(warm.stdout.readline())


class Running:
    """``onnxmpq`` in ``folder``, in a process that has loaded everything; one after the other, never two at once.

    What is tested of starting and loading needs ``python("-m", "onnxmpq", ...)`` instead.
    """

    def __init__(
        self,
        *arguments: str,
        folder: Path | None = None,
        traced: tuple[str, ...] = (),
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Start it with ``more`` in its environment, ``traced`` by strace with these options."""
        self._place = tempfile.TemporaryDirectory()
        self._told = [Path(self._place.name) / name for name in ("out", "err")]
        for path in self._told:
            path.touch()
        self._peak = Path(self._place.name) / "peak"
        self.peak_bytes = 0
        run = {"arguments": arguments, "folder": str(folder or Path.cwd()), "more": dict(more or {})}
        run["peak"] = str(self._peak)
        self.arguments = arguments
        self.pid = _answer(json.dumps(run | {"told": [str(path) for path in self._told]}))
        self._tracer = _attached(self.pid, traced) if traced else None
        _tell("go on")

    def ended(self) -> bool:
        """Tell whether it has ended."""
        answers = _warm().stdout
        return answers is not None and bool(select.select([answers], [], [], 0)[0])

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end; ``peak_bytes`` is the most memory that it had then, where that is told."""
        code = _answer()
        if self._tracer:
            self._tracer.communicate(timeout=60)
        out, err = (path.read_text("utf-8", errors="surrogateescape") for path in self._told)
        told = self._peak.read_text() if self._peak.exists() else ""  # nothing where it was killed before it was told
        self.peak_bytes = 1024 * int(told or 0)
        self._place.cleanup()
        return subprocess.CompletedProcess(self.arguments, code, out, err)


def onnxmpq(
    *arguments: str, folder: Path | None = None, traced: tuple[str, ...] = (), more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``onnxmpq`` to its end, as ``Running`` does."""
    return Running(*arguments, folder=folder, traced=traced, more=more).wait()


def _attached(pid: int, options: tuple[str, ...]) -> "subprocess.Popen[str]":
    """Attach strace to a process that waits."""
    tracer = subprocess.Popen(["strace", "-f", *options, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr
    first = tracer.stderr.readline()
    assert "attached" in first, first
    return tracer


def calls_of(
    calls: tuple[str, ...], *arguments: str, folder: Path, more: Mapping[str, str] | None = None
) -> list[tuple[str, int]]:
    """Run ``onnxmpq`` to its end and return its system calls of these kinds, in their order: each kind and its number.

    strace counts every kind by itself, in every thread by itself.
    """
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        ended = onnxmpq(*arguments, folder=folder, traced=("-o", str(log), "-e", f"trace={','.join(calls)}"), more=more)
        assert ended.returncode == 0, ended.stderr
        found: dict[tuple[str, str], int] = {}
        points: dict[tuple[str, int], None] = {}
        for thread, call in re.findall(r"^(\d+) +(\w+)\(", log.read_text(errors="replace"), re.MULTILINE):
            found[thread, call] = found.get((thread, call), 0) + 1
            points[call, found[thread, call]] = None
    return list(points)


def killing(call: str, number: int) -> tuple[str, ...]:
    """Return how to trace a program, so that it is killed at one of its system calls."""
    return ("-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
