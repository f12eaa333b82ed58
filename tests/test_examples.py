"""The examples do what they say: the workflow passes and fails where it should, and the pass runs inside Olive."""

import importlib.util
import re
import runpy
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.cli import main
from onnxmpq.verification.verify import verify as verified
from tests.asked import untimed
from tests.small import small_model

ROOT = Path(__file__).parents[1]
EXAMPLES, MODELS = ROOT / "examples", ROOT / "models"
WORKFLOW = EXAMPLES / "github-actions.yml"


def commands(text: str) -> list[list[str]]:
    """Return what the steps of a workflow run, lines that are folded into one put together."""
    found = re.findall(r"^ *- run: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", text, re.MULTILINE)
    return [shlex.split(folded or alone) for folded, alone in found]


def code(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> int:
    """Run one command of onnxmpq in this process."""
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_workflow_passes_and_fails_with_a_tighter_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onnxmpq.api.quantize", untimed)
    monkeypatch.setattr("onnxmpq.cli.verify.verify", partial(verified, speed_budget_s=0.0))
    monkeypatch.chdir(tmp_path)
    shutil.copy(small_model(), "model.onnx")
    shutil.copy(MODELS / "digits_evaluation.npz", "labelled.npz")
    np.savez("samples.npz", image=np.load(MODELS / "digits_calibration.npz")["image"][:24])
    install, quantize, verify = commands(WORKFLOW.read_text("utf-8"))
    assert install == ["pip", "install", "onnxmpq[cpu]"]
    assert (quantize[:2], verify[:2]) == (["onnxmpq", "quantize"], ["onnxmpq", "verify"])
    assert code(monkeypatch, [*quantize, "--effort", "quick"]) == 0
    assert code(monkeypatch, verify) == 0
    capsys.readouterr()
    assert code(monkeypatch, [word.replace("size<=40%", "size<=4%") for word in verify]) == 4
    told = capsys.readouterr().err
    assert "misses 1 of 3 requirements" in told
    assert "size<=4%: seen " in told


def test_the_workflow_is_yaml_that_names_its_steps() -> None:
    yaml = pytest.importorskip("yaml")
    steps = yaml.safe_load(WORKFLOW.read_text("utf-8"))["jobs"]["quantise"]["steps"]
    assert [shlex.split(step["run"]) for step in steps if "run" in step] == commands(WORKFLOW.read_text("utf-8"))


@pytest.mark.skipif(importlib.util.find_spec("olive") is None, reason="olive-ai is not installed")
@pytest.mark.filterwarnings("default")  # those of Olive and what it loads
def test_the_pass_runs_inside_olive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [str(MODELS / "digits_cnn.onnx"), str(MODELS / "digits_calibration.npz"), str(out), "size=40%"]
    monkeypatch.setattr(sys, "argv", ["olive_pass.py", *arguments])
    runpy.run_path(str(EXAMPLES / "olive_pass.py"), run_name="__main__")
    size = (out / "model.onnx").stat().st_size
    assert size <= 0.4 * (MODELS / "digits_cnn.onnx").stat().st_size
    assert f"{size} bytes" in capsys.readouterr().out
