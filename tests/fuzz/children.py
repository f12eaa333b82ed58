"""One command on one damaged input, in a forked child with limits, and how it ended.

ended     0, 2, 3 or 4 with one sentence; on failure no output, and in any case nothing half-written
broken    anything else: a traceback, a fault of ours, a death by signal, a hang, a file left behind
"""

import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60.0
MEMORY_BYTES = 6 << 30
FILE_BYTES = 1 << 30
_TOLD = 20000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: ``kind`` is ``ended`` or what is broken, ``told`` the last that it said."""

    kind: str
    code: int
    told: str

    @property
    def good(self) -> bool:
        """Tell whether this is what a user may see."""
        return self.kind == "ended"

    @property
    def label(self) -> str:
        """Return what outcomes of one cause have in common: the message without names and numbers."""
        lines = [line for line in self.told.splitlines() if line.strip()] or [""]
        line = lines[-1] if self.kind == "traceback" else next((x for x in lines if x.startswith("Error:")), lines[-1])
        line = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", line)
        return f"{self.kind} {self.code}: {re.sub(r'[0-9][0-9,._]*', '0', line)[:110]}"


def run(action: Callable[[], None], folder: Path, *, keep: frozenset[str], seconds: float = SECONDS) -> Outcome:
    """Run ``action`` in a forked child within ``folder``, in which only ``keep`` and its outputs may lie afterwards."""
    told = folder.parent / f"{folder.name}.told"
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _child(action, folder, told)
    status = _waited(child, seconds)
    text = told.read_text("utf-8", "replace")[-_TOLD:]
    told.unlink()
    if status is None:
        return Outcome("hang", -1, f"still running after {seconds:.0f} s")
    code = os.waitstatus_to_exitcode(status)
    return Outcome(_kind(code, text, {path.name for path in folder.iterdir()} - keep), code, text)


def _child(action: Callable[[], None], folder: Path, told: Path) -> None:
    """Be the child: limits first, then the action, then end without what the parent would do at its end."""
    code = 1
    try:
        os.setsid()
        file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        action()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _waited(child: int, seconds: float) -> int | None:
    """Wait for a child; None where it had to be ended."""
    end = time.monotonic() + seconds
    pause = 0.001
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _kind(code: int, text: str, left: set[str]) -> str:
    """Sort an end."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == 1 or "Traceback (most recent call last)" in text:
        return "traceback"
    if code not in (0, 2, 3, 4):
        return "fault"
    if any(name.startswith(".") or name.endswith(".tmp") for name in left):
        return "left behind"
    if code and any(name.endswith((".onnx", ".plan.json", ".data")) for name in left):
        return "written and refused"
    if code and sum(line.startswith("Error:") for line in text.splitlines()) != 1:
        return "no sentence"
    return "ended"


def fresh(folder: Path) -> Path:
    """Return an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
