"""A command in a child process, so that a death in native code still ends in a sentence, and loses nothing.

    parent   waits, passes signals on; if the child is killed it keeps what was measured, clears up and says what it was
    child    does the work

A file that crashes a runtime, or memory that runs out, ends a process without a word. The parent is forked off before
anything heavy is loaded: it costs a millisecond. Only on Linux, where a child can be made to end with its parent;
elsewhere, and with ONNXMPQ_ONE_PROCESS=1, commands run as they are.
"""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import IO

from onnxmpq.disk import leftovers

_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_CRASHES = (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)
_LIBRARIES = {
    "/onnxmpq/runtimes/ort.py": "onnxruntime",
    "/onnxmpq/runtimes/openvino.py": "OpenVINO",
    "/site-packages/onnx/": "onnx",
    "/onnxmpq/solve/highs.py": "HiGHS",
}
"""Whose native code it was, by the file that called it."""


def supervised(command: Callable[[], None]) -> None:
    """Run ``command``, which ends the process, in a child, and end as it ended."""
    if not sys.platform.startswith("linux") or os.environ.get("ONNXMPQ_ONE_PROCESS"):
        command()
        return
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as trace,
        tempfile.TemporaryFile("w+", encoding="utf-8") as made,
    ):
        parent, child = os.getpid(), os.fork()
        if not child:
            _end_with(parent)
            _write_crashes_to(trace)
            leftovers.keep_in(made)
            command()
            sys.exit(0)
        code = os.waitstatus_to_exitcode(_waited(child))
        if code < 0:
            code = _killed(signal.Signals(-code), trace, made)
    os._exit(code)  # nothing was printed here that is to be flushed, and nothing is to be done at the end


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, so that killing a command kills all of it."""
    import ctypes

    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def _write_crashes_to(trace: IO[str]) -> None:
    """Let a crash leave behind where it happened."""
    import faulthandler

    faulthandler.enable(trace)


def _waited(child: int) -> int:
    """Wait for the child and pass on the signals that come meanwhile; a terminal interrupts both by itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _frame: _pass_on(child, number))
    return os.waitpid(child, 0)[1]


def _pass_on(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _killed(number: signal.Signals, trace: IO[str], made: IO[str]) -> int:
    """Say what killed the child, keep what it measured, remove what it left, and return what to end with."""
    from onnxmpq.cli.console import literal, tell
    from onnxmpq.sensitivity.rescue import rescued

    notes = rescued(leftovers.entries(made))
    code = 128 + number
    if number in _CRASHES:
        trace.seek(0)
        where = trace.read()
        library = crashed_in(where)
        code = 2 if library else 70
        tell(
            f"[bold red]Error:[/] {library or 'Native code'} crashed ({number.name}) on what was given, or on a file "
            "made of it. No model was written. "
            + (
                f"Try another release of {library}, or export the model again, with other operators."
                if library
                else f"This is a fault of onnxmpq. Please report it with this:\n{literal(where[:2000])}"
            )
        )
    elif number == signal.SIGKILL:
        tell("[bold red]Error:[/] The process was killed, most likely as memory ran out. No model was written.")
    for note in notes:
        tell(literal(note))
    return code


def crashed_in(trace: str) -> str:
    """Return whose native code a trace of Python calls ends in, or nothing where it is none that we know.

    >>> crashed_in('Current thread 0x1:\\n  File "/x/onnxmpq/runtimes/ort.py", line 3 in run')
    'onnxruntime'
    """
    calls = [line for line in trace.splitlines() if line.startswith("  File ")]
    innermost = calls[:4]  # a library's own Python stands above the file of ours that called it
    return next((name for call in innermost for part, name in _LIBRARIES.items() if part in call), "")
