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
from onnxmpq.cuts.segments import Piece, first_change
from onnxmpq.cuts.sizes import Seen
from onnxmpq.machine import give_back, one_thread, resident_bytes
from onnxmpq.metrics.losses import Head, LossFunction
from onnxmpq.options import MEMORY, Numbers
from onnxmpq.runtimes.devices import get_device
from onnxmpq.sensitivity.batches import read_batch
from onnxmpq.sensitivity.chain import Chain, Values, local_error
from onnxmpq.sensitivity.workers.devices import claimed
from onnxmpq.sensitivity.workers.judge import Arrays, Judge, Results
from onnxmpq.targets import Target
from onnxmpq.workspace.workspace import shared

Choice = tuple[str, str]
_FEW = 8  # samples that what a unit errs by is counted on, at least
_FULL, _FULLER = 0.75, 1.25
"""From which share of its ceiling on a process gives back what it does not use, and how much more it may hold next."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all jobs of a run share: the folder of its workspace, that of its batches, and how they are used."""

    folder: str
    batches: str
    target: Target = field(hash=False)
    numbers: Numbers
    heads: tuple[Head, ...]
    seen: Seen
    threads: int
    seed: int
    function: LossFunction | None = None
    devices: tuple[str, ...] = ("cpu",)
    memory: int = MEMORY


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
class LocalJob:
    """What one unit at another option than float errs by where it stands, on a few samples of one batch."""

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


Job = CentreJob | ResponseJob | LocalJob | PairsJob | PlanJob | TraceJob


class Worker:
    """Runs jobs of one recipe. Sent to another process it is its recipe, and what it holds is built there once."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._bench: Bench | None = None
        self._building = threading.Lock()
        self._full = _FULL * recipe.memory

    def __call__(self, job: Job) -> Results:
        """Run one job, its linear algebra on one thread: the same bits in whatever process it is."""
        with one_thread():
            found = self._opened().run(job)
        self._tidy()
        return found

    def rest(self) -> None:
        """Let go of what is held for jobs; the next one builds it again."""
        self._bench = None

    def _tidy(self) -> None:
        """Give back what nothing uses where much is held: the heap grows by holes among arrays that come and go."""
        if (resident_bytes() or 0) > self._full:
            give_back()
            self._full = max(_FULL * self.recipe.memory, _FULLER * (resident_bytes() or 0))

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
        case LocalJob():
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
    CentreJob: {"loss": 1, "signal": 2, "widths": 2},
    ResponseJob: {"loss": 1, "linear": 1, "noise": 2, "local": 2, "root": 2},
    LocalJob: {"local": 2},
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
    return len({len(results[name]) for name in form if name not in ("widths", "local")}) <= 1


class Bench:
    """A chain with the data of one run."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        target = replace(recipe.target, islands=False)
        calibrated = shared(Path(recipe.folder), target, recipe.numbers)
        device = get_device(claimed(Path(recipe.folder), recipe.devices))
        self.chain = Chain(calibrated, device, recipe.threads, recipe.seen)
        self._batch: tuple[object, _Batch] | None = None

    def run(self, job: Job) -> Results:
        """Run one job."""
        match job:
            case CentreJob():
                return self.centre(job)
            case ResponseJob():
                return self.response(job)
            case LocalJob():
                return self.local(job)
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
        """Return what is known of the float model and of the centre."""
        return self.batch(job.centre, job.batch).judge.centre()

    def response(self, job: ResponseJob) -> Results:
        """Return loss, first-order part and root of the second-order part of one variant, per sample."""
        batch = self.batch(job.centre, job.batch)
        unit, option = job.variant
        pieces = self.chain.pieces(choices(job.centre) | {unit: Option.parse(option)})
        start = first_change(batch.pieces, pieces)
        if start is None:
            return batch.judge.response([{} for _ in batch.base], np.zeros((len(batch.base), 2)))
        news = self.chain.changed(pieces, batch.pieces, batch.base, start)
        names = [name for piece in pieces[start : _end(pieces, batch.pieces)] for name in piece.outputs]
        local = local_error(self.chain.device, batch.base, news, names)
        return batch.judge.response(batch.read(news), local)

    def local(self, job: LocalJob) -> Results:
        """Return error and signal power of what one unit gives; nothing runs behind it."""
        batch = self.batch((), job.batch)
        unit, option = job.variant
        pieces = self.chain.pieces({unit: Option.parse(option)})
        start, end = first_change(batch.pieces, pieces), _end(pieces, batch.pieces)
        base = batch.base[: int(np.searchsorted(np.cumsum(batch.judge.rows), _FEW)) + 1]
        if start is None:
            return {"local": np.zeros((len(base), 2))}
        news: list[Values] = [{} for _ in base]
        self.chain.resume(pieces, batch.pieces, base, news, start, end)
        names = [name for piece in pieces[start:end] for name in piece.outputs]
        return {"local": local_error(self.chain.device, base, news, names)}

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
        losses = np.zeros((len(starts), batch.judge.samples))
        news: list[Values] = [{} for _ in batch.base]
        position = 0
        for start, index, both in sorted(starts, key=lambda entry: entry[:2]):
            self.chain.resume(own, batch.pieces, batch.base, news, position, start)
            position = start
            fresh: list[Values] = [dict(new) for new in news]
            self.chain.resume(both, batch.pieces, batch.base, fresh, start)
            losses[index] = batch.judge.losses(batch.read(fresh))
        return {"pairs": losses}

    def plan(self, job: PlanJob) -> Results:
        """Return the loss of a plan, per sample, and the error power of its outputs."""
        batch = self.batch((), job.batch)
        news = self.chain.changed(self.chain.pieces(choices(job.plan)), batch.pieces, batch.base)
        return batch.judge.plan(batch.read(news))

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
            moved.append(batch.judge.log_likelihood(batch.read(news)))
        return {"trace": ((moved[0] - moved[1]) / (2 * step)) ** 2}


