"""What a worker does: build the chain of one model once, then run jobs on it.

A job is a small value; everything else it needs lies in a folder that all workers see and that ``Recipe`` names. The
same job gives the same bits in any worker.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.machine import one_thread
from onnxmpq.metrics.losses import Array, Head, Loss, LossFunction, inner_products, log_softmax
from onnxmpq.options import Numbers
from onnxmpq.runtimes.devices import get_device
from onnxmpq.sensitivity.batches import read_batch
from onnxmpq.sensitivity.chain import Chain, Values, local_error
from onnxmpq.sensitivity.cuts.segments import Piece, first_change
from onnxmpq.sensitivity.workers.devices import claimed
from onnxmpq.targets import Target
from onnxmpq.workspace.workspace import shared

Choice = tuple[str, str]
Results = dict[str, npt.NDArray[Any]]
Arrays = dict[str, npt.NDArray[Any]]
SKETCH = 4096
"""Features per sample above which responses are kept as seeded random projections of this width."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all jobs of a run share: the folder of its workspace, that of its batches, and how they are used."""

    folder: str
    batches: str
    target: Target = field(hash=False)
    numbers: Numbers
    heads: tuple[Head, ...]
    threads: int
    seed: int
    function: LossFunction | None = None
    devices: tuple[str, ...] = ("cpu",)


@dataclass(frozen=True, slots=True)
class CentreJob:
    """The outputs of the float model and of the centre on one batch."""

    centre: tuple[Choice, ...]
    batch: int


@dataclass(frozen=True, slots=True)
class ResponseJob:
    """One unit at another option than the centre's, on one batch."""

    centre: tuple[Choice, ...]
    variant: Choice
    batch: int


@dataclass(frozen=True, slots=True)
class PairsJob:
    """One variant together with each of some others, on one batch."""

    centre: tuple[Choice, ...]
    variant: Choice
    others: tuple[Choice, ...]
    batch: int


@dataclass(frozen=True, slots=True)
class PlanJob:
    """The loss of a whole plan on one batch."""

    plan: tuple[Choice, ...]
    batch: int


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One directional difference of the log-likelihood of sampled labels for the weights of a unit, on one batch."""

    unit: str
    draw: int
    batch: int


Job = CentreJob | ResponseJob | PairsJob | PlanJob | TraceJob


class Worker:
    """Runs jobs of one recipe. Sent to another process it is its recipe, and what it holds is built there once."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._bench: Bench | None = None
        self._building = threading.Lock()

    def __call__(self, job: Job) -> Results:
        """Run one job, its linear algebra on one thread: the same bits in whatever process it is."""
        with one_thread():
            return self._opened().run(job)

    def rest(self) -> None:
        """Let go of what is held for jobs; the next one builds it again."""
        self._bench = None

    def _opened(self) -> "Bench":
        with self._building:
            if self._bench is None:
                self._bench = Bench(self.recipe)
            return self._bench

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.recipe,)


@lru_cache(maxsize=1)
def _received(recipe: Recipe) -> Worker:
    """Return the worker of this process, which holds what it has built from one job to the next."""
    return Worker(recipe)


def rounded(job: Job) -> Iterator[tuple[Choice, ...]]:
    """Yield choices that together name every unit whose weights a job rounds."""
    match job:
        case CentreJob():
            yield job.centre
        case ResponseJob():
            yield job.centre
            yield (job.variant,)
        case PairsJob():
            yield job.centre
            yield (job.variant, *job.others)
        case PlanJob():
            yield job.plan
        case TraceJob():
            return


def choices(pairs: tuple[Choice, ...]) -> dict[str, Option]:
    """Read choices from the form that jobs carry."""
    return {unit: Option.parse(option) for unit, option in pairs}


