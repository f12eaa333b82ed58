"""``onnxmpq pareto``, and ``onnxmpq apply`` of a point."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxmpq.cli import cli
from onnxmpq.errors import InputError
from tests.cli.running import MODEL, run

FRONT = ("pareto", MODEL, "-c", "s.npz", "--points", "4", "--tie", "stage.*", "--store", "p.store", "-q")


def test_a_table_is_printed_and_json_written(desk: Path) -> None:
    shown = run(*FRONT, "-o", "front.json", "--overwrite").stdout
    data = json.loads((desk / "front.json").read_text())
    for word in ("point", "size", "of float", "predicted", "gap", "loss", "± se", "gram"):
        assert word in shown
    for point in data["points"]:
        assert f"{point['file_bytes']:,}" in shown
    assert re.search(
        rf"onnxmpq apply {re.escape(MODEL)} front.json -c s.npz --point \d -o digits_small.point\d.onnx", shown
    )
    assert len(re.findall(r"\d%", shown)) >= len(data["points"])


def test_json_is_printed(desk: Path) -> None:
    data = json.loads(run(*FRONT, "--over", "bits", "--json").stdout)
    assert data["over"] == "bits"
    assert all(2 <= point["usage"] <= 8 for point in data["points"])
    assert "Keep the front with -o front.json" in run(*FRONT, "--over", "bits").stdout


def test_a_point_is_applied_without_measuring(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*FRONT, "-o", "front.json", "--overwrite")
    monkeypatch.setattr(
        "onnxmpq.sensitivity.workers.worker.Worker.__call__", lambda *_: pytest.fail("something is measured")
    )
    point = json.loads((desk / "front.json").read_text())["points"][1]
    arguments = ("-c", "s.npz", "-o", "a.onnx", "-q", "--overwrite", "--json")
    data = json.loads(run("apply", MODEL, "front.json", "--point", "2", *arguments).stdout)
    assert data["file_bytes"] == point["file_bytes"] == (desk / "a.onnx").stat().st_size
    assert data["plan"]["choices"] == point["choices"]
    assert data["plan"]["ranges"]["rounding"] == "sequential"


def test_a_front_without_a_point_is_refused_in_one_sentence(desk: Path) -> None:
    run(*FRONT, "-o", "front.json", "--overwrite")
    for more, message in (
        ((), r"^'front.json' is a front of \d plans: choose one with --point 1 to \d\.$"),
        (("--point", "99"), r"^'front.json' is a front of \d plans, and none of them is 99: choose one with"),
    ):
        error = CliRunner().invoke(cli, ["apply", MODEL, "front.json", "-c", "s.npz", "-o", "b.onnx", *more]).exception
        assert isinstance(error, InputError)
        assert re.search(message, str(error))
    assert not (desk / "b.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--over", "bit"), "There is no budget 'bit'. Known: size, bits, bops, memory, drop. Did you mean 'bits'?"),
        (("--over", "drop"), "what is lost is its other axis"),
        (("-b", "siez=3%"), "Did you mean 'size'?"),
        (("-o", "nowhere/f.json"), "does not exist"),
        (("-o", "s.npz"), "The output 's.npz' is the calibration data, too."),
        (("--executor", "inlien"), "no executor 'inlien'"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], message: str, desk: Path) -> None:
    error = CliRunner().invoke(cli, [*FRONT, *arguments]).exception
    assert isinstance(error, InputError)
    assert message in str(error)
