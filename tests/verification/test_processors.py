"""Files are exact on every processor by their codes; where they are not, it is said where and how badly."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import onnxmpq
from benchmarks.processors import plain_environment
from onnxmpq.errors import InputError
from onnxmpq.options import VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.targets import target
from onnxmpq.verification.processors import EXACT, examine, find_layers, measure, sums
from onnxmpq.verification.verify import processors_check
from tests.asked import asked
from tests.graphs import from_text, rng
from tests.needed import need_runtime

Array = np.ndarray
WIDE, NARROW = 9, 5  # a first layer of three inputs, whose pairs straddle positions


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Give a quantiser a few samples."""

    def __init__(self, samples: Array) -> None:
        self.feeds: Iterator[dict[str, Array]] = iter([{"x": sample[None]} for sample in samples])

    def get_next(self) -> Any:
        """Return the next sample."""
        return next(self.feeds, None)


def network() -> ir.Model:
    """Return a network with every kind of layer, whose weights are mostly of one sign."""
    g = rng(3)

    def positive(*shape: int) -> Array:
        return (np.abs(g.normal(size=shape)) / np.prod(shape[1:])).astype(np.float32)

    weights = {
        "w1": positive(16, 3, 3, 3),
        "w2": positive(16, 1, 3, 3),
        "w3": positive(16, 16, 1, 1),
        "w4": positive(16, 12),
        "w5": positive(6, 12),
    }
    return from_text(
        f"g (float[n, 3, {WIDE}, {WIDE}] x) => (float[n, 6] y) {{ a = Conv(x, w1) r = Relu(a) "
        "b = Conv<group = 16>(r, w2) s = Relu(b) c = Conv(s, w3) t = Relu(c) p = GlobalAveragePool(t) "
        "f = Flatten(p) d = MatMul(f, w4) u = Relu(d) y = Gemm<transB = 1>(u, w5) }",
        weights,
    )


def samples() -> Array:
    """Return inputs that are mostly at the top of their range."""
    return np.clip(rng(4).normal(0.9, 0.2, (12, 3, WIDE, WIDE)), 0, 1).astype(np.float32)


def exported(folder: Path, name: str, option: str = "w8a8") -> onnxmpq.Result:
    """Quantise the network with us."""
    return onnxmpq.quantize(
        ir.to_proto(network()),
        {"x": samples()},
        output=folder / f"{name.replace('@', '_')}.onnx",
        target=name,
        plan=option,
        verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
    )


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return files of onnxruntime's own quantiser in its three forms."""
    folder = tmp_path_factory.mktemp("foreign")
    source = folder / "float.onnx"
    proto = ir.to_proto(network())
    del proto.graph.value_info[:]  # onnxruntime below 1.32 transposes the weight of a Gemm and leaves its old shape
    onnx.save(proto, source)
    made = {name: folder / f"{name}.onnx" for name in ("qdq", "operators", "dynamic")}
    logging.disable()  # advice to run a preparation of its own first
    try:
        for name, form in (("qdq", QuantFormat.QDQ), ("operators", QuantFormat.QOperator)):
            quantize_static(
                source, made[name], Reader(samples()), quant_format=form, per_channel=True, weight_type=QuantType.QInt8
            )
        quantize_dynamic(source, made["dynamic"], op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)
    return made


@pytest.mark.parametrize("name", ["ort-cpu", "generic", "openvino"])
def test_what_we_write_is_exact_everywhere(name: str, tmp_path: Path) -> None:
    need_runtime(name)
    result = exported(tmp_path, name)
    check = result.verdict["processors"]
    assert (check.ok, check.value) == (True, EXACT)
    layers = list(find_layers(ir.load(result.path)))
    assert [layer.op for layer in layers] == ["Conv", "Conv", "Conv", "MatMul", "Gemm"]
    assert f"{len(layers)} integer layers" in check.detail
    assert not examine(layers, target(name))


def test_a_file_that_obeys_both_lists_is_exact_in_both_runtimes(tmp_path: Path) -> None:
    layers = list(find_layers(ir.load(exported(tmp_path, "generic").path)))
    assert not examine(layers, target("ort-cpu"))
    assert not examine(layers, target("openvino"))


def test_a_file_for_vnni_says_so(tmp_path: Path) -> None:
    any_, vnni = exported(tmp_path, "ort-cpu"), exported(tmp_path, "ort-cpu@vnni")
    check = vnni.verdict["processors"]
    assert check.ok is None
    assert str(check.value).startswith("exact on x86 with VNNI")
    assert check.detail.startswith("as --isa vnni asks; not elsewhere: 'Gemm_0' (Gemm: ")
    assert "'Conv_0' (Conv: " in check.detail
    assert vnni.plan.target == "ort-cpu@vnni"
    assert any_.file_bytes == vnni.file_bytes
    sqnr = [result.verdict["sqnr"].value for result in (any_, vnni)]
    assert all(isinstance(value, float) for value in sqnr)


def test_a_plan_for_vnni_is_applied_where_vnni_is_asked_for(tmp_path: Path) -> None:
    plan = exported(tmp_path, "ort-cpu@vnni").plan_path
    given: dict[str, Any] = {"speed_budget_s": 0.0, "plan": plan}
    with pytest.raises(InputError, match="made for target 'ort-cpu@vnni', not 'ort-cpu': give --isa vnni"):
        onnxmpq.quantize(ir.to_proto(network()), {"x": samples()}, **asked(output=tmp_path / "a.onnx", **given))
    found = onnxmpq.quantize(
        ir.to_proto(network()), {"x": samples()}, **asked(output=tmp_path / "b.onnx", target="ort-cpu@vnni", **given)
    )
    assert found.path.read_bytes() == (tmp_path / "ort-cpu_vnni.onnx").read_bytes()


