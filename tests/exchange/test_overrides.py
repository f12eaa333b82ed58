"""Plans as overrides of onnxruntime's quantiser: it builds the same model from them, and they are read back."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from onnxmpq.artifacts import FLOAT, Option, Plan, Space
from onnxmpq.errors import InputError
from onnxmpq.exchange.overrides import OWN, arguments, from_overrides, to_overrides
from onnxmpq.lower.write import Quantised, lower, pair_key
from onnxmpq.methods.uniform import uniform
from onnxmpq.model.folded import folded
from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from onnxmpq.numerics.ranges import Affine
from onnxmpq.options import Numbers
from onnxmpq.targets import parse_target, target
from onnxmpq.targets.placement import place
from onnxmpq.targets.space import make_space
from onnxmpq.workspace.prepare import Prepared
from onnxmpq.workspace.workspace import Workspace
from tests.graphs import Array, from_text, layer_chain, normal, rng

MODELS = Path(__file__).parents[2] / "models"
AFFINES = {
    "uint8": Affine(np.float32(0.03), 128, 0, 255),
    "int8": Affine(np.float32(0.04), 0, -128, 127),
    "uint16": Affine(np.float32(0.001), 32768, 0, 65535),
}


def written(model: ir.Model, choices: Mapping[str, str] | str, name: str = "ort-cpu") -> tuple[Any, Space, Plan]:
    """Lower a plan with the same scale for every activation of one type, and write it as overrides."""
    found = target(name) if "\n" not in name else parse_target(name, "test")
    space = make_space(model, found)
    named = {unit.name: choices for unit in space.units} if isinstance(choices, str) else choices
    plan = Plan(found.name, "test", {unit: Option.parse(text) for unit, text in named.items()})
    pairs = place(model, space, found, plan.choices).pairs
    affines = {pair_key(pair): AFFINES[pair.type] for pair in pairs}
    quantised = lower(model, space, found, plan, affines)
    return json.loads(json.dumps(to_overrides(quantised, space))), space, plan


def same(plan: Plan, other: Plan, space: Space) -> bool:
    """Tell whether two plans decide alike."""
    return all(plan.choices.get(u.name, FLOAT) == other.choices.get(u.name, FLOAT) for u in space.units)


def test_every_channel_of_a_weight_and_every_activation_is_written() -> None:
    data, _, _ = written(normal(layer_chain("Conv")), "w8a8")
    assert list(data) == ["w1", "w2", "x", "r", "y"]
    assert len(data["w1"]) == 16
    assert {key: data["w1"][3][key] for key in ("quant_type", "axis", "zero_point")} == {
        "quant_type": "QInt8",
        "axis": 0,
        "zero_point": 0,
    }
    assert data["r"][0] | {OWN: None} == {
        "quant_type": "QUInt8",
        "scale": float(np.float32(0.03)),
        "zero_point": 128,
        OWN: None,
    }


def test_the_axis_is_that_of_the_outputs() -> None:
    data, _, _ = written(normal(layer_chain("Gemm")), "w8a8")
    assert {name: entries[0]["axis"] for name, entries in data.items() if "axis" in entries[0]} == {"w1": 0, "w2": 1}


@pytest.mark.parametrize(
    ("op", "options", "name"),
    [
        ("Conv", ("w8a8", "w8a8"), "ort-cpu"),
        ("Conv", ("w5a8", "float"), "ort-cpu"),
        ("Conv", ("w3", "w2a8"), "ort-cpu"),
        ("ConvTranspose", ("w4", "w3"), "ort-cpu"),
        ("Gemm", ("w4a8", "w4"), "ort-cpu"),
        ("MatMul", ("w4b32", "w6a8"), "ort-cpu"),
        ("MatMul:product", ("a8",), "openvino@vnni"),
        ("LSTM", ("w4",), "ort-cpu"),
    ],
)
def test_what_was_written_is_read_back(op: str, options: tuple[str, ...], name: str) -> None:
    model = normal(layer_chain(op))
    units = [unit.name for unit in make_space(model, target(name)).units]
    data, space, plan = written(model, dict(zip(units, options, strict=True)), name)
    assert data
    assert same(from_overrides(data, model, space), plan, space)


@pytest.mark.parametrize("option", ["w8", "w4"])
def test_tables_that_rows_are_looked_up_in_are_read_back(option: str) -> None:
    text = "g (int64[3] i) => (float[3, 16] y) { y = Gather(w, i) }"
    model = normal(from_text(text, {"w": rng().normal(size=(40, 16)).astype(np.float32)}))
    data, space, plan = written(model, option)
    assert ("scale" in data["w"][0]) == (option == "w4")
    assert same(from_overrides(data, model, space), plan, space)


def test_half_weights_and_left_factors_have_scales() -> None:
    g = rng()
    text = "g (float16[8, 5] x) => (float16[6, 5] y) { y = MatMul(w, x) }"
    model = normal(from_text(text, {"w": g.normal(size=(6, 8)).astype(np.float16)}))
    data, space, plan = written(model, "w4")
    assert [entry["scale"] > 0 for entry in data["w"]] == [True] * 6
    assert same(from_overrides(data, model, space), plan, space)


TWO_TYPES = """
schema = 1
name = "two-types"
title = "t"
runtime = "onnxruntime"
[limits]
lowest_opset = 21
highest_opset = 21
highest_ir = 10
[[layers]]
op = "MatMul"
options = ["w8a8", "w8a16"]
[[layers]]
op = "Gemm"
activation = "signed"
options = ["w8a8"]
"""


def test_a_tensor_wanted_in_two_types_is_converted_for_some_readers() -> None:
    g = rng()
    weights = {name: g.normal(size=(8, 8)).astype(np.float32) for name in ("u", "v", "w")}
    text = "g (float[3, 8] x) => (float[3, 8] y, float[3, 8] z) { y = MatMul(x, u) z = MatMul(x, v) }"
    model = normal(from_text(text, {name: weights[name] for name in ("u", "v")}))
    one, other = (unit.name for unit in make_space(model, parse_target(TWO_TYPES, "test")).units)
    data, space, plan = written(model, {one: "w8a8", other: "w8a16"}, TWO_TYPES)
    convert = {"quant_type": "QUInt16", "scale": float(np.float32(0.001)), "zero_point": 32768, "recv_nodes": [other]}
    assert data["x"][0]["convert"] == convert
    assert arguments(data, QuantType)["x"][0]["convert"]["recv_nodes"] == {other}
    assert same(from_overrides(data, model, space), plan, space)
    for entries in data.values():
        del entries[0][OWN]
    assert same(from_overrides(data, model, space), plan, space)

    third = "g (float[3, 8] x) => (float[3, 8] y, float[3, 8] z, float[3, 8] t)"
    model = normal(from_text(third + " { y = MatMul(x, u) z = MatMul(x, v) t = Gemm(x, w) }", weights))
    units = [unit.name for unit in make_space(model, parse_target(TWO_TYPES, "test")).units]
    with pytest.raises(InputError, match="two types for a tensor at most: 'x' is quantised in 3 types"):
        written(model, dict(zip(units, ("w8a8", "w8a16", "w8a8"), strict=True)), TWO_TYPES)


# ---- files of others ---------------------------------------------------------------------------------------------


def test_files_of_others_give_the_nearest_options() -> None:
    model = normal(layer_chain("Conv"))
    space = make_space(model, target("ort-cpu"))

    def read(data: object, default: str = "w8a8") -> list[str]:
        plan = from_overrides(data, model, space, Option.parse(default))
        return [str(plan.choices[unit.name]) for unit in space.units]

    assert read({}) == ["w8a8", "w8a8"]
    assert read({}, "float") == ["float", "float"]
    assert read({"w1": [{"quant_type": "QInt4", "axis": 0}], "b1": [], "r": [{}]}) == ["w4a8", "w8a8"]
    assert read({"w2": [{"quant_type": "QUInt4", "symmetric": True}]}) == ["w8a8", "w4a8"]
    assert read({"x": [{"quant_type": "QUInt16"}]}) == ["w8", "w8a8"]
    assert read({"w1": [{"quant_type": "QInt16"}]}) == ["float", "w8a8"]
    assert read({"w1": [{"quant_type": "QInt8"}], "x": [{"quant_type": "QUInt8"}]}, "float") == ["w8a8", "float"]
    convert = {"quant_type": "QUInt16", "recv_nodes": ["somebody"]}
    assert read({"r": [{"quant_type": "QUInt8", "convert": convert}]}) == ["w8a8", "w8a8"]
    del convert["recv_nodes"]
    assert read({"r": [{"quant_type": "QUInt8", "convert": convert}]}) == ["w8a8", "w8"]


def test_products_of_activations_are_read() -> None:
    model = normal(layer_chain("MatMul:product"))
    space = make_space(model, target("openvino@vnni"))
    assert [str(option) for option in from_overrides({}, model, space).choices.values()] == ["a8"]
    assert [str(option) for option in from_overrides({}, model, space, FLOAT).choices.values()] == ["float"]


def test_all_faults_are_told_at_once() -> None:
    model = normal(layer_chain("Conv"))
    space = make_space(model, target("ort-cpu"))
    unit, other = (unit.name for unit in space.units)
    data = {
        "q": [{}],
        "x": {"quant_type": "QInt8"},
        "w1": [{"quant_type": "QInt3", "axis": 4, "scale": 1.0}],
        "w2": [{"quant_type": "QInt8", "axis": 0}, {"quant_type": "QInt4"}],
        "r": [{"axis": 1, OWN: {"nobody": "w8a8", unit: "w9a8", other: "w8a8"}}],
        "h": [{"convert": 3}],
        "b1": [{OWN: []}],
        "y": [{OWN: {other: "w4a8"}}],
    }
    with pytest.raises(InputError) as caught:
        from_overrides(data, model, space)
    told = str(caught.value)
    for fault in (
        "There is no tensor 'q'",
        "Tensor 'x': expected a list of objects.",
        "Tensor 'w1': quant_type 'QInt3' is not one of QInt4, QUInt4, QInt8, QUInt8, QInt16, QUInt16.",
        "Tensor 'w1': 'scale' and 'zero_point' go together.",
        "Tensor 'w1': 'axis' is 4, and it has 4 axes.",
        "Tensor 'w2': its channels have different types.",
        "Tensor 'w2': it has 16 channels, and 2 objects.",
        "Tensor 'r': it is no constant, and has scales for each channel.",
        "Tensor 'r': there is no unit 'nobody'.",
        f"Tensor 'r': unit '{unit}' has no option 'w9a8' (allowed: float, w8a8,",
        "Tensor 'h': 'convert' must be an object, and its 'recv_nodes' a list.",
        "Tensor 'b1': 'onnxmpq' must be an object.",
        f"Unit '{other}' has two options: 'w8a8' and 'w4a8'.",
    ):
        assert fault in told
    with pytest.raises(InputError, match="Expected a JSON object"):
        from_overrides([], model, space)


# ---- onnxruntime's own quantiser ---------------------------------------------------------------------------------


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Give the quantiser a few samples."""

    def __init__(self, images: Array) -> None:
        self.feeds: Iterator[dict[str, Array]] = iter([{"image": image[None]} for image in images])

    def get_next(self) -> Any:
        """Return the next sample."""
        return next(self.feeds, None)


