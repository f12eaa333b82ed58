"""No runtime: for files that are run elsewhere.

A target names it whose runtime is not on this machine. The literal simulation of a file in onnxruntime stands in for
it: that shows whether the numbers are right, and nothing of kernels or time, which a verdict then says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxmpq.errors import InternalError
from onnxmpq.runtimes.base import Ability, KernelReport, Mode, Session
from onnxmpq.runtimes.ort import OnnxRuntime


@dataclass(frozen=True, slots=True)
class Null:
    """What stands in for a runtime that is not here."""

    @property
    def name(self) -> str:
        """The name in targets and reports."""
        return "null"

    @property
    def version(self) -> str:
        """That of what stands in."""
        return f"(simulated in onnxruntime {OnnxRuntime().version})"

    @property
    def abilities(self) -> frozenset[Ability]:
        """None: it only simulates."""
        return frozenset()

    @property
    def float_type(self) -> str:
        """In what the simulation computes."""
        return "f32"

    def session(
        self, model: bytes | Path, *, mode: Mode, threads: int = 1, outputs: Sequence[str] | None = None
    ) -> Session:
        """Load a model to be simulated literally, whatever the mode; see ``Runtime.session``."""
        simulated: Mode = mode if mode in ("plain", "unoptimised") else "literal"
        return OnnxRuntime().session(model, mode=simulated, threads=threads, outputs=outputs)

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Refuse: nothing is known of kernels; ``abilities`` says so."""
        raise InternalError("The runtime 'null' has no kernels to count.")
