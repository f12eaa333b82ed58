"""Models with outliers among channels, at 8 bits and smoothed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main


def test_smoothing_is_told_beside_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    file = tmp_path / "rows.json"
    ran = CliRunner().invoke(main, ["outliers", "--budgets", "", "--most", "100", "--json", str(file)])
    assert ran.exit_code == 0, ran.output
    off, auto = json.loads(file.read_text())
    assert (off["smooth"], off["samples"], off["wide"], off["units"]) == ("off", 100, 0, 26)
    assert auto["smooth"] != "off"
    assert auto["loss"] < 0.1 * off["loss"]
    assert auto["file_bytes"] == off["file_bytes"]
