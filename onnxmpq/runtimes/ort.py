"""onnxruntime: measuring, calibrating, and checking what an export does there."""

import contextlib
import functools
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from onnxmpq.data.samples import InputSpec
from onnxmpq.disk.leftovers import temporary_folder
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.runtimes.base import (
    ABILITIES,
    QDQ,
    Ability,
    Feed,
    KernelReport,
    LayerKernel,
    Mode,
    Origin,
    Step,
    check_feed,
    describe,
    is_huge,
    lean_memory,
    missing,
    one_line,
    parse,
    quiet_stderr,
    unknown_outputs,
    walk,
)
from onnxmpq.runtimes.profiles import WARM_UP, steps_of

INSTALL = 'pip install "onnxmpq[cpu]" (or "onnxmpq[gpu]" for an NVIDIA GPU; not both)'

LOW_BIT_KERNELS = frozenset(
    (
        *("QLinearConv", "NhwcQLinearConv", "QLinearConvTranspose", "ConvInteger", "ConvIntegerToFloat"),
        *("QLinearMatMul", "MatMulInteger", "MatMulInteger16", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
        *("QGemm", "MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GemmFloat8", "QMoE"),
        *("QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearWhere", "QLinearReduceMean"),
        *("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"),
        *("QLinearAveragePool", "QLinearGlobalAveragePool", "NhwcMaxPool"),
        *("QAttention", "QOrderedMatMul", "QEmbedLayerNormalization", "QuantizeBFP", "DynamicQuantizeLSTM"),
    )
)
"""Kernels that compute on 8 bits or fewer. NhwcMaxPool has no other form; layout changes are left out."""

FLOAT_KERNELS = frozenset(
    (
        *("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "ConvTransposeWithDynamicPads", "DeformConv"),
        *("MatMul", "FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "SparseToDenseMatMul"),
        *("Gemm", "FusedGemm", "Einsum", "LSTM", "GRU", "RNN"),
        *("Attention", "MultiHeadAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention", "MoE"),
    )
)
"""Kernels with most of a network's arithmetic, in float."""


# Fusions and rewrites that change the numbers of a graph with Q/DQ: clipping taken for a Relu, biases and float
# weights quantised at load, pairs moved, merged or dropped.
_REWRITING_OPTIMIZERS = (
    *("ReluQuantRewrite", "ClipQuantRewrite", "WeightBiasQuantization"),
    *("QDQPropagationTransformer", "DoubleQDQPairsRemover"),
)
_LITERAL_ENTRIES = {"session.disable_quant_qdq": "1", "session.disable_double_qdq_remover": "1"}
_EXACT_ENTRY = ("session.qdq_matmulnbits_accuracy_level", "1")  # float32; 4, the default, is int8

_ABILITIES: frozenset[Ability] = frozenset((*ABILITIES, "profile"))

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    # TF32 keeps 10 bits of a product's operands: 66 dB to the processor's sums instead of 126. A search among all of
    # cuDNN's algorithms takes longer than the runs that it is for. Memory grows by what is asked for, not by doubling,
    # since many sessions are held, each with its own.
    CUDA: {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"},
}

_DTYPES: dict[str, Any] = {
    **{f"tensor({name})": np.dtype(name) for name in ("float16", "double", "bool")},
    **{f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (2, 4)},
    "tensor(float)": np.dtype(np.float32),
    "tensor(string)": np.dtype(object),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(float8e4m3fn)": np.dtype(ml_dtypes.float8_e4m3fn),
    "tensor(float8e5m2)": np.dtype(ml_dtypes.float8_e5m2),
}


@functools.cache
def _library() -> Any:
    """Import onnxruntime, without the remarks about devices some builds print on the way."""
    try:
        with quiet_stderr():
            import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", INSTALL) from error
    return onnxruntime


def available_providers() -> tuple[str, ...]:
    """Return what the installed onnxruntime can run on."""
    return tuple(_library().get_available_providers())


@functools.cache
def load_cuda() -> None:
    """Load the libraries of CUDA and cuDNN that packages of Python have brought, where this onnxruntime looks for any.

    What it cannot find it prints; whether a device can be used is seen from a session.
    """
    preload = getattr(_library(), "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()), quiet_stderr():
            preload()


def ort_value(array: np.ndarray, kind: str, number: int) -> Any:
    """Return an array as onnxruntime holds it on a device, ``cpu`` or ``cuda``.

    It is copied on ``cpu``, too: what a model hands through has the memory of its input, which must not be Python's.
    """
    value = _library().OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype, kind, number)
    value.update_inplace(np.asarray(array, order="C"))
    return value


class OrtSession:
    """A model loaded in onnxruntime."""

    def __init__(self, session: Any, outputs: tuple[str, ...]) -> None:
        self._session = session
        self._outputs = outputs
        self._inputs = tuple(_input_spec(x) for x in session.get_inputs())

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What a feed must have."""
        return self._inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names ``run`` gives when not told otherwise."""
        return self._outputs

    @property
    def native(self) -> Any:
        """The session of onnxruntime's own."""
        return self._session

    def run(self, feed: Feed, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once; ``names`` picks some of the outputs."""
        wanted = self._outputs if names is None else tuple(names)
        if strange := [name for name in wanted if name not in self._outputs]:
            raise unknown_outputs(strange, self._outputs)
        try:
            arrays = self._session.run(list(wanted), feed)
        except Exception as error:  # the library's errors have no base of their own
            check_feed(feed, self._inputs)
            raise VerifyError(f"onnxruntime could not run the model: {one_line(error)}") from error
        return dict(zip(wanted, arrays, strict=True))

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Give a function that runs once on this feed through bound buffers."""
        check_feed(feed, self._inputs)
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self._outputs:
            binding.bind_output(name)
        run = self._session.run_with_iobinding
        if not self._gives_what_it_says(feed):  # an error with bound buffers from the second run on, and none without
            return lambda: self.run(feed)
        return lambda: run(binding)

    def _gives_what_it_says(self, feed: Feed) -> bool:
        """Tell whether all outputs are tensors of the shapes that the model declares."""
        declared = {value.name: value for value in self._session.get_outputs()}
        return all(
            isinstance(array, np.ndarray)
            and InputSpec(name, array.dtype, tuple(declared[name].shape)).fits(array.shape)
            for name, array in self.run(feed).items()
        )


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """onnxruntime with one execution provider list, on the processor unless told otherwise, and a device's number.

    ``exact``: what the file leaves in more than 8 bits is multiplied so. Otherwise the runtime rounds the activations
    in front of a weight behind a DequantizeLinear to 8 bits by itself, block by block, where they are float or 16 bits.
    """

    providers: tuple[str, ...] = (CPU,)
    number: int = 0
    exact: bool = False

    def __post_init__(self) -> None:
        """Fail early where onnxruntime, or a provider that was asked for, is absent."""
        available = _library().get_available_providers()
        if absent := [name for name in self.providers if name not in available]:
            raise missing(f"onnxruntime with {', '.join(absent)}", INSTALL)

    @property
    def name(self) -> str:
        """The name in targets and reports."""
        return "onnxruntime-exact" if self.exact else "onnxruntime"

    @property
    def version(self) -> str:
        """The version that is installed."""
        return str(_library().__version__)

    @property
    def abilities(self) -> frozenset[Ability]:
        """Everything."""
        return _ABILITIES

    def session(
        self, model: bytes | Path, *, mode: Mode, threads: int = 1, outputs: Sequence[str] | None = None
    ) -> OrtSession:
        """Load a model; see ``Runtime.session``."""
        options = _options(threads)
        options.use_deterministic_compute = self._falls_back
        disabled: tuple[str, ...] = ()
        if self.exact:
            options.add_session_config_entry(*_EXACT_ENTRY)
        if mode == "unoptimised":
            options.graph_optimization_level = _library().GraphOptimizationLevel.ORT_DISABLE_ALL
        if mode in ("literal", "plain"):  # a model to calibrate may hold Q/DQ already
            options.enable_cpu_mem_arena = False  # many are held at once: what one run needs is given back behind it
            for key, value in _LITERAL_ENTRIES.items():
                options.add_session_config_entry(key, value)
            disabled = _REWRITING_OPTIMIZERS
            if mode == "literal" and is_huge(model):  # weights become floats in every run, not once and for all
                disabled += ("ConstantFolding",)
        source: bytes | str = str(model) if isinstance(model, Path) else model
        if outputs is not None:
            source, folder = with_outputs(model, outputs)
            if folder is not None:
                options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        session = self._load(model, source, options, disabled)
        names = tuple(x.name for x in session.get_outputs()) if outputs is None else tuple(outputs)
        return OrtSession(session, names)

    @property
    def _falls_back(self) -> bool:
        """Tell whether there is a device from which onnxruntime goes back to the processor."""
        return self.providers[0] != CPU

    def _with_options(self) -> list[Any]:
        """Return the providers, those of devices with their options."""
        return [
            (name, {**_PROVIDER_OPTIONS[name], "device_id": str(self.number)}) if name in _PROVIDER_OPTIONS else name
            for name in self.providers
        ]

    @property
    def float_type(self) -> str:
        """In what float layers compute: always as the file says."""
        return "f32"

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Read the kernels from the graph onnxruntime itself writes after optimising."""
        with temporary_folder() as folder:
            options = _options(threads=1)
            options.add_session_config_entry("session.disable_prepacking", "1")  # nothing is run: spares a copy
            self._opened(model, options, Path(folder))
            optimised = onnx.load(options.optimized_model_filepath, load_external_data=False)
        return _report(parse(model), optimised)

    def profile(self, model: bytes | Path, feed: Feed, *, runs: int, threads: int = 1) -> tuple[Step, ...]:
        """Run a model some times with onnxruntime's own profiler; see ``Profiler.profile``."""
        with temporary_folder() as folder:
            options = _options(threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = OrtSession(native := self._opened(model, options, Path(folder)), ())
            check_feed(feed, session.inputs)
            for _ in range(runs + WARM_UP):
                native.run(None, dict(feed))
            told = Path(native.end_profiling()).read_text("utf-8")
            optimised = onnx.load(options.optimized_model_filepath, load_external_data=False)
        return steps_of(told, optimised, parse(model), LOW_BIT_KERNELS | FLOAT_KERNELS)

    def _opened(self, model: bytes | Path, options: Any, folder: Path) -> Any:
        """Make a session that leaves its optimised graph in a folder."""
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(prefix + "file_name", "optimised.data")
        options.add_session_config_entry(prefix + "min_size_in_bytes", "1024")
        return self._load(model, str(model) if isinstance(model, Path) else model, options, ())

    def _load(self, model: bytes | Path, source: bytes | str, options: Any, disabled: tuple[str, ...]) -> Any:
        """Make a session; onnxruntime's refusal becomes a VerifyError of one line."""
        if isinstance(model, Path) and not model.is_file():
            raise InputError(f"There is no file '{model}'. Give the path of an ONNX model.")
        more: dict[str, Any] = {"disabled_optimizers": list(disabled)} if disabled else {}
        if self._falls_back:  # says so on standard output, where nobody asked for it
            more["enable_fallback"] = 0
        try:
            with lean_memory(model):
                return _library().InferenceSession(source, options, providers=self._with_options(), **more)
        except Exception as error:  # the library's errors have no base of their own
            raise VerifyError(
                f"onnxruntime {self.version} does not load {describe(model)}: {one_line(error)}"
            ) from error


@dataclass(frozen=True, slots=True)
class ExactOnnxRuntime(OnnxRuntime):
    """onnxruntime, computing in no fewer bits than the file says."""

    exact: bool = True


def _options(threads: int) -> Any:
    """Give session options that leave idle threads asleep, and print nothing unless ``ONNXMPQ_LOG`` asks for it."""
    options = _library().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 2 if os.environ.get("ONNXMPQ_LOG") else 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _input_spec(value: Any) -> InputSpec:
    """Describe an input; sequences, maps and optionals are refused."""
    if value.type not in _DTYPES:
        raise InputError(f"Input '{value.name}' is a {value.type}. Only tensors can be fed.")
    shape = tuple(size if isinstance(size, int | str) else None for size in value.shape)
    return InputSpec(value.name, _DTYPES[value.type], shape)


def with_outputs(model: bytes | Path, names: Sequence[str]) -> tuple[bytes, Path | None]:
    """Rewrite the graph's outputs; give the bytes, and the folder in which external data is to be found."""
    proto = parse(model)
    own = [x.name for x in proto.graph.output]
    made = {name for node in proto.graph.node for name in node.output if name}
    if strange := [name for name in names if name not in made and name not in own]:
        raise unknown_outputs(strange, own)
    known = {x.name: x for x in (*proto.graph.value_info, *proto.graph.output)}
    chosen = [known.get(name, onnx.ValueInfoProto(name=name)) for name in names]  # onnxruntime infers absent types
    del proto.graph.output[:]
    proto.graph.output.extend(chosen)
    return proto.SerializeToString(), model.absolute().parent if isinstance(model, Path) else None


def _report(source: onnx.ModelProto, optimised: onnx.ModelProto) -> KernelReport:
    """Count the kernels of an optimised graph and trace them to the file's nodes."""
    origin = Origin(source)
    counts: Counter[str] = Counter()
    layers: list[LayerKernel] = []
    low = plain = leftover = 0
    for node in walk(optimised.graph):
        counts[node.op_type] += 1
        leftover += node.op_type in QDQ
        is_low, is_plain = node.op_type in LOW_BIT_KERNELS, node.op_type in FLOAT_KERNELS
        low, plain = low + is_low, plain + is_plain
        if is_low or is_plain:
            name = origin.find(node.op_type, (node.name, *node.output))
            layers += [LayerKernel(name, node.op_type, is_low)] if name else []
    return KernelReport(tuple(sorted(counts.items())), low, leftover, plain, tuple(layers))