_FORMS: dict[type, dict[str, int]] = {
    CentreJob: {"loss": 1, "signal": 2, "widths": 2},
    ResponseJob: {"loss": 1, "linear": 1, "noise": 2, "local": 2, "root": 2},
    PairsJob: {"pairs": 2},
    PlanJob: {"loss": 1, "noise": 2},
    TraceJob: {"trace": 1},
}
"""What jobs give, and how many axes it has; the first is samples, but for widths, local errors and pairs."""


def fits(job: Job, results: Results) -> bool:
    """Tell whether results are of the form that this kind of job gives, whoever wrote them."""
    form = _FORMS[type(job)]
    if not form.keys() <= results.keys():
        return False
    if any(results[name].ndim != axes or results[name].dtype.kind not in "fiu" for name, axes in form.items()):
        return False
    if isinstance(job, PairsJob):
        return len(results["pairs"]) == len(job.others)
    return len({len(results[name]) for name in form if name not in ("widths", "local")}) == 1


class Bench:
    """A chain with the data of one run."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        target = replace(recipe.target, islands=False)
        calibrated = shared(Path(recipe.folder), target, recipe.numbers)
        device = get_device(claimed(Path(recipe.folder), recipe.devices))
        self.chain = Chain(calibrated, device, recipe.threads)
        self._batch: tuple[object, _Batch] | None = None

    def run(self, job: Job) -> Results:
        """Run one job."""
        match job:
            case CentreJob():
                return self.centre(job)
            case ResponseJob():
                return self.response(job)
            case PairsJob():
                return self.pairs(job)
            case PlanJob():
                return self.plan(job)
            case TraceJob():
                return self.trace(job)

    def batch(self, centre: tuple[Choice, ...], index: int) -> "_Batch":
        """Return a batch with the values of a centre, which the last one asked for keeps."""
        key = (centre, index)
        if self._batch is None or self._batch[0] != key:
            self._batch = None  # frees the last one first
            self._batch = (key, _Batch(self, centre, index))
        return self._batch[1]

    def centre(self, job: CentreJob) -> Results:
        """Return the loss of the centre, the float model's signal powers, and the outputs of both as features.

        Of outputs that are too wide to be kept there is a sketch of the float model's.
        """
        batch = self.batch(job.centre, job.batch)
        widths = np.array([(head.width, head.classes) for head in batch.heads])
        found = {"loss": batch.loss.values(batch.outputs), "signal": batch.loss.signal(), "widths": widths}
        if batch.outputs.shape[1] <= SKETCH:
            return found | {"float": batch.loss.reference, "centre": batch.outputs}
        return found | {"sketch": sketch(batch.loss.reference, self.recipe.seed).astype(np.float32)}

    def response(self, job: ResponseJob) -> Results:
        """Return loss, first-order part and root of the second-order part of one variant, per sample."""
        batch = self.batch(job.centre, job.batch)
        unit, option = job.variant
        pieces = self.chain.pieces(choices(job.centre) | {unit: Option.parse(option)})
        start = first_change(batch.pieces, pieces)
        if start is None:
            return batch.results(batch.outputs.copy(), np.zeros((len(batch.base), 2)))
        news = self.chain.changed(pieces, batch.pieces, batch.base, start)
        last = max(i for i, (a, b) in enumerate(zip(pieces, batch.pieces, strict=True)) if a.digest != b.digest)
        names = [name for piece in pieces[start : last + 1] for name in piece.outputs]
        local = local_error(self.chain.device, batch.base, news, names)
        return batch.results(batch.features(news), local)

    def pairs(self, job: PairsJob) -> Results:
        """Return the losses of one variant together with each of the others, [others, samples].

        The first variant runs down the chain once; every other starts from its perturbed tensors where its own pieces
        begin.
        """
        batch, centre = self.batch(job.centre, job.batch), choices(job.centre)
        unit, option = job.variant
        first = centre | {unit: Option.parse(option)}
        own = self.chain.pieces(first)
        starts: list[tuple[int, int, tuple[Piece, ...]]] = []
        for index, (other, text) in enumerate(job.others):
            both = self.chain.pieces(first | {other: Option.parse(text)})
            start = first_change(own, both)
            starts.append((len(both) if start is None else start, index, both))
        losses = np.zeros((len(starts), batch.samples))
        news: list[Values] = [{} for _ in batch.base]
        position = 0
        for start, index, both in sorted(starts, key=lambda entry: entry[:2]):
            self.chain.resume(own, batch.pieces, batch.base, news, position, start)
            position = start
            fresh: list[Values] = [dict(new) for new in news]
            self.chain.resume(both, batch.pieces, batch.base, fresh, start)
            losses[index] = batch.loss.values(batch.features(fresh))
        return {"pairs": losses}

    def plan(self, job: PlanJob) -> Results:
        """Return the loss of a plan, per sample, and the error power of its outputs."""
        batch = self.batch((), job.batch)
        news = self.chain.changed(self.chain.pieces(choices(job.plan)), batch.pieces, batch.base)
        outputs = batch.features(news)
        return {"loss": batch.loss.values(outputs), "noise": batch.loss.noise(outputs)}

    def trace(self, job: TraceJob) -> Results:
        """Return the squared directional derivative of the log-likelihood along a random direction of the weights."""
        batch = self.batch((), job.batch)
        calibrated = self.chain.calibrated
        unit = calibrated.space.unit(job.unit)
        names = sorted({name for layer in unit.layers for name in layer.weights})
        generator = np.random.default_rng([self.recipe.seed, job.draw])
        values = {v.name: v for v in calibrated.model.graph.initializers.values()}
        moved: list[npt.NDArray[np.float64]] = []
        direction = {n: generator.standard_normal(_array(values[n]).shape) for n in names if n in values}
        scale = float(np.sqrt(np.mean([np.mean(_array(values[n]) ** 2) for n in direction]))) if direction else 0.0
        step = 1e-3 * max(scale, 1e-8)
        for sign in (1, -1):
            model = calibrated.model.clone()
            for name, way in direction.items():
                value = model.graph.initializers[name]
                value.const_value = ir.Tensor((_array(values[name]) + sign * step * way).astype(np.float32), name=name)
            pieces = self.chain.splitter.split(model)
            news = self.chain.changed(pieces, batch.pieces, batch.base)
            moved.append(batch.log_likelihood(batch.features(news), self.recipe.seed))
        return {"trace": ((moved[0] - moved[1]) / (2 * step)) ** 2}


def _array(value: ir.Value) -> npt.NDArray[np.float64]:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy(), np.float64)


class _Batch:
    """Samples of one batch with everything that the centre gives for them."""

    def __init__(self, bench: Bench, centre: tuple[Choice, ...], index: int) -> None:
        self.bench, self.chain = bench, bench.chain
        held = read_batch(Path(bench.recipe.batches), index)
        device = self.chain.device
        self.feeds = [{name: device.put(array) for name, array in feed.items()} for feed in held.feeds]
        self.rows = held.rows
        self.samples = sum(self.rows)
        float_pieces = self.chain.pieces({}, keep=True)
        self.pieces = self.chain.pieces(choices(centre), keep=True)
        plain = self.chain.whole(float_pieces, self.feeds)
        self.base = plain if self.pieces is float_pieces else self.chain.whole(self.pieces, self.feeds)
        self.names = [head.name for head in bench.recipe.heads]
        float_outputs = self._read(plain)
        self._outputs = float_outputs if self.base is plain else self._read(self.base)
        heads = tuple(
            replace(head, width=width, classes=classes)
            for head, (width, classes) in zip(bench.recipe.heads, self._widths(float_outputs[0]), strict=True)
        )
        self.heads = heads
        self.loss = Loss(heads, self._features(float_outputs), held.labels, bench.recipe.function)
        self.outputs = self._features(self._outputs)
        self._around = self.loss.around(self.outputs)

    def _widths(self, first: Arrays) -> list[tuple[int, int]]:
        return [
            (array.size // self.rows[0], array.shape[head.axis] if array.ndim else 1)
            for head in self.bench.recipe.heads
            for array in (first[head.name],)
        ]

    def _read(self, values: Sequence[Values]) -> list[Arrays]:
        """Read what there is of the outputs that count; all else stays where it is."""
        get = self.chain.device.get
        return [{name: get(held[name]) for name in self.names if name in held} for held in values]

    def _features(self, outputs: list[Arrays]) -> npt.NDArray[np.float64]:
        parts = [
            [head.features(held[head.name], count) for head in self.heads]
            for held, count in zip(outputs, self.rows, strict=True)
        ]
        return np.concatenate([row[0] if len(row) == 1 else np.concatenate(row, axis=1) for row in parts])

    def features(self, news: list[Values]) -> npt.NDArray[np.float64]:
        """Return the outputs as features, changed where they changed."""
        return self._features([held | new for held, new in zip(self._outputs, self._read(news), strict=True)])

    def results(self, outputs: npt.NDArray[np.float64], local: npt.NDArray[np.float64]) -> Results:
        """Return everything about a response, per sample; the outputs are used up."""
        found: Results = {"loss": self.loss.values(outputs), "noise": self.loss.noise(outputs), "local": local}
        z = np.subtract(outputs, self.outputs, out=outputs)
        root = self._around.root(z)
        found["linear"] = self._linear(found["loss"], z, root)
        if root.shape[1] <= SKETCH:
            return found | {"root": root.astype(np.float32), "response": z.astype(np.float32)}
        return found | {"root": sketch(root, self.bench.recipe.seed).astype(np.float32)}

    def _linear(self, losses: Array, z: Array, root: Array) -> Array:
        """Return the first-order part per sample; for a user's function, what its own change leaves of the second."""
        if self.loss.function is None:
            return inner_products(z, self._around.slope)
        left: Array = losses - self.loss.values(self.outputs) - 0.5 * (root**2).sum(1)
        return left

    def log_likelihood(self, outputs: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
        """Return log p(y | x) per sample, with labels y drawn from the float model, the same at every call."""
        total = np.zeros(len(outputs))
        generator = np.random.default_rng([seed, 1])
        position = 0
        for head in self.heads:
            part = outputs[:, position : position + head.width]
            wanted = self.loss.reference[:, position : position + head.width]
            position += head.width
            if head.kind == "power":  # a Gaussian of unit relative noise around the float output
                target = wanted + np.sqrt(head.power / head.width) * generator.standard_normal(wanted.shape)
                total -= ((part - target) ** 2).sum(1) / (2 * head.power / head.width)
                continue
            logs = log_softmax(part.reshape(len(part), -1, head.classes))
            float_logs = log_softmax(wanted.reshape(logs.shape))
            drawn = (float_logs + generator.gumbel(size=float_logs.shape)).argmax(-1)[..., None]
            total += np.take_along_axis(logs, drawn, 2).sum((1, 2))
        return total


def sketch(values: npt.NDArray[np.float64], seed: int, width: int = SKETCH) -> npt.NDArray[np.float64]:
    """Add features up in ``width`` seeded random places with random signs; inner products are kept in expectation.

    Their error is as small as that of dense random projections (Charikar, Chen and Farach-Colton 2002: count sketch),
    at one operation for each feature.
    """
    places, signs = _places(seed, values.shape[1], width)
    rows = [np.bincount(places, weights=row * signs, minlength=width).astype(np.float64) for row in values]
    return np.stack(rows)


@lru_cache(maxsize=1)
def _places(seed: int, count: int, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Draw a place and a sign for every feature."""
    generator = np.random.default_rng([seed, 2])
    places = generator.integers(0, width, count)
    signs = (2 * generator.integers(0, 2, count) - 1).astype(np.float64)
    return places, signs


def as_choices(plan: Mapping[str, Option]) -> tuple[Choice, ...]:
    """Write choices in the form that jobs carry: sorted, float left out."""
    return tuple(sorted((unit, str(option)) for unit, option in plan.items() if option != FLOAT))
