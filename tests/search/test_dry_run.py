"""What a search would take, told before it: it holds afterwards, and nothing was measured for it."""

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmpq.api import quantize
from onnxmpq.cli import main
from onnxmpq.errors import InfeasibleError
from onnxmpq.options import EFFORTS, SearchOptions, VerifyOptions
from onnxmpq.search.dry_run import foresee
from tests.small import MODELS, small_model

MODEL = small_model()
FILES = ["-c", str(MODELS / "digits_calibration.npz")]


def images(count: int = 16) -> dict[str, np.ndarray]:
    """Return some of the calibration samples."""
    with np.load(MODELS / "digits_calibration.npz") as data:
        return {"image": data["image"][:count]}


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse jobs, but those of the float model."""

    def refuse(_: Any, what: str, *__: Any) -> None:
        raise AssertionError(f"{what} was measured")

    monkeypatch.setattr("onnxmpq.sensitivity.engine.Engine.table", refuse)
    monkeypatch.setattr("onnxmpq.sensitivity.engine.Engine.losses", refuse)


@pytest.mark.parametrize("method", ["gram", "clado"])
def test_a_search_takes_no_more_than_was_told_and_its_file_is_between_the_ends(method: str, tmp_path: Path) -> None:
    options = ["w8a8", "w2a8"]
    told = foresee(MODEL, images(6), budget=["size=25%"], search=SearchOptions(method=method, options=options))
    result = quantize(
        MODEL,
        images(6),
        output=tmp_path / "q.onnx",
        budget=["size=25%"],
        search=SearchOptions(method=method, options=options),
        verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
    )
    assert result.decision is not None
    assert told.full_runs <= result.decision.runs <= 1.05 * told.most_runs
    assert told.least_bytes - 1 <= result.file_bytes <= told.most_bytes
    assert (told.samples, told.blends) == ((6, 6) if method == "gram" else (6, 0))
    assert told.units * 2 == told.variants
    assert list(told.efforts) == list(EFFORTS)
    assert 0.4 <= result.decision.runs / told.efforts["default"].runs <= 1.4
    if method == "gram":
        runs, seconds = ([getattr(each, name) for each in told.efforts.values()] for name in ("runs", "seconds"))
        assert runs == sorted(runs)
        assert seconds == sorted(seconds)
    assert told.to_json()["efforts"]["quick"] == asdict(told.efforts["quick"])


@pytest.mark.usefixtures("nothing_runs")
def test_nothing_is_measured_for_it() -> None:
    assert foresee(MODEL, images(), budget=["size=25%"]).seconds > 0


@pytest.mark.usefixtures("nothing_runs")
def test_a_budget_that_nothing_meets_is_told_before_measuring() -> None:
    with pytest.raises(InfeasibleError, match=r"size=2% cannot be met: the least is"):
        foresee(MODEL, images(), budget=["size=2%"])


@pytest.mark.usefixtures("nothing_runs")
def test_the_command_line_tells_it_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.onnx"
    given = ["quantize", str(MODEL), *FILES, "-o", str(output), "-b", "size=25%", "--samples", "16", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["onnxmpq", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert not list(tmp_path.iterdir())
    told = capsys.readouterr().out
    assert "the budgets can be met" in told
    assert re.search(r"quick \d+ runs, .* min; default \d+ runs, .* min; extensive \d+ runs, .* min", told)
    assert "Nothing was measured." in told


def test_without_a_budget_there_is_nothing_to_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["onnxmpq", "quantize", str(MODEL), *FILES, "-o", "q.onnx", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--dry-run belongs to a search" in capsys.readouterr().err
