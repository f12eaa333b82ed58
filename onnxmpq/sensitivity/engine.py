"""The measure stage: what each choice costs, alone and together, from one run of the centre per batch.

    Engine(model, samples, target ...)      calibrates, cuts, lays out the batches in a folder that workers see
    .table(centre, options)                 responses of every variant, and from them losses, linear part and Gram
    .pairs(table, ...)                      exact losses with two units changed
    .losses(plans)                          true losses of whole plans
    .traces()                               Fisher traces by directional differences

Every job's result goes to the store at once; what is there already is not run again. Results do not depend on the
executor, the order or the number of workers.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Option, Plan, container_bits
from onnxmpq.data.blends import Blended, may_blend
from onnxmpq.data.samples import Data
from onnxmpq.disk.leftovers import temporary_folder
from onnxmpq.errors import InputError, InternalError
from onnxmpq.lower.calibrated import Calibrated, Needs, Numbers
from onnxmpq.machine import give_back
from onnxmpq.metrics.heads import find_heads
from onnxmpq.metrics.losses import Loss, LossFunction, mean_and_error
from onnxmpq.model.opset import raise_opset
from onnxmpq.model.save import save
from onnxmpq.numerics.hessians import TOGETHER_BYTES
from onnxmpq.numerics.ranges import HISTOGRAM_BYTES, Ranges
from onnxmpq.runtimes import get_runtime
from onnxmpq.sensitivity.chain import RECENT_BYTES
from onnxmpq.sensitivity.cutting import cut
from onnxmpq.sensitivity.executors import InlineExecutor
from onnxmpq.sensitivity.keys import job_json, key
from onnxmpq.sensitivity.running import run_jobs
from onnxmpq.sensitivity.segments import loaded_bytes
from onnxmpq.sensitivity.settings import Settings
from onnxmpq.sensitivity.store import Store
from onnxmpq.sensitivity.table import Cost, Estimate, Table, Variant
from onnxmpq.sensitivity.worker import (
    CentreJob,
    Job,
    PairsJob,
    PlanJob,
    Recipe,
    ResponseJob,
    Results,
    TraceJob,
    as_choices,
    fits,
    forget_bench,
    rounded,
    run_job,
)
from onnxmpq.targets.space import make_space
from onnxmpq.version import __version__
from onnxmpq.workspace.build import Builder
from onnxmpq.workspace.prepare import Prepared, Progress

Array = npt.NDArray[np.float64]
_TOGETHER = 8
"""Samples that run together: more would leave the processor's caches."""
_LITERAL_SPEED = 0.9  # of the float model's speed: what literal Q/DQ leaves of it
_REBUILD_S = 0.04  # lowering, cutting and loading what a variant changes
_JOB_S = 5e-4  # keeping a result
_OVERHEAD_BYTES = 300_000_000
"""What a process takes before any model is loaded: Python, the libraries, the runtime."""

_CENTRES, _SESSION, _QUANTISING, _VARIANTS = 2, 1.25, 4, 2
"""How often the weights are held, what a session takes of its weights in float, and a weight while it is quantised."""

_COUNTED = 2
"""How often what was counted of tensors is held."""

_ROUNDING_BYTES = 60
"""What rounding takes for each number of a Hessian, at its height."""


