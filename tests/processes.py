"""Python and the command line in processes of their own, which import this tree."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "passes")))}


def python(
    *arguments: str,
    folder: Path | None = None,
    before: tuple[str, ...] = (),
    timeout: float = 300,
    more: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder``, with another program ``before`` it and ``more`` in its environment."""
    return subprocess.run(
        [*before, sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | dict(more or {}),
        cwd=folder,
        timeout=timeout,
        check=False,
    )


def calls_of(
    calls: tuple[str, ...], *arguments: str, folder: Path, more: Mapping[str, str] | None = None
) -> list[tuple[str, int]]:
    """Run Python to its end and return its system calls of these kinds, in their order: each kind and its number.

    strace counts every kind by itself, in every thread by itself.
    """
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        trace = ("strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(calls)}")
        ended = python(*arguments, folder=folder, before=trace, more=more)
        assert ended.returncode == 0, ended.stderr
        found: dict[tuple[str, str], int] = {}
        points: dict[tuple[str, int], None] = {}
        for thread, call in re.findall(r"^(\d+) +(\w+)\(", log.read_text(errors="replace"), re.MULTILINE):
            found[thread, call] = found.get((thread, call), 0) + 1
            points[call, found[thread, call]] = None
    return list(points)


def killing(call: str, number: int) -> tuple[str, ...]:
    """Return what to run a program behind, so that it is killed at one of its system calls."""
    inject = f"inject={call}:signal=KILL:when={number}"
    return ("strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject)
