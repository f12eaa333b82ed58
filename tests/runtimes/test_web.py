"""Files for browsers: run in Node by onnxruntime-web they are what their simulation says; on WebGPU int8 is refused."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxmpq
from onnxmpq.artifacts import Option
from onnxmpq.errors import RuntimeMissingError, VerifyError
from onnxmpq.options import VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.runtimes.web import VARIABLE, package
from onnxmpq.targets import target
from tests.graphs import feeds_for, layer_chain
from tests.small import MODELS, small_model

DATA = MODELS / "digits_calibration.npz"
AS_ASKED = VerifyOptions(as_asked=True, allow_slower=True, speed_budget_s=0.0)
in_node = pytest.mark.skipif(package() is None, reason=f"onnxruntime-web is in no node_modules ({VARIABLE})")


def samples(count: int = 8) -> dict[str, np.ndarray]:
    with np.load(DATA) as data:
        return {name: data[name][:count] for name in data.files}


@in_node
@pytest.mark.parametrize("model", [small_model(), MODELS / "digits_vit.onnx"], ids=["cnn", "vit"])
@pytest.mark.parametrize("option", ["w8a8", "w4a8", "w8", "w4", "w6a8"])
def test_a_file_gives_in_node_what_its_simulation_gives(model: Path, option: str, tmp_path: Path) -> None:
    result = onnxmpq.quantize(
        model, samples(), output=tmp_path / "q.onnx", target="ort-web", plan=option, verify=AS_ASKED
    )
    assert result.verdict.runtime.startswith("onnxruntime-web ")
    assert result.verdict["proof"].value == "run"
    agreement = result.verdict["simulation"].value
    assert isinstance(agreement, float)
    assert agreement >= 40  # mostly above 130; a single code on the other side of a tie leaves less
    assert result.verdict["simulation"].ok


def kinds() -> list[tuple[str, str]]:
    rules = target("ort-web").layers
    return [
        (rule.op, str(option))
        for rule in rules
        for option in rule.options
        if option.weight_bits in (8, 4) and option.block in (0, 32)
    ]


@in_node
@pytest.mark.parametrize(("op", "option"), sorted(set(kinds())))
def test_every_kind_of_layer_loads_and_is_right(op: str, option: str, tmp_path: Path) -> None:
    model = layer_chain(op, wide=bool(Option.parse(option).block))
    result = onnxmpq.quantize(
        ir.to_proto(model), feeds_for(model), output=tmp_path / "q.onnx", target="ort-web", plan=option, verify=AS_ASKED
    )
    agreement = result.verdict["simulation"].value
    assert isinstance(agreement, float)
    assert agreement >= 40


@in_node
def test_a_file_that_it_does_not_read_is_refused_with_its_words(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    proto = onnx.load(small_model())
    proto.graph.node[0].op_type = "Nothing"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(VerifyError, match="Nothing"):
        get_runtime("onnxruntime-web").session(path, mode="deployed")


def test_without_node_files_are_simulated_and_the_verdict_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(RuntimeMissingError, match="npm install onnxruntime-web"):
        get_runtime("onnxruntime-web")
    result = onnxmpq.quantize(
        small_model(), samples(), output=tmp_path / "q.onnx", target="ort-web", plan="w8a8", verify=AS_ASKED
    )
    assert result.verdict["proof"].value == "simulated"
    assert "onnxruntime-web" in result.verdict["proof"].detail


def test_int8_on_webgpu_is_not_to_be_had_and_the_reason_is_told(tmp_path: Path) -> None:
    space = onnxmpq.inspect(small_model(), "ort-web@webgpu")
    assert not [option for unit in space.units for option in unit.options if option.activation_bits]
    assert any("int8 on WebGPU" in unit.reason for unit in space.units)
    model = layer_chain("MatMul")
    result = onnxmpq.quantize(
        ir.to_proto(model),
        feeds_for(model),
        output=tmp_path / "q.onnx",
        target="ort-web@webgpu",
        plan="w4b32",
        verify=AS_ASKED,
    )
    assert result.verdict["rules"].ok
    assert {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node} >= {"MatMulNBits"}
