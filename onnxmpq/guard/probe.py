"""Plans of one model, measured on a few samples: what they do to the outputs, and the local errors of all units.

    samples ─▶ a few of them ─▶ float model ─▶ tensors, kept aside ─┬▶ cut of a plan ─▶ local errors of its units
                                                                    └▶ plan ─▶ damage

Every run of the whole model on one sample is counted: all of them stay within a share of what measuring every unit on
all samples would take.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Plan
from onnxmpq.data.samples import spread
from onnxmpq.guard.boundaries import Array, Feed, Hops, boundaries
from onnxmpq.guard.damage import Damage, Meter
from onnxmpq.metrics.losses import Head
from onnxmpq.model.mapped import BIG
from onnxmpq.numerics.weights import Kept
from onnxmpq.workspace.workspace import Workspace

SHARE = 0.1
"""Of what measuring every unit takes: the most that a search for culprits runs, but in models of a few units."""
LEAST_SAMPLES, MOST_SAMPLES = 4, 16
_PASSES = 20  # over the samples that are looked at, within the budget
_LEAST_PASSES = 12  # of which none can be done without, however few units there are


class Probe:
    """Plans of one model, measured on a few samples. Counts the runs of the whole model."""

    def __init__(self, workspace: Workspace, heads: Sequence[Head]) -> None:
        """Choose the samples, from all over them: so many that some passes over them are within the budget."""
        self.workspace, self.heads, self.runs = workspace, heads, 0
        total = len(workspace.samples)
        units = sum(len(unit.options) > 1 for unit in workspace.prepared.space.units)
        self.everything = max(total * units / 2, 1.0)  # half of the model for each unit, on average
        count = min(max(int(SHARE * self.everything / _PASSES), LEAST_SAMPLES), MOST_SAMPLES, total)
        chosen = spread(total, count)
        self.feeds: list[Feed] = [feed for place, feed in enumerate(workspace.samples) if place in chosen]
        self.wanted: list[Feed] = []
        known, kept = workspace.calibrated, Kept(workspace.folder)
        self.calibrated = replace(known, numbers=replace(known.numbers, rounding="nearest"), memory=kept)

    @property
    def budget(self) -> float:
        """Return the most runs of the whole model on one sample."""
        return max(SHARE * self.everything, _LEAST_PASSES * len(self.feeds))

    @property
    def spent(self) -> bool:
        """Tell whether another pass over the samples would exceed the budget."""
        return self.runs + len(self.feeds) > self.budget

    def lowered(self, plan: Plan) -> ir.Model:
        """Lower a plan with the ranges that it will have, and the nearest codes."""
        self.workspace.calibrate(self.calibrated.needs(plan))
        return self.calibrated.lower(plan).model

    def damage(self, plan: Plan) -> Damage:
        """Measure what a plan does to the outputs, by its literal simulation."""
        meter = Meter(self.heads)
        with self._place() as place:
            model = self.workspace.loadable(self.lowered(plan), f"{place.name}/plan")
            session = self.workspace.reference.session(model, mode="literal")
            for feed, wanted in zip(self.feeds, self.wanted, strict=True):
                meter.add(wanted, session.run(feed, meter.names))
                self.runs += 1
        return meter.damage()

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """Give a folder for what is large, within that of the workspace; it is gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self.workspace.folder, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def local_errors(self, plans: Sequence[Plan]) -> list[dict[str, float]]:
        """Return for each plan the local error of every unit, noise over signal; float outputs are kept on the way.

        One model is loaded at a time: first the float one, whose tensors are kept in files, then that of each plan.
        """
        models = [self.lowered(plan) for plan in plans]
        graph = self.workspace.prepared.model.graph
        inner = {value.name for node in graph for value in node.outputs}
        wanted = {value.name or "" for model in models for value in boundaries(model)} & inner
        names = [head.name for head in self.heads]
        run = self.workspace.runner({*wanted, *names, *(value.name or "" for value in graph.outputs)})
        with self._place() as place:
            kept = [Aside(run(feed), place) for feed in self.feeds]
            self.runs += len(self.feeds)
            del run
            for aside in kept:
                arrays = aside.arrays()
                self.wanted.append({name: arrays[name] for name in names})
            found = []
            while models:
                cut = Hops.of(models[0], kept[0].arrays())
                loadable = self.workspace.loadable(models.pop(0), f"{place.name}/cut{len(models)}")
                cut.open(self.workspace.reference, loadable)
                for feed, aside in zip(self.feeds, kept, strict=True):
                    cut.add(feed, aside.arrays())
                    self.runs += 1
                found.append(self._unit_errors(cut))
        return found

    def _unit_errors(self, cut: Hops) -> dict[str, float]:
        """Return the local error of every unit: that of the worst hop that has a layer of it."""
        unit_of = {layer.node: unit.name for unit in self.workspace.prepared.space.units for layer in unit.layers}
        errors: dict[str, float] = {}
        for hop in cut.found():
            for unit in {unit_of[layer] for layer in hop.layers if layer in unit_of}:
                errors[unit] = max(errors.get(unit, 0.0), hop.ratio)
        return errors


class Aside:
    """The tensors of one sample, the large ones in a file each."""

    def __init__(self, arrays: Feed, folder: Path) -> None:
        """Put the arrays of plain numbers aside that are large; strings and narrow floats have no plain file."""
        self._held: dict[str, Array] = {}
        self._files: dict[str, Path] = {}
        place = Path(tempfile.mkdtemp(dir=folder))
        for index, (name, array) in enumerate(arrays.items()):
            if array.nbytes >= BIG and array.dtype.kind in "fiu":
                self._files[name] = place / f"{index}.npy"
                np.save(self._files[name], array)
            else:
                self._held[name] = array

    def arrays(self) -> Feed:
        """Return all of them."""
        return self._held | {name: np.load(file) for name, file in self._files.items()}
