"""The qonnx package, which runs QONNX files node by node: the proof that its operators are what files mean by them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmpq.data.samples import InputSpec
from onnxmpq.errors import InternalError, VerifyError
from onnxmpq.runtimes.base import (
    Ability,
    Feed,
    KernelReport,
    Mode,
    Session,
    check_feed,
    describe,
    missing,
    one_line,
    quiet_stderr,
    unknown_outputs,
)
from onnxmpq.runtimes.ort import OnnxRuntime

INSTALL = 'pip install "onnxmpq[qonnx]"'
_HIGHEST_IR = 10  # of the models of one node that it makes, which have the newest by default and are refused then


@functools.cache
def _library() -> Any:
    """Import what is used of qonnx."""
    try:
        with quiet_stderr():
            from qonnx.core import modelwrapper, onnx_exec
            from qonnx.transformation import infer_shapes
    except ImportError as error:
        raise missing("qonnx", INSTALL) from error
    return modelwrapper.ModelWrapper, onnx_exec.execute_onnx, infer_shapes.InferShapes


class QonnxSession:
    """A model that qonnx runs; shapes are fixed to those of each feed, since it knows no others."""

    def __init__(self, model: onnx.ModelProto, plain: Session) -> None:
        self._model, self._plain = model, plain
        self._fixed: dict[tuple[tuple[int, ...], ...], Any] = {}

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What a feed must have."""
        return self._plain.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names ``run`` gives when not told otherwise."""
        return self._plain.outputs

    def run(self, feed: Feed, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once; ``names`` picks some of the outputs."""
        wanted = self.outputs if names is None else tuple(names)
        if strange := [name for name in wanted if name not in self.outputs]:
            raise unknown_outputs(strange, self.outputs)
        check_feed(feed, self.inputs)
        _, execute, _ = _library()
        try:
            with _readable_nodes():
                found = execute(self._shaped(feed), dict(feed))
        except Exception as error:  # of many kinds
            raise VerifyError(f"qonnx could not run the model: {one_line(error)}") from error
        return {name: np.asarray(found[name]) for name in wanted}

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Give a function that runs once; its time says nothing."""
        return lambda: self.run(feed)

    def _shaped(self, feed: Feed) -> Any:
        key = tuple(feed[spec.name].shape for spec in self.inputs)
        if key not in self._fixed:
            wrap, _, infer = _library()
            model = onnx.ModelProto.FromString(self._model.SerializeToString())
            del model.graph.value_info[:]
            for value in model.graph.input:
                if value.name in feed:
                    dims = value.type.tensor_type.shape.dim
                    for dim, size in zip(dims, feed[value.name].shape, strict=True):
                        dim.Clear()
                        dim.dim_value = size
            for value in model.graph.output:
                value.type.tensor_type.ClearField("shape")
            model = onnx.shape_inference.infer_shapes(model)
            self._fixed[key] = wrap(model).transform(infer())
        return self._fixed[key]


@contextmanager
def _readable_nodes() -> Iterator[None]:
    """Let the models of one node that qonnx makes be of an IR that onnxruntime reads."""
    whole = onnx.helper.make_model

    def made(*arguments: Any, **rest: Any) -> onnx.ModelProto:
        model = whole(*arguments, **rest)
        model.ir_version = min(model.ir_version, _HIGHEST_IR)
        return model

    onnx.helper.make_model = made
    try:
        yield
    finally:
        onnx.helper.make_model = whole


@dataclass(frozen=True, slots=True)
class Qonnx:
    """The package as a runtime: it runs files as they are deployed; onnxruntime does the rest."""

    plain: OnnxRuntime = field(default_factory=OnnxRuntime)

    def __post_init__(self) -> None:
        """Fail early where it is absent."""
        _library()

    @property
    def name(self) -> str:
        """The name in targets and reports."""
        return "qonnx"

    @property
    def version(self) -> str:
        """The version that is installed."""
        return version("qonnx")

    @property
    def abilities(self) -> frozenset[Ability]:
        """It runs files, in no time that means anything."""
        return frozenset(("run",))

    @property
    def float_type(self) -> str:
        """In what it computes."""
        return "f32"

    def session(
        self, model: bytes | Path, *, mode: Mode, threads: int = 1, outputs: Sequence[str] | None = None
    ) -> Session:
        """Load a model; see ``Runtime.session``."""
        plain = self.plain.session(model, mode=mode, threads=threads, outputs=outputs)
        if mode not in ("deployed", "exact") or outputs is not None:
            return plain
        try:
            proto = onnx.load(str(model)) if isinstance(model, Path) else onnx.load_model_from_string(model)
        except Exception as error:  # protobuf's own errors
            raise VerifyError(f"{describe(model).capitalize()} cannot be read as ONNX: {one_line(error)}") from error
        return QonnxSession(proto, plain)

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Refuse: nodes are run one by one, on no kernels of few bits."""
        raise InternalError("The runtime 'qonnx' has no kernels to count.")