def _end(pieces: Sequence[Piece], others: Sequence[Piece]) -> int:
    """Return behind which piece two chains are the same again."""
    return max((i + 1 for i, (a, b) in enumerate(zip(pieces, others, strict=True)) if a.digest != b.digest), default=0)


def _array(value: ir.Value) -> npt.NDArray[np.float64]:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy(), np.float64)


class _Batch:
    """Samples of one batch with everything that the centre gives for them."""

    def __init__(self, bench: Bench, centre: tuple[Choice, ...], index: int) -> None:
        recipe, self.chain = bench.recipe, bench.chain
        held, device = read_batch(Path(recipe.batches), index), bench.chain.device
        feeds = [{name: device.put(array) for name, array in feed.items()} for feed in held.feeds]
        float_pieces = self.chain.pieces({}, keep=True)
        self.pieces = self.chain.pieces(choices(centre), keep=True)
        plain = self.chain.whole(float_pieces, feeds)
        self.base = plain if self.pieces is float_pieces else self.chain.whole(self.pieces, feeds)
        self._names = [head.name for head in recipe.heads]
        floats = self.read(plain)
        at_centre = floats if self.base is plain else self.read(self.base)
        self.judge = Judge(recipe.heads, held.rows, floats, at_centre, held.labels, recipe.function, recipe.seed)

    def read(self, values: Sequence[Values]) -> list[Arrays]:
        """Read what there is of the outputs that count; all else stays where it is."""
        get = self.chain.device.get
        return [{name: get(held[name]) for name in self._names if name in held} for held in values]


def as_choices(plan: Mapping[str, Option]) -> tuple[Choice, ...]:
    """Write choices in the form that jobs carry: sorted, float left out."""
    return tuple(sorted((unit, str(option)) for unit, option in plan.items() if option != FLOAT))
