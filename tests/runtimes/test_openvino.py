"""OpenVINO: sessions, inputs by position, kernels, and no word to the network."""

import importlib.util
import subprocess
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
from onnxmpq.runtimes import LayerKernel, Runtime, get_runtime, openvino

installed = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
pytestmark = pytest.mark.openvino
HEADER = '<ir_version: 10, opset_import: ["": 21]>'


def model(text: str, **arrays: np.ndarray) -> bytes:
    """Make a checked model from its text form and its initializers."""
    proto = onnx.parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def quantised() -> bytes:
    """Two convolutions on 8 bits; the graph's first input is used second."""
    return model(
        """chain (float[1, 8, 10, 10] z, float[1, 8, 10, 10] x) => (float[1, 8, 10, 10] y, float[1, 8, 10, 10] r) {
             xq = QuantizeLinear (x, sx, zx)
             xd = DequantizeLinear (xq, sx, zx)
             wd = DequantizeLinear <axis = 0> (w, sw, zw)
             [first] a = Conv <pads = [1, 1, 1, 1]> (xd, wd)
             [act] r = Relu (a)
             rq = QuantizeLinear (r, sb, zb)
             rd = DequantizeLinear (rq, sb, zb)
             wd2 = DequantizeLinear <axis = 0> (w, sw, zw)
             [second] c = Conv <pads = [1, 1, 1, 1]> (rd, wd2)
             [plus] y = Add (c, z)
           }""",
        w=np.random.default_rng(7).integers(-127, 128, size=(8, 8, 3, 3)).astype(np.int8),
        sw=np.full(8, 0.002, np.float32),
        zw=np.zeros(8, np.int8),
        sx=np.array(0.03, np.float32),
        zx=np.array(128, np.uint8),
        sb=np.array(0.02, np.float32),
        zb=np.array(0, np.uint8),
    )


def floating() -> bytes:
    """One product of matrices and its bias."""
    return model(
        "g (float[2, 4] x) => (float[2, 4] y) { [mm] a = MatMul (x, w)  [plus] y = Add (a, b) }",
        w=np.random.default_rng(7).normal(size=(4, 4)).astype(np.float32),
        b=np.ones(4, np.float32),
    )


def feed() -> dict[str, np.ndarray]:
    """One input for ``quantised``, in the other order."""
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=(1, 8, 10, 10)).astype(np.float32) for name in ("x", "z")}


@pytest.fixture
def runtime() -> Runtime:
    """OpenVINO."""
    return get_runtime("openvino")


@installed
def test_session_tells_its_inputs_and_outputs(runtime: Runtime) -> None:
    session = runtime.session(quantised(), mode="deployed")
    size = (1, 8, 10, 10)
    assert session.inputs == (InputSpec("z", np.dtype(np.float32), size), InputSpec("x", np.dtype(np.float32), size))
    assert session.outputs == ("y", "r")
    assert runtime.version[0].isdigit()


@installed
def test_literal_session_agrees_with_onnxruntime(runtime: Runtime) -> None:
    expected = get_runtime("onnxruntime").session(quantised(), mode="literal").run(feed())
    got = runtime.session(quantised(), mode="literal").run(feed())
    for name, array in expected.items():
        assert np.abs(got[name] - array).max() < 0.01, name


@installed
def test_deployed_session_agrees_with_the_literal_one_roughly(runtime: Runtime) -> None:
    literal, deployed = (runtime.session(quantised(), mode=mode).run(feed())["y"] for mode in ("literal", "deployed"))
    error = float(np.square(deployed - literal).sum() / np.square(literal).sum())
    assert error < 1e-3  # float parts may be bfloat16


@installed
def test_exact_session_has_integer_kernels_and_float32_elsewhere(runtime: Runtime) -> None:
    literal, exact = (runtime.session(quantised(), mode=mode).run(feed())["y"] for mode in ("literal", "exact"))
    steps = np.abs(exact - literal)
    assert np.median(steps) < 1e-4
    assert np.abs(steps).max() < 0.05  # a code that flips moves its neighbours by up to a weight


@installed
def test_inner_values_can_be_asked_for(runtime: Runtime) -> None:
    session = runtime.session(quantised(), mode="plain", outputs=["r", "a"])
    got = session.run(feed())
    assert tuple(got) == session.outputs == ("r", "a")
    np.testing.assert_allclose(got["r"], np.maximum(got["a"], 0))
    assert session.run(feed(), ["a"]).keys() == {"a"}


@installed
def test_unknown_names_are_refused(runtime: Runtime) -> None:
    with pytest.raises(InputError, match="No value named 'nope'"):
        runtime.session(quantised(), mode="plain", outputs=["r", "nope"])
    session = runtime.session(quantised(), mode="plain")
    with pytest.raises(InputError, match="No value named 'a'"):
        session.run(feed(), ["a"])
    with pytest.raises(InputError, match="'z' is missing"):
        session.run({"x": feed()["x"]})


@installed
def test_kernels_of_a_quantised_model(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(quantised())
    report = runtime.kernels(path)
    assert report.float_compute == 0
    assert report.low_bit >= 2
    assert [(layer.node, layer.low_bit) for layer in report.layers] == [("first", True), ("second", True)]
    assert all(layer.kernel.startswith("Convolution[") for layer in report.layers)


@installed
def test_kernels_of_a_float_model(runtime: Runtime) -> None:
    report = runtime.kernels(floating())
    assert (report.low_bit, report.leftover, report.float_compute) == (0, 0, 1)
    assert [LayerKernel(x.node, "", x.low_bit) for x in report.layers] == [LayerKernel("mm", "", False)]


@installed
def test_bound_session_runs_again_and_again(runtime: Runtime) -> None:
    run = runtime.session(quantised(), mode="deployed").bind(feed())
    run()
    run()


@installed
def test_a_model_that_does_not_load_is_told_in_one_line(runtime: Runtime, capfd: pytest.CaptureFixture[str]) -> None:
    text = '<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y) { y = No (x) }'
    data = onnx.parser.parse_model(text).SerializeToString()
    with pytest.raises(VerifyError, match=r"^openvino \S+ does not load the model \([\d,]+ bytes\): .*No") as caught:
        runtime.session(data, mode="deployed")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@installed
def test_importing_openvino_does_not_import_its_telemetry() -> None:
    script = (
        "import sys; from onnxmpq.runtimes import get_runtime; get_runtime('openvino').version; "
        "print([name for name in sys.modules if name.split('.')[0] == 'openvino_telemetry'])"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make openvino look as if it were not installed."""
    library: Any = openvino._library
    library.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    yield
    library.cache_clear()


@pytest.mark.usefixtures("without_openvino")
def test_absent_runtime_says_how_to_install_it() -> None:
    with pytest.raises(RuntimeMissingError, match=r'openvino is not installed.*pip install "onnxmpq\[openvino\]"'):
        get_runtime("openvino")
