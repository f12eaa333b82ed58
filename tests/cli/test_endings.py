"""What a run says in the end: what came out, and the exact command that comes next."""

import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from onnxmpq.cli.pareto import bend
from onnxmpq.sensitivity.workers.judge import Results
from onnxmpq.sensitivity.workers.worker import Job, ResponseJob, Worker
from tests.cli.running import MODEL, run

SEARCH = ("--tie", "stage.*", "--store", "e.store", "--effort", "quick", "-b", "size=30%")


@pytest.fixture(autouse=True)
def _desk(desk: Path) -> None:
    """Every test here is at the desk."""


def following(shown: str) -> list[str]:
    """Return the arguments of the command that comes next."""
    found = re.findall(r"^next +(onnxmpq .*?)(?:  # .*)?$", shown, re.MULTILINE)
    assert len(found) == 1, shown
    return shlex.split(found[0])[1:]


def test_quantize_ends_with_a_command_that_verifies_the_file(desk: Path) -> None:
    shown = run("quantize", MODEL, "-c", "s.npz", "-o", "a b.onnx", "--threads", "2", "-t", "generic", "-q").stdout
    arguments = following(shown)
    assert arguments == ["verify", "a b.onnx", "--float", MODEL, "--threads", "2", "-t", "generic", "-c", "s.npz"]
    assert "simulation" in run(*arguments).stdout


def test_what_a_configuration_told_is_in_the_command_too(desk: Path) -> None:
    (desk / "c.toml").write_text('calibration = "s.npz"\ntarget = "generic"\n')
    shown = run("quantize", MODEL, "--config", "c.toml", "-o", "c.onnx", "-q").stdout
    assert following(shown) == ["verify", "c.onnx", "--float", MODEL, "-t", "generic", "-c", "s.npz"]


def test_measure_ends_with_a_search_that_measures_nothing_twice(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    menu = ("--options", "w8a8,w4a8", "--samples", "4", "--ranges", "minmax")
    arguments = following(run("measure", MODEL, "-c", "s.npz", "--store", "m.store", "-q", *menu).stdout)
    assert arguments[:2] == ["quantize", MODEL]

    whole = Worker.__call__

    def again(worker: Worker, job: Job) -> Results:
        assert not isinstance(job, ResponseJob)
        return whole(worker, job)

    monkeypatch.setattr(Worker, "__call__", again)
    shown = run(*arguments, "--effort", "quick", "-q").stdout
    assert "plan " in shown
    assert (desk / "digits_small.small.onnx").is_file()


def test_pareto_ends_with_a_command_that_makes_a_file_of_a_point(desk: Path) -> None:
    shown = run("pareto", MODEL, "-c", "s.npz", "--points", "4", *SEARCH[:4], "-o", "f.json", "--report", ".", "-q")
    arguments = following(shown.stdout)
    assert arguments[:3] == ["apply", MODEL, "f.json"]
    assert re.search(r"^report +report\.html$", shown.stdout, re.MULTILINE)
    assert (desk / "report.html").is_file()
    applied = run(*arguments, "-q").stdout
    assert (desk / arguments[arguments.index("-o") + 1]).is_file()
    assert following(applied)[0] == "verify"


def test_a_report_is_pointed_at(desk: Path) -> None:
    shown = run("quantize", MODEL, "-c", "s.npz", "-o", "r.onnx", "--report", "here.html", "-q").stdout
    assert re.search(r"^report +here\.html$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [
        ("quantize", MODEL, "-c", "s.npz", "-o", "n.onnx", "-q", "--overwrite", *SEARCH),
        ("pareto", MODEL, "-c", "s.npz", "--points", "4", *SEARCH[:4], "-q"),
        ("measure", MODEL, "-c", "s.npz", "--samples", "2", "--options", "w4a8", "-q"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_tables_fit_in_80_columns(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("onnxmpq.cli.show.out", Console(highlight=False, width=80))
    shown = run(*arguments).stdout
    assert "…" not in shown
    for line in shown.splitlines():
        if not line.startswith(("next", "note", "and ")):  # what is to be copied, and sentences
            assert len(line.rstrip()) <= 80, line


def test_json_has_no_ending() -> None:
    shown = run("quantize", MODEL, "-c", "s.npz", "-o", "j.onnx", "-q", "--json").stdout
    assert "next  " not in shown


@pytest.mark.parametrize(
    ("sizes", "losses", "point"),
    [
        ([100, 120, 200, 400], [1.0, 0.01, 0.008, 0.007], 2),
        ([100], [1.0], 1),
        ([100, 200], [1.0, 0.0], 1),
        ([100, 200, 300], [1.0, 0.9, 0.0], 1),
        ([100, 110, 120, 400], [1.0, 0.5, 0.001, 0.0009], 3),
    ],
)
def test_a_front_bends_where_less_size_begins_to_cost(sizes: list[float], losses: list[float], point: int) -> None:
    assert bend(sizes, losses) == point
