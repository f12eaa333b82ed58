"""The smallest files within a drop: found on one half of the data, checked on the other."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.held_out import data_of
from onnxmpq.errors import InfeasibleError


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand where the embedded models are."""
    monkeypatch.chdir(Path(__file__).parents[2])


FEW = ("drop", "--models", "digits_cnn", "--methods", "uniform", "--samples", "16", "--most", "60", "--drop", "20%")


def test_a_file_is_found_on_one_half_and_checked_on_the_other(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    ran = CliRunner().invoke(main, [*FEW, "--json", str(file)])
    assert ran.exit_code == 0, ran.output
    [row] = json.loads(file.read_text())
    assert (row["samples"], row["refused"]) == (60, "")
    assert row["size_share"] < 0.5
    assert row["before"] - row["after"] <= 20


def test_what_is_refused_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise InfeasibleError("No plan keeps it.")

    monkeypatch.setattr("benchmarks.drop.quantize", refuse)
    file = tmp_path / "rows.json"
    ran = CliRunner().invoke(main, [*FEW, "--json", str(file)])
    assert ran.exit_code == 0, ran.output
    assert "refused" in ran.output
    assert json.loads(file.read_text())[0]["refused"] == "No plan keeps it."


def test_what_is_no_classifier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of("digits_cnn", 4)
    monkeypatch.setattr("benchmarks.drop.data_of", lambda _: replace(data, metric="spearman"))
    ran = CliRunner().invoke(main, ["drop", "--models", "other"])
    assert ran.exit_code == 1
    assert "'other' is no classifier" in ran.output


def test_held_out_data_are_cut_with_their_labels() -> None:
    [split] = data_of("digits_vit", 7).splits
    assert len(split.truth) == len(split.feeds["image"]) == 7
    assert split.truth.dtype.kind in "iu"
    assert np.array_equal(data_of("digits_vit", 9).splits[0].truth[:7], split.truth)
