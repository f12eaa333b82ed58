"""Qualcomm's HTP through onnxruntime's plug-in provider for QNN; on x86 that runs an emulator of it.

    Qnn ── session(model) ──▶ QnnSession ◀─ feeds, arrays ─▶ a process of its own, ``qnn_child``

The provider may abort its process, so that every file is opened in one that may die; what it said last is told then.
No operator falls back to the processor: a file is taken whole, or refused.
"""

import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Self
from weakref import finalize

import numpy as np

from onnxmpq.data.samples import InputSpec
from onnxmpq.disk.leftovers import temporary_folder
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.runtimes.base import (
    Ability,
    Feed,
    KernelReport,
    LayerKernel,
    Mode,
    Origin,
    Session,
    check_feed,
    describe,
    missing,
    parse,
    unknown_outputs,
)
from onnxmpq.runtimes.ort import OnnxRuntime, with_outputs

INSTALL = 'pip install "onnxmpq[qnn]"'
COMPUTE = ("Conv1d", "Conv2d", "Conv3d", "DepthWiseConv", "TransposeConv", "MatMul", "FullyConnected", "Lstm", "Gru")
"""How the types of QNN nodes with most of a network's arithmetic begin."""
_EDGES = frozenset({"Quantize", "Dequantize"})
_FLOATS = frozenset({0x0216, 0x0232})  # QNN_DATATYPE_FLOAT_16 and _FLOAT_32, as the dumped graph numbers them
_LAST_WORDS, _MOST = 20_000, 200
_MODEL_MISSING = "There is no file '{}'. Give the path of an ONNX model."


@dataclass(frozen=True, slots=True)
class Qnn:
    """The HTP of one SoC, as QNN numbers it: without one, the emulator is that of a v68, with other rules."""

    soc: str = "57"

    def __post_init__(self) -> None:
        """Fail early where the provider is absent."""
        if importlib.util.find_spec("onnxruntime_qnn") is None:
            raise missing("onnxruntime-qnn", INSTALL)

    @property
    def name(self) -> str:
        """The name in targets and reports."""
        return "qnn"

    @property
    def version(self) -> str:
        """The version of the provider, that of onnxruntime, and the SoC."""
        return f"{version('onnxruntime-qnn')} in onnxruntime {OnnxRuntime().version}, SoC {self.soc}"

    @property
    def abilities(self) -> frozenset[Ability]:
        """It runs files and tells kernels; how long they take on a device an emulator does not show."""
        return frozenset(("run", "kernels"))

    @property
    def float_type(self) -> str:
        """What agreement is looked at in: float layers are half precision on HTP, which is not told apart."""
        return "f32"

    def on(self, soc: str) -> Self:
        """Return the runtime of another SoC."""
        return replace(self, soc=soc)

    def session(
        self, model: bytes | Path, *, mode: Mode, threads: int = 1, outputs: Sequence[str] | None = None
    ) -> Session:
        """Load a model; all that is to be literal is computed by onnxruntime itself. See ``Runtime.session``."""
        if mode not in ("deployed", "exact"):
            return OnnxRuntime().session(model, mode=mode, threads=threads, outputs=outputs)
        return QnnSession(self._opened(model, {}, outputs), model)

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Read the graph that the provider gave to QNN."""
        with temporary_folder() as folder:
            options = {"dump_json_qnn_graph": "1", "json_qnn_graph_dir": folder}
            self._opened(model, options, None).close()
            graphs = [json.loads(file.read_text("utf-8")) for file in sorted(Path(folder).glob("*.json"))]
        return _report(Origin(parse(model)), [graph["graph"] for graph in graphs if "graph" in graph])

    def compile(self, model: bytes | Path, path: Path) -> None:
        """Write the context binary of a model: an ONNX file of one node, and the binary beside it."""
        entries = {"ep.context_enable": "1", "ep.context_file_path": str(path), "ep.context_embed_mode": "0"}
        self._opened(model, {}, None, entries).close()
        if not path.is_file():
            raise VerifyError(f"onnxruntime-qnn wrote no context binary to '{path}'.")

    def _opened(
        self,
        model: bytes | Path,
        options: Mapping[str, str],
        outputs: Sequence[str] | None,
        entries: Mapping[str, str] | None = None,
    ) -> "_Child":
        """Open a model in a process of its own."""
        if isinstance(model, Path) and not model.is_file():
            raise InputError(_MODEL_MISSING.format(model))
        source: bytes | str = str(model) if isinstance(model, Path) else model
        more = dict(entries or {})
        if outputs is not None:
            source, folder = with_outputs(model, outputs)
            if folder is not None:
                more["session.model_external_initializers_file_folder_path"] = str(folder)
        child = _Child()
        try:
            child.ask((source, {"soc_model": self.soc, **options}, more), f"does not take {describe(model)}")
        except BaseException:
            child.close()
            raise
        return child


class _Child:
    """The process in which one file is open; what it writes on its standard error is kept."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile()  # closed with the process
        command = [sys.executable, "-m", "onnxmpq.runtimes.qnn_child"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._said)
        self.close = finalize(self, _end, self._process, self._said)
        self.opened: Any = None

    def ask(self, message: object, failing: str) -> Any:
        """Send a message and return the answer; what the process refuses, or dies of, is a VerifyError."""
        wire, back = self._process.stdin, self._process.stdout
        assert wire is not None
        assert back is not None
        try:
            pickle.dump(message, wire)
            wire.flush()
            fine, answer = pickle.load(back)  # from a process of our own
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise VerifyError(f"onnxruntime-qnn {failing}: {self._end()}") from error
        if not fine:
            raise VerifyError(f"onnxruntime-qnn {failing}: {self._unsupported() or answer}")
        self.opened = answer if self.opened is None else self.opened
        return answer

    def _end(self) -> str:
        """Say how the process ended."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "it stopped answering"
        told = self._unsupported() or (self._last_words().split("\n")[-1])[:_MOST]
        return f"it ended its process with {f'signal {-code}' if code < 0 else f'code {code}'}. {told}".rstrip()

    def _last_words(self) -> str:
        """Return the end of what the process said."""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - _LAST_WORDS))
        return self._said.read().decode("utf-8", "replace").strip()

    def _unsupported(self) -> str:
        """Return the nodes that the provider said it does not take."""
        text = self._last_words()
        nodes = dict.fromkeys(re.findall(r"\{ name: ([^,}]*), type: ([^,}\s]*)", text))
        shown = ", ".join(f"'{name}' ({op})" for name, op in list(nodes)[:5])
        return f"HTP has no form for {shown}{' …' if len(nodes) > 5 else ''}" if nodes else ""


def _end(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    """End a process that may hang, and clear up."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # it is gone already, and what was to be written with it
                pass
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    said.close()


