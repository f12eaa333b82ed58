"""The table beside methods and peers: a small run, which goes on where it was."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import table as bench
from benchmarks.peers import PEERS
from benchmarks.table import Row, table
from tests.small import MODELS, small_model


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    """Write samples to calibrate with, and others."""
    for name, count in (("calibration", 24), ("evaluation", 60)):
        with np.load(MODELS / f"digits_{name}.npz") as data:
            held = {key: data[key][:count] for key in data.files if name == "evaluation" or key != "labels"}
        np.savez(tmp_path / f"{name}.npz", **held)
    return (str(small_model()), str(tmp_path / "calibration.npz"), str(tmp_path / "evaluation.npz"))


def test_a_small_run_holds_ours_against_others_and_goes_on_where_it_was(
    files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "OPTIONS", ("w4a8",))
    monkeypatch.setattr(bench, "PEERS", [peer for peer in PEERS if peer.name in ("static u8s8", "dynamic")])
    given = ["--files", *files, "-b", "size=25%", "--methods", "local", "--keep", str(tmp_path / "keep")]
    ran = CliRunner().invoke(table, [*given, "--json", str(tmp_path / "rows.json")], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    rows = json.loads((tmp_path / "rows.json").read_text())
    names = [row["other"] for row in rows]
    assert names[:2] == ["w4a8", "onnxruntime static"]
    assert names[-1] == "local size=25%"
    for row in rows:
        assert 0 < row["ours_bytes"] <= row["file_bytes"]
        assert row["ours_less"][0] == pytest.approx(row["ours_loss"] - row["loss"], abs=1e-9)
        assert "lower held-out loss:" in ran.output
    (folder,) = (tmp_path / "keep").iterdir()
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.onnx")}
    again = CliRunner().invoke(table, [*given, "--json", str(tmp_path / "again.json")], catch_exceptions=False)
    assert again.exit_code == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.onnx")} == made
    assert json.loads((tmp_path / "again.json").read_text()) == rows


def test_who_is_lower_is_told_beyond_two_standard_errors() -> None:
    def row(difference: float) -> Row:
        return Row("m", "o", 100, 20, 0.2, 20, 0.2 + difference, (difference, 0.01), None, None)

    assert [row(difference).verdict for difference in (-0.03, -0.01, 0.01, 0.03)] == [
        "ours",
        "level",
        "level",
        "theirs",
    ]
