"""Where pieces of a model run that are measured, and where their values lie.

    get_device("cpu")       the processor; values are arrays
    get_device("cuda:0")    a GPU of NVIDIA; values stay in its memory
    get_device("host")      the code of devices on the processor: for tests, and to see what a device changes

    device.put(array) ─▶ device.session(model).run({name: value}) ─▶ {name: value} ─▶ device.get(value)

Nothing is loaded before it is used. ``check`` says in one sentence what is not there.
"""

import sys
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from onnxmpq.errors import InputError, OnnxmpqError, RuntimeMissingError
from onnxmpq.runtimes.base import Mode
from onnxmpq.runtimes.bound import BoundSession, Place, Tensor, Value, as_array, can_be_held, held
from onnxmpq.runtimes.cuda import gpus
from onnxmpq.runtimes.ort import CPU, CUDA, OnnxRuntime, available_providers, load_cuda

_TYPES = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(double)": TensorProto.DOUBLE,
}
_ROOM = 0.4
"""The share of a GPU's memory that values may take; sessions hold as much again for what they compute between them."""

CACHE = 1 << 23
"""What a processor's caches are likely to hold of a tensor.

Larger ones are read from memory by every kernel, and from 32 MB on the C library takes them from the system, and gives
them back, each time: a fifth of a search of EfficientNet-Lite0 went there.
"""


class Runs(Protocol):
    """A session on a device."""

    def run(self, feed: Mapping[str, Value]) -> dict[str, Value]:
        """Run once."""
        ...


class Device(Protocol):
    """What measuring asks of where it runs."""

    @property
    def identity(self) -> str:
        """What results depend on, for those who keep them; nothing for the processor."""
        ...

    @property
    def together(self) -> int:
        """How many samples run together at most."""
        ...

    @property
    def cache(self) -> int:
        """The bytes that the largest tensor of a run should not exceed; 0 where that does not matter."""
        ...

    @property
    def sessions(self) -> int:
        """How many sessions of variants may stay loaded."""
        ...

    @property
    def room(self) -> int:
        """The bytes of its own memory that values may take; 0 where that is the processor's."""
        ...

    def check(self) -> None:
        """Raise InputError unless it is there and onnxruntime can use it."""
        ...

    def session(self, model: bytes | Path, *, threads: int = 1, mode: Mode = "literal") -> Runs:
        """Load a model, whose quantisation is computed as it is written unless told otherwise."""
        ...

    def put(self, array: npt.NDArray[np.generic]) -> Value:
        """Bring an array to the device."""
        ...

    def get(self, value: Value) -> npt.NDArray[np.generic]:
        """Bring a value to the processor's memory."""
        ...

    def powers(self, new: Value, base: Value) -> tuple[float, float]:
        """Return the power of ``new - base`` and of ``base``; nothing where they are no floats."""
        ...


class Processor:
    """The processor: values are arrays, and are never copied."""

    identity = ""
    together = 8  # more gain nothing
    cache = CACHE
    sessions = sys.maxsize
    room = 0

    def check(self) -> None:
        """Raise RuntimeMissingError where there is no onnxruntime."""
        OnnxRuntime()

    def session(self, model: bytes | Path, *, threads: int = 1, mode: Mode = "literal") -> Runs:
        """Load a model."""
        return cast(Runs, OnnxRuntime().session(model, mode=mode, threads=threads))  # of arrays only

    def put(self, array: npt.NDArray[np.generic]) -> Value:
        """Return an array as it is."""
        return array

    def get(self, value: Value) -> npt.NDArray[np.generic]:
        """Return an array as it is."""
        return as_array(value)

    def powers(self, new: Value, base: Value) -> tuple[float, float]:
        """Return the power of a difference, and that of what it is a difference from."""
        return _powers(new, base)


class BoundDevice:
    """A device through onnxruntime's bindings; ``Host`` and ``Cuda`` say which."""

    identity: str
    together = 8
    cache = CACHE
    sessions = sys.maxsize

    def __init__(self, name: str, place: Place, providers: tuple[str, ...]) -> None:
        self.name, self.place, self.providers = name, place, providers
        self._powers: dict[str, BoundSession] = {}

    @property
    def room(self) -> int:
        """Nothing of its own."""
        return 0

    @cached_property
    def runtime(self) -> OnnxRuntime:
        """Return onnxruntime on this device."""
        return OnnxRuntime(self.providers, self.place.number)

    def check(self) -> None:
        """Load a model of one node there."""
        try:
            self.session(_power_model(TensorProto.FLOAT))
        except InputError:
            raise
        except OnnxmpqError as error:
            raise InputError(f"The device '{self.name}' cannot be used: {error}") from error

    def session(self, model: bytes | Path, *, threads: int = 1, mode: Mode = "literal") -> BoundSession:
        """Load a model; onnxruntime may leave a device out in silence, which is refused."""
        session = self.runtime.session(model, mode=mode, threads=threads)
        if self.providers[0] not in session.native.get_providers():
            raise InputError(
                f"The device '{self.name}' cannot be used: onnxruntime does not load its {self.providers[0]}, "
                "mostly since the driver, CUDA or cuDNN is missing or of another version."
            )
        return BoundSession(session, self.place)

    def put(self, array: npt.NDArray[np.generic]) -> Value:
        """Bring an array to the device; one of a type that it cannot hold stays as it is."""
        return held(array, self.place) if can_be_held(array) else array

    def get(self, value: Value) -> npt.NDArray[np.generic]:
        """Bring a value to the processor's memory."""
        return as_array(value)

    def powers(self, new: Value, base: Value) -> tuple[float, float]:
        """Return the power of a difference, and that of what it is a difference from, computed on the device.

        Two numbers of four bytes come back. A layer's output of ResNet-50 for 64 samples is 13 to 205 MB, and reading
        it takes 5 to 70 ms at 3 GB/s, twice: longer than the runs that a variant takes there.
        """
        if not (isinstance(new, Tensor) and isinstance(base, Tensor)):
            return _powers(new, base)
        if not base.is_float:
            return 0.0, 0.0
        kind = base.value.data_type()
        if kind not in self._powers:
            self._powers[kind] = self.session(_power_model(_TYPES[kind]))
        found = self._powers[kind].run({"new": new, "base": base})
        return float(self.get(found["error"]).item()), float(self.get(found["signal"]).item())


