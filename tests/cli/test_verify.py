"""`onnxmpq verify --require`: what is asked of a file holds or is told, all at once, with the figure that was seen."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from onnxmpq.api import quantize
from onnxmpq.artifacts import Verdict
from onnxmpq.cli import cli, main
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.options import Numbers, VerifyOptions
from onnxmpq.verification.verify import verify

MODELS = Path(__file__).parents[2] / "models"
FLOAT, CALIBRATION, EVALUATION = (
    MODELS / name for name in ("digits_cnn.onnx", "digits_calibration.npz", "digits_evaluation.npz")
)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantise the embedded network coarsely."""
    path = tmp_path_factory.mktemp("export") / "q.onnx"
    quick = VerifyOptions(allow_slower=True, speed_budget_s=0.0)
    quantize(FLOAT, CALIBRATION, output=path, plan="w3a8", numbers=Numbers(), verify=quick)
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spend no time on timing."""
    monkeypatch.setattr("onnxmpq.cli.verify.verify", partial(verify, speed_budget_s=0.0))
    monkeypatch.setenv("COLUMNS", "200")


def arguments(path: Path, *more: str, float_model: Path = FLOAT) -> list[str]:
    return ["verify", str(path), "--float", str(float_model), "-c", str(CALIBRATION), "-q", *more]


def run(path: Path, *more: str) -> Result:
    return CliRunner().invoke(cli, arguments(path, *more))


def required(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--require", text)]


def refused(result: Result, kind: type[Exception]) -> str:
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


def test_requirements_that_hold_are_shown_with_what_was_seen(export: Path) -> None:
    asked = required("size<=50%", "drop<=60%", "loss<=5", "sqnr>=1", "agreement>=40", "speed>=0.01")
    shown = run(export, *asked, "-e", str(EVALUATION))
    assert shown.exit_code == 0, shown.output
    rows = {line.split()[1]: line for line in shown.stdout.splitlines() if "=" in line}
    assert list(rows) == asked[1::2]
    assert all(" ok " in row for row in rows.values())
    assert f"{export.stat().st_size:,} bytes" in rows["size<=50%"]
    assert "accuracy, 1,021 samples" in rows["drop<=60%"]


def test_all_that_fail_are_told_at_once_with_figure_limit_and_error(export: Path) -> None:
    asked = required("size<=1kB", "drop<=0.1%", "loss<=1e-9", "sqnr>=300", "agreement>=10", "speed>=1e6")
    told = refused(run(export, *asked, "-e", str(EVALUATION)), VerifyError).splitlines()
    assert told[0] == f"'{export}' misses 5 of 6 requirements:"
    assert [line.split(":")[0].strip() for line in told[1:]] == [text for text in asked[1::2] if "agree" not in text]
    assert f"seen {export.stat().st_size:,} bytes, limit 1,000 bytes" in told[1]
    assert "% (accuracy, 1,021 samples)" in told[2]
    assert " ± " in told[2]
    assert "limit 0.10%" in told[2]
    assert " ± " in told[3]


def test_the_exit_code_of_a_requirement_that_fails_is_four(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["onnxmpq", *arguments(export, *required("sqnr>=300"))])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 4


def test_json_has_every_requirement_with_what_was_seen(export: Path) -> None:
    result = run(export, *required("size<=30%", "drop<=0%", "sqnr>=1"), "--json")
    data = json.loads(result.stdout)
    assert isinstance(result.exception, VerifyError)
    assert data["ok"] is False
    size, drop, sqnr = data["requirements"]
    assert size == {
        "requirement": "size<=30%",
        "kind": "size",
        "ok": True,
        "seen": export.stat().st_size,
        "error": None,
        "limit": 0.3 * FLOAT.stat().st_size,
        "detail": "",
    }
    assert (drop["ok"], drop["limit"], sqnr["ok"], sqnr["limit"]) == (False, 0.0, True, 1.0)
    assert drop["detail"] == "share of classes that change, for want of labels, 156 samples"
    assert drop["error"] > 0
    assert sqnr["seen"] == next(check["value"] for check in data["checks"] if check["name"] == "sqnr")


def test_a_file_that_does_not_hold_fails_whatever_is_required(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(*given: Any, **more: Any) -> Verdict:
        verdict = verify(*given, **more, speed_budget_s=0.0)
        checks = [replace(check, ok=False) if check.name == "simulation" else check for check in verdict.checks]
        return replace(verdict, checks=tuple(checks))

    monkeypatch.setattr("onnxmpq.cli.verify.verify", bad)
    lone = refused(run(export, *required("size<=100%")), VerifyError)
    assert lone == f"'{export}' does not hold: simulation."
    both = refused(run(export, *required("size<=1kB", "size<=100%")), VerifyError).splitlines()
    assert both[:2] == [lone, f"'{export}' misses 1 of 2 requirements:"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sise<=5MB", "There is no requirement 'sise'. Known: size, drop, loss, sqnr, agreement, speed. Did you mean"),
        ("drop<1%", "'drop<1%' is no requirement. Expected drop<=1%."),
        ("size>=5MB", "'size>=5MB' is no requirement. Expected size<=5MB or size<=30%."),
        ("drop<=1", "'1' is no amount. Expected drop<=1%."),
        ("loss<=1%", "'1%' is no amount. Expected loss<=0.01."),
        ("speed>=nan", "'nan' is no amount"),
        ("sqnr>=", "'' is no amount"),
        ("", "There is no requirement ''"),
    ],
)
def test_a_requirement_that_cannot_be_read_is_refused_before_any_work(text: str, told: str, tmp_path: Path) -> None:
    found = refused(run(tmp_path / "none.onnx", *required("size<=5MB", text)), InputError)
    assert told in found


def test_evaluation_data_that_nothing_is_judged_on_is_refused(export: Path) -> None:
    told = refused(run(export, *required("size<=90%"), "-e", str(EVALUATION)), InputError)
    assert told.startswith("--evaluation is what drop and loss are judged on.")


def test_another_float_model_than_the_one_it_came_from_is_refused(export: Path, tmp_path: Path) -> None:
    model = onnx.load(FLOAT)
    model.graph.node[-1].output[0] = model.graph.output[0].name = "other"
    onnx.save(model, tmp_path / "other.onnx")
    told = refused(CliRunner().invoke(cli, arguments(export, float_model=tmp_path / "other.onnx")), InputError)
    assert told.startswith(f"'{export}' gives logits and the float model other: it was made of another.")
