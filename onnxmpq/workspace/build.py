"""Building one plan: calibrate what it needs, lower, write to a temporary place, verify there.

Several plans of one model share the float model, its samples and its calibration.
"""

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
from onnxmpq.calibrate.run import calibrate
from onnxmpq.data.samples import Data, Samples, open_samples
from onnxmpq.disk.leftovers import temporary_folder
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.lower.calibrated import Calibrated, Needs, Numbers
from onnxmpq.lower.write import Quantised
from onnxmpq.model.save import contained, save, size_of
from onnxmpq.model.text import drop_text, forget_inferred, needed_types
from onnxmpq.numerics.hessians import TOGETHER_BYTES, Hessians, Reading, Run, count, passes
from onnxmpq.runtimes import Runtime, get_runtime
from onnxmpq.targets.placement import Placement
from onnxmpq.verification.verify import verify
from onnxmpq.workspace.prepare import Prepared, Progress

VERIFY_SAMPLES = 16
_LARGE_BYTES = 1 << 22
"""Weights from which on a model is handed to runtimes as a file whose weights they map, not as bytes."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of a file: what was placed in it, and the bytes of its tensors."""

    placement: Placement
    stored_bytes: int


class Builder:
    """Builds plans of one model, in ``folder``."""

    def __init__(
        self,
        prepared: Prepared,
        runtime: Runtime,
        reference: Runtime,
        folder: Path,
        calibration: Data,
        numbers: Numbers,
        *,
        threads: int,
        speed_budget_s: float,
        progress: Progress,
    ) -> None:
        self.prepared, self.runtime, self.reference, self.folder = prepared, runtime, reference, folder
        self.threads, self.budget, self.progress = threads, speed_budget_s, progress
        self.float_model = prepared.source.path or self.loadable(prepared.source.model, "float")
        with _blaming_the_float_model(f"load in {reference.name} {reference.version}, which calibrates it"):
            original = reference.session(self.float_model, mode="deployed")
        self.inputs = original.inputs
        self.samples = self.open(calibration, "calibration")
        self.feeds = list(islice(self.samples, VERIFY_SAMPLES))
        with _blaming_the_float_model("run on the first sample"):
            original.run(self.feeds[0])
        del original
        self.calibrated = Calibrated(
            prepared.model, prepared.space, prepared.target, numbers, hessians=Hessians(folder / "hessians")
        )

    def open(self, data: Data, what: str) -> Samples:
        """Open samples and read them once, so that every fault is told before any work."""
        self.progress(f"read {what} data", 0, 0)
        samples = open_samples(data, self.inputs)
        len(samples)
        return samples

    def build(self, plan: Plan, name: str) -> Export:
        """Lower a plan, write it as ``name`` into a folder of its own and verify it."""
        path = Path(tempfile.mkdtemp(dir=self.folder)) / name
        return Export(plan, path, self._verified(self._placed(self.lowered(plan), path, plan), path, self.budget))

    def tried(self, plan: Plan) -> Verdict:
        """Verify a plan with the nearest codes, which are quick to find; its file is gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            path = Path(place) / "tried.onnx"
            return self._verified(self._placed(self._quick(plan).lower(plan), path, plan), path, 0.0)

    def _placed(self, quantised: Quantised, path: Path, plan: Plan) -> Expected:
        """Write a lowered model, of which only what is expected of the file is kept in memory."""
        self._save(quantised.model, path, plan)
        return Expected(quantised.placement, quantised.stored_bytes)

    def _verified(self, expected: Expected, path: Path, speed_budget_s: float) -> Verdict:
        return verify(
            self.runtime,
            self.reference,
            self.float_model,
            path,
            self.feeds,
            target=self.prepared.target,
            predicted_bytes=expected.stored_bytes,
            expected_low_bit=[
                form.layer.node
                for form in expected.placement.forms
                if form.option.activation_bits and form.layer.weights and self.prepared.target.integer_kernels
            ],
            speed_budget_s=speed_budget_s,
            threads=self.threads,
            progress=self.progress,
        )

    def written(self, plan: Plan, name: str) -> Path:
        """Lower a plan and write it as ``name`` into a folder of its own."""
        path = Path(tempfile.mkdtemp(dir=self.folder)) / name
        self._save(self.lowered(plan).model, path, plan)
        return path

    def size(self, plan: Plan) -> int:
        """Return the bytes of the file that a plan leads to: the same whatever scales and codes weights get."""
        model = self._quick(plan).lower(plan).model
        return size_of(model, "sized.onnx", trim=self._trim(model, plan))

    def _save(self, model: ir.Model, path: Path, plan: Plan) -> None:
        """Write a lowered model as a plan wants it."""
        save(model, path, trim=self._trim(model, plan))

    def _trim(self, model: ir.Model, plan: Plan) -> Callable[[onnx.ModelProto], None]:
        """Return what takes out of a file what a plan does not want in it."""
        if plan.keep_metadata:
            forget_inferred(model, self.prepared.source.model)
            return lambda _: None
        return partial(drop_text, needed=self._needed)

    @cached_property
    def _needed(self) -> frozenset[str]:
        return needed_types(self.prepared.source.model)

    def _quick(self, plan: Plan) -> Calibrated:
        """Return what lowers a plan with the nearest codes, after calibrating what it needs."""
        known = self.calibrated
        quick = replace(known, numbers=replace(known.numbers, weights="minmax", rounding="nearest"))
        self.calibrate(quick.needs(plan))
        return quick

    def lowered(self, plan: Plan) -> Quantised:
        """Lower a plan, after calibrating what it needs and is not known yet."""
        self.calibrate(self.calibrated.needs(plan))
        self.progress("lower", 0, 0)
        return self.calibrated.lower(plan)

    def calibrate(self, needs: Needs) -> None:
        """Run the samples through the float model for what is needed."""
        total = len(self.samples)
        if needs.tensors or needs.means:
            ranges = calibrate(
                self.runner(needs.tensors | set(needs.means)),
                self.samples,
                sorted(needs.tensors),
                needs.means,
                progress=lambda n: self.progress("calibrate", n, total),
            )
            self.calibrated.stats |= ranges.tensors
            self.calibrated.means |= ranges.means
        self.count_hessians(needs.hessians)

    def count_hessians(self, wanted: Mapping[str, tuple[Reading, ...]], room: int = TOGETHER_BYTES) -> None:
        """Run the samples through the float model for the Hessians of weights, in as many passes as memory asks for."""
        parts, total = passes(wanted, room), len(self.samples)
        for index, part in enumerate(parts):
            run = self.runner({reading.tensor for readings in part.values() for reading in readings})
            done = index * total

            def progress(n: int, done: int = done) -> None:
                self.progress("count Hessians", done + n, len(parts) * total)

            for name, hessian in count(run, self.samples, part, progress):
                self.calibrated.keep_hessian(name, hessian)

    def runner(self, wanted: set[str]) -> Run:
        """Return what gives ``wanted`` tensors of the float model for one feed."""
        given = {spec.name for spec in self.inputs}
        inner = sorted(wanted - given)
        session = self.reference.session(self._normalised(), mode="plain", outputs=inner) if inner else None

        def run(feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            seen = {name: feed[name] for name in wanted & given}
            return seen | session.run(feed) if session else seen

        return run

    def _normalised(self) -> bytes | Path:
        return self.loadable(self.prepared.model, "normalised")

    def loadable(self, model: ir.Model, name: str) -> bytes | Path:
        """Return a model as runtimes load it: bytes, or a file with its weights beside it when it is large."""
        size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
        if size < _LARGE_BYTES:
            return bytes(contained(model).SerializeToString())
        path = self.folder / f"{name}.onnx"
        save(model, path, overwrite=True, largest_protobuf=0)
        return path


@contextmanager
def _blaming_the_float_model(what: str) -> Iterator[None]:
    """Turn what a runtime says of the model that was given into an error that the caller can fix."""
    try:
        yield
    except VerifyError as error:
        raise InputError(f"The float model does not {what}: {error} Fix or re-export the model first.") from error


@contextmanager
def scratch(
    prepared: Prepared, calibration: Data, numbers: Numbers, *, threads: int = 1, progress: Progress = lambda *_: None
) -> Iterator[Builder]:
    """Give a builder that lowers plans but exports none, in a folder that is gone afterwards."""
    reference = get_runtime("onnxruntime")
    with temporary_folder() as folder:
        given = (prepared, reference, reference, Path(folder), calibration, numbers)
        yield Builder(*given, threads=threads, speed_budget_s=0.0, progress=progress)
