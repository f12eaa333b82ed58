"""The comparison of ways to round, on an embedded model."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main


def test_gptq_beats_nearest_on_an_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    file = tmp_path / "rows.json"
    options = ("--models", "digits_cnn", "--options", "w3a8", "--samples", "60", "--json", str(file))
    result = CliRunner().invoke(main, ["rounding", *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert "GPTQ is better in 1 of 1 cells, and worse by more than one error in 0." in result.output
    [row] = json.loads(file.read_text())
    assert (row["samples"], row["calibration"], row["loss"]) == (60, 156, "kl")
    assert row["gptq"] < 0.5 * row["nearest"]
    assert row["difference"] == pytest.approx(row["gptq"] - row["nearest"])
    assert "Fitted in the order of the network: better still in 1, worse by more than one error in 0." in result.output
    assert row["sequential"] < 0.9 * row["gptq"]
    assert row["fitted_difference"] == pytest.approx(row["sequential"] - row["gptq"])
