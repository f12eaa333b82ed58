"""What onnxmpq asks of a runtime, whichever it is.

    Runtime ── session(model, mode=...) ──▶ Session ── run(feed) ──▶ {name: array}
       └────── kernels(model) ──▶ KernelReport

Only this folder imports the runtimes themselves, and only when one is asked for: everything else in onnxmpq works
where none is installed.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import onnx

from onnxmpq.data.samples import InputSpec
from onnxmpq.disk.files import data_of, spare_of
from onnxmpq.errors import InputError, RuntimeMissingError, VerifyError
from onnxmpq.machine import give_back, large_blocks_apart

Mode = Literal["deployed", "exact", "literal", "plain", "unoptimised"]
"""How a session is set up.

``deployed``: with the runtime's default options, so it does what the exported file will do for its user.
``exact``: the same kernels, but layers in float compute in float32, and no activation is quantised that the file does
not quantise; differs from ``deployed`` in OpenVINO only, whose float layers are bfloat16 on newer processors.
``literal``: every QuantizeLinear and DequantizeLinear computed as the ONNX standard writes it, in float32; what
measuring uses, since a runtime's defaults may fuse, drop or add quantisation.
``unoptimised``: node by node, all optimisation off: as literal, and several times slower; the plain way to simulate.
``plain``: float models with many inner values asked for as outputs; what calibrating uses.
"""

Ability = Literal["run", "kernels", "time", "profile"]
"""What a runtime can show of a file: what its kernels give, which they are, how long all take, and how long each."""
ABILITIES: frozenset[Ability] = frozenset(("run", "kernels", "time"))
"""What every runtime that is here can show."""

Feed = Mapping[str, np.ndarray]
_LARGE_BYTES, _LARGE_FILE_BYTES = 1 << 24, 1 << 21
_HUGE_FILE_BYTES = 1 << 24


class LayerKernel(NamedTuple):
    """What became of one layer: the name of its node in the file, the runtime's kernel, whether it computes low-bit."""

    node: str
    kernel: str
    low_bit: bool


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What a runtime really executes, read from its own optimised graph (bodies of If, Loop and Scan included).

    ``low_bit`` counts kernels that compute on 8 bits or fewer, ``leftover`` the quantise and dequantise steps that
    stayed on their own, ``float_compute`` the convolutions, matrix products and recurrent layers left in float.
    ``layers`` has those kernels whose node in the file is known, and where it is ``whole``, all layers of the file.
    """

    counts: tuple[tuple[str, int], ...]
    low_bit: int
    leftover: int
    float_compute: int
    layers: tuple[LayerKernel, ...]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One step of what a runtime executes: the layer of the file that it stands for, if any, and its time in a run."""

    layer: str
    kernel: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float


