"""One pass over the samples through a plan's network and the float one, side by side, segment by segment.

    float      x ─▶ segment ─▶ T ─▶ segment ─▶         what is wanted behind every layer
                        │              │
    quantised  x ─▶ segment ─▶ T ─▶ segment ─▶         with all layers in front fitted and rounded as in the file

Tensors between two segments are kept for all samples, so that every sample takes about two runs of each network.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxmpq.artifacts import Plan
from onnxmpq.calibrate.run import Mean
from onnxmpq.cuts.cutting import cut
from onnxmpq.cuts.segments import Piece
from onnxmpq.cuts.sights import Sights
from onnxmpq.cuts.sizes import Seen
from onnxmpq.cuts.splitting import Splitter
from onnxmpq.lower.calibrated import Calibrated
from onnxmpq.machine import run_ahead
from onnxmpq.model.layers import constant
from onnxmpq.model.mapped import BIG
from onnxmpq.refit.fitting import fitted, moved
from onnxmpq.refit.moments import Array, Counting, Moments, judges
from onnxmpq.refit.order import Fit, fits, steps
from onnxmpq.refit.shelf import Shelf
from onnxmpq.refit.side import Side
from onnxmpq.runtimes import Runtime

ROOM = 1 << 26
"""Bytes of tensors between segments that stay in memory."""
ENOUGH, EACH = 1 << 16, 128
"""Places from which moments of a layer are counted, or so many for each of its columns where that is more."""
_SEPARATOR = "#"  # between a tensor and the type of its codes, where pieces cross (see ``onnxmpq.cuts.splitting``)


class Walk:
    """Fits the weights of a plan in the order of the network; what it leaves is in ``fitted``."""

    def __init__(
        self,
        calibrated: Calibrated,
        plan: Plan,
        feeds: Sequence[Mapping[str, Array]],
        seen: Seen,
        runtime: Runtime,
        folder: Path,
    ) -> None:
        """Cut the model between all layers; ``calibrated`` knows what the plan needs, ``folder`` takes large arrays."""
        self.plain, self.plan, self.runtime, self.folder = calibrated, plan, runtime, folder
        self.fitted = calibrated.apart(calibrated.known.apart(folder))
        model = calibrated.model
        self.cuts = cut(model, calibrated.space, seen, chain_cost=0)
        self.splitter = Splitter(model, self.cuts)
        placement = calibrated.place(plan)
        self.corrected = calibrated.corrected(placement)
        self.parts = Sights(model, calibrated.space, self.cuts).of(placement)
        layers = [form.layer for form in placement.forms if form.option.weight_bits]
        self.steps = steps(model, self.cuts, fits(model, calibrated.readings, layers))
        shelves = [Path(tempfile.mkdtemp(dir=folder)) for _ in range(2)]
        self.float_values, self.values = (Shelf(shelf, ROOM // 2) for shelf in shelves)
        for feed in feeds:
            self.float_values.new(feed)
            self.values.new(feed)
        self.shelves = shelves

    def run(self, progress: Callable[[int, int], None]) -> dict[str, Array]:
        """Walk through all segments; return the weights and biases that became others."""
        found: dict[str, Array] = {}
        public = {value.name or "" for value in (*self.plain.model.graph.inputs, *self.plain.model.graph.outputs)}
        segments = self.cuts.segments
        for index in range(len(segments)):
            progress(index, len(segments))
            (plain,) = self.splitter.split(self.plain.model, [index])
            pending = [fit for step in self.steps[index] for fit in step]
            for step in self.steps[index]:
                found |= self._fit(step, self._piece(index, pending), plain)
                pending = [fit for fit in pending if fit not in step]
            live = public.union(segments[index + 1].live if index + 1 < len(segments) else ())
            self._advance(self.float_values, plain, live)
            self._advance(self.values, self._piece(index, ()), live)
        for shelf in self.shelves:
            shutil.rmtree(shelf)
        return found

    def _piece(self, index: int, pending: Sequence[Fit]) -> Piece:
        """Lower a segment, its layers that are not fitted yet in float."""
        part, later = self.parts[index], {fit.layer.node for fit in pending}
        part = replace(part, forms=tuple(form for form in part.forms if form.layer.node not in later))
        plain = not (part.forms or part.pairs)
        model = self.fitted.model if plain else self.fitted.lower(self.plan, part).model
        return self.splitter.split(model, [index])[0]

    def _advance(self, shelf: Shelf, piece: Piece, live: set[str]) -> None:
        """Run a piece on all samples, and keep what is read behind it."""
        session = self.runtime.session(piece.data, mode="literal")

        def run(sample: int) -> Mapping[str, Array]:
            return session.run(shelf.get(sample, piece.inputs))

        for sample, given in enumerate(run_ahead(run, range(len(shelf)))):
            shelf.put(sample, dict(zip(piece.outputs, given.values(), strict=True)))
        shelf.keep(lambda name: any(name == kept or name.startswith(kept + _SEPARATOR) for kept in live))

    def _fit(self, step: Sequence[Fit], piece: Piece, plain: Piece) -> dict[str, Array]:
        """Fit layers that stand side by side; return their weights and biases."""
        side = Side.of(step, piece, plain, self.runtime)
        counted = {fit: [Counting(fit.reading.view, fit.rows) for _ in range(2)] for fit in side.seats}
        corrected = {fit: self.corrected[fit.layer.node] for fit in side.seats if fit.layer.node in self.corrected}
        means = {tensor: Mean(axis) for tensor, axis in corrected.values()}
        read = {tensor: side.seats[fit].names[0] for fit, (tensor, _) in corrected.items()}
        count = len(self.values)

        def run(sample: int) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
            wanted = side.plain.run(self.float_values.get(sample, side.plain.needs))
            return side.own.run(self.values.get(sample, side.own.needs)), wanted

        for sample, (met, wanted) in enumerate(run_ahead(run, range(count))):
            for fit, counting in counted.items():
                most = max(ENOUGH, EACH * fit.reading.view.columns) / count
                for columns in side.columns(fit, met, wanted, most, sample):
                    counting[judges(sample, count)].add(*columns)
            for tensor, mean in means.items():
                mean.add(met[read[tensor]])
        self.fitted.known.add_means({tensor: mean.value() for tensor, mean in means.items()})
        found: dict[str, Array] = {}
        while counted:
            fit, counting = counted.popitem()
            found |= self._solved(fit, *(each.moments() for each in counting))
        return found

    def _solved(self, fit: Fit, moments: Moments, judge: Moments) -> dict[str, Array]:
        """Choose what a layer's weight should be, and let its bias take up the rest; nothing where neither is known."""
        values, view = self.fitted.model.graph.initializers, fit.reading.view
        before = constant(values[fit.weight])
        if before is None or not (moments.known and judge.known):
            return {}
        weight = view.matrix(np.asarray(before.numpy(), np.float32))
        target = fitted(weight, moments, judge)
        self.fitted.keep_hessian(fit.weight, moments.sure)
        target = weight.astype(np.float64) if target is None else target
        found = {fit.weight: self._kept(view.array(target).astype(before.numpy().dtype))}
        bias = values.get(fit.layer.bias)
        told = constant(bias)
        if bias is not None and told is not None and len(bias.uses()) == 1 and fit.layer.node in self.corrected:
            array = told.numpy()
            channels = moved(weight, target, moments).reshape(array.shape[-1:])  # a bias may have rows of its own
            found[fit.layer.bias] = (array + channels).astype(array.dtype)
        self.fitted.replace(found)
        return found

    def _kept(self, array: Array) -> Array:
        """Return an array that lies in a file where it is big."""
        if array.nbytes < BIG:
            return array
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".npy", delete=False) as file:
            np.save(file, array)
        kept: Array = np.load(file.name, mmap_mode="r")
        return kept
