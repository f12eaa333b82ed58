"""onnxruntime-web in Node: what a browser computes with WebAssembly, run in a child process.

The package is found in a folder ``node_modules``: that which ONNXMPQ_NODE_MODULES names, or one of the working folder
or above it. What a browser adds, its own compiler and cores, is not seen here, and so no time is told.
"""

import base64
import contextlib
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onnxmpq.data.samples import InputSpec
from onnxmpq.disk.reading import brief
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
    unknown_outputs,
)
from onnxmpq.runtimes.ort import OnnxRuntime

INSTALL = "npm install onnxruntime-web (and Node.js 20 or newer), where ONNXMPQ_NODE_MODULES names its node_modules"
VARIABLE = "ONNXMPQ_NODE_MODULES"
_PACKAGE = "onnxruntime-web"
_RUNNER = Path(__file__).with_name("web.mjs")


def package() -> Path | None:
    """Return the folder of the package, if it can be found."""
    told = os.environ.get(VARIABLE)
    here = Path.cwd()
    places = [Path(told)] if told else [folder / "node_modules" for folder in (here, *here.parents)]
    found = (place / _PACKAGE for place in places)
    return next((folder for folder in found if (folder / "dist" / "ort.node.min.mjs").is_file()), None)


class WebSession:
    """A model that is loaded in a Node of its own; the process ends with the session."""

    def __init__(self, folder: Path, model: bytes | Path, plain: Session) -> None:
        self._plain = plain
        self._place = TemporaryDirectory()
        path = model if isinstance(model, Path) else Path(self._place.name) / "model.onnx"
        if isinstance(model, bytes):
            path.write_bytes(model)
        node = shutil.which("node")
        assert node is not None
        self._process = subprocess.Popen(
            [node, str(_RUNNER), str(folder), str(path.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        told = self._read()
        if "error" in told:
            self.close()
            raise VerifyError(f"onnxruntime-web does not load {describe(model)}: {brief(told['error'], 300)}")

    def __del__(self) -> None:
        """Let the process go."""
        self.close()

    def close(self) -> None:
        """End the process."""
        process = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.kill()
            process.wait()
        if process is not None:
            process.stdout.close()
        self._place.cleanup()

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
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({name: _told(array) for name, array in feed.items()}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise VerifyError("onnxruntime-web ended before it was given a sample.") from error
        found = self._read()
        if "error" in found:
            raise VerifyError(f"onnxruntime-web could not run the model: {brief(found['error'], 300)}")
        return {name: _array(found["outputs"][name]) for name in wanted}

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Give a function that runs once; its time is that of another process."""
        return lambda: self.run(feed)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"Node ended with code {self._process.wait()} and said nothing"}
        found: dict[str, Any] = json.loads(line)
        return found


def _told(array: np.ndarray) -> dict[str, Any]:
    return {
        "type": array.dtype.name,
        "shape": list(array.shape),
        "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
    }


def _array(told: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(told["data"]), np.dtype(told["type"])).reshape(told["shape"])


@functools.cache
def _version(folder: Path) -> str:
    return str(json.loads((folder / "package.json").read_text("utf-8"))["version"])


@dataclass(frozen=True, slots=True)
class OnnxRuntimeWeb:
    """onnxruntime-web as a runtime: it runs files as they are deployed; onnxruntime simulates them."""

    plain: OnnxRuntime = field(default_factory=OnnxRuntime)

    def __post_init__(self) -> None:
        """Fail early where Node or the package is absent."""
        if shutil.which("node") is None or package() is None:
            raise missing(_PACKAGE, INSTALL)

    @property
    def name(self) -> str:
        """The name in targets and reports."""
        return _PACKAGE

    @property
    def version(self) -> str:
        """The version that is installed."""
        folder = package()
        return _version(folder) if folder else ""

    @property
    def abilities(self) -> frozenset[Ability]:
        """It runs files; how long a browser takes is not known."""
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
        folder = package()
        if mode not in ("deployed", "exact") or outputs is not None or folder is None:
            return plain
        return WebSession(folder, model, plain)

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Refuse: which kernels it takes is not told."""
        raise InternalError("The runtime 'onnxruntime-web' does not tell its kernels.")
