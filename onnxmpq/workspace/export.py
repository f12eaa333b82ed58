"""Files of plans: lowered in a workspace, written to a temporary place, verified there in the target's runtime."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxmpq.artifacts import Export, Plan, Verdict
from onnxmpq.lower.write import Quantised
from onnxmpq.model.save import save, size_of
from onnxmpq.model.text import drop_text, forget_inferred, needed_types
from onnxmpq.runtimes import Runtime, Session, get_runtime
from onnxmpq.targets.placement import Placement
from onnxmpq.verification.verify import verify
from onnxmpq.workspace.workspace import Workspace

VERIFY_SAMPLES = 16


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of a file: what was placed in it, and the bytes of its tensors."""

    placement: Placement
    stored_bytes: int


class Exporter:
    """Makes the files of plans of one workspace, in its folder; ``runtime`` runs them in place of the target's."""

    def __init__(
        self, workspace: Workspace, *, threads: int = 1, speed_budget_s: float = 0.0, runtime: Runtime | None = None
    ) -> None:
        self.workspace, self.prepared, self._given = workspace, workspace.prepared, runtime
        self.threads, self.speed_budget_s = threads, speed_budget_s

    @cached_property
    def runtime(self) -> Runtime:
        """What runs the files; it need not be here for their sizes."""
        target = self.prepared.target
        return self._given or get_runtime(target.runtime, target.stand_in, target.soc)

    @property
    def feed(self) -> Mapping[str, np.ndarray]:
        """The first sample, on which files are timed."""
        return self._feeds[0]

    @cached_property
    def _feeds(self) -> list[Mapping[str, np.ndarray]]:
        return list(islice(self.workspace.samples, VERIFY_SAMPLES))

    def build(self, plan: Plan, name: str) -> Export:
        """Lower a plan, write it as ``name`` into a folder of its own and verify it."""
        return self._built(plan, name, self.workspace.lowered(plan), self.speed_budget_s)

    def timed(self, plan: Plan, name: str) -> Export:
        """Build a plan for its speed, which does not depend on codes: roughly where fitting them takes long."""
        if self.workspace.calibrated.numbers.rounding != "sequential":
            return self.build(plan, name)
        return replace(self._built(plan, name, self.workspace.quick(plan), self.speed_budget_s), rough=True)

    def finished(self, export: Export) -> Export:
        """Return a build with its codes as they should be; the speed of a rough one stands."""
        if not export.rough:
            return export
        built = self._built(export.plan, export.path.name, self.workspace.lowered(export.plan), 0.0)
        return replace(built, verdict=built.verdict.timed_as(export.verdict))

    def tried(self, plan: Plan) -> Verdict:
        """Verify a plan with the nearest codes, which are quick to find; its file is gone afterwards."""
        with self.rough(plan) as (path, expected):
            return self._verified(expected, path, 0.0)

    @contextmanager
    def rough(self, plan: Plan) -> Iterator[tuple[Path, Expected]]:
        """Write a plan with the nearest codes for a while."""
        with tempfile.TemporaryDirectory(dir=self.workspace.folder) as place:
            path = Path(place) / "tried.onnx"
            yield path, self._placed(self.workspace.quick(plan), path, plan)

    def written(self, plan: Plan, name: str) -> Path:
        """Lower a plan and write it as ``name`` into a folder of its own."""
        path = self._place(name)
        self._placed(self.workspace.lowered(plan), path, plan)
        return path

    def sessions(self, path: Path, threads: int = 1) -> tuple[Session, Session]:
        """Load the float model where it was calibrated, and a file where it will run."""
        after = self.runtime.session(path, mode="deployed", threads=threads)  # takes more memory to load
        before = self.workspace.reference.session(self.workspace.float_model, mode="deployed", threads=threads)
        return before, after

    def size(self, plan: Plan) -> int:
        """Return the bytes of the file that a plan leads to: the same whatever scales and codes weights get."""
        model = self.workspace.quick(plan).model
        return size_of(model, "sized.onnx", trim=self._trim(model, plan))

    def _built(self, plan: Plan, name: str, quantised: Quantised, speed_budget_s: float) -> Export:
        path = self._place(name)
        expected = self._placed(quantised, path, plan)
        return Export(plan, path, self._verified(expected, path, speed_budget_s))

    def _place(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(dir=self.workspace.folder)) / name

    def _placed(self, quantised: Quantised, path: Path, plan: Plan) -> Expected:
        """Write a lowered model, of which only what is expected of the file is kept in memory."""
        save(quantised.model, path, trim=self._trim(quantised.model, plan))
        return Expected(quantised.placement, quantised.stored_bytes)

    def _verified(self, expected: Expected, path: Path, speed_budget_s: float) -> Verdict:
        return verify(
            self.runtime,
            self.workspace.reference,
            self.workspace.float_model,
            path,
            self._feeds,
            target=self.prepared.target,
            predicted_bytes=expected.stored_bytes,
            expected_low_bit=[
                form.layer.node
                for form in expected.placement.forms
                if form.option.activation_bits
                and (form.layer.weights or self.prepared.target.converts)
                and self.prepared.target.integer_kernels
            ],
            speed_budget_s=speed_budget_s,
            threads=self.threads,
            progress=self.workspace.progress,
        )

    def _trim(self, model: ir.Model, plan: Plan) -> Callable[[onnx.ModelProto], None]:
        """Return what takes out of a file what a plan does not want in it."""
        if plan.keep_metadata:
            forget_inferred(model, self.prepared.source.model)
            return lambda _: None
        return partial(drop_text, needed=self._needed)

    @cached_property
    def _needed(self) -> frozenset[str]:
        return needed_types(self.prepared.source.model)
