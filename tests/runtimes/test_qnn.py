"""QNN: a file is taken whole by the HTP emulator, in a process of its own, or refused with what has no form."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxmpq.data.samples import InputSpec
from onnxmpq.errors import InputError, RuntimeMissingError, VerifyError
from onnxmpq.runtimes import LayerKernel, Runtime, get_runtime
from onnxmpq.runtimes.base import Compiles, PerSoc
from onnxmpq.runtimes.qnn import Qnn

installed = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn is not installed"
)
HEADER = '<ir_version: 10, opset_import: ["": 21]>'
SHAPE = "float[1, 4, 8, 8]"
FEED = {"x": np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)}


def model(text: str, **arrays: np.ndarray) -> bytes:
    """Make a checked model from its text form and its initializers."""
    proto = onnx.parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def quantised() -> bytes:
    """A convolution on 8 bits, and a float one behind it."""
    random = np.random.default_rng(1)
    return model(
        f"""chain ({SHAPE} x) => ({SHAPE} y) {{
             xq = QuantizeLinear (x, s, z)
             xd = DequantizeLinear (xq, s, z)
             wd = DequantizeLinear <axis = 0> (w, sw)
             [first] a = Conv <pads = [1, 1, 1, 1]> (xd, wd)
             aq = QuantizeLinear (a, s, z)
             ad = DequantizeLinear (aq, s, z)
             [hard] h = Elu (ad)
             [second] y = Conv <pads = [1, 1, 1, 1]> (h, wf)
           }}""",
        w=random.integers(-127, 128, size=(4, 4, 3, 3)).astype(np.int8),
        sw=np.full(4, 0.002, np.float32),
        s=np.array(0.03, np.float32),
        z=np.array(120, np.uint8),
        wf=random.normal(size=(4, 4, 3, 3)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return get_runtime("qnn", soc="57")


@installed
def test_it_runs_and_tells_kernels_and_no_time(runtime: Runtime) -> None:
    assert runtime.abilities == {"run", "kernels"}
    assert isinstance(runtime, PerSoc)
    assert isinstance(runtime, Compiles)
    assert runtime.version.endswith("SoC 57")


@installed
def test_the_emulator_gives_what_the_simulation_does(runtime: Runtime) -> None:
    session = runtime.session(quantised(), mode="deployed")
    assert session.inputs == (InputSpec("x", np.dtype(np.float32), (1, 4, 8, 8)),)
    got = session.run(FEED)["y"]
    want = runtime.session(quantised(), mode="literal").run(FEED)["y"]
    assert 30 < 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) < 100
    np.testing.assert_array_equal(session.bind(FEED)()["y"], got)  # type: ignore[index]


@installed
def test_inner_values_can_be_asked_for(runtime: Runtime) -> None:
    session = runtime.session(quantised(), mode="deployed", outputs=["ad", "y"])
    found = session.run(FEED, ["ad"])
    assert [*found] == ["ad"]
    assert found["ad"].shape == (1, 4, 8, 8)
    with pytest.raises(InputError, match="No value named 'b'"):
        session.run(FEED, ["b"])


@installed
def test_kernels_are_those_of_the_graph_that_qnn_was_given(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(quantised())
    report = runtime.kernels(path)
    assert report.whole
    assert sorted(report.layers) == [LayerKernel("first", "Conv2d", True), LayerKernel("second", "Conv2d", False)]
    assert report.float_compute == 1
    assert dict(report.counts)["Conv2d, float"] == 1


@installed
def test_a_file_with_an_operator_that_htp_has_no_form_for_is_refused_by_its_name(runtime: Runtime) -> None:
    text = f"g ({SHAPE} x) => ({SHAPE} y) {{ a = Relu (x) [odd] y = Erf (a) }}"
    with pytest.raises(VerifyError, match=r"does not take the model .* HTP has no form for 'odd' \(Erf\)"):
        runtime.session(model(text), mode="deployed")


@installed
def test_a_process_that_ends_is_a_fault_and_not_the_end_of_this_one(runtime: Runtime) -> None:
    session = runtime.session(quantised(), mode="deployed")
    child = session._child  # type: ignore[attr-defined]
    child._process.kill()
    with pytest.raises(VerifyError, match=r"could not run the model .* it ended its process with signal 9"):
        session.run(FEED)


@installed
def test_a_feed_that_does_not_fit_is_told(runtime: Runtime) -> None:
    session = runtime.session(quantised(), mode="deployed")
    with pytest.raises(InputError, match=r"input 'x' has shape \[2, 4, 8, 8\], expected \[1, 4, 8, 8\]"):
        session.run({"x": np.zeros((2, 4, 8, 8), np.float32)})
    with pytest.raises(InputError, match=r"There is no file 'nothing\.onnx'"):
        runtime.session(Path("nothing.onnx"), mode="deployed")


@installed
def test_a_context_binary_is_written_and_gives_the_same(runtime: Runtime, tmp_path: Path) -> None:
    assert isinstance(runtime, Compiles)
    runtime.compile(quantised(), tmp_path / "ready.onnx")
    made = onnx.load(tmp_path / "ready.onnx")
    assert [node.op_type for node in made.graph.node] == ["EPContext"]
    assert len([*tmp_path.glob("*.bin")]) == 1
    want = runtime.session(quantised(), mode="deployed").run(FEED)["y"]
    np.testing.assert_array_equal(runtime.session(tmp_path / "ready.onnx", mode="deployed").run(FEED)["y"], want)


@installed
@pytest.mark.parametrize("soc", ["43", "69"])
def test_another_soc_is_another_machine(soc: str) -> None:
    other = get_runtime("qnn", soc=soc)
    assert other.version.endswith(f"SoC {soc}")
    assert other.session(quantised(), mode="deployed").run(FEED)["y"].shape == (1, 4, 8, 8)


def test_an_absent_provider_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match=r'onnxruntime-qnn is not installed.*pip install "onnxmpq\[qnn\]"'):
        Qnn()
    assert get_runtime("qnn", "null").name == "null"
