"""onnxruntime: sessions in each mode, inner outputs, kernels, and errors of one line."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxmpq.data.samples import InputSpec
from onnxmpq.errors import InputError, RuntimeMissingError, VerifyError
from onnxmpq.runtimes import LayerKernel, get_runtime, ort
from onnxmpq.runtimes.base import one_line

HEADER = '<ir_version: 10, opset_import: ["": 21]>'


def rng() -> np.random.Generator:
    """Give the same numbers to every graph."""
    return np.random.default_rng(7)


def tensor(name: str, array: np.ndarray, kind: int | None = None) -> onnx.TensorProto:
    """Make an initializer."""
    if kind is None:
        return onnx.numpy_helper.from_array(array, name)
    return onnx.helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist())


def model(text: str, **arrays: np.ndarray) -> onnx.ModelProto:
    """Make a checked model from its text form and its initializers."""
    proto = onnx.parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(tensor(name, array) for name, array in arrays.items())
    onnx.checker.check_model(proto)
    return proto


def float_chain() -> onnx.ModelProto:
    """Conv, Relu, Conv; all named."""
    return model(
        """chain (float[1, 8, 10, 10] x) => (float[1, 8, 10, 10] y) {
             [first] a = Conv <pads = [1, 1, 1, 1]> (x, w)
             [act] b = Relu (a)
             [second] y = Conv <pads = [1, 1, 1, 1]> (b, w)
           }""",
        w=(rng().normal(size=(8, 8, 3, 3)) / 9).astype(np.float32),
    )


def quantised_chain() -> onnx.ModelProto:
    """The same with u8 activations and s8 weights."""
    weight = rng().integers(-127, 128, size=(8, 8, 3, 3)).astype(np.int8)
    return model(
        """chain (float[1, 8, 10, 10] x) => (float[1, 8, 10, 10] y) {
             xq = QuantizeLinear (x, sx, zx)
             xd = DequantizeLinear (xq, sx, zx)
             wd = DequantizeLinear <axis = 0> (w, sw, zw)
             [first] a = Conv <pads = [1, 1, 1, 1]> (xd, wd)
             [act] b = Relu (a)
             bq = QuantizeLinear (b, sb, zb)
             bd = DequantizeLinear (bq, sb, zb)
             wd2 = DequantizeLinear <axis = 0> (w, sw, zw)
             [second] c = Conv <pads = [1, 1, 1, 1]> (bd, wd2)
             cq = QuantizeLinear (c, sx, zx)
             y = DequantizeLinear (cq, sx, zx)
           }""",
        w=weight,
        sw=np.full(8, 0.002, np.float32),
        zw=np.zeros(8, np.int8),
        sx=np.array(0.03, np.float32),
        zx=np.array(128, np.uint8),
        sb=np.array(0.02, np.float32),
        zb=np.array(0, np.uint8),
    )


def feed() -> dict[str, np.ndarray]:
    """One input."""
    return {"x": np.random.default_rng(1).normal(size=(1, 8, 10, 10)).astype(np.float32)}


def test_session_tells_its_inputs_and_outputs_and_runs() -> None:
    session = get_runtime("onnxruntime").session(float_chain().SerializeToString(), mode="deployed")
    assert session.inputs == (InputSpec("x", np.dtype(np.float32), (1, 8, 10, 10)),)
    assert session.outputs == ("y",)
    assert session.run(feed())["y"].shape == (1, 8, 10, 10)
    assert session.run(feed(), ["y"]).keys() == {"y"}


def test_sizes_that_are_not_fixed_are_named_or_none() -> None:
    proto = model("g (float[N, 3] x, float[?, 3] z) => (float[N, 3] y) { y = Add (x, z) }")
    session = get_runtime("onnxruntime").session(proto.SerializeToString(), mode="plain")
    assert [spec.shape for spec in session.inputs] == [("N", 3), (None, 3)]
    one = np.ones((2, 3), np.float32)
    assert session.run({"x": one, "z": one})["y"].sum() == 12


def test_inner_values_can_be_asked_for() -> None:
    data = float_chain().SerializeToString()
    session = get_runtime("onnxruntime").session(data, mode="plain", outputs=["b", "y", "a"])
    got = session.run(feed())
    assert tuple(got) == session.outputs == ("b", "y", "a")
    np.testing.assert_allclose(got["b"], np.maximum(got["a"], 0))
    whole = get_runtime("onnxruntime").session(data, mode="plain").run(feed())
    np.testing.assert_allclose(got["y"], whole["y"], atol=1e-5)


def test_inner_values_of_a_model_with_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = float_chain()
    expected = get_runtime("onnxruntime").session(proto.SerializeToString(), mode="plain", outputs=["a"]).run(feed())
    onnx.save(proto, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    got = get_runtime("onnxruntime").session(path, mode="plain", outputs=["a"]).run(feed())
    np.testing.assert_array_equal(got["a"], expected["a"])


def test_unknown_outputs_are_refused() -> None:
    data = float_chain().SerializeToString()
    with pytest.raises(InputError, match=r"No value named 'nope' to give\. There are: 'y'"):
        get_runtime("onnxruntime").session(data, mode="plain", outputs=["nope"])
    with pytest.raises(InputError, match="'a'"):
        get_runtime("onnxruntime").session(data, mode="plain").run(feed(), ["a"])


def test_literal_session_computes_what_the_standard_writes() -> None:
    import onnxruntime

    data = quantised_chain().SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    reference = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feed())[0]
    got = get_runtime("onnxruntime").session(data, mode="literal").run(feed())["y"]
    steps = np.abs(got - reference) / 0.03  # codes flip where two float sums round apart
    assert steps.max() < 1.01
    assert (steps > 0.5).mean() < 0.01


def test_literal_session_keeps_a_float_weight_between_q_and_dq_float() -> None:
    weight = (rng().normal(size=(8, 8, 3, 3)) / 9).astype(np.float32)
    weight[0] *= 50  # per-tensor 8 bits would crush the other channels
    proto = model(
        """g (float[1, 8, 10, 10] x) => (float[1, 8, 10, 10] y) {
             xq = QuantizeLinear (x, s, z)
             xd = DequantizeLinear (xq, s, z)
             a = Conv <pads = [1, 1, 1, 1]> (xd, w)
             aq = QuantizeLinear (a, s, z)
             y = DequantizeLinear (aq, s, z)
           }""",
        w=weight,
        s=np.array(0.01, np.float32),
        z=np.array(128, np.uint8),
    )
    inner = get_runtime("onnxruntime").session(proto.SerializeToString(), mode="plain", outputs=["a"]).run(feed())["a"]
    expected = np.clip(np.round(inner / np.float32(0.01)), -128, 127) * 0.01
    runtime = get_runtime("onnxruntime")
    literal, deployed = (
        runtime.session(proto.SerializeToString(), mode=mode).run(feed())["y"] for mode in ("literal", "deployed")
    )
    assert np.abs(literal - expected)[:, 1:].max() < 0.011
    assert np.abs(deployed - expected)[:, 1:].max() > 0.05  # the reason for the literal mode


def test_literal_session_keeps_a_relu_before_signed_4_bit() -> None:
    proto = onnx.parser.parse_model(
        HEADER
        + """g (float[16] x) => (float[16] y) <float s = {0.5}> {
               r = Relu (x)
               q = QuantizeLinear (r, s, z)
               y = DequantizeLinear (q, s, z)
             }"""
    )
    proto.graph.initializer.append(tensor("z", np.zeros((), np.int8), onnx.TensorProto.INT4))
    x = np.linspace(-3, 3, 16, dtype=np.float32)
    got = get_runtime("onnxruntime").session(proto.SerializeToString(), mode="literal").run({"x": x})["y"]
    np.testing.assert_array_equal(got, np.minimum(np.round(np.maximum(x, 0) / 0.5), 7) * 0.5)


def test_exact_session_is_the_deployed_one() -> None:
    data = quantised_chain().SerializeToString()
    exact, deployed = (get_runtime("onnxruntime").session(data, mode=mode) for mode in ("exact", "deployed"))
    np.testing.assert_array_equal(exact.run(feed())["y"], deployed.run(feed())["y"])


def test_kernels_of_a_float_model() -> None:
    report = get_runtime("onnxruntime").kernels(float_chain().SerializeToString())
    assert (report.low_bit, report.leftover, report.float_compute) == (0, 0, 2)
    assert [(layer.node, layer.low_bit) for layer in report.layers] == [("first", False), ("second", False)]


def test_kernels_of_a_quantised_model() -> None:
    report = get_runtime("onnxruntime").kernels(quantised_chain().SerializeToString())
    assert (report.low_bit, report.leftover, report.float_compute) == (2, 2, 0)
    assert dict(report.counts)["QLinearConv"] == 2
    assert report.layers == (LayerKernel("first", "QLinearConv", True), LayerKernel("second", "QLinearConv", True))


def test_kernels_inside_a_branch_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "branch.onnx"
    proto = model(
        """g (bool c, float[2, 4] x) => (float[2, 4] y) {
             y = If (c) <
               then_branch = t () => (float[2, 4] a) { [inside] a = MatMul (x, w) },
               else_branch = e () => (float[2, 4] b) { b = Identity (x) }
             >
           }""",
        w=rng().normal(size=(4, 4)).astype(np.float32),
    )
    onnx.save(proto, str(path))
    report = get_runtime("onnxruntime").kernels(path)
    assert report.float_compute == 1
    assert report.layers[0].node == "inside"


def test_a_fused_matmul_is_traced_to_its_node() -> None:
    proto = model(
        "g (float[2, 4] x) => (float[2, 4] y) { [mm] a = MatMul (x, w)  [plus] y = Add (a, b) }",
        w=rng().normal(size=(4, 4)).astype(np.float32),
        b=np.ones(4, np.float32),
    )
    report = get_runtime("onnxruntime").kernels(proto.SerializeToString())
    assert report.layers == (LayerKernel("mm", "Gemm", False),)


def test_a_model_that_does_not_load_is_told_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y) { y = No (x) }'
    )
    with pytest.raises(VerifyError, match=r"^onnxruntime \S+ does not load the model \([\d,]+ bytes\): .*No") as caught:
        get_runtime("onnxruntime").session(proto.SerializeToString(), mode="deployed")
    assert "\n" not in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_no_file_and_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        get_runtime("onnxruntime").session(tmp_path / "no.onnx", mode="plain")
    with pytest.raises(VerifyError, match="does not load"):
        get_runtime("onnxruntime").session(b"junk", mode="plain")
    with pytest.raises(VerifyError, match="cannot be read as ONNX"):
        get_runtime("onnxruntime").session(b"junk", mode="plain", outputs=["y"])


def test_a_feed_that_does_not_fit_has_all_its_faults_listed() -> None:
    session = get_runtime("onnxruntime").session(float_chain().SerializeToString(), mode="plain")
    faulty = {"x": np.zeros((1, 8, 9), np.float64), "other": np.zeros(1)}
    with pytest.raises(InputError, match=r"'other' is not one.*'x' is float64, expected float32.*shape"):
        session.run(faulty)
    with pytest.raises(InputError, match="'x' is missing"):
        session.bind({})


def test_bound_session_runs_again_and_again() -> None:
    run = get_runtime("onnxruntime").session(float_chain().SerializeToString(), mode="deployed").bind(feed())
    run()
    run()


@pytest.fixture
def without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make onnxruntime look as if it were not installed."""
    library: Any = ort._library
    library.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    yield
    library.cache_clear()


@pytest.mark.usefixtures("without_onnxruntime")
def test_absent_runtime_says_how_to_install_it() -> None:
    with pytest.raises(RuntimeMissingError, match=r'pip install "onnxmpq\[cpu\]"'):
        get_runtime("onnxruntime")


def test_absent_provider_and_unknown_runtime() -> None:
    with pytest.raises(RuntimeMissingError, match="NoSuchProvider"):
        ort.OnnxRuntime(("NoSuchProvider",))
    with pytest.raises(
        InputError, match=r"There is no runtime 'tvm'\. Known: onnxruntime, onnxruntime-exact, openvino, "
    ):
        get_runtime("tvm")


def test_messages_lose_source_positions_and_length() -> None:
    message = "[ONNXRuntimeError] : 1 : FAIL : /src/onnxruntime/core/a.cc:15 void onnxruntime::F(int) bad\n node"
    assert one_line(RuntimeError(message)) == "FAIL: bad node"
    assert len(one_line(RuntimeError("x" * 1000))) == 300
    assert one_line(RuntimeError()) == "RuntimeError"
