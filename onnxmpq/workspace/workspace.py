"""One model, one target and its samples, opened once: what is counted and rounded lies in one folder for all stages.

    Workspace(prepared, samples, numbers, folder)
    .calibrated                  lowers plans of the model, once .calibrate() has counted what they need
    .raised()                    the same at the highest opset that any plan needs: what is measured
    .share(calibrated)           write model and statistics where workers read them
    shared(folder, ...)          what a worker reads there

Whoever measures, exports, sizes or judges takes what it needs from here; nothing is counted or rounded twice.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Option, Plan, Space
from onnxmpq.calibrate.run import calibrate
from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.cuts.sizes import Seen
from onnxmpq.data.samples import Data, InputSpec, Samples, open_samples, spread
from onnxmpq.disk.leftovers import temporary_folder
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.lower.calibrated import Calibrated, Needs
from onnxmpq.lower.write import Quantised
from onnxmpq.machine import one_thread
from onnxmpq.metrics.heads import judged_heads
from onnxmpq.metrics.parts import parted
from onnxmpq.model.layers import dimensions, weight_bytes
from onnxmpq.model.mapped import load_mapped
from onnxmpq.model.opset import raise_opset
from onnxmpq.model.save import contained, save
from onnxmpq.numerics.formats import weight_type
from onnxmpq.numerics.hessians import TOGETHER_BYTES, Reading, Run, count, passes
from onnxmpq.numerics.weights import Kept
from onnxmpq.options import GraphOptions, Numbers
from onnxmpq.refit.accept import Judge, Refit, refit
from onnxmpq.refit.moments import judges
from onnxmpq.refit.walk import Walk
from onnxmpq.runtimes import Session, get_runtime
from onnxmpq.targets import Target
from onnxmpq.targets.space import make_space
from onnxmpq.workspace.prepare import Prepared, Progress, silent
from onnxmpq.workspace.smoothing import smoothed

MOST_FITTED = 256
"""Samples that layers are fitted on: more change little."""
_LARGE_BYTES = 1 << 22
"""Weights from which on a model is handed to runtimes as a file whose weights they map, not as bytes."""


class Workspace:
    """A model, a target, samples, and what is known of them, in ``folder``."""

    def __init__(
        self,
        prepared: Prepared,
        calibration: Data,
        numbers: Numbers,
        folder: Path,
        progress: Progress = silent,
        tried: Mapping[str, Option] | None = None,
    ) -> None:
        """Open all that is given. ``tried``: the choices at which it is measured whether smoothing helps."""
        self.prepared, self.folder, self.progress = prepared, folder, progress
        self.reference = reference = get_runtime("onnxruntime")
        self.float_model = prepared.source.path or self.loadable(prepared.source.model, "float")
        with _blaming_the_float_model(f"load in {reference.name} {reference.version}, which calibrates it"):
            original = reference.session(self.float_model, mode="deployed")
        self.inputs = tuple(_as_fixed(spec, prepared.model) for spec in original.inputs)
        self.samples = self.open(calibration, "calibration")
        with _blaming_the_float_model("run on the first sample"):
            first = next(iter(self.samples))
            outputs = original.run(first)
        self.input_shapes = {name: array.shape for name, array in first.items()}
        self.output_shapes = {name: array.shape for name, array in outputs.items() if isinstance(array, np.ndarray)}
        """Of the first sample, and of the float model's outputs on it."""
        del original, outputs, first
        opening = smoothed(self, numbers, tried or {})
        self.prepared, self._smoothing_note = opening.prepared, opening.note
        self.calibrated = opening.calibrated(Statistics(folder))
        self._refit: tuple[Mapping[str, Option], Refit] | None = None

    def empty_plan(self, method: str, graph: GraphOptions) -> Plan:
        """Return a plan of this model with nothing in it, which choices are put into."""
        prepared = self.prepared
        made_for = (prepared.source.sha256, self.calibrated.numbers.told(), prepared.passes, graph.keep_metadata)
        return Plan(prepared.space.target, method, {}, *made_for)

    def open(self, data: Data, what: str) -> Samples:
        """Open samples and read them once, so that every fault is told before any work."""
        self.progress(f"read {what} data", 0, 0)
        samples = open_samples(data, self.inputs)
        len(samples)
        return samples

    def lowered(self, plan: Plan) -> Quantised:
        """Lower a plan, after calibrating what it needs and is not known yet, and fitting its layers if they are to be.

        The fit that was made last stays for the same plan.
        """
        self.calibrate(self.calibrated.needs(plan))
        known = self.calibrated
        if known.numbers.rounding == "sequential":
            made = self._refit_of(plan)
            if made is None:
                with one_thread():  # several sum in another order
                    made = self._fitted(plan)
                self._refit = plan.choices, made
            known = made.calibrated
        self.progress("lower", 0, 0)
        return known.lower(plan)

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """Say which weights of a plan are not rounded as they should be, and whether fitting helped."""
        made = self._refit_of(plan)
        told = made.note if made is not None else ""
        return tuple(note for note in (self._smoothing_note, *self.calibrated.notes(plan), told) if note)

    def is_fitted(self, plan: Plan) -> bool:
        """Tell whether a plan that was lowered last has fitted weights."""
        made = self._refit_of(plan)
        return made is not None and made.calibrated is not self.calibrated

    def _refit_of(self, plan: Plan) -> Refit | None:
        """Return the fit that was made last, if it was for this plan."""
        return self._refit[1] if self._refit is not None and self._refit[0] == plan.choices else None

    def opened(self, model: ir.Model) -> Session:
        """Load a lowered model as it is written."""
        return self.reference.session(self.loadable(model, "fitted"), mode="literal")

    def _fitted(self, plan: Plan) -> Refit:
        """Fit the layers of a plan in the order of the network, on so many samples, from all over them, as it takes."""
        total = len(self.samples)
        places = spread(total, MOST_FITTED)
        feeds = [feed for place, feed in enumerate(self.samples) if place in places]
        judging = [feed for place, feed in enumerate(feeds) if judges(place, len(feeds))]
        heads = parted(self.prepared.model, judged_heads(self.prepared.model))
        if not heads:
            return Refit(self.calibrated, "")
        if not judging:
            return Refit(self.calibrated, "Fewer than four samples judge no fit: every layer is rounded by itself.")
        before = self.reference.session(self.float_model, mode="deployed")
        judge = Judge(before, self.opened, judging, heads, self.samples.batch)
        folder = Path(tempfile.mkdtemp(prefix="refit-", dir=self.folder))
        raised = self.raised()
        seen = Seen.of(self.input_shapes, raised.known.tensors, total)
        walk = Walk(raised, plan, feeds, seen, self.reference, folder)
        return refit(self.calibrated, plan, walk, judge, partial(self.progress, "fit layers"))

    def quick(self, plan: Plan) -> Quantised:
        """Lower a plan with the nearest codes in the widest ranges, which are quick to find."""
        known = self.calibrated
        quick = replace(known, numbers=replace(known.numbers, weights="minmax", rounding="nearest"))
        self.calibrate(quick.needs(plan))
        return quick.lower(plan)

    def raised(self) -> Calibrated:
        """Return what lowers the model at the opset of its widest option, so that no variant changes that for others.

        Its units are the same, with figures of that opset.
        """
        prepared = self.prepared
        needs = [
            prepared.target.opset_for(option, layer)
            for unit in prepared.space.units
            for option in unit.options
            for layer in unit.layers
        ]
        model = prepared.model.clone()
        raise_opset(model, max(needs, default=prepared.target.limits.lowest_opset))
        space = make_space(model, prepared.target)
        return Calibrated(model, space, prepared.target, self.calibrated.numbers.measured, self.calibrated.known)

    def calibrate(self, needs: Needs, model: ir.Model | None = None) -> None:
        """Run the samples through the float model, as it was normalised or in another form, for what is needed."""
        total = len(self.samples)
        if needs.tensors or needs.means:
            ranges = calibrate(
                self.runner(needs.tensors | set(needs.means), model),
                self.samples,
                sorted(needs.tensors),
                needs.means,
                progress=lambda n: self.progress("calibrate", n, total),
            )
            self.calibrated.known.add(ranges)
        self.count_hessians(needs.hessians, model=model)

    def calibrate_for_all(self, calibrated: Calibrated) -> None:
        """Count what any plan may need: every unit alone at each of its options, and all of them together."""
        tensors: set[str] = set()
        channels: dict[str, int] = {}
        for plan in _covering_plans(calibrated.space):
            needs = calibrated.needs(plan)
            tensors, channels = tensors | needs.tensors, channels | needs.means
        self.calibrate(Needs(tensors, channels, {}), calibrated.model)

    def count_hessians(
        self,
        wanted: Mapping[str, tuple[Reading, ...]],
        room: int = TOGETHER_BYTES,
        model: ir.Model | None = None,
    ) -> None:
        """Run the samples through the float model for the Hessians of weights, in as many passes as memory asks for."""
        parts, total = passes(wanted, room), len(self.samples)
        for index, part in enumerate(parts):
            run = self.runner({reading.tensor for readings in part.values() for reading in readings}, model)
            done = index * total

            def progress(n: int, done: int = done) -> None:
                self.progress("count Hessians", done + n, len(parts) * total)

            for name, counted in count(run, self.samples, part, progress):
                self.calibrated.keep_hessian(name, counted.hessian)

    def runner(self, wanted: set[str], model: ir.Model | None = None) -> Run:
        """Return what gives ``wanted`` tensors of the float model, or of another form of it, for one feed."""
        given = {spec.name for spec in self.inputs}
        inner = sorted(wanted - given)
        session = None
        if inner:
            session = self.reference.session(self.loadable(model or self.prepared.model), mode="plain", outputs=inner)

        def run(feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            seen = {name: feed[name] for name in wanted & given}
            return seen | session.run(feed) if session else seen

        return run

    def loadable(self, model: ir.Model, name: str = "normalised") -> bytes | Path:
        """Return a model as runtimes load it: bytes, or a file with its weights beside it when it is large."""
        if weight_bytes(model) < _LARGE_BYTES:
            return bytes(contained(model).SerializeToString())
        path = self.folder / f"{name}.onnx"
        save(model, path, overwrite=True, largest_protobuf=0)
        return path

    def share(self, calibrated: Calibrated) -> None:
        """Write a model, and what is known of its tensors, where ``shared`` reads it."""
        save(calibrated.model, self.folder / "model.onnx", overwrite=True)
        calibrated.known.write(self.folder, len(self.samples))


def shared(folder: Path, target: Target, numbers: Numbers) -> Calibrated:
    """Return what a workspace shares in its folder; it remembers the weights that it quantises."""
    model = load_mapped(folder / "model.onnx")
    space = make_space(model, target)
    return Calibrated(model, space, target, numbers, Statistics.read(folder), memory=Kept(folder))


@contextmanager
def workspace(
    prepared: Prepared,
    calibration: Data,
    numbers: Numbers | None = None,
    progress: Progress = silent,
    tried: Mapping[str, Option] | None = None,
) -> Iterator[Workspace]:
    """Open a workspace in a folder that is gone afterwards."""
    with temporary_folder() as folder:
        yield Workspace(prepared, calibration, numbers or Numbers(), Path(folder), progress, tried)


def _as_fixed(spec: InputSpec, model: ir.Model) -> InputSpec:
    """Return what a model takes as an input whose open dimensions a pass may have fixed."""
    value = next((value for value in model.graph.inputs if value.name == spec.name), None)
    known = dimensions(value) or ()
    if len(known) != len(spec.shape):
        return spec
    sizes = (own if fixed is None else fixed for own, fixed in zip(spec.shape, known, strict=True))
    return replace(spec, shape=tuple(sizes))


@contextmanager
def _blaming_the_float_model(what: str) -> Iterator[None]:
    """Turn what a runtime says of the model that was given into an error that the caller can fix."""
    try:
        yield
    except VerifyError as error:
        raise InputError(f"The float model does not {what}: {error} Fix or re-export the model first.") from error


def _covering_plans(space: Space) -> Iterator[Plan]:
    """Yield plans that together place every pair that any plan of these units can have."""
    widths = {o.activation_bits for unit in space.units for o in unit.options if o.activation_bits}
    for width in sorted(widths):
        choices = {}
        for unit in space.units:
            fitting = [o for o in unit.options if o.activation_bits == width]
            if fitting:
                choices[unit.name] = max(fitting)
                yield Plan(space.target, "", {unit.name: max(fitting)})
        yield Plan(space.target, "", choices)
    for bits in (8, 4):
        stored = {
            unit.name: option
            for unit in space.units
            for option in unit.options
            if option.weight_bits and weight_type(option).bits == bits and not option.activation_bits
        }
        yield Plan(space.target, "", stored)
