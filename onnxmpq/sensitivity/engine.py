"""The measure stage: what each choice costs, alone and together, from one run of the centre per batch.

    Engine(workspace, options)              calibrates, cuts, lays out the batches in a folder that workers see
    .table(centre, options)                 responses of every variant, and from them losses, linear part and Gram
    .pairs(table, ...)                      exact losses with two units changed
    .losses(plans)                          true losses of whole plans, on all samples
    .sample_losses_of(plans, batches)       the same on every sample of some batches
    .error_powers(plans)                    how far their outputs are from float's
    .traces()                               Fisher traces by directional differences

Every job's result goes to the store at once; what is there already is not run again. Results do not depend on the
executor, the order or the number of workers.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Estimate, Option, Plan, Space
from onnxmpq.cuts.cutting import cut
from onnxmpq.cuts.segments import Cuts
from onnxmpq.cuts.sizes import Seen
from onnxmpq.errors import InputError
from onnxmpq.lower.calibrated import Calibrated
from onnxmpq.metrics.heads import find_heads
from onnxmpq.metrics.losses import Head, Loss, mean_and_error, powered
from onnxmpq.metrics.parts import parted
from onnxmpq.options import MeasureOptions
from onnxmpq.sensitivity.assemble import Array, Assembler
from onnxmpq.sensitivity.batches import lay_out
from onnxmpq.sensitivity.cost import Estimator, hessian_room
from onnxmpq.sensitivity.stored.identity import identity_of
from onnxmpq.sensitivity.stored.keys import job_json, key
from onnxmpq.sensitivity.stored.store import Store
from onnxmpq.sensitivity.table import Cost, Table, Variant, pairs_of, variants_of
from onnxmpq.sensitivity.workers.bundles import Load, run_bundled
from onnxmpq.sensitivity.workers.devices import here_for, smallest
from onnxmpq.sensitivity.workers.executors import pool_of, runs_here
from onnxmpq.sensitivity.workers.judge import SKETCH, Results
from onnxmpq.sensitivity.workers.worker import (
    CentreJob,
    Job,
    LocalJob,
    PairsJob,
    PlanJob,
    Recipe,
    ResponseJob,
    TraceJob,
    Worker,
    as_choices,
    fits,
    rounded,
    starts_from,
)
from onnxmpq.targets import Target
from onnxmpq.workspace.workspace import Workspace


class Engine:
    """Measures the model of a workspace. Use it as a context manager.

    ``calibrated`` is that model as it is measured, where the caller has it already.
    """

    def __init__(
        self,
        workspace: Workspace,
        options: MeasureOptions | None = None,
        *,
        calibrated: Calibrated | None = None,
    ) -> None:
        """Calibrate, cut, lay out the batches, open the store and run the float model."""
        self.workspace, self.options = workspace, options or MeasureOptions()
        self.calibrated = calibrated or workspace.raised()
        self.fresh_jobs, self.device = 0, smallest(self.options)
        workspace.calibrate_for_all(self.calibrated)
        workspace.share(self.calibrated)
        self.seen = Seen.of(workspace.input_shapes, self.calibrated.known.tensors, len(workspace.samples))
        self.cuts: Cuts = cut(self.model, self.space, self.seen)
        heads = self._heads()
        here = here_for(self.options, self.device)
        self.estimator = Estimator(workspace, self.calibrated, self.cuts, self.options.threads, here)
        takes = self.cuts.macs, self.estimator.largest, self.estimator.batch_within
        self.layout = lay_out(workspace, heads, self.options, *takes, self.device)
        self._worker = Worker(self._recipe(heads))
        self.identity = identity_of(workspace, self.calibrated, self.layout, heads, self.options, self.device)
        self.store = Store.open(Path(self.options.store or self.layout.folder / "results.store"), self.identity)
        try:
            self._worker = Worker(self._recipe(self._with_powers()))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store and let go of what this process holds for jobs."""
        self.store.close()
        self._worker.rest()

    # ---- what is measured ----------------------------------------------------------------------------------------

    @property
    def model(self) -> ir.Model:
        """The model that is measured."""
        return self.calibrated.model

    @property
    def space(self) -> Space:
        """Its units, with their options and costs."""
        return self.calibrated.space

    @property
    def target(self) -> Target:
        """The target that it is measured for."""
        return self.calibrated.target

    @property
    def heads(self) -> tuple[Head, ...]:
        """The outputs that losses are of, with their widths and powers."""
        return self._worker.recipe.heads

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return self.layout.batches

    @property
    def first(self) -> int:
        """How many of them are the first stage: what all variants of a search are measured on."""
        return self.layout.first

    @property
    def first_share(self) -> float:
        """The share of the samples that are in it."""
        return self.layout.share(self.layout.first)

    @property
    def samples(self) -> int:
        """How many samples there are, blends among them."""
        return self.layout.samples

    @property
    def plain(self) -> int:
        """How many of them are no blends."""
        return self.layout.plain * self.layout.rows

    @property
    def sketches(self) -> bool:
        """Whether the outputs are so wide that sketches of responses are kept instead of them."""
        return sum(head.width for head in self.heads) > SKETCH

    @property
    def repeats(self) -> float:
        """How many samples are measured for each that was given."""
        return self.layout.repeats

    @property
    def live_bytes(self) -> int:
        """The bytes of the largest activations that are there at once."""
        return max((segment.live_bytes for segment in self.cuts.segments), default=0)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know: weights that are not rounded as they should be."""
        widest = {unit.name: max(unit.options) for unit in self.space.units}
        return self.workspace.calibrated.notes(Plan(self.space.target, "", widest))

    # ---- results -------------------------------------------------------------------------------------------------

    def table(
        self,
        options: Sequence[Option],
        centre: Mapping[str, Option] | None = None,
        variants: Sequence[Variant] | None = None,
        batches: int | None = None,
    ) -> Table:
        """Measure every unit at each of ``options`` that it has, or just ``variants``, alone, around ``centre``.

        It is measured on the first ``batches``, on all where none are told.
        """
        batches = self.batches if batches is None else batches
        centre = {unit: option for unit, option in (centre or {}).items() if option != FLOAT}
        variants = self.variants(options, centre) if variants is None else tuple(variants)
        if not variants:
            raise InputError("No unit has any of these options on this target. `onnxmpq inspect` lists what there is.")
        held = as_choices(centre)
        began = time.perf_counter()
        jobs = [
            ResponseJob(held, (variant.unit, str(variant.option)), batch)
            for batch in range(batches)
            for variant in variants
        ]
        self.run([CentreJob(held, batch) for batch in range(batches)], "centre")
        self.run(jobs, "responses")
        table = self._assembler.table(centre, variants, batches)
        cost = self.cost(variants, batches)
        return replace(
            table,
            cost={
                "jobs": cost.jobs,
                "jobs_run": self.fresh_jobs,
                "full_runs": cost.full_runs,
                "seconds": time.perf_counter() - began,
            },
        )

    def local_errors(self, variants: Sequence[Variant]) -> dict[Variant, float]:
        """Measure what units err by where they stand, relative to their signal: on few samples, and nothing behind."""
        jobs = {variant: LocalJob((variant.unit, str(variant.option)), 0) for variant in variants}
        self.run(list(jobs.values()), "responses")
        found = {}
        for variant, job in jobs.items():
            error, signal = self.result(job)["local"].sum(0)
            found[variant] = float(error / signal) if signal > 0 else 0.0
        return found

    def superposed(self, table: Table, plan: Mapping[str, Option]) -> float:
        """Predict the loss of a plan as if responses added up: no run needed."""
        return self._assembler.superposed(table, plan)

    def responses(self, table: Table) -> Iterator[tuple[Loss, Array, npt.NDArray[np.float32]]]:
        """Yield for every batch the loss, the centre's outputs and the responses of the table's variants."""
        return self._assembler.responses(table)

    def sample_losses(self, table: Table) -> Array:
        """Return the loss of every variant of a table on each of its samples, [variants, samples]."""
        return self._assembler.sample_losses(table)

    def own_samples(self, table: Table) -> npt.NDArray[np.int64]:
        """Return which of a table's samples are no blends, in the order they came in."""
        return self.layout.own(table.samples)

    def float_outputs(self) -> Array:
        """Return the float model's outputs of every sample, the heads side by side; of wide ones a sketch."""
        return self._assembler.float_outputs()

    def pairs(self, table: Table, wanted: Iterable[tuple[Variant, Variant]] | None = None) -> Table:
        """Add the exact losses of pairs of variants, all of them unless told which."""
        rows: dict[Variant, list[Variant]] = {}
        asked = pairs_of(table.variants) if wanted is None else wanted
        position = {variant: self.estimator.position(variant) for variant in table.variants}
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
        return [Estimate(*mean_and_error(losses)) for losses in self.sample_losses_of(plans, self.batches)]

    def sample_losses_of(self, plans: Sequence[Mapping[str, Option]], batches: int) -> Array:
        """Measure the true loss of whole plans on every sample of the first batches, [plans, samples]."""
        return self._of_plans("loss", plans, batches)

    def error_powers(self, plans: Sequence[Mapping[str, Option]]) -> Array:
        """Measure how far whole plans are from the float model: error over signal power of its outputs, summed up."""
        signal = np.array([head.power for head in self.heads])
        powers: Array = (self._of_plans("noise", plans, self.batches) / signal).sum(2).mean(1)
        return powers

    def _of_plans(self, figure: str, plans: Sequence[Mapping[str, Option]], batches: int) -> Array:
        """Measure whole plans on the first batches, and return one figure of every sample, [plans, samples, ...]."""
        keys = [as_choices(plan) for plan in plans]
        self.run([PlanJob(k, batch) for batch in range(batches) for k in keys], "plans")
        rows = [np.concatenate([self.result(PlanJob(k, b))[figure] for b in range(batches)]) for k in keys]
        return np.array(rows, np.float64)

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

    def variants(self, options: Sequence[Option], centre: Mapping[str, Option] | None = None) -> tuple[Variant, ...]:
        """Return every unit at every one of the options that it has and that is not the centre's."""
        return variants_of(self.space, options, centre or {})

    def cost(self, variants: Sequence[Variant], batches: int | None = None) -> Cost:
        """Estimate what measuring variants takes on the first batches, or on all, before anything runs."""
        return self.estimator.cost(variants, self.layout, self.batches if batches is None else batches)

    # ---- running -------------------------------------------------------------------------------------------------

    def run(self, jobs: Sequence[Job], what: str) -> None:
        """Run the jobs that the store does not have; each result is in the store before the next is looked at.

        Progress is told in milliseconds of work, as foreseen: jobs of early layers take many times those of late ones.
        """
        missing = set(self.store.missing(key(job) for job in jobs))
        todo = [job for job in jobs if key(job) in missing]
        self._count_hessians(todo)
        work = self.estimator.work(jobs, self.layout) if todo else {}
        total, last = sum(work.values()), time.perf_counter()
        done = total - sum(work[job] for job in set(todo))
        self.workspace.progress(what, done, total)
        if not todo:
            return

        def keep(job: Job, results: Results) -> None:
            nonlocal done, last
            now = time.perf_counter()
            self.store.put(key(job), job_json(job), results, now - last)
            last, done = now, min(done + work[job], total)
            self.fresh_jobs += 1
            self.workspace.progress(what, done, total)

        held = 1 if self.device.room else self.layout.size  # what a GPU holds of a batch takes no memory of a process
        executor = pool_of(self.options, (total - done) / 1000, self.estimator.memory(held))
        if not runs_here(executor):
            self._worker.rest()
        load = Load(work, starts_from, self.estimator.centre_work(self.layout))
        run_bundled(self._worker, todo, executor, on_result=keep, load=load, ahead=self.options.ahead)

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

    def _count_hessians(self, jobs: Sequence[Job]) -> None:
        """Count the Hessians that jobs need and no earlier one needed: results that the store has need none."""
        weighted = {
            unit: Option.parse(option)
            for choices in {choices for job in jobs for choices in rounded(job)}
            for unit, option in choices
            if Option.parse(option).weight_bits
        }
        wanted = self.calibrated.missing_hessians(Plan(self.space.target, "", weighted))
        self.workspace.count_hessians(wanted, hessian_room(self.options.memory), self.model)

    @property
    def _assembler(self) -> Assembler:
        function, layout = self.options.function, self.layout
        rows = tuple(size * layout.rows for size in layout.sizes)
        return Assembler(self.result, self.target.name, self.heads, rows, layout.folder, function)

    # ---- preparation ---------------------------------------------------------------------------------------------

    def _heads(self) -> tuple[Head, ...]:
        """Find the outputs that count, by their parts unless a loss was named: a user's function sees whole ones."""
        heads = find_heads(self.model, self.options.loss, self.options.outputs)
        whole = self.options.loss != "auto" or self.options.function is not None
        return heads if whole else parted(self.model, heads)

    def _recipe(self, heads: tuple[Head, ...]) -> Recipe:
        return Recipe(
            str(self.workspace.folder),
            str(self.layout.folder),
            self.target,
            self.calibrated.numbers,
            heads,
            self.seen,
            self.options.threads,
            self.options.seed,
            self.options.function,
            self.options.devices,
            self.options.memory,
        )

    def _with_powers(self) -> tuple[Head, ...]:
        """Run the float model once and give every head its width, classes and mean signal power."""
        jobs = [CentreJob((), batch) for batch in range(self.batches)]
        self.run(jobs, "float model")
        widths = self.result(jobs[0])["widths"]
        heads = tuple(
            replace(head, width=int(width), classes=int(classes))
            for head, (width, classes) in zip(self.heads, widths, strict=True)
        )
        powers = np.concatenate([self.result(job)["signal"] for job in jobs]).mean(0)
        if not any(head.centred for head in heads):
            return powered(heads, powers)
        spreads = np.concatenate([self.result(job)["spread"] for job in jobs])
        return powered(heads, powers, spreads.mean(0) if len(spreads) else None)
