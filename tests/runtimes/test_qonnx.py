"""QONNX files: run by the package they are equal to their simulation, and a plan is read back out of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.artifacts import Option, Plan
from onnxmpq.carriers.quant import DOMAIN
from onnxmpq.errors import InputError
from onnxmpq.exchange.qonnx import plan_of_qonnx
from onnxmpq.options import VerifyOptions
from onnxmpq.runtimes.ort import OnnxRuntime
from tests.cli.running import run
from tests.small import MODELS, small_model

VIT = MODELS / "digits_vit.onnx"
DATA = MODELS / "digits_calibration.npz"
AS_ASKED = VerifyOptions(as_asked=True, speed_budget_s=0.0)


def samples(count: int = 8) -> dict[str, np.ndarray]:
    with np.load(DATA) as data:
        return {name: data[name][:count] for name in data.files}


def mixed(model: Path) -> Plan:
    """Give units options in turn, odd widths among them."""
    wishes = [Option(4, 5), Option(8, 8), Option(3, 7), Option(6), Option(2, 16)]
    units = onnxmpq.inspect(model, "qonnx").units
    choices = {unit.name: wishes[n % len(wishes)] for n, unit in enumerate(units) if wishes[0] in unit.options}
    return Plan("qonnx", "by hand", choices)


@pytest.mark.parametrize("model", [small_model(), VIT], ids=["cnn", "vit"])
@pytest.mark.parametrize("option", ["w8a8", "w4a4", "w3a8", "mixed"])
def test_the_package_gives_what_the_simulation_gives(model: Path, option: str, tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    plan = mixed(model) if option == "mixed" else option
    path = tmp_path / "q.onnx"
    numbers = {"rounding": "nearest"}
    result = onnxmpq.quantize(
        model, samples(), output=path, target="qonnx", plan=plan, numbers=numbers, verify=AS_ASKED
    )
    assert result.verdict.runtime.startswith("qonnx ")
    agreement = result.verdict["simulation"].value
    assert isinstance(agreement, float)
    assert agreement >= 55  # to 60 dB, but for a code that falls on the other side of a tie
    assert result.verdict["simulation"].ok
    assert result.verdict["proof"].value == "run"
    again = plan_of_qonnx(model, path)
    chosen = {unit: option for unit, option in result.plan.choices.items() if not option.is_float}
    assert {unit: option for unit, option in again.choices.items() if not option.is_float} == chosen


def test_bits_of_weights_are_those_that_the_package_counts(tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.inference_cost import inference_cost

    model, path = small_model(), tmp_path / "q.onnx"
    units = onnxmpq.inspect(model, "qonnx").units
    result = onnxmpq.quantize(model, samples(), output=path, target="qonnx", plan=mixed(model), verify=AS_ASKED)
    fixed = onnx.load(path)
    for value in fixed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    (tmp_path / "fixed.onnx").write_bytes(fixed.SerializeToString())
    ModelWrapper(str(tmp_path / "fixed.onnx"))
    found = inference_cost(str(tmp_path / "fixed.onnx"), discount_sparsity=False)
    both = {u.name for u in units if result.plan.choices[u.name].activation_bits}
    ours = sum(
        u.macs * result.plan.choices[u.name].weight_bits * result.plan.choices[u.name].activation_bits
        for u in units
        if u.name in both
    )
    assert found["total_cost"]["total_bops"] >= ours
    weights = sum(u.parameters * result.plan.choices[u.name].weight_bits for u in units)
    assert found["total_cost"]["total_mem_w_bits"] == pytest.approx(weights)


def test_a_file_runs_in_onnxruntime_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    onnxmpq.quantize(small_model(), samples(), output=path, target="qonnx", plan="w4a5", verify=AS_ASKED)
    proto = onnx.load(path)
    assert [function.name for function in proto.functions] == ["Quant"]
    widths = {onnx.numpy_helper.to_array(t).item() for t in proto.graph.initializer if t.name.endswith("_bits")}
    assert widths == {4.0, 5.0}
    feed = {name: array[:1] for name, array in samples().items()}
    found = OnnxRuntime().session(path, mode="deployed").run(feed)
    before = OnnxRuntime().session(small_model(), mode="deployed").run(feed)
    assert all(np.isfinite(found[name]).all() and found[name].shape == before[name].shape for name in before)


def renamed(path: Path) -> Path:
    """Give nodes other names, as another tool would."""
    proto = onnx.load(path)
    for number, node in enumerate(proto.graph.node):
        node.name = f"other_{number}"
    path.write_bytes(proto.SerializeToString())
    return path


def test_layers_of_other_names_are_found_by_their_order(tmp_path: Path) -> None:
    path, model = tmp_path / "q.onnx", small_model()
    result = onnxmpq.quantize(model, samples(), output=path, target="qonnx", plan=mixed(model), verify=AS_ASKED)
    assert plan_of_qonnx(model, renamed(path)).choices == result.plan.choices
    with pytest.raises(InputError, match="it was made of another model"):
        plan_of_qonnx(VIT, path)


def test_a_file_without_quant_nodes_is_refused() -> None:
    with pytest.raises(InputError, match="has no layer behind a Quant"):
        plan_of_qonnx(small_model(), small_model())
    with pytest.raises(InputError, match="cannot be read as ONNX"):
        plan_of_qonnx(small_model(), DATA)


def test_a_plan_is_imported_by_a_command(tmp_path: Path) -> None:
    path, plan = tmp_path / "q.onnx", tmp_path / "read.plan.json"
    onnxmpq.quantize(small_model(), samples(), output=path, target="qonnx", plan="w4a5", verify=AS_ASKED)
    assert DOMAIN in {imported.domain for imported in onnx.load(path).opset_import}
    run("import", str(small_model()), str(path), "-o", str(plan))
    assert set(Plan.read(plan).choices.values()) == {Option(4, 5)}