class QnnSession:
    """A file that is open in a process of its own."""

    def __init__(self, child: _Child, model: bytes | Path) -> None:
        self._child, self._model = child, model
        inputs, outputs = child.opened
        self._inputs = tuple(InputSpec(name, np.dtype(kind), shape) for name, kind, shape in inputs)
        self._outputs: tuple[str, ...] = tuple(outputs)

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
        if strange := [name for name in wanted if name not in self._outputs]:
            raise unknown_outputs(strange, self._outputs)
        check_feed(feed, self._inputs)
        given = self._child.ask((wanted, dict(feed)), f"could not run {describe(self._model)}")
        return dict(zip(wanted, given, strict=True))

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Give a function that runs once on this feed."""
        return lambda: self.run(feed)


def _report(origin: Origin, graphs: Sequence[Mapping[str, Any]]) -> KernelReport:
    """Count the nodes of dumped graphs and trace those that compute to the file's nodes."""
    counts: Counter[str] = Counter()
    layers: list[LayerKernel] = []
    low = plain = leftover = 0
    for graph in graphs:
        for name, node in graph["nodes"].items():
            kind = str(node["type"])
            tensors = [graph["tensors"][tensor] for tensor in (*node["input_names"], *node["output_names"])]
            is_float = any(tensor["data_type"] in _FLOATS for tensor in tensors)
            counts[f"{kind}, float" if is_float and kind not in _EDGES else kind] += 1
            leftover += kind in _EDGES
            low += not is_float
            if kind.startswith(COMPUTE):
                plain += is_float
                found = origin.find(kind, (name,))
                layers += [LayerKernel(found, kind, not is_float)] if found else []
    return KernelReport(tuple(sorted(counts.items())), low, leftover, plain, tuple(layers), whole=True)