class Engine:
    """Measures one model on one target with one set of samples. Use it as a context manager."""

    def __init__(
        self,
        prepared: Prepared,
        calibration: Data,
        *,
        numbers: Numbers | None = None,
        settings: Settings | None = None,
        store: Path | None = None,
        executor: Executor | None = None,
        ahead: int = 8,
        folder: Path | None = None,
        progress: Progress = lambda *_: None,
    ) -> None:
        self.settings, self.progress = settings or Settings(), progress
        self.executor, self.ahead = executor or InlineExecutor(), ahead
        self.fresh_jobs = 0
        self._seconds_per_batch: float | None = None
        self._store: Store | None = None
        self._place = temporary_folder(folder)
        self.folder = Path(self._place.name)
        try:
            self._open(prepared, calibration, numbers or Numbers(), store)
        except BaseException:
            self.close()
            raise

    def _open(self, prepared: Prepared, calibration: Data, numbers: Numbers, store: Path | None) -> None:
        """Calibrate, cut, lay out the batches, open the store and run the float model."""
        reference = get_runtime("onnxruntime")
        self.target = prepared.target
        self.model = _at_highest_opset(prepared)
        self.space = make_space(self.model, self.target)
        self.builder = Builder(
            replace(prepared, model=self.model, space=self.space),
            reference,
            reference,
            self.folder,
            calibration,
            numbers,
            threads=self.settings.threads,
            speed_budget_s=0.0,
            progress=self.progress,
        )
        self._calibrate()
        self.cuts = cut(self.model, self.space)
        self.heads = find_heads(self.model, self.settings.loss, self.settings.outputs)
        count = min(len(self.builder.samples), self.settings.samples or len(self.builder.samples))
        self._rows = max(self.builder.samples.batch, 1)
        feeds: Iterator[Mapping[str, npt.NDArray[Any]]] = islice(self.builder.samples, count)
        labels = self.builder.samples.labels
        plain = measured = count
        if self._blended(count):
            found = Blended(count)
            feeds, labels = found.feeds(self.builder.samples), None
            plain, measured = len(found.plain), len(found.plain) + len(found.pairs)
        self.plain, self.samples, self.repeats = plain * self._rows, measured * self._rows, measured / count
        self.batch = self._batch_size(measured)
        self.batches = self._lay_out(feeds, labels)
        recipe = Recipe(
            str(self.folder),
            self.target,
            numbers,
            self.heads,
            self.settings.threads,
            self.settings.seed,
            self.settings.function,
        )
        identity = {
            "model": prepared.source.sha256 + "".join(f", {name}" for name in prepared.passes),
            "samples": hashlib.sha256(f"{self.builder.samples.sha256}:{count * self._rows}".encode()).hexdigest(),
            "blends": str(self.samples - self.plain),
            "batch size": str(self.batch),
            "target": hashlib.sha256(repr(self.target).encode()).hexdigest(),
            "ranges": json.dumps(asdict(numbers), sort_keys=True),
            "loss": json.dumps([asdict(head) for head in self.heads], sort_keys=True)
            + _function_name(self.settings.function),
            "runtime": f"{reference.name} {reference.version}, {self.settings.threads} threads",
            "engine": f"{__version__}, seed {self.settings.seed}",
        }
        self._store = Store.open(store or self.folder / "results.store", identity)
        self.recipe = self._with_powers(recipe)
        self.heads = self.recipe.heads  # with their widths and powers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def rest(self) -> None:
        """Let go of what this process holds for jobs, to make room; what is asked next builds it again."""
        forget_bench()
        give_back()

    def close(self) -> None:
        """Close the store, forget what this process holds for jobs, and remove the folder."""
        if self._store is not None:
            self._store.close()
        forget_bench()
        self._place.cleanup()

    @property
    def store(self) -> Store:
        """Where the results are."""
        if self._store is None:
            raise InternalError("The engine has no store yet.")
        return self._store

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know: weights that are not rounded as they should be."""
        widest = {unit.name: max(unit.options) for unit in self.space.units}
        return self.builder.calibrated.notes(Plan(self.space.target, "", widest))

    # ---- results -------------------------------------------------------------------------------------------------

    def table(
        self,
        options: Sequence[Option],
        centre: Mapping[str, Option] | None = None,
        variants: Sequence[Variant] | None = None,
    ) -> Table:
        """Measure every unit at each of ``options`` that it has, or just ``variants``, alone, around ``centre``."""
        centre = {unit: option for unit, option in (centre or {}).items() if option != FLOAT}
        variants = self.variants(options, centre) if variants is None else tuple(variants)
        if not variants:
            raise InputError("No unit has any of these options on this target. `onnxmpq inspect` lists what there is.")
        held = as_choices(centre)
        began = time.perf_counter()
        jobs = [
            ResponseJob(held, (variant.unit, str(variant.option)), batch)
            for batch in range(self.batches)
            for variant in variants
        ]
        self.run([CentreJob(held, batch) for batch in range(self.batches)], "centre")
        self.run(jobs, "responses")
        table = self._assembled(held, centre, variants)
        cost = self.cost(variants)
        return replace(
            table,
            cost={
                "jobs": cost.jobs,
                "jobs_run": self.fresh_jobs,
                "full_runs": cost.full_runs,
                "seconds": time.perf_counter() - began,
            },
        )

    def _assembled(self, held: Any, centre: Mapping[str, Option], variants: tuple[Variant, ...]) -> Table:
        """Put a table together from the store, batch by batch, in an order that never changes."""
        count = len(variants)
        gram, squares = np.zeros((count, count)), np.zeros((count, count))
        parts: dict[str, list[Array]] = {name: [] for name in ("loss", "linear", "noise", "local")}
        centre_losses, signals = [], []
        sketched = False
        for batch in range(self.batches):
            outputs = self.result(CentreJob(held, batch))
            loss = self._loss(outputs["float"], batch)
            centre_losses.append(loss.values(outputs["centre"]))
            signals.append(loss.signal())
            found, roots = [], []
            for variant in variants:
                one = self.result(ResponseJob(held, (variant.unit, str(variant.option)), batch))
                found.append({name: one[name].astype(np.float64) for name in parts})
                roots.append(one["root"])
                sketched |= "response" not in one
            for name, rows in parts.items():
                rows.append(np.stack([one[name] for one in found]))
            for sample in range(len(roots[0])):
                root = np.stack([one[sample] for one in roots]).astype(np.float64)
                products = root @ root.T
                gram += products
                squares += products**2
        total = sum(len(losses) for losses in centre_losses)
        columns = {name: np.concatenate(rows, axis=1) for name, rows in parts.items()}
        gram /= total
        spread = np.maximum(squares / total - gram**2, 0)
        errors = np.sqrt(spread / max(total - 1, 1))
        signal = np.concatenate(signals)
        noise, local = columns["noise"].sum(1), columns["local"].sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):  # an output without a signal has no noise in float
            sqnr = np.where(noise > 0, 10 * np.log10(signal.sum(0) / noise), np.inf)
        ratio = np.divide(local[:, 0], local[:, 1], out=np.zeros(count), where=local[:, 1] > 0)
        return Table(
            target=self.target.name,
            loss_name="+".join(f"{head.kind}({head.name})" for head in self.heads),
            centre=dict(centre),
            variants=variants,
            samples=total,
            centre_loss=Estimate(*mean_and_error(np.concatenate(centre_losses))),
            loss=columns["loss"].mean(1),
            loss_error=_errors(columns["loss"]),
            linear=columns["linear"].mean(1),
            linear_error=_errors(columns["linear"]),
            gram=gram,
            gram_error=errors,
            local=ratio,
            local_error=ratio * _relative_error(columns["local"][..., 0], columns["local"][..., 1]),
            sqnr_db=sqnr,
            sqnr_error_db=10 / np.log(10) * _relative_error(columns["noise"].swapaxes(1, 2), signal.T),
            outputs=tuple(head.name for head in self.heads),
            sketched=sketched,
        )

    def superposed(self, table: Table, plan: Mapping[str, Option]) -> float:
        """Predict the loss of a plan as if responses added up: no run needed."""
        if table.sketched:
            raise InputError("The outputs are too large to keep every response, so superposition cannot be evaluated.")
        held = as_choices(table.centre)
        values = []
        for batch in range(self.batches):
            outputs = self.result(CentreJob(held, batch))
            total = outputs["centre"].astype(np.float64)
            for unit, option in plan.items():
                if table.centre.get(unit, FLOAT) != option:
                    total = total + self.result(ResponseJob(held, (unit, str(option)), batch))["response"]
            values.append(self._loss(outputs["float"], batch).values(total))
        return float(np.concatenate(values).mean())

    def responses(self, table: Table) -> Iterator[tuple[Loss, Array, npt.NDArray[np.float32]]]:
        """Yield for every batch the loss, the centre's outputs and the responses of the table's variants."""
        held = as_choices(table.centre)
        for batch in range(self.batches):
            outputs = self.result(CentreJob(held, batch))
            found = [
                self.result(ResponseJob(held, (variant.unit, str(variant.option)), batch))["response"]
                for variant in table.variants
            ]
            loss = self._loss(outputs["float"], batch)
            yield loss, outputs["centre"].astype(np.float64), np.stack(found).astype(np.float32, copy=False)

    def sample_losses(self, table: Table) -> Array:
        """Return the loss of every variant of a table on every sample, [variants, samples], in the samples' order."""
        held = as_choices(table.centre)
        return np.stack(
            [
                np.concatenate(
                    [
                        self.result(ResponseJob(held, (variant.unit, str(variant.option)), batch))["loss"]
                        for batch in range(self.batches)
                    ]
                )
                for variant in table.variants
            ]
        ).astype(np.float64)

    def float_outputs(self) -> Array:
        """Return the float model's outputs of every sample, the heads side by side."""
        jobs = [CentreJob((), batch) for batch in range(self.batches)]
        return np.concatenate([self.result(job)["float"] for job in jobs]).astype(np.float64)

    def pairs(self, table: Table, wanted: Iterable[tuple[Variant, Variant]] | None = None) -> Table:
        """Add the exact losses of pairs of variants, all of them unless told which."""
        rows: dict[Variant, list[Variant]] = {}
        asked = _all_pairs(table.variants) if wanted is None else wanted
        position = {variant: self._position(variant) for variant in table.variants}
        for a, b in asked:
            first, second = sorted((a, b), key=lambda v: (position[v], v))
            rows.setdefault(first, []).append(second)
        held = as_choices(table.centre)

        def job(first: Variant, batch: int) -> PairsJob:
            others = tuple((other.unit, str(other.option)) for other in rows[first])
            return PairsJob(held, (first.unit, str(first.option)), others, batch)

        self.run([job(first, batch) for batch in range(self.batches) for first in rows], "pairs")
        pairs = dict(table.pairs)
        for first, others in rows.items():
            losses = np.concatenate([self.result(job(first, batch))["pairs"] for batch in range(self.batches)], axis=1)
            for other, values in zip(others, losses, strict=True):
                pairs[first, other] = Estimate(*mean_and_error(values))
        return replace(table, pairs=pairs)

    def losses(self, plans: Sequence[Mapping[str, Option]]) -> list[Estimate]:
        """Measure the true loss of whole plans."""
        keys = [as_choices(plan) for plan in plans]
        self.run([PlanJob(k, batch) for batch in range(self.batches) for k in keys], "plans")
        return [
            Estimate(*mean_and_error(np.concatenate([self.result(PlanJob(k, b))["loss"] for b in range(self.batches)])))
            for k in keys
        ]

    def traces(self, draws: int = 4) -> dict[str, Estimate]:
        """Estimate the Fisher trace of every unit with weights from directional differences."""
        units = [unit.name for unit in self.space.units if unit.parameters and not unit.layers[0].in_body]
        self.run(
            [TraceJob(unit, draw, b) for b in range(self.batches) for unit in units for draw in range(draws)], "traces"
        )
        found = {}
        for unit in units:
            parts = [
                np.mean([self.result(TraceJob(unit, draw, b))["trace"] for draw in range(draws)], axis=0)
                for b in range(self.batches)
            ]
            found[unit] = Estimate(*mean_and_error(np.concatenate(parts)))
        return found

    # ---- running -------------------------------------------------------------------------------------------------

    def run(self, jobs: Sequence[Job], what: str) -> None:
        """Run the jobs that the store does not have; each result is in the store before the next is looked at.

        Progress is told in milliseconds of work, as foreseen: jobs of early layers take many times those of late ones.
        """
        missing = set(self.store.missing(key(job) for job in jobs))
        todo = [job for job in jobs if key(job) in missing]
        self._count_hessians(todo)
        work = self._work(jobs) if todo else {}
        total, last = sum(work.values()), time.perf_counter()
        done = total - sum(work[job] for job in set(todo))
        self.progress(what, done, total)

        def keep(job: Job, results: Results) -> None:
            nonlocal done, last
            now = time.perf_counter()
            self.store.put(key(job), job_json(job), results, now - last)
            last, done = now, min(done + work[job], total)
            self.fresh_jobs += 1
            self.progress(what, done, total)

        run_jobs(partial(run_job, self.recipe), todo, self.executor, on_result=keep, ahead=self.ahead)

    def _count_hessians(self, jobs: Sequence[Job]) -> None:
        """Count the Hessians that jobs need and no earlier one needed: results that the store has need none."""
        weighted = {
            unit: Option.parse(option)
            for choices in {choices for job in jobs for choices in rounded(job)}
            for unit, option in choices
            if Option.parse(option).weight_bits
        }
        plan = Plan(self.space.target, "", weighted)
        room = min(TOGETHER_BYTES, self.settings.memory // 8)
        self.builder.count_hessians(self.builder.calibrated.missing_hessians(plan), room)

    def result(self, job: Job) -> Results:
        """Return what the store has for a job, measured again if it was damaged or is of another form."""
        found = self.store.get(key(job))
        if found is not None and not fits(job, found):
            self.store.forget(key(job))
            found = None
        if found is None:
            self.run([job], "again")
            found = self.store.get(key(job))
        if found is None:
            raise InputError("The store does not keep what is written to it. Choose another with --store.")
        return found

    def variants(self, options: Sequence[Option], centre: Mapping[str, Option] | None = None) -> tuple[Variant, ...]:
        """Return every unit at every one of the options that it has and that is not the centre's."""
        centre = centre or {}
        found = []
        for unit in self.space.units:
            wanted = [*options, FLOAT] if centre.get(unit.name, FLOAT) != FLOAT else options
            if not unit.parameters:
                wanted = [Option(0, option.activation_bits) for option in wanted]
            for option in dict.fromkeys(wanted):
                if option in unit.options and option != centre.get(unit.name, FLOAT):
                    found.append(Variant(unit.name, option))
        return tuple(found)

    def cost(self, variants: Sequence[Variant]) -> Cost:
        """Estimate what measuring variants takes, before anything runs."""
        share = self._shares(variant.unit for variant in variants)
        runs = 2.0 + sum(share[variant.unit] for variant in variants)
        jobs = self.batches * (len(variants) + 1)
        rebuilt = len(variants) * (1 if self._pieces_stay(len(variants)) else self.batches)
        seconds = self.batches * runs * self._float_seconds() / _LITERAL_SPEED + rebuilt * _REBUILD_S + jobs * _JOB_S
        return Cost(len(variants), jobs, runs, self._memory_for(self.batch), seconds)

    def _shares(self, units: Iterable[str]) -> dict[str, float]:
        """Return for each unit the share of a run that comes at or behind it."""
        macs = np.array([max(segment.macs, 1) for segment in self.cuts.segments], np.float64)
        suffix = macs[::-1].cumsum()[::-1] / macs.sum()
        return {unit: float(suffix[self._position(Variant(unit, FLOAT))]) for unit in units}

    def _pieces_stay(self, variants: int) -> bool:
        """Tell whether what variants change stays in memory from batch to batch."""
        return variants * self._weight_bytes() / len(self.cuts.segments) < RECENT_BYTES

    def _work(self, jobs: Sequence[Job]) -> dict[Job, int]:
        """Foresee what every job takes, in milliseconds and at least one."""
        run = self._float_seconds() / _LITERAL_SPEED
        pairs = [choice for job in jobs if isinstance(job, PairsJob) for choice in job.others]
        variants = [job.variant for job in jobs if isinstance(job, ResponseJob)]
        share = self._shares({unit for unit, _ in (*variants, *pairs)})
        stays = self._pieces_stay(len(jobs) // self.batches)
        work = {}
        for job in jobs:
            fill = min(self.batch, self.samples - job.batch * self.batch) / self.batch
            rebuilt = _REBUILD_S if job.batch == 0 or not stays else 0.0
            if isinstance(job, ResponseJob):
                runs = share[job.variant[0]]
            elif isinstance(job, PairsJob):
                runs, rebuilt = sum(share[unit] for unit, _ in job.others), rebuilt * len(job.others)
            else:
                runs = 1.0
            work[job] = max(round(1000 * (runs * run * fill + rebuilt + _JOB_S)), 1)
        return work

    def _float_seconds(self) -> float:
        """Time the float model on one batch, from a few of its feeds."""
        if self._seconds_per_batch is None:
            session = self.builder.reference.session(
                self.builder.float_model, mode="deployed", threads=self.settings.threads
            )
            with np.load(self.folder / "batch_00000.npz", allow_pickle=False) as data:
                names = {name.partition("/")[2] for name in data.files if "/" in name}
                feed = {name: data[f"0/{name}"] for name in names}
                count = len(data["rows"])
            session.run(feed)
            began = time.perf_counter()
            for _ in range(3):
                session.run(feed)
            self._seconds_per_batch = count * (time.perf_counter() - began) / 3
        return self._seconds_per_batch

    def _position(self, variant: Variant) -> int:
        layers = self.space.unit(variant.unit).layers
        return min(self.cuts.segment_of(layer.node) for layer in layers)

    # ---- preparation ---------------------------------------------------------------------------------------------

    def _calibrate(self) -> None:
        """Count what any plan may need: every unit alone at each of its options, and all of them together."""
        calibrated: Calibrated = self.builder.calibrated
        tensors: set[str] = set()
        channels: dict[str, int] = {}
        for plan in _covering_plans(self.space.target, self.space.units):
            needs = calibrated.needs(plan)
            tensors, channels = tensors | needs.tensors, channels | needs.means
        self.builder.calibrate(Needs(tensors, channels, {}))
        save(self.model, self.folder / "model.onnx")
        Ranges(calibrated.stats, len(self.builder.samples), calibrated.means).write(self.folder / "ranges.npz")

    def _memory_for(self, batch: int) -> int:
        """Estimate the bytes of one process: what is held of the weights, and what is kept of a batch.

        Of float and of the centre there are pieces and sessions; of variants those that were run last, and the largest
        weight while it is quantised. What was counted is held by the export and by the jobs.
        """
        known = self.builder.calibrated
        counted = sum(mean.nbytes for mean in known.means.values()) + len(known.stats) * HISTOGRAM_BYTES
        constants = [v.const_value for v in self.model.graph.initializers.values() if v.const_value is not None]
        held = self._weight_bytes() + _SESSION * loaded_bytes(constants)
        largest = max((4 * constant.size for constant in constants), default=0)
        weights = round(_CENTRES * held + _QUANTISING * largest) + min(3 * RECENT_BYTES, round(_VARIANTS * held))
        crossing = sum(segment.live_bytes for segment in self.cuts.segments)
        each = (4 * stats.count // len(self.builder.samples) for stats in known.stats.values())
        widest = max(*(segment.live_bytes for segment in self.cuts.segments), *each, 0)
        rounding = _ROUNDING_BYTES * self.builder.calibrated.largest_hessian()
        held_besides = _OVERHEAD_BYTES + self.builder.samples.held_bytes + _COUNTED * counted
        return held_besides + weights + rounding + batch * (3 * crossing + 16 * widest)

    def _weight_bytes(self) -> int:
        constants = (value.const_value for value in self.model.graph.initializers.values())
        return sum(constant.nbytes for constant in constants if constant is not None)

    def _batch_size(self, count: int) -> int:
        """Choose how many samples are measured together, within the ceiling."""
        if self.settings.batch:
            return self.settings.batch
        least = self._memory_for(1)
        if least > self.settings.memory:
            raise InputError(
                f"Measuring this model takes {-(-least // 1_000_000)}MB for one sample at a time; the ceiling is "
                f"{self.settings.memory / 1e6:.6g}MB. Give --memory {-(-least // 1_000_000)}MB or more."
            )
        each = max(self._memory_for(2) - least, 1)
        return max(1, min(256, 1 + (self.settings.memory - least) // each, count))

    def _blended(self, count: int) -> bool:
        """Tell whether blends are measured: they are asked for, samples can be blended, and the loss allows it.

        Cross-entropy needs labels, which blends have not; of a user's function nothing is known.
        """
        losses = self.settings.function is None and all(head.kind != "ce" for head in self.heads)
        return bool(self.settings.blends) and losses and count > 1 and may_blend(self.builder.samples)

    def _lay_out(self, feeds: Iterator[Mapping[str, npt.NDArray[Any]]], labels: npt.NDArray[np.generic] | None) -> int:
        """Write the batches where workers read them; samples that a model takes together are stacked."""
        stack = self._may_stack()
        count = first = 0
        while group := list(islice(feeds, self.batch)):
            rows = [self._rows] * len(group)
            if stack and len({tuple((name, array.shape) for name, array in feed.items()) for feed in group}) == 1:
                parts = [group[i : i + _TOGETHER] for i in range(0, len(group), _TOGETHER)]
                rows = [len(part) for part in parts]
                group = [{name: np.concatenate([feed[name] for feed in part]) for name in part[0]} for part in parts]
            arrays = {f"{i}/{name}": array for i, feed in enumerate(group) for name, array in feed.items()}
            arrays["rows"] = np.array(rows)
            if labels is not None:
                arrays["labels"] = labels[first : first + sum(rows)]
            first += sum(rows)
            np.savez(self.folder / f"batch_{count:05d}.npz", **arrays)  # type: ignore[arg-type]
            count += 1
        return count

    def _may_stack(self) -> bool:
        """Tell whether samples can run as one batch: two together give what they give alone."""
        feeds = list(islice(self.builder.samples, 2))
        free = all(spec.shape and not isinstance(spec.shape[0], int) for spec in self.builder.inputs)
        if len(feeds) < 2 or self.builder.samples.batch != 1 or not free:
            return False
        if any(feeds[0][name].shape != feeds[1][name].shape for name in feeds[0]):
            return False
        session = self.builder.reference.session(self.builder.float_model, mode="deployed")
        pair = {name: np.concatenate([feeds[0][name], feeds[1][name]]) for name in feeds[0]}
        alone = [session.run(feed) for feed in feeds[:2]]
        together = session.run(pair)
        for head in self.heads:
            want = np.concatenate([np.asarray(one[head.name]) for one in alone])
            got = together[head.name]
            if got.shape != want.shape or not np.allclose(got, want, rtol=1e-3, atol=1e-4 * float(np.abs(want).max())):
                return False
        return True

    def _loss(self, reference: npt.NDArray[Any], batch: int) -> Loss:
        with np.load(self.folder / f"batch_{batch:05d}.npz", allow_pickle=False) as data:
            labels = data["labels"] if "labels" in data.files else None
        return Loss(self.recipe.heads, reference.astype(np.float64), labels, self.settings.function)

    def _with_powers(self, recipe: Recipe) -> Recipe:
        """Run the float model once and give every head its width, classes and mean signal power."""
        self.recipe = recipe
        jobs = [CentreJob((), batch) for batch in range(self.batches)]
        self.run(jobs, "float model")
        widths = self.result(jobs[0])["widths"]
        heads = tuple(
            replace(head, width=int(width), classes=int(classes))
            for head, (width, classes) in zip(self.heads, widths, strict=True)
        )
        losses = [Loss(heads, self.result(job)["float"].astype(np.float64)) for job in jobs]
        powers = np.concatenate([loss.signal() for loss in losses]).mean(0)
        return replace(recipe, heads=losses[0].with_powers(powers).heads)


def _function_name(function: LossFunction | None) -> str:
    """Return what tells a user's loss from another: where it is, and its code."""
    if function is None:
        return ""
    code = getattr(function, "__code__", None)
    digest = hashlib.sha256(code.co_code + repr(code.co_names).encode()).hexdigest() if code else ""
    return f" {getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))} {digest}"


def _errors(values: Array) -> Array:
    """Return standard errors over samples, the last axis."""
    count = values.shape[1]
    errors: Array = values.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(len(values))
    return errors


def _relative_error(top: Array, bottom: Array) -> Array:
    """Return the relative standard error of a ratio of sums over the last axis, to first order; 0 where a sum is 0."""
    count = top.shape[-1]
    if count < 2:
        return np.zeros(top.shape[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = top / top.mean(-1, keepdims=True) - bottom / bottom.mean(-1, keepdims=True)
    errors: Array = np.sqrt((apart**2).sum(-1) / (count * (count - 1)))
    return np.nan_to_num(errors, nan=0.0, posinf=0.0)


def _all_pairs(variants: Sequence[Variant]) -> Iterator[tuple[Variant, Variant]]:
    for i, a in enumerate(variants):
        for b in variants[i + 1 :]:
            if a.unit != b.unit:
                yield a, b


def _at_highest_opset(prepared: Prepared) -> ir.Model:
    """Raise the opset once to what the widest option needs, so that no variant changes it for the others."""
    needs = [
        prepared.target.opset_for(option, layer)
        for unit in prepared.space.units
        for option in unit.options
        for layer in unit.layers
    ]
    model = prepared.model.clone()
    raise_opset(model, max(needs, default=prepared.target.limits.lowest_opset))
    return model


def _covering_plans(target: str, units: Sequence[Any]) -> Iterator[Plan]:
    """Yield plans that together place every pair that any plan of these units can have."""
    widths = {o.activation_bits for unit in units for o in unit.options if o.activation_bits}
    for width in sorted(widths):
        choices = {}
        for unit in units:
            fitting = [o for o in unit.options if o.activation_bits == width]
            if fitting:
                choices[unit.name] = max(fitting)
                yield Plan(target, "", {unit.name: max(fitting)})
        yield Plan(target, "", choices)
    for bits in (8, 4):
        yield Plan(
            target,
            "",
            {
                unit.name: option
                for unit in units
                for option in unit.options
                if option.weight_bits and container_bits(option.weight_bits) == bits and not option.activation_bits
            },
        )
