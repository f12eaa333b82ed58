"""Plans that give every unit an option of its own, drawn at random: they load, hold, and take the bytes predicted."""

from pathlib import Path

import numpy as np
import pytest

from onnxmpq.artifacts import Plan
from onnxmpq.options import Numbers
from onnxmpq.runtimes import get_runtime
from onnxmpq.targets import target as find_target
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import Workspace
from tests.kept import Kept
from tests.needed import need_runtime
from tests.small import MODELS


@pytest.mark.parametrize("target", ["ort-cpu", "openvino", "generic", "qnn"])
@pytest.mark.parametrize("model", ["digits_cnn", "digits_vit"])
def test_a_mixed_plan_does_what_was_predicted(target: str, model: str, tmp_path: Path) -> None:
    passes = ("fix-shapes",) if find_target(target).static_shapes else ()
    prepared = prepare(MODELS / f"{model}.onnx", target, extra_passes=passes)
    with np.load(MODELS / "digits_calibration.npz") as data:
        images = data["image"][:24]
    need_runtime(target)
    workspace = Workspace(prepared, {"image": images}, Numbers(), tmp_path)
    exporter = Exporter(workspace, runtime=Kept(get_runtime(prepared.target.runtime)))
    generator = np.random.default_rng(0)
    for number in range(4 if prepared.target.proof != "emulated" else 2):
        choices = {unit.name: unit.options[generator.integers(len(unit.options))] for unit in prepared.space.units}
        verdict = exporter.build(Plan(target, "", choices), f"{number}.onnx").verdict
        assert verdict.ok, verdict
        assert verdict["size"].ok