def test_a_variant_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match=r"no variant '@vnnni'. Known: any, vnni. Did you mean 'vnni'"):
        target("ort-cpu@vnnni")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("qdq", ["Conv", "Conv", "MatMul", "Gemm"]),
        ("operators", ["Conv", "Conv", "MatMul"]),
        ("dynamic", ["MatMul", "MatMul"]),
    ],
)
def test_a_file_of_another_tool_is_told_where_it_saturates(
    form: str, expected: list[str], foreign: dict[str, Path]
) -> None:
    path, found = foreign[form], target("ort-cpu")
    reference = get_runtime("onnxruntime")
    feeds = [{"x": samples()[:1]}]
    unsafe = measure(examine(find_layers(ir.load(path)), found), found, reference, path, feeds)
    assert [each.layer.op for each in unsafe] == expected
    assert all(each.pairs > 0 and each.largest > 128 for each in unsafe)
    assert all(each.agreement_db is not None and each.agreement_db < 60 for each in unsafe)
    check = processors_check(found, reference, path, feeds, promised=False)
    assert check.ok is None
    assert str(check.value) == "exact on x86 with VNNI, on ARM64"
    assert "its sums without VNNI: " in check.detail


def scalar(value: float, kind: type[np.generic], name: str) -> onnx.TensorProto:
    """Return a constant without axes."""
    return numpy_helper.from_array(np.array(value, kind), name)


def test_the_lowest_code_is_told() -> None:
    codes = np.array([[-128, 0], [5, 3]], np.int8)
    scale, zero = scalar(0.1, np.float32, "s"), scalar(3, np.uint8, "z")
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
            helper.make_node("MatMul", ["d", "v"], ["y"], "layer"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [scale, zero, numpy_helper.from_array(codes, "w")],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    found = examine(find_layers(model), target("ort-cpu"))
    assert [(each.pairs, each.lowest) for each in found] == [(0, True)]
    assert str(found[0]) == "'layer' (MatMul: has the code -128)"


def test_products_of_two_activations_depend_on_the_processor() -> None:
    openvino = target("openvino")
    names = ["s", "z"]
    nodes = [
        node
        for value in ("a", "b")
        for node in (
            helper.make_node("QuantizeLinear", [value, *names], [f"{value}q"]),
            helper.make_node("DequantizeLinear", [f"{value}q", *names], [f"{value}d"]),
        )
    ]
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["ad", "bd"], ["y"], "product")],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in ("a", "b")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])],
        [scalar(0.1, np.float32, "s"), scalar(0, np.int8, "z")],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    (found,) = examine(find_layers(model), openvino)
    assert str(found) == "'product' (MatMul: multiplies two activations)"
    assert not examine(find_layers(model), target("ort-cpu"))
    space = onnxmpq.inspect(
        ir.to_proto(from_text("g (float[4, 4] a, float[4, 4] b) => (float[4, 4] y) { y = MatMul(a, b) }")), "openvino"
    )
    assert [unit.options for unit in space.units] == [(onnxmpq.Option(),)]
    assert "saturate on processors without VNNI" in space.units[0].reason


HASWELL = """
import json, sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(json.dumps(session.run(None, {"x": np.load(sys.argv[2])})[0].tolist()))
"""


STEP = 2048  # of the codes that a QLinearConv gives


def integer_network(op: str, folder: Path) -> Path:
    """Write one integer operator whose sums, or codes of them, are its outputs; its weights break the rule."""
    g = rng(7)
    conv = op == "QLinearConv"
    shape = (4, 3, 3, 3) if conv else (20, 6)
    size: list[str | int | None] = ["n", 3, NARROW, NARROW] if conv else ["n", 20]
    codes = np.where(g.random(shape) < 0.7, g.integers(60, 128, shape), g.integers(-127, 0, shape)).astype(np.int8)
    scales = [scalar(1.0, np.float32, "one"), scalar(STEP, np.float32, "step")]
    zeros = [scalar(0, np.uint8, "z"), scalar(0, np.int8, "s")]
    inputs = ["x", "one", "z", "w", "one", "s", "step", "z"] if conv else ["x", "w"]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], "layer")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, size)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8 if conv else TensorProto.INT32, None)],
        [numpy_helper.from_array(codes, "w"), *(scales + zeros if conv else [])],
    )
    path = folder / f"{op}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.emulated
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-user is not installed")
@pytest.mark.parametrize("op", ["MatMulInteger", "QLinearConv"])
def test_what_we_say_is_lost_is_what_a_processor_without_vnni_loses(op: str, tmp_path: Path) -> None:
    path = integer_network(op, tmp_path)
    g = rng(8)
    shape = (2, 3, NARROW, NARROW) if op == "QLinearConv" else (5, 20)
    x = np.where(g.random(shape) < 0.5, 255, g.integers(0, 256, shape)).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    (layer,) = find_layers(ir.load(path))
    parts = list(sums(layer, x, 0, layer.orders(target("ort-cpu"))))
    emulated, exact = (np.concatenate(each, axis=1) for each in zip(*((e + t, e) for e, t in parts), strict=True))
    if op == "QLinearConv":
        emulated, exact = (np.clip(np.rint(each / STEP), 0, 255) for each in (emulated, exact))
    ended = subprocess.run(
        ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", HASWELL, str(path), str(tmp_path / "x.npy")],
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    seen = np.asarray(json.loads(ended.stdout), np.float64)
    seen = seen.transpose(1, 0, *range(2, seen.ndim)).reshape(seen.shape[1], -1)
    assert (seen != exact).any()
    assert (seen == emulated).all()
