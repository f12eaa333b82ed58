"""Devices: a session on one gives what a session on arrays gives, and what is not there is said in a sentence."""

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from onnxmpq.errors import InputError, RuntimeMissingError, VerifyError
from onnxmpq.runtimes import cuda, devices, get_runtime, ort
from onnxmpq.runtimes.bound import BoundSession, Tensor
from onnxmpq.runtimes.cuda import Gpu, gpus
from onnxmpq.runtimes.devices import CACHE, Cuda, Host, Processor, devices_here, get_device

HEADER = '<ir_version: 10, opset_import: ["": 21]>'
EVERY_KIND = """g (float[n, 4] x, int64[k] shape, bool[n, 4] mask) => (
    float[n, 4] y, float16[n, 4] half, int64[k2] counted, bool[n, 4] above, uint8[n, 4] codes, float[a, b] reshaped) {
    y = Relu(x)
    half = Cast<to = 10>(x)
    counted = Shape(x)
    flat = Where(mask, x, y)
    above = Greater(x, flat)
    codes = QuantizeLinear(x, scale, zero)
    reshaped = Reshape(x, shape)
}"""


def model(text: str, **arrays: np.ndarray) -> bytes:
    """Write a model from its text form and its initializers."""
    proto = onnx.parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return bytes(proto.SerializeToString())


def every_kind() -> bytes:
    """Write a model with inputs and outputs of many types."""
    return model(EVERY_KIND, scale=np.array(0.1, np.float32), zero=np.array(128, np.uint8))


def on_device(data: bytes, feed: dict[str, Any]) -> dict[str, Any]:
    """Run on the host's device from arrays to arrays."""
    device = Host()
    given = device.session(data).run({name: device.put(array) for name, array in feed.items()})
    return {name: device.get(value) for name, value in given.items()}


@pytest.fixture
def feed() -> dict[str, Any]:
    """Give a feed for the model of every kind."""
    x = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32).T  # not in the order of memory
    return {"x": x, "shape": np.array([2, 6]), "mask": x > 0.3}


def test_values_of_every_kind_are_those_of_arrays(feed: dict[str, Any]) -> None:
    want = get_runtime("onnxruntime").session(every_kind(), mode="literal").run(feed)
    found = on_device(every_kind(), feed)
    assert list(found) == list(want)
    for name, array in want.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_values_stay_where_they_are_until_they_are_read(feed: dict[str, Any]) -> None:
    device = Host()
    session = device.session(every_kind())
    assert isinstance(session, BoundSession)
    given = session.run({name: device.put(array) for name, array in feed.items()}, ["y", "half"])
    assert list(given) == ["y", "half"]
    assert all(isinstance(value, Tensor) and value.is_float for value in given.values())
    del session  # what it gave outlives it
    again = device.session(every_kind()).run({**{name: device.put(a) for name, a in feed.items()}, "x": given["y"]})
    np.testing.assert_array_equal(device.get(again["y"]), np.maximum(feed["x"], 0))


@pytest.mark.parametrize(
    ("text", "array"),
    [
        ("g (string[n] x) => (string[n] y) { y = Identity(x) }", np.array(["a", "bc"], object)),
        ("g (float[n] x) => (seq(float[n]) y) { y = SequenceConstruct(x, x) }", np.ones(3, np.float32)),
        ("g (float[n] x) => (optional(float[n]) y) { y = Optional(x) }", np.ones(3, np.float32)),
    ],
)
def test_what_a_device_cannot_hold_is_held_as_arrays(text: str, array: np.ndarray) -> None:
    want = get_runtime("onnxruntime").session(model(text), mode="literal").run({"x": array})["y"]
    np.testing.assert_array_equal(on_device(model(text), {"x": array})["y"], want)


def test_what_is_handed_through_outlives_what_it_was_put_there_from() -> None:
    device, data = Host(), model("g (float[n] x) => (float[n] x, float[n] y) { y = Identity(x) }")
    given = device.session(data).run({"x": np.arange(10_000, dtype=np.float32)})
    others = [np.zeros(10_000, np.float32) for _ in range(100)]
    for name in ("x", "y"):
        np.testing.assert_array_equal(device.get(given[name]), np.arange(10_000, dtype=np.float32))
    assert not any(other.any() for other in others)


def test_a_type_that_numpy_lacks_stays_an_array() -> None:
    array = np.ones(2, ml_dtypes.bfloat16)
    assert Host().put(array) is array


def test_beside_what_is_held_as_arrays_tensors_are_on_the_device() -> None:
    data = model("g (float[n] x) => (seq(float[n]) y, float[n] z) { y = SequenceConstruct(x, x) z = Neg(x) }")
    device = Host()
    given = device.session(data).run({"x": device.put(np.ones(3, np.float32))})
    assert isinstance(given["z"], Tensor)
    assert isinstance(given["y"], list)


def test_a_shape_may_be_another_at_the_next_run() -> None:
    device, data = Host(), model("g (float[n] x) => (float[n] y) { y = Neg(x) }")
    session = device.session(data)
    for count in (3, 5, 0):
        given = session.run({"x": device.put(np.ones(count, np.float32))})
        np.testing.assert_array_equal(device.get(given["y"]), -np.ones(count, np.float32))


def test_a_run_that_fails_says_where_and_why() -> None:
    session = Host().session(model("g (float[n] x) => (float[m] y) { y = Reshape(x, s) }", s=np.array([7])))
    with pytest.raises(VerifyError, match=r"on the device 'cpu:0'.*a lower --memory\.$"):
        session.run({"x": np.ones(3, np.float32)})


