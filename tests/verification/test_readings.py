"""What trtexec wrote elsewhere is read back into the verdict of a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import onnxmpq
from onnxmpq.cli import cli
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.verification.readings import promised, read
from tests.cli.running import run
from tests.small import MODELS, small_model

DATA = MODELS / "digits_calibration.npz"


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trt") / "q.onnx"
    with np.load(DATA) as data:
        samples = {name: data[name][:8] for name in data.files}
    onnxmpq.quantize(small_model(), samples, output=path, target="tensorrt")
    return path


WIDE = "Thirty-two wide channel vectorized row major Int8 format"
FORMS = ["Int8 NC/32HW32", WIDE, "Channel major INT8 format where channel % 4 == 0", "Row major INT8", "Row major FP8"]


def engine(nodes: list[str], floats: tuple[str, ...] = (), form: str = WIDE, tactic: str = "") -> dict[str, Any]:
    """Write layers as trtexec does with detailed verbosity: fused ones name all their nodes."""
    layers: list[dict[str, Any]] = [
        {
            "Name": f"{node} + relu",
            "LayerType": "CaskConvolution",
            "Inputs": [
                {
                    "Name": "x",
                    "Location": "Device",
                    "Dimensions": [1, 16, 8, 8],
                    "Format/Datatype": "Row major linear FP32" if node in floats else form,
                }
            ],
            "Outputs": [{"Name": "y", "Format/Datatype": "Int8 NC/32HW32"}],
            "TacticName": tactic,
            "Metadata": f"[ONNX Layer: {node}]\x1e[ONNX Layer: {node}_relu]",
        }
        for node in nodes
    ]
    copies = [
        {
            "Name": f"Reformatting CopyNode for Input Tensor 0 to a + {node}",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "x", "Format/Datatype": WIDE}],
            "Metadata": "",
        }
        for node in nodes
    ]
    return {"Layers": [*copies, *layers], "Bindings": ["image", "logits"]}


def written(folder: Path, data: Any) -> Path:
    path = folder / "read.json"
    path.write_text(json.dumps(data), "utf-8")
    return path


def verified(quantised: Path, *readings: Path) -> dict[str, Any]:
    told = [part for path in readings for part in ("--read", str(path))]
    shown = run(
        *("verify", str(quantised), "--float", str(small_model()), "-t", "tensorrt", "-c", str(DATA), "--json"), *told
    )
    data: dict[str, Any] = json.loads(shown.stdout)
    return {check["name"]: check for check in data["checks"]}


def test_layers_that_read_codes_in_the_engine_are_counted(quantised: Path, tmp_path: Path) -> None:
    layers = promised(quantised)
    checks = verified(quantised, written(tmp_path, engine(layers)))
    assert (checks["kernels"]["ok"], checks["kernels"]["value"]) == (True, len(layers))
    assert checks["proof"]["value"] == "read"
    assert "trtexec --exportLayerInfo" in checks["proof"]["detail"]


@pytest.mark.parametrize("form", FORMS)
def test_codes_are_known_by_whatever_their_format_is_called(form: str, tmp_path: Path) -> None:
    found = read(written(tmp_path, engine(["conv"], form=form)))
    assert [layer.low_bit for layer in found.layers] == [True]


def test_a_kernel_that_quantises_what_it_reads_is_known_by_its_tactic(tmp_path: Path) -> None:
    tactic = "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32"
    found = read(written(tmp_path, engine(["conv"], floats=("conv",), tactic=tactic)))
    assert [layer.low_bit for layer in found.layers] == [True]


@pytest.mark.parametrize("form", ["Row major linear FP32", "Half", "N/A due to dynamic shapes"])
def test_floats_and_types_that_are_not_said_are_no_codes(form: str, tmp_path: Path) -> None:
    tactic = "sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32"
    found = read(written(tmp_path, engine(["conv"], form=form, tactic=tactic)))
    assert [layer.low_bit for layer in found.layers] == [False]


def test_layers_of_another_file_are_refused(quantised: Path, tmp_path: Path) -> None:
    path = written(tmp_path, engine(["somewhere_else"]))
    order = ("verify", str(quantised), "--float", str(small_model()), "-t", "tensorrt", "-c", str(DATA))
    shown = CliRunner().invoke(cli, [*order, "--read", str(path)])
    assert isinstance(shown.exception, InputError)
    assert "is of another file: none of its 1 layers" in str(shown.exception)


def test_a_layer_that_runs_in_float_there_is_named_and_the_file_fails(quantised: Path, tmp_path: Path) -> None:
    layers = promised(quantised)
    path = written(tmp_path, engine(layers, floats=(layers[1],)))
    order = ("verify", str(quantised), "--float", str(small_model()), "-t", "tensorrt", "-c", str(DATA))
    shown = CliRunner().invoke(cli, [*order, "--read", str(path), "--json"])
    assert isinstance(shown.exception, VerifyError)
    assert "does not hold: kernels" in str(shown.exception)
    kernels = next(check for check in json.loads(shown.stdout)["checks"] if check["name"] == "kernels")
    assert kernels["detail"].endswith(f"not seen in codes: {layers[1]}")


def test_the_time_of_all_layers_is_read(quantised: Path, tmp_path: Path) -> None:
    profile = [{"count": 100}, {"name": "a", "averageMs": 0.25, "timeMs": 25.0}, {"name": "b", "averageMs": 0.5}]
    checks = verified(quantised, written(tmp_path, profile))
    assert checks["speed"]["value"] == pytest.approx(0.75)
    assert checks["proof"]["value"] == "rules"  # a time proves no kernel


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"something": 1}, "is of no tool that is known here"),
        ({"Layers": ["conv + relu"]}, "run trtexec with --profilingVerbosity=detailed"),
        ({"Layers": [{"Name": "a", "Inputs": "x"}]}, "has no list of inputs"),
        ([{"name": "a", "averageMs": "soon"}], "'averageMs' is no number"),
    ],
)
def test_files_of_no_use_are_refused(data: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        read(written(tmp_path, data))
