"""``python -m tests.warm``: runs the command line in children of a process that has loaded everything.

Every line that is read is a run, as JSON; its child waits, and its process id is printed, so that a tracer can attach.
At the next line it goes on, and how it ended is printed. What loading takes is paid once, and no time is spent on
timing; all else is as in a process that was started for the command.
"""

import atexit
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

_ANYBODY = 2**64 - 1
_SET_TRACER = 0x59616D61


def tell_peak(file: str) -> None:
    """Write the most memory that this process had; what getrusage tells may be that of the process before the fork."""
    status = Path("/proc/self/status")
    if status.is_file():
        Path(file).write_text(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])


def child(told: dict[str, Any], gate: int) -> None:
    """Become the command: its folder, its environment, its arguments, its outputs."""
    import ctypes

    ctypes.CDLL(None).prctl(_SET_TRACER, ctypes.c_ulong(_ANYBODY), 0, 0, 0)  # where only parents may trace otherwise
    os.chdir(told["folder"])
    os.environ.update(told["more"])
    atexit.register(tell_peak, told["peak"])
    for number, name in enumerate(told["told"], 1):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["onnxmpq", *told["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores interrupts
    os.read(gate, 1)
    os.close(gate)
    from onnxmpq.cli import entry

    entry()


def main() -> None:
    """Serve until nothing more is asked for."""
    import onnxmpq.api
    from tests.asked import untimed
    from tests.loaded import load

    load()
    onnxmpq.api.quantize = untimed
    answers = os.fdopen(os.dup(1), "w")
    for line in iter(sys.stdin.readline, ""):
        gate, opener = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(opener)
            answers.close()
            child(json.loads(line), gate)
            sys.exit(0)
        os.close(gate)
        print(pid, file=answers, flush=True)
        sys.stdin.readline()
        os.write(opener, b".")
        os.close(opener)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    main()
