"""What a worker does: build the chain of one model once, then run jobs on it.

A job is a small value; everything else it needs lies in a folder that all workers see and that ``Recipe`` names. The
same job gives the same bits in any worker.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.machine import one_thread
from onnxmpq.metrics.losses import Array, Head, Loss, LossFunction, log_softmax
from onnxmpq.options import Numbers
from onnxmpq.runtimes import get_runtime
from onnxmpq.sensitivity.batches import read_batch
from onnxmpq.sensitivity.chain import Arrays, Chain, local_error, merged_with
from onnxmpq.sensitivity.cuts.segments import Piece, first_change
from onnxmpq.targets import Target
from onnxmpq.workspace.workspace import shared

Choice = tuple[str, str]
Results = dict[str, npt.NDArray[Any]]
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


def starts_from(job: Job) -> tuple[tuple[Choice, ...], int]:
    """Return the centre and the batch that a job starts from, which a worker keeps for the next one."""
    return (job.centre if isinstance(job, CentreJob | ResponseJob | PairsJob) else (), job.batch)


def choices(pairs: tuple[Choice, ...]) -> dict[str, Option]:
    """Read choices from the form that jobs carry."""
    return {unit: Option.parse(option) for unit, option in pairs}


_FORMS: dict[type, dict[str, int]] = {
    CentreJob: {"float": 2, "centre": 2, "widths": 2},
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
        self.chain = Chain(calibrated, get_runtime("onnxruntime"), recipe.threads)
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
        """Return float and centre outputs as features, [samples, width]."""
        batch = self.batch(job.centre, job.batch)
        widths = np.array([(head.width, head.classes) for head in batch.heads])
        return {"float": batch.loss.reference, "centre": batch.outputs, "widths": widths}

    def response(self, job: ResponseJob) -> Results:
        """Return loss, first-order part and root of the second-order part of one variant, per sample."""
        batch = self.batch(job.centre, job.batch)
        unit, option = job.variant
        pieces = self.chain.pieces(choices(job.centre) | {unit: Option.parse(option)})
        start = first_change(batch.pieces, pieces)
        if start is None:
            return batch.results(batch.outputs, np.zeros((len(batch.base), 2)))
        news = self.chain.changed(pieces, batch.pieces, batch.base, start)
        last = max(i for i, (a, b) in enumerate(zip(pieces, batch.pieces, strict=True)) if a.digest != b.digest)
        local = local_error(batch.base, news, [n for i in range(start, last + 1) for n in pieces[i].outputs])
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
        news: list[Arrays] = [{} for _ in batch.base]
        position = 0
        for start, index, both in sorted(starts, key=lambda entry: entry[:2]):
            self.chain.resume(own, batch.pieces, batch.base, news, position, start)
            position = start
            fresh: list[Arrays] = [dict(new) for new in news]
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
        self.feeds, self.rows = held.feeds, held.rows
        self.samples = sum(self.rows)
        float_pieces = self.chain.pieces({}, keep=True)
        self.pieces = self.chain.pieces(choices(centre), keep=True)
        plain = self.chain.whole(float_pieces, self.feeds)
        self.base = plain if self.pieces is float_pieces else self.chain.whole(self.pieces, self.feeds)
        self.names = [head.name for head in bench.recipe.heads]
        heads = tuple(
            replace(head, width=width, classes=classes)
            for head, (width, classes) in zip(bench.recipe.heads, self._widths(plain), strict=True)
        )
        self.heads = heads
        self.loss = Loss(heads, self._features(plain), held.labels, bench.recipe.function)
        self.outputs = self._features(self.base)

    def _widths(self, values: list[Arrays]) -> list[tuple[int, int]]:
        first = values[0]
        return [
            (array.size // self.rows[0], array.shape[head.axis] if array.ndim else 1)
            for head in self.bench.recipe.heads
            for array in (first[head.name],)
        ]

    def _features(self, values: list[Arrays]) -> npt.NDArray[np.float64]:
        rows = [
            np.concatenate([head.features(held[head.name], count) for head in self.heads], axis=1)
            for held, count in zip(values, self.rows, strict=True)
        ]
        return np.concatenate(rows)

    def features(self, news: list[Arrays]) -> npt.NDArray[np.float64]:
        """Return the outputs as features, changed where they changed."""
        return self._features(merged_with(self.base, news, self.names))

    def results(self, outputs: npt.NDArray[np.float64], local: npt.NDArray[np.float64]) -> Results:
        """Return everything about a response, per sample."""
        z = outputs - self.outputs
        root = self.loss.root(self.outputs, z)
        found: Results = {
            "loss": self.loss.values(outputs),
            "linear": self._linear(outputs, z, root),
            "noise": self.loss.noise(outputs),
            "local": local,
        }
        if root.shape[1] <= SKETCH:
            found |= {"root": root.astype(np.float32), "response": z.astype(np.float32)}
        else:
            found["root"] = sketch(root, self.bench.recipe.seed).astype(np.float32)
        return found

    def _linear(self, outputs: Array, z: Array, root: Array) -> Array:
        """Return the first-order part per sample; for a user's function, what its own change leaves of the second."""
        if self.loss.function is None:
            found: Array = (z * self.loss.slope(self.outputs)).sum(1)
            return found
        left: Array = self.loss.values(outputs) - self.loss.values(self.outputs) - 0.5 * (root**2).sum(1)
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
    generator = np.random.default_rng([seed, 2])
    places = generator.integers(0, width, values.shape[1])
    signs = generator.integers(0, 2, values.shape[1]) * 2.0 - 1.0
    rows = [np.bincount(places, weights=row * signs, minlength=width).astype(np.float64) for row in values]
    return np.stack(rows)


def as_choices(plan: Mapping[str, Option]) -> tuple[Choice, ...]:
    """Write choices in the form that jobs carry: sorted, float left out."""
    return tuple(sorted((unit, str(option)) for unit, option in plan.items() if option != FLOAT))
