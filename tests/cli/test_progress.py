"""Progress: what is shown on a terminal and elsewhere, and how well the time left is foretold."""

import os
import re
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from onnxmpq.cli.progress import Stages, progress
from onnxmpq.workspace.clock import Clock as WholeClock
from onnxmpq.workspace.clock import Part
from tests.cli.running import MODEL, MODELS, ROOT, run

pty = pytest.importorskip("pty", reason="needs pseudo-terminals")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(clock: Clock, stages: Stages, what: str, steps: Sequence[tuple[float, int]], of: int) -> None:
    """Report steps, each after some seconds."""
    for seconds, done in steps:
        clock.now += seconds
        stages.report(what, done, of)


# ---- time left -------------------------------------------------------------------------------------------------------


def test_time_left_follows_from_the_speed_since_the_first_step() -> None:
    stages = Stages(clock := Clock())
    told(clock, stages, "responses", [(0, 0), (30, 10), (5, 20), (5, 30)], 100)
    assert stages.now.left_s(clock.now) == pytest.approx(35)
    clock.now += 3
    assert stages.now.left_s(clock.now) == pytest.approx(32)


def test_what_a_store_had_is_no_speed() -> None:
    stages = Stages(clock := Clock())
    told(clock, stages, "responses", [(0, 900), (2, 910), (2, 920), (2, 930)], 1000)
    assert stages.now.left_s(clock.now) == pytest.approx(14)


def test_nothing_is_foretold_before_anything_is_known() -> None:
    stages = Stages(clock := Clock())
    told(clock, stages, "responses", [(0, 0), (3, 10)], 100)
    assert stages.now.left_s(clock.now) is None
    told(clock, stages, "lower", [(3, 0), (3, 0)], 0)
    assert stages.now.left_s(clock.now) is None


def test_a_stage_that_begins_again_is_another() -> None:
    stages = Stages(clock := Clock())
    told(clock, stages, "plans", [(0, 0), (1, 5), (1, 10)], 10)
    ended = stages.report("plans", 0, 10)
    assert ended is not None
    assert ended.finished
    assert stages.now.done == 0


# ---- without a terminal ----------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the clock of what is shown by hand."""
    made = Clock()
    monkeypatch.setattr(Stages.__init__, "__defaults__", (made,))
    return made


def test_lines_are_written_when_a_stage_begins_and_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(quiet=False) as report:
        report("load", 0, 0)
        for done in range(101):
            report("responses", done, 100)
            clock.now += 0.5
        report("responses", 0, 100)
        report("plans", 1, 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "   0.0 s  load",
        "   0.0 s  responses",
        "  10.0 s  responses 20%, about 40 s left in this stage",
    ]
    assert lines[-1] == "  50.5 s  plans"
    assert len(lines) == 2 + 5 + 1


def test_what_is_left_of_the_whole_is_shown_once_it_is_foreseen(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(quiet=False) as report:
        assert isinstance(report, WholeClock)
        report.foresee([Part(("responses",), 300.0, "work"), Part(("lower",), 60.0)])
        for done in range(0, 300_001, 1000):
            report("responses", done, 300_000)
            clock.now += 1
        report("lower", 0, 0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "   0.0 s  responses, about 6 min left"
    assert lines[6] == "  60.0 s  responses 20%, about 5 min left"
    assert lines[-1] == " 301.0 s  lower, about 1 min left"


def test_verbose_leaves_a_line_of_every_stage(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=False, verbose=True) as report:
        report("load", 0, 0)
        clock.now += 2.5
        report("lower", 0, 0)
        clock.now += 1
    assert capsys.readouterr().err.splitlines() == [
        *("   0.0 s  load", "   2.5 s  load took 2.5 s"),
        *("   2.5 s  lower", "   3.5 s  lower took 1.0 s"),
    ]


def test_quiet_wins(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=True, verbose=True) as report:
        report("load", 0, 0)
    assert capsys.readouterr().err == ""


def test_verbose_is_an_option_of_what_runs_long(desk: Path) -> None:
    done = run("measure", MODEL, "-c", "s.npz", "--options", "w4a8", "--samples", "2", "-v")
    assert re.search(r"^ *\d+\.\d s  responses took \d+\.\d s$", done.stderr, re.MULTILINE)
    assert "\x1b" not in done.output
    assert "\r" not in done.output


# ---- on a terminal ---------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, **environment: str) -> tuple[int, list[tuple[float, bytes]]]:
    """Run onnxmpq under a pseudo-terminal; return its exit code, and what it wrote at which second."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "passes")))
    given = {"PYTHONPATH": paths, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "OMP_NUM_THREADS": "1"}
    # A new process, not a fork of this one: other tests leave threads behind.
    code = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    inner = [sys.executable, "-c", "from onnxmpq.cli import main; main()", *arguments]
    read, write = os.pipe()
    began = time.monotonic()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", code, *inner],
        os.environ | given | environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
    )
    os.close(write)
    written = []
    while data := os.read(read, 65536):
        written.append((time.monotonic() - began, data))
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written


def test_the_bar_never_stands_still_in_a_search(desk: Path) -> None:
    arguments = ("-b", "size=30%", "--effort", "default", "-o", "v.onnx", "--tie", "stage.*", "--samples", "12")
    code, written = on_a_terminal("quantize", str(MODELS / "digits_cnn.onnx"), "-c", "s.npz", *arguments)
    text = b"".join(data for _, data in written).decode()
    assert code == 0, text
    moments = [moment for moment, _ in written]
    assert max(b - a for a, b in pairwise(moments)) < 2
    assert re.search(r"responses .*\d+% \d+ s, less than 1 min left", text)
    assert "\x1b[" in text
    for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)):
        if "next " not in line and "note" not in line:  # what is to be copied, and sentences
            assert len(line) <= 80, line


def test_no_color_is_respected(desk: Path) -> None:
    _, written = on_a_terminal("quantize", "none.onnx", "-c", "s.npz", "-o", "n.onnx", NO_COLOR="1")
    text = b"".join(data for _, data in written).decode()
    assert "There is no file 'none.onnx'" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", text)
    assert Console(stderr=True).is_terminal is False