def built(folder: Path, choices: tuple[str, ...], numbers: Numbers) -> tuple[Quantised, onnx.ModelProto, Any]:
    """Build a plan of the digits network, let the quantiser build it from our overrides, and run both.

    The quantiser knows nothing of sums that saturate: the plan is one for VNNI.
    """
    source = load(MODELS / "digits_cnn.onnx")
    model, found = normalise(source).model, target("ort-cpu@vnni")
    prepared = Prepared(source, model, found, make_space(model, found))
    images = np.load(MODELS / "digits_calibration.npz")["image"]
    workspace = Workspace(prepared, {"image": images}, numbers, folder)
    options = [Option.parse(text) for text in choices]
    plan = uniform(prepared.space, options[0])
    plan = Plan(found.name, "test", {unit: options[i % len(options)] for i, unit in enumerate(plan.choices)})
    ours = workspace.lowered(plan)
    data = json.loads(json.dumps(to_overrides(ours, prepared.space)))
    assert from_overrides(data, model, prepared.space).choices == plan.choices
    onnx.save(ir.to_proto(model), folder / "normal.onnx")
    logging.disable()  # advice to run a preparation of its own first
    try:
        quantize_static(
            folder / "normal.onnx",
            folder / "theirs.onnx",
            Reader(images[:4]),
            quant_format=QuantFormat.QDQ,
            extra_options={
                "TensorQuantOverrides": arguments(data, QuantType),
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
            },
        )
    finally:
        logging.disable(logging.NOTSET)
    onnx.save(ir.to_proto(ours.model), folder / "ours.onnx")
    outputs = []
    for name in ("ours", "theirs"):
        options_ = ort.SessionOptions()
        options_.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options_.intra_op_num_threads = 1
        session = ort.InferenceSession(str(folder / f"{name}.onnx"), options_, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {"image": images[:64]})[0])
    return ours, onnx.load(folder / "theirs.onnx"), outputs


