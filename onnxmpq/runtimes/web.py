"""onnxruntime-web in Node: what a browser computes with WebAssembly, run in a child process.

The package is found in a folder ``node_modules``: that which ONNXMPQ_NODE_MODULES names, or one of the working folder
or above it. What a browser adds, its own compiler and cores, is not seen here, and so no time is told.
"""

import functools
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxmpq.errors import InternalError
from onnxmpq.runtimes.base import Ability, KernelReport, Mode, Session, missing
from onnxmpq.runtimes.child import ChildSession
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
        node = shutil.which("node")
        assert node is not None
        return ChildSession(_PACKAGE, [node, str(_RUNNER), str(folder)], model, plain)

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Refuse: which kernels it takes is not told."""
        raise InternalError("The runtime 'onnxruntime-web' does not tell its kernels.")
