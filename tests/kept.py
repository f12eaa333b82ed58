"""A runtime for tests that verify many files: what was loaded is not loaded again."""

from collections.abc import Sequence
from pathlib import Path

from onnxmpq.runtimes import KernelReport, Runtime, Session
from onnxmpq.runtimes.base import Mode


class Kept:
    """A runtime that loads every model once for a mode: half of what verifying takes is loading the same again."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.name, self.version = runtime.name, runtime.version
        self.abilities, self.float_type = runtime.abilities, runtime.float_type
        self.sessions: dict[tuple[bytes, Mode, int], Session] = {}

    def session(
        self, model: bytes | Path, *, mode: Mode, threads: int = 1, outputs: Sequence[str] | None = None
    ) -> Session:
        """Give the session that there is, or load the model."""
        if outputs is not None:
            return self.runtime.session(model, mode=mode, threads=threads, outputs=outputs)
        key = (model if isinstance(model, bytes) else model.read_bytes(), mode, threads)
        if key not in self.sessions:
            self.sessions[key] = self.runtime.session(model, mode=mode, threads=threads)
        return self.sessions[key]

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Read the kernels."""
        return self.runtime.kernels(model)
