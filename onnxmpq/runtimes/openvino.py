"""OpenVINO on the processor: checking what an export does there."""

import contextlib
import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxmpq.data.samples import InputSpec
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.runtimes.base import (
    ABILITIES,
    Ability,
    Feed,
    KernelReport,
    LayerKernel,
    Mode,
    Origin,
    check_feed,
    describe,
    lean_memory,
    missing,
    one_line,
    parse,
    quiet_stderr,
    unknown_outputs,
)

INSTALL = 'pip install "onnxmpq[openvino]"'

COMPUTE_LAYERS = frozenset(
    (
        *("Convolution", "GroupConvolution", "Deconvolution", "DeformableConvolution", "BinaryConvolution"),
        *("MatMul", "FullyConnected", "LSTMCell", "LSTMSequence", "GRUCell", "GRUSequence", "RNNCell", "RNNSeq", "RNN"),
        *("MHA", "ScaledDotProductAttention", "PagedAttention", "LLMMLP", "QKVProjection"),
    )
)
"""Layers with most of a network's arithmetic."""

LIGHT_LAYERS = frozenset(("Eltwise", "Pooling", "Reduce", "Softmax", "MVN", "NormalizeL2", "Subgraph", "Interpolate"))
"""Other layers that compute; counted as low-bit where they run on codes."""

# Float32 wherever the file is float (newer processors default to bfloat16), and no activation quantised on the fly;
# literally, no low-precision transformations either. That is an internal switch: left out if refused.
_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
_LITERAL = {**_EXACT, "LP_TRANSFORMS_MODE": "NO"}


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep openvino_telemetry from being imported: merely importing openvino would report its use over the network."""
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # the import system's way of saying "not found"
    try:
        yield
    finally:
        del sys.modules[name]


@functools.cache
def _library() -> Any:
    """Import openvino, in silence."""
    try:
        with quiet_stderr(), _without_telemetry():
            return importlib.import_module("openvino")
    except ImportError as error:
        raise missing("openvino", INSTALL) from error


@functools.cache
def _core() -> Any:
    """Give the one Core: making it loads the plugins."""
    return _library().Core()


class OpenVinoSession:
    """A model compiled by OpenVINO.

    Inputs and outputs are matched by position: where a Q/DQ pair at an input is fused, the compiled input bears
    another name.
    """

    def __init__(self, compiled: Any, inputs: tuple[InputSpec, ...], outputs: tuple[str, ...], ports: tuple[int, ...]):
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._inputs = inputs
        self._outputs = outputs
        self._ports = dict(zip(outputs, ports, strict=True))

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What a feed must have."""
        return self._inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names ``run`` gives when not told otherwise."""
        return self._outputs

    def run(self, feed: Feed, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once; ``names`` picks some of the outputs."""
        wanted = self._outputs if names is None else tuple(names)
        if strange := [name for name in wanted if name not in self._ports]:
            raise unknown_outputs(strange, self._outputs)
        _set_inputs(self._request, feed, self._inputs)
        try:
            self._request.infer()
        except RuntimeError as error:
            raise VerifyError(f"openvino could not run the model: {one_line(error)}") from error
        return {name: self._request.get_output_tensor(self._ports[name]).data.copy() for name in wanted}

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Give a function that runs once on this feed, in a request of its own, without copying outputs."""
        request = self._compiled.create_infer_request()
        _set_inputs(request, feed, self._inputs)

        def run() -> None:
            request.start_async()
            request.wait()

        return run


@dataclass(frozen=True, slots=True)
class OpenVino:
    """OpenVINO's processor plugin, one stream."""

    def __post_init__(self) -> None:
        """Fail early where openvino is absent."""
        _library()

    @property
    def name(self) -> str:
        """The name in targets and reports."""
        return "openvino"

    @property
    def version(self) -> str:
        """The version that is installed, without the build."""
        return str(_library().__version__).split("-", 1)[0]

    @property
    def abilities(self) -> frozenset[Ability]:
        """Everything."""
        return ABILITIES

    @property
    def float_type(self) -> str:
        """The type this processor computes float layers in by default: ``f32``, or ``bf16`` where it has that."""
        return str(_core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string())

    def session(
        self, model: bytes | Path, *, mode: Mode, threads: int = 1, outputs: Sequence[str] | None = None
    ) -> OpenVinoSession:
        """Load a model; see ``Runtime.session``."""
        config = {"deployed": {}, "exact": _EXACT, "literal": _LITERAL, "plain": _LITERAL, "unoptimised": _LITERAL}[
            mode
        ]
        return self.configured(model, config, threads=threads, outputs=outputs)

    def configured(
        self,
        model: bytes | Path,
        config: dict[str, str],
        *,
        threads: int = 1,
        outputs: Sequence[str] | None = None,
    ) -> OpenVinoSession:
        """Load a model with properties of the plugin of one's own, such as ``INFERENCE_PRECISION_HINT``."""
        network = self._read(model)
        inputs = tuple(_input_spec(x) for x in network.inputs)
        if outputs is None:
            names, ports = zip(*((_output_name(x), i) for i, x in enumerate(network.outputs)), strict=True)
        else:
            names, ports = tuple(outputs), _add_outputs(network, outputs)
        return OpenVinoSession(self._compile(model, network, config, threads), inputs, names, ports)

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Read the kernels from the graph the plugin executes."""
        compiled = self._compile(model, self._read(model), {}, 1)
        origin = Origin(parse(model))
        counts: Counter[str] = Counter()
        layers: list[LayerKernel] = []
        low = plain = leftover = 0
        for node in compiled.get_runtime_model().get_ordered_ops():
            info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
            kind, precision = info.get("layerType", ""), info.get("runtimePrecision", "")
            if kind in ("", "Const", "Input", "Output"):
                continue
            counts[kind] += 1
            is_low = precision in ("u8", "i8", "u4", "i4", "u2", "i2", "u1")
            leftover += kind == "FakeQuantize"
            low += is_low and (kind in COMPUTE_LAYERS or kind in LIGHT_LAYERS)
            if kind in COMPUTE_LAYERS:
                plain += not is_low
                kernel = f"{kind}[{info.get('primitiveType', '')}]"
                names = (*info.get("originalLayersNames", "").split(","), node.get_friendly_name())
                name = origin.find(kind, names)
                layers += [LayerKernel(name, kernel, is_low)] if name else []
        return KernelReport(tuple(sorted(counts.items())), low, leftover, plain, tuple(layers))

    def _read(self, model: bytes | Path) -> Any:
        """Read a file or its bytes."""
        if isinstance(model, Path) and not model.is_file():
            raise InputError(f"There is no file '{model}'. Give the path of an ONNX model.")
        with self._loading(model):
            return _core().read_model(str(model) if isinstance(model, Path) else model)

    def _compile(self, model: bytes | Path, network: Any, config: dict[str, str], threads: int) -> Any:
        """Compile for the processor with one stream."""
        fixed = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        with self._loading(model), lean_memory(model):
            try:
                return _core().compile_model(network, "CPU", {**fixed, **config})
            except RuntimeError as error:
                if "LP_TRANSFORMS_MODE" not in str(error):
                    raise
                public = {key: value for key, value in config.items() if key != "LP_TRANSFORMS_MODE"}
                return _core().compile_model(network, "CPU", {**fixed, **public})

    @contextlib.contextmanager
    def _loading(self, model: bytes | Path) -> Iterator[None]:
        """Turn OpenVINO's refusal into a VerifyError of one line."""
        try:
            yield
        except RuntimeError as error:
            raise VerifyError(f"openvino {self.version} does not load {describe(model)}: {one_line(error)}") from error


