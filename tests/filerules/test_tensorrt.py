"""Rules of explicit quantisation: each is found broken in a file that breaks it, and in no file that we write."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmpq
from onnxmpq.filerules import tensorrt as trt
from onnxmpq.filerules.tensorrt import TensorRtRules
from onnxmpq.options import Constraints, VerifyOptions
from tests.graphs import feeds_for, layer_chain
from tests.small import MODELS, small_model

Change = Callable[[onnx.ModelProto], None]
TEXT = """<ir_version: 10, opset_import: ["": 21]>
g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    wd = DequantizeLinear<axis = 0>(w, ws)
    c = Conv<pads = [1, 1, 1, 1]>(xd, wd, b)
    y = Relu(c)
}"""


def good() -> onnx.ModelProto:
    """Make a convolution as TensorRT wants it."""
    model = onnx.parser.parse_model(TEXT)
    tensors = {
        "s": np.float32(0.1),
        "z": np.int8(0),
        "w": np.ones((4, 4, 3, 3), np.int8),
        "ws": np.ones(4, np.float32),
        "b": np.zeros(4, np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in tensors.items())
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    return onnx.shape_inference.infer_shapes(model)


def put(name: str, array: npt.ArrayLike) -> Change:
    """Put another tensor in the place of one."""

    def change(model: onnx.ModelProto) -> None:
        kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*kept, numpy_helper.from_array(np.asarray(array), name)])
        del model.graph.value_info[:]

    return change


def computed_scale(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Abs", ["s"], ["s2"], name="abs"))
    model.graph.node[1].input[1] = "s2"


def codes_of_four_bits(model: onnx.ModelProto) -> None:
    put("z", np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(TensorProto.INT4)))(model)


def blocks_of_int8(model: onnx.ModelProto) -> None:
    put("ws", np.ones((4, 1, 3, 3), np.float32))(model)
    turned = model.graph.node[2]
    del turned.attribute[:]
    turned.attribute.extend([helper.make_attribute("axis", 1), helper.make_attribute("block_size", 4)])


def scales_along_inputs(model: onnx.ModelProto) -> None:
    model.graph.node[2].attribute[0].i = 1


def integer_bias(model: onnx.ModelProto) -> None:
    put("b", np.zeros(4, np.int32))(model)
    model.graph.node.insert(3, helper.make_node("DequantizeLinear", ["b", "ws"], ["bd"], name="bias", axis=0))
    model.graph.node[4].input[2] = "bd"


def q_before_activation(model: onnx.ModelProto) -> None:
    del model.graph.node[4]
    model.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"], name="late"),
            helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["cd"], name="late_dq"),
            helper.make_node("Relu", ["cd"], ["y"], name="relu"),
        ]
    )


def codes_read_by_another(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["xq"], ["z2"], name="cast", to=TensorProto.FLOAT))


def float_weight(model: onnx.ModelProto) -> None:
    put("w", np.ones((4, 4, 3, 3), np.float32))(model)
    model.graph.node[3].input[1] = "w"
    del model.graph.node[2]


def several_scales(model: onnx.ModelProto) -> None:
    put("s", np.full(4, 0.1, np.float32))(model)
    put("z", np.zeros(4, np.int8))(model)


def operator_on_codes(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("MatMulInteger", ["xq", "xq"], ["z2"], name="integer"))


VIOLATIONS: dict[str, Change] = {
    trt.ZERO.name: put("z", np.int8(3)),
    trt.CODES.name: put("z", np.uint8(0)),
    trt.CONSTANT.name: computed_scale,
    trt.POSITIVE.name: put("s", np.float32(0)),
    trt.TYPED.name: put("s", np.float16(0.1)),
    trt.PER_TENSOR.name: several_scales,
    trt.WEIGHT_ONLY.name: codes_of_four_bits,
    trt.BLOCKS.name: blocks_of_int8,
    trt.CHANNEL.name: scales_along_inputs,
    trt.BIAS.name: integer_bias,
    trt.ACTIVATION.name: q_before_activation,
    trt.PAIRED.name: codes_read_by_another,
    trt.BOTH.name: float_weight,
    trt.KNOWN.name: operator_on_codes,
}


def broken(model: onnx.ModelProto) -> set[str]:
    return {one.rule.name for one in TensorRtRules().check(ir.from_proto(model))}


def test_a_file_that_keeps_all_rules_breaks_none() -> None:
    assert not broken(good())


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_file_that_breaks_a_rule_is_told_by_its_name(name: str) -> None:
    model = good()
    VIOLATIONS[name](model)
    assert name in broken(model)


def test_every_rule_has_a_source_and_a_file_that_breaks_it() -> None:
    assert {rule.name for rule in TensorRtRules.rules} == set(VIOLATIONS)
    assert all(rule.source and rule.says.endswith(".") for rule in TensorRtRules.rules)


@pytest.mark.parametrize("option", ["w8a8", "w4b64", "w4b128"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "MatMul", "MatMul:product"])
def test_what_is_written_breaks_none(op: str, option: str, tmp_path: Path) -> None:
    model = layer_chain(op, wide=True)
    wanted = "a8" if op == "MatMul:product" else option
    if not any(
        str(o) == wanted for unit in onnxmpq.inspect(ir.to_proto(model), "tensorrt").units for o in unit.options
    ):
        pytest.skip(f"{op} has no {wanted} there")
    result = onnxmpq.quantize(
        ir.to_proto(model),
        feeds_for(model),
        output=tmp_path / "q.onnx",
        target="tensorrt",
        plan=wanted,
        verify=VerifyOptions(as_asked=True, speed_budget_s=0.0),
    )
    assert result.verdict["rules"].ok
    assert result.verdict["proof"].value == "rules"


@pytest.mark.parametrize("model", [small_model(), MODELS / "digits_vit.onnx"], ids=["cnn", "vit"])
def test_whole_models_break_none_and_stay_near_float(model: Path, tmp_path: Path) -> None:
    with np.load(MODELS / "digits_calibration.npz") as data:
        samples = {name: data[name][:64] for name in data.files}
    result = onnxmpq.quantize(
        model, samples, output=tmp_path / "q.onnx", target="tensorrt", evaluation=MODELS / "digits_evaluation.npz"
    )
    assert result.verdict["rules"].ok
    assert result.accuracy is not None
    assert result.accuracy.after > result.accuracy.before - 0.02


def test_a_float_layer_beside_one_in_codes_may_read_them(tmp_path: Path) -> None:
    with np.load(MODELS / "digits_calibration.npz") as data:
        samples = {name: data[name][:8] for name in data.files}
    model = MODELS / "digits_vit.onnx"
    names = [unit.name for unit in onnxmpq.inspect(model, "tensorrt").units]
    result = onnxmpq.quantize(
        model,
        samples,
        output=tmp_path / "q.onnx",
        target="tensorrt",
        plan="w8a8",
        constraints=Constraints(keep=[f"{name}=float" for name in names[::2]]),
        verify=VerifyOptions(as_asked=True, speed_budget_s=0.0),
    )
    assert result.verdict["rules"].ok
