"""One plan, many targets: a file for each, and what each could not keep."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import onnxmpq
from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.errors import InputError
from onnxmpq.for_targets import elsewhere
from tests.cli.running import refused, run
from tests.search.test_retarget import coarse
from tests.small import MODELS, small_model

DATA = MODELS / "digits_calibration.npz"


def samples(count: int = 16) -> dict[str, np.ndarray]:
    with np.load(DATA) as data:
        return {name: data[name][:count] for name in data.files}


def no_such_model(_model: object, _plan: object, target: str, _progress: object) -> None:
    raise InputError(f"{target} takes no such model")


def test_each_target_has_a_file_of_the_plan_of_the_first(tmp_path: Path) -> None:
    found = onnxmpq.quantize_for(
        small_model(), samples(), output=tmp_path / "q.onnx", targets=["ort-cpu", "generic"], plan="w4a8"
    )
    assert [one.target for one in found] == ["ort-cpu", "generic"]
    for one in found:
        assert one.result is not None
        assert one.result.path == tmp_path / f"q.{one.target}.onnx"
        assert one.result.verdict.ok
        assert Option(4, 8) in one.result.plan.choices.values()
    assert found[0].retargeted is None
    assert found[1].retargeted is not None
    assert found[1].retargeted.source == "ort-cpu"


def test_a_target_that_fails_does_not_stand_against_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.for_targets.retarget", no_such_model)
    targets = ["ort-cpu", "generic"]
    first, second = onnxmpq.quantize_for(small_model(), samples(), output=tmp_path / "q.onnx", targets=targets)
    assert first.result is not None
    assert first.result.path.is_file()
    assert second.result is None
    assert str(second.error) == "generic takes no such model"
    assert not (tmp_path / "q.generic.onnx").exists()


def test_activations_given_up_for_speed_here_come_back_elsewhere(tmp_path: Path) -> None:
    result = onnxmpq.quantize(small_model(), samples(), output=tmp_path / "q.onnx", plan="w8a8")
    plain = {unit: replace(option, activation_bits=0) for unit, option in result.plan.choices.items()}
    given_up = replace(result, decided=result.plan, plan=replace(result.plan, choices=plain))
    assert elsewhere(given_up).choices == result.plan.choices
    finer = dict.fromkeys(result.plan.choices, FLOAT)
    assert elsewhere(replace(given_up, plan=replace(result.plan, choices=finer))).choices == finer


def test_targets_are_several_and_each_once(tmp_path: Path) -> None:
    for targets in (["ort-cpu"], ["ort-cpu", "ort-cpu"]):
        with pytest.raises(InputError, match="Several targets, each once"):
            onnxmpq.quantize_for(small_model(), samples(), output=tmp_path / "q.onnx", targets=targets)


def test_the_command_line_makes_all_files_and_says_what_moved(tmp_path: Path) -> None:
    model, output, target = str(small_model()), str(tmp_path / "q.onnx"), coarse(tmp_path)
    shown = run("quantize", model, "-c", str(DATA), "-o", output, "--option", "w4a8", "-t", f"ort-cpu,{target}")
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "q.ort-cpu.onnx").is_file()
    assert "w4a8 → w8a8" in shown.stdout
    assert "no 'w4a8' there for Conv" in shown.stdout
    again = run("retarget", model, str(tmp_path / "q.ort-cpu.plan.json"), "-t", target, "--json")
    data = json.loads(again.stdout)
    written = json.loads((tmp_path / "q.coarse.plan.json").read_text("utf-8"))
    assert data["plan"]["choices"] == written["choices"]
    assert {one["after"] for one in data["moved"]} == {"w8a8", "float"}


def test_a_target_without_a_file_is_told_with_the_code_of_what_stands_against_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmpq.for_targets.retarget", no_such_model)
    output = str(tmp_path / "q.onnx")
    error = refused("quantize", str(small_model()), "-c", str(DATA), "-o", output, "-t", "ort-cpu,generic", "-q")
    assert error.exit_code == 2
    assert "1 of 2 targets have no file. generic: generic takes no such model" in str(error)
    assert (tmp_path / "q.ort-cpu.onnx").is_file()


def test_a_report_is_of_one_target() -> None:
    wanted = ["-b", "size=30%", "-t", "ort-cpu,generic", "--dry-run"]
    assert "are of one target" in str(refused("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", *wanted))