def _input_spec(port: Any) -> InputSpec:
    """Describe an input of a model that was read and not yet compiled."""
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        raise InputError(f"Input '{port.node.friendly_name}' has no fixed rank, which OpenVINO needs.")
    sizes = tuple(None if size.is_dynamic else size.get_length() for size in shape)
    return InputSpec(port.node.friendly_name, np.dtype(port.element_type.to_dtype()), sizes)


def _output_name(port: Any) -> str:
    """Give an output's name in the file; a value that went through Identity nodes has several."""
    names = sorted(port.get_names())
    friendly = port.node.friendly_name.split("/sink_port_", 1)[0]
    return friendly if friendly in names or not names else str(names[0])


def _add_outputs(network: Any, names: Sequence[str]) -> tuple[int, ...]:
    """Make inner values outputs; give the position of each."""
    made = {name for node in network.get_ops() for port in node.outputs() for name in port.get_names()}
    if strange := [name for name in names if name not in made]:
        raise unknown_outputs(strange, [_output_name(port) for port in network.outputs])
    network.add_outputs(list(names))
    return tuple(next(i for i, port in enumerate(network.outputs) if name in port.get_names()) for name in names)


def _set_inputs(request: Any, feed: Feed, inputs: tuple[InputSpec, ...]) -> None:
    """Hand the arrays over by position."""
    check_feed(feed, inputs)
    for position, spec in enumerate(inputs):
        request.set_input_tensor(position, _library().Tensor(np.ascontiguousarray(feed[spec.name])))