class Host(BoundDevice):
    """The processor, its memory taken for that of a device."""

    identity = f", {CPU} on host"

    def __init__(self) -> None:
        super().__init__("host", Place("cpu", 0), (CPU,))


class Cuda(BoundDevice):
    """A GPU of NVIDIA.

    Its number is no part of the identity: which GPU of a run does a job is chance, and must not matter. Float sums of
    one GPU and another differ as those of two processors do, which are not told apart either.
    """

    identity = f", {CUDA} on cuda without TF32"
    together = 32  # a run of ResNet-50 takes 2.5 ms for one sample, 12.4 ms for 32
    cache = 0
    sessions = 4  # each has memory of its own for what it computes, and is opened in some milliseconds

    def __init__(self, number: int) -> None:
        super().__init__(f"cuda:{number}", Place("cuda", number), (CUDA, CPU))

    @property
    def room(self) -> int:
        """The bytes of its memory that values may take; 0 where the driver does not tell."""
        found = gpus()
        return int(_ROOM * found[self.place.number].memory_bytes) if self.place.number < len(found) else 0

    @cached_property
    def runtime(self) -> OnnxRuntime:
        """Return onnxruntime on this GPU, or say what is missing."""
        if CUDA not in available_providers():
            raise RuntimeMissingError(
                f"The device '{self.name}' needs onnxruntime-gpu in the place of onnxruntime: "
                'pip uninstall onnxruntime, then pip install "onnxmpq[gpu]"'
            )
        load_cuda()
        return OnnxRuntime(self.providers, self.place.number)


@lru_cache
def get_device(name: str) -> Device:
    """Return a device by its name, as ``MeasureOptions`` have checked it; nothing is loaded yet."""
    if name == "cpu":
        return Processor()
    return Host() if name == "host" else Cuda(int(name.partition(":")[2]))


def devices_here() -> tuple[dict[str, str], str]:
    """Return the GPUs that can be used, with what they are, and one sentence that says what follows."""
    found = gpus()
    told = {f"cuda:{number}": f"{gpu.name}, {gpu.memory_bytes / 1e9:.0f} GB" for number, gpu in enumerate(found)}
    try:
        get_device("cuda:0").check()
    except InputError as error:
        if found:
            return {}, f"There is a GPU, {told['cuda:0']}, which is not used: {error}"
        return {}, "There is no GPU of NVIDIA here that onnxruntime can use, so everything runs on the processor."
    return told or {"cuda:0": "of a name not known"}, "With --device cuda:0 losses are measured on the GPU."


def _power_model(kind: int) -> bytes:
    """Write a model of the powers of a difference and of what it is a difference from, in floats of 32 bits or 64."""
    wide = TensorProto.DOUBLE if kind == TensorProto.DOUBLE else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["new"], ["new_wide"], to=wide),
        helper.make_node("Cast", ["base"], ["base_wide"], to=wide),
        helper.make_node("Sub", ["new_wide", "base_wide"], ["difference"]),
        helper.make_node("Reshape", ["difference", "flat"], ["row"]),
        helper.make_node("Reshape", ["base_wide", "flat"], ["base_row"]),
        helper.make_node("ReduceSumSquare", ["row"], ["error"], keepdims=0),
        helper.make_node("ReduceSumSquare", ["base_row"], ["signal"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "powers",
        [helper.make_tensor_value_info(name, kind, None) for name in ("new", "base")],
        [helper.make_tensor_value_info(name, wide, []) for name in ("error", "signal")],
        [onnx.numpy_helper.from_array(np.array([-1]), "flat")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _powers(new: object, base: object) -> tuple[float, float]:
    """Return both powers of arrays; nothing where they are no floats."""
    both = new, base
    if not all(isinstance(value, np.ndarray) and value.dtype.kind == "f" for value in both):
        return 0.0, 0.0
    values, error = cast(npt.NDArray[np.floating], base).ravel(), cast(npt.NDArray[np.floating], new).ravel()
    error = error - values
    return float(np.vdot(error, error)), float(np.vdot(values, values))