# ---- local errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_powers_on_a_device_are_those_of_arrays(kind: type) -> None:
    g = np.random.default_rng(1)
    new, base = g.normal(size=(2, 2, 3, 4)).astype(kind)
    device = Host()
    want = float(((new - base).astype(np.float64) ** 2).sum()), float((base.astype(np.float64) ** 2).sum())
    for _ in range(2):
        assert device.powers(device.put(new), device.put(base)) == pytest.approx(want, rel=2e-3)
    assert Processor().powers(new, base) == pytest.approx(want, rel=2e-2)


def test_codes_and_lists_have_no_powers() -> None:
    codes, floats = np.ones(3, np.int8), np.ones(3, np.float32)
    for device in (Processor(), Host()):
        assert device.powers(device.put(codes), device.put(codes)) == (0.0, 0.0)
    assert Processor().powers([floats], [floats]) == (0.0, 0.0)  # type: ignore[arg-type]
    assert Host().powers(floats, floats) == (0.0, 3.0)


# ---- what is there ---------------------------------------------------------------------------------------------------


def test_devices_have_names_and_identities() -> None:
    cpu, host, first, second = (get_device(name) for name in ("cpu", "host", "cuda:0", "cuda:12"))
    assert get_device("host") is host
    assert (cpu.identity, cpu.together, cpu.cache, cpu.room) == ("", 8, CACHE, 0)
    assert (host.together, host.cache, host.room) == (8, CACHE, 0)
    assert first.identity == second.identity != host.identity
    assert first.together == 32
    cpu.check()
    host.check()


def test_without_the_package_one_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_providers", lambda: (ort.CPU,))
    with pytest.raises(RuntimeMissingError, match=r"'cuda:0' needs onnxruntime-gpu .* pip install \"onnxmpq\[gpu\]\"$"):
        Cuda(0).check()


@pytest.fixture
def cuda_said(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let onnxruntime say that it has CUDA."""
    library: Any = ort._library()
    monkeypatch.setattr(library, "get_available_providers", lambda: [ort.CUDA, ort.CPU])
    return library


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_device_that_onnxruntime_leaves_out_in_silence_is_refused(
    cuda_said: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ort.CUDA in ort.available_providers()
    real = cuda_said.InferenceSession
    if ort.CUDA in real.__module__:
        pytest.skip("there is a device")
    with pytest.raises(InputError, match=r"'cuda:7' cannot be used: onnxruntime does not load its CUDAExecution.*\.$"):
        Cuda(7).check()
    assert capsys.readouterr().out == ""


def test_what_onnxruntime_says_of_a_device_is_told(cuda_said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_model: object, _options: object, **more: Any) -> None:
        provider, options = more["providers"][0]
        assert (provider, options["device_id"], options["use_tf32"]) == (ort.CUDA, "3", "0")
        assert more["providers"][1:] == [ort.CPU]
        assert more["enable_fallback"] == 0
        raise RuntimeError("CUDA failure 101: invalid device ordinal")

    monkeypatch.setattr(cuda_said, "InferenceSession", refuse)
    with pytest.raises(InputError, match=r"The device 'cuda:3' cannot be used: .*invalid device ordinal"):
        Cuda(3).check()


def test_libraries_are_loaded_in_silence_where_onnxruntime_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library: Any = ort._library()
    monkeypatch.setattr(library, "preload_dlls", lambda: print("Failed to load libcudnn"), raising=False)
    ort.load_cuda.cache_clear()
    ort.load_cuda()
    monkeypatch.delattr(library, "preload_dlls")
    ort.load_cuda.cache_clear()
    ort.load_cuda()
    assert capsys.readouterr().out == ""


class Driver:
    """A driver that tells of two GPUs, or fails at ``failing``."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing

    def cuInit(self, _flags: int) -> int:
        return 100 * (self.failing == "cuInit")

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 2
        return 100 * (self.failing == "cuDeviceGetCount")

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: ctypes.c_int) -> int:
        assert len(name) == length
        name.value = b"H%d" % (100 + device.value)
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: ctypes.c_int) -> int:
        size._obj.value = 10**10 * (1 + device.value)
        return 0


def test_a_driver_tells_of_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus(Driver()) == (Gpu("H100", 10**10), Gpu("H101", 2 * 10**10))
    assert gpus(Driver("cuInit")) == gpus(Driver("cuDeviceGetCount")) == ()
    monkeypatch.setattr(cuda, "_driver", lambda: None)
    assert gpus() == ()


def test_a_library_that_is_not_there_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert gpus() == ()


def test_a_gpu_gives_a_share_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: gpus(Driver()))
    assert [Cuda(number).room for number in range(3)] == [4 * 10**9, 8 * 10**9, 0]


def test_what_devices_there_are_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_providers", lambda: (ort.CPU,))
    monkeypatch.setattr(devices, "gpus", tuple)
    assert devices_here() == (
        {},
        "There is no GPU of NVIDIA here that onnxruntime can use, so everything runs on the processor.",
    )
    monkeypatch.setattr(devices, "gpus", lambda: gpus(Driver()))
    found, told = devices_here()
    assert found == {}
    assert told.startswith("There is a GPU, H100, 10 GB, which is not used: The device 'cuda:0' needs onnxruntime-gpu")
    monkeypatch.setattr(Cuda, "check", lambda self: None)
    found, told = devices_here()
    assert found == {"cuda:0": "H100, 10 GB", "cuda:1": "H101, 20 GB"}
    assert told == "With --device cuda:0 losses are measured on the GPU."