class Session(Protocol):
    """A model that is loaded and ready to run."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What a feed must have."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names ``run`` gives when not told otherwise."""
        ...

    def run(self, feed: Feed, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once; ``names`` picks some of the outputs. Raise InputError when the feed does not fit."""
        ...

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Give a function that runs once on this feed and copies nothing it need not: for timing."""
        ...


class Runtime(Protocol):
    """A program that executes ONNX files."""

    @property
    def name(self) -> str:
        """The name in targets and reports."""
        ...

    @property
    def version(self) -> str:
        """The version that is installed."""
        ...

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it can show of a file; one that cannot ``run`` it gives a simulation instead."""
        ...

    @property
    def float_type(self) -> str:
        """In what float layers compute by default on this processor: ``f32`` or ``bf16``."""
        ...

    def session(
        self, model: bytes | Path, *, mode: Mode, threads: int = 1, outputs: Sequence[str] | None = None
    ) -> Session:
        """Load a model from its bytes, or from a path (which a model with external data needs).

        ``outputs`` replaces the graph's outputs: inner values may be named, and what none of them needs may be left
        out. Raise InputError for a name the graph does not have, VerifyError when the runtime refuses the model.
        """
        ...

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Tell which kernels the runtime uses for this model with its default options."""
        ...


@runtime_checkable
class Profiler(Protocol):
    """A runtime with the ability ``profile``."""

    def profile(self, model: bytes | Path, feed: Feed, *, runs: int, threads: int = 1) -> tuple[Step, ...]:
        """Run a model some times; return the steps in the order of the runtime's graph, with their usual times."""
        ...


@runtime_checkable
class PerSoc(Protocol):
    """A runtime of which there is one for every system on a chip."""

    def on(self, soc: str) -> Runtime:
        """Return that of a SoC."""
        ...


@runtime_checkable
class Compiles(Protocol):
    """A runtime that makes of a file what its machine loads without preparing it anew."""

    def compile(self, model: bytes | Path, path: Path) -> None:
        """Write what a model becomes."""
        ...


def missing(runtime: str, command: str) -> RuntimeMissingError:
    """Make the error for a runtime that is not installed."""
    return RuntimeMissingError(f"{runtime} is not installed, and this needs it. Install it with: {command}")


def one_line(error: BaseException, limit: int = 300) -> str:
    """Give the essence of a runtime's message: no source positions, no line ends, no more than ``limit`` characters."""
    text = str(error)
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : (\w+) : ", r"\1: ", text)
    text = re.sub(r"Exception from \S+:\d+:", " ", text)
    text = re.sub(r"Check '[^']*' failed at \S+:\d+:", " ", text)
    text = re.sub(r"\S*/onnxruntime/\S+:\d+ [\w:~<>,& *]+\([^)]*\)( const)?", " ", text)
    text = re.sub(r"FrontEnd API failed with (\w+):", r"\1:", text)
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def arrays(output: object) -> list[np.ndarray]:
    """Return the tensors of an output, which may be a sequence, a map or an optional value that is not there."""
    if isinstance(output, dict):
        return [array for key in output for array in (*arrays(key), *arrays(output[key]))]
    if isinstance(output, list | tuple):
        return [array for part in output for array in arrays(part)]
    return [] if output is None else [np.asarray(output)]


def describe(model: bytes | Path) -> str:
    """Name a model in a message."""
    return f"model '{model}'" if isinstance(model, Path) else f"the model ({len(model):,} bytes)"


def unknown_outputs(names: Sequence[str], known: Sequence[str]) -> InputError:
    """Make the error for outputs that a session does not have."""
    shown = ", ".join(f"'{name}'" for name in known[:8]) + (" …" if len(known) > 8 else "")
    wanted = ", ".join(f"'{name}'" for name in names)
    return InputError(f"No value named {wanted} to give. There are: {shown}.")


def check_feed(feed: Feed, inputs: Sequence[InputSpec]) -> None:
    """Raise InputError unless the feed has each input once, with its type and rank; list all faults at once."""
    faults = [f"input '{name}' is not one of the model's" for name in feed if name not in {x.name for x in inputs}]
    for spec in inputs:
        if spec.name not in feed:
            faults.append(f"input '{spec.name}' is missing")
            continue
        array = feed[spec.name]
        if array.dtype != spec.dtype and not (spec.dtype == object and array.dtype.kind in "OUST"):
            faults.append(f"input '{spec.name}' is {array.dtype}, expected {spec.dtype}")
        if not spec.fits(array.shape):
            want = ", ".join("?" if size is None else str(size) for size in spec.shape)
            faults.append(f"input '{spec.name}' has shape {list(array.shape)}, expected [{want}]")
    if faults:
        raise InputError("The feed does not fit the model: " + "; ".join(faults) + ".")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop what native code writes to file descriptor 2 meanwhile (Python's own messages included)."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # closed, as in a service: nothing to drop
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(sink)
        os.close(kept)


def parse(model: bytes | Path) -> onnx.ModelProto:
    """Read a model without its external data."""
    try:
        if isinstance(model, Path):
            return onnx.load(str(model), load_external_data=False)
        return onnx.load_model_from_string(model)
    except Exception as error:
        raise VerifyError(f"{describe(model).capitalize()} cannot be read as ONNX: {one_line(error)}") from error


@contextlib.contextmanager
def lean_memory(model: bytes | Path) -> Iterator[None]:
    """Give back what was left before a large model is loaded, and what loading it leaves.

    Of files the bytes do not tell: weights of few bits become floats. They are loaded a few times, pieces often.
    """
    if len(model) < _LARGE_BYTES if isinstance(model, bytes) else _file_bytes(model) < _LARGE_FILE_BYTES:
        yield
        return
    give_back()
    with large_blocks_apart():
        yield
    give_back()


def is_huge(model: bytes | Path) -> bool:
    """Tell whether weights of few bits in a file become too many floats to be held in two copies."""
    return isinstance(model, Path) and _file_bytes(model) >= _HUGE_FILE_BYTES


def _file_bytes(path: Path) -> int:
    """Return the bytes of a model file, and of external data where we put it."""
    return sum(file.stat().st_size for file in (path, data_of(path), spare_of(path)) if file.is_file())


QDQ = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))


def walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Walk the nodes of a graph and of the bodies inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from walk(body)


_FAMILIES = (
    frozenset(("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv")),
    frozenset(("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "Einsum", "MatMulNBits")),
    frozenset(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")),
)
_MARKS = (("Conv", "Deconv"), ("MatMul", "Gemm", "FullyConnected"), ("LSTM", "GRU", "RNN"))


def _family(op_type: str) -> frozenset[str] | None:
    """Give the operators a kernel may have come from, or None where any will do."""
    for family, marks in zip(_FAMILIES, _MARKS, strict=True):
        if op_type in family or any(mark in op_type for mark in marks):
            return family
    return None


class Origin:
    """Finds the node of the file that a kernel stands for.

    onnxruntime names fused kernels after the node (``conv_token_5``, ``mm/MatMulAddFusion``) or after the value they
    give (``relu_out_nchwc``); from a Relu or a Q one walks up to the layer it was fused with.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        nodes = list(walk(model.graph))
        self._by_name = {node.name: node for node in nodes if node.name}
        self._by_output = {name: node for node in nodes for name in node.output if name}

    def find(self, kernel: str, names: Sequence[str]) -> str | None:
        """Give the node's name, or None where it cannot be told from the kernel's type and names and outputs."""
        family = _family(kernel)
        for name in dict.fromkeys(stem for full in names for stem in _stems(full)):
            node = self._by_name.get(name) or self._by_output.get(name)
            found = self._climb(node, family) if node is not None else None
            if found is not None and found.name:
                return found.name
        return None

    def _climb(self, node: onnx.NodeProto, family: frozenset[str] | None) -> onnx.NodeProto | None:
        """Go up from what was fused into a layer to the layer."""
        front = [node]
        for _ in range(6):
            for candidate in front:
                if (candidate.op_type in family) if family else (candidate.op_type not in QDQ):
                    return candidate
            front = [self._by_output[x] for candidate in front for x in candidate.input if x in self._by_output]
        return None


def _stems(name: str) -> Iterator[str]:
    """Give a kernel's name and what is left as onnxruntime's additions are taken off."""
    yield name
    while True:
        shorter = re.sub(r"(_token_\d+|_nchwc|_nhwc|_transpose|/\w*Fusion\w*/?|/WithoutBiases)$", "", name)
        shorter = shorter.removeprefix("fused ")
        if shorter == name or not shorter:
            return
        yield (name := shorter)