def numbers_of(ours: Quantised, theirs: onnx.ModelProto) -> Iterator[tuple[str, Array, Array]]:
    """Yield the initialisers that both have, codes of 4 bits as int8, and ours put together of their planes."""
    dequantised = {node.name: node.inputs[0] for node in ours.model.graph if node.op_type == "DequantizeLinear"}
    for tensor in theirs.graph.initializer:
        value = ours.model.graph.initializers.get(tensor.name)
        if value is None and tensor.name.endswith("weight_quantized"):
            value = dequantised[tensor.name.replace("_quantized", "_dq")]
        if value is not None:
            mine = folded(value)
            assert mine is not None
            pair = [mine, onnx.numpy_helper.to_array(tensor)]
            one, other = (np.asarray(x, np.int8) if "int4" in str(x.dtype) else x for x in pair)
            yield tensor.name, one, other


@pytest.mark.parametrize("choices", [("w8a8",), ("w8a8", "w4a8"), ("w3a8", "w6a8", "w4a8")], ids="-".join)
def test_the_quantiser_builds_the_same_model(choices: tuple[str, ...], tmp_path: Path) -> None:
    ours, theirs, outputs = built(tmp_path, choices, Numbers(weights="minmax", bias_correction=False))
    names = []
    for name, one, other in numbers_of(ours, theirs):
        np.testing.assert_array_equal(one, other, err_msg=name)
        names.append(name)
    layers, pairs = len(ours.placement.forms), len({pair.group for pair in ours.placement.pairs})
    assert sum(name.endswith("weight_quantized") for name in names) == layers == 18
    assert sum(name.endswith("weight_scale") for name in names) == layers
    assert sum(name.endswith("bias_quantized") for name in names) == layers
    activations = [name for name in names if name.endswith("_scale") and not name.endswith("weight_scale")]
    assert len(activations) == pairs
    np.testing.assert_array_equal(*outputs)


def test_where_weights_are_clipped_only_the_lowest_code_differs(tmp_path: Path) -> None:
    ours, theirs, outputs = built(tmp_path, ("w8a8",), Numbers(bias_correction=False))
    for name, one, other in numbers_of(ours, theirs):
        if name.endswith("weight_quantized"):
            np.testing.assert_array_equal(one, np.maximum(other, -127), err_msg=name)
        else:
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert np.abs(outputs[0] - outputs[1]).max() < 0.02 * np.abs(outputs[0]).max()
