"""The table of methods: a tiny run, and its summary."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.methods import Cell, markdown, methods, summary


def cell(model: str, method: str, held_out: float, behind: float, error: float, runs: float) -> Cell:
    """Return a cell with what the summary looks at."""
    return Cell(model, 0.5, method, method, held_out, 0.0, None, held_out, 0.0, behind, error, runs, 1.0)


def test_the_summary_counts_what_is_within_an_error_of_the_best() -> None:
    found = [
        cell("a", "gram", 0.10, 0.0, 0.0, 10),
        cell("a", "local", 0.20, 0.10, 0.01, 5),
        cell("b", "gram", 0.11, 0.0, 0.0, 10),
        cell("b", "local", 0.10, -0.01, 0.02, 5),
    ]
    gram, local = summary(found)
    assert (gram["best or within one error"], local["best or within one error"]) == (2, 1)
    assert local["loss over gram's"] == pytest.approx((2.0 * 10 / 11) ** 0.5)
    assert local["runs over gram's"] == pytest.approx(0.5)
    assert "| b | 0.50 | local |" in markdown(found)


def test_a_small_run_writes_its_tables(tmp_path: Path) -> None:
    arguments = "--models digits_cnn --methods gram,local --shares 0.6 --samples 24 --held-out 50 --effort quick"
    files = ["--json", str(tmp_path / "cells.json"), "--markdown", str(tmp_path / "cells.md")]
    ran = CliRunner().invoke(methods, [*arguments.split(), *files], catch_exceptions=False)
    assert ran.exit_code == 0
    found = json.loads((tmp_path / "cells.json").read_text())
    assert [one["method"] for one in found] == ["gram", "local"]
    assert all(one["held_out"] > 0 for one in found)
    assert all(-0.2 < one["accuracy"] <= 0.1 and one["accuracy_error"] >= 0 for one in found)
    assert "| digits_cnn | 0.60 | gram |" in (tmp_path / "cells.md").read_text()
