"""What measuring will cost, before anything runs: the memory of one process, runs of the model, and seconds."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice

import numpy as np

from onnxmpq.artifacts import FLOAT, Option, Plan
from onnxmpq.cuts.segments import Cuts, loaded_bytes
from onnxmpq.data.samples import Samples
from onnxmpq.errors import InputError
from onnxmpq.lower.calibrated import Calibrated
from onnxmpq.machine import RUN_AHEAD
from onnxmpq.model.layers import weight_bytes
from onnxmpq.numerics.hessians import TOGETHER_BYTES, View, count, passes
from onnxmpq.numerics.histograms import HISTOGRAM_BYTES
from onnxmpq.runtimes.devices import Device
from onnxmpq.sensitivity.batches import Layout, read_batch
from onnxmpq.sensitivity.chain import RECENT_BYTES
from onnxmpq.sensitivity.table import Cost, Variant
from onnxmpq.sensitivity.workers.worker import Job, LocalJob, PairsJob, ResponseJob, starts_from
from onnxmpq.workspace.workspace import Workspace

_LITERAL_SPEED = 0.9  # of the float model's speed: what literal Q/DQ leaves of it
_REBUILD_S = 0.04  # lowering, cutting and loading what a variant changes
_JOB_S = 5e-4  # keeping a result
_NEAREST_S, _ROUNDED_S = 1e-7, 3e-7  # for each weight: its scale and code, and where these follow a Hessian
_FACTORED_S = 8e-11  # for the cube of its columns: factoring a Hessian
_OVERHEAD_BYTES = 300_000_000
"""What a process takes before any model is loaded: Python, the libraries, the runtime."""

_CENTRES, _SESSION, _QUANTISING, _VARIANTS = 2, 1.25, 4, 2
"""How often the weights are held, what a session takes of its weights in float, and a weight while it is quantised."""

_COUNTED = 2
"""How often what was counted of tensors is held."""

_ROUNDING_BYTES = 60
"""What rounding takes for each number of a Hessian, at its height."""

_OUTPUT_BYTES = 72
"""What losses take for each number of the outputs: those of float, centre and variant, and what is made of them."""

_TIMED = 5  # runs of the float model: seconds are foreseen from the one in the middle
_MOST_TOGETHER = 256  # samples of a batch
_MANY = 200  # samples, of which Hessians of a few more are counted to foresee those of all


def hessian_room(ceiling: int) -> int:
    """Return the bytes of Hessians that are counted in one pass, in a process that takes no more than a ceiling."""
    return min(TOGETHER_BYTES, ceiling // 8)


class _Few:
    """The first of some samples, which are still as many: of each as much is looked at as where all are."""

    def __init__(self, samples: Samples, count: int) -> None:
        self.samples, self.count = samples, min(count, len(samples))

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        return islice(iter(self.samples), self.count)

    def __len__(self) -> int:
        return len(self.samples)


class Estimator:
    """Foresees what measuring a model takes that was cut into segments."""

    def __init__(self, workspace: Workspace, calibrated: Calibrated, cuts: Cuts, threads: int, device: Device) -> None:
        self.workspace, self.calibrated, self.cuts = workspace, calibrated, cuts
        self.threads, self.device = threads, device
        self._seconds: float | None = None

    def batch_within(self, ceiling: int, most: int) -> int:
        """Return how many of ``most`` samples are measured together in a process that takes no more than a ceiling."""
        least = self.memory(1)
        if least > ceiling:
            raise InputError(
                f"Measuring this model takes {-(-least // 1_000_000)}MB for one sample at a time; the ceiling is "
                f"{ceiling / 1e6:.6g}MB. Give --memory {-(-least // 1_000_000)}MB or more."
            )
        each = max(self.memory(2) - least, 1)
        return max(1, min(_MOST_TOGETHER, 1 + (ceiling - least) // each, most))

    def memory(self, batch: int) -> int:
        """Estimate the bytes of one process: what is held of the weights, and what is kept of a batch.

        Of float and of the centre there are pieces and sessions; of variants those that were run last, and the largest
        weight while it is quantised. What was counted is held by the export and by the jobs, and all that is read of
        the samples that are run ahead while it is counted.
        """
        known, samples = self.calibrated.known, self.workspace.samples
        counted = sum(mean.nbytes for mean in known.means.values()) + len(known.tensors) * HISTOGRAM_BYTES
        graph = self.calibrated.model.graph
        constants = [v.const_value for v in graph.initializers.values() if v.const_value is not None]
        held = self._weight_bytes + _SESSION * loaded_bytes(constants)
        largest = max((4 * constant.size for constant in constants), default=0)
        weights = round(_CENTRES * held + _QUANTISING * largest) + min(3 * RECENT_BYTES, round(_VARIANTS * held))
        crossing = sum(segment.live_bytes for segment in self.cuts.segments)
        widest = max(*(segment.live_bytes for segment in self.cuts.segments), self.largest)
        hessians = (view.groups * view.columns**2 for view in self._hessian_views.values())
        rounding = _ROUNDING_BYTES * max(hessians, default=0)
        besides = _OVERHEAD_BYTES + samples.held_bytes + _COUNTED * counted + RUN_AHEAD * sum(self._tensors)
        outputs = sum(math.prod(shape) for shape in self.workspace.output_shapes.values())
        sample = 3 * crossing + 16 * widest + _OUTPUT_BYTES * outputs
        return besides + weights + rounding + batch * sample

    @property
    def largest(self) -> int:
        """The bytes of the largest tensor of one sample that was counted."""
        return max(self._tensors, default=0)

    def cost(self, variants: Sequence[Variant], layout: Layout, batches: int) -> Cost:
        """Estimate what measuring variants takes on the first batches; runs are of those."""
        share = self._shares(variant.unit for variant in variants)
        runs = 2.0 + sum(share[variant.unit] for variant in variants)
        jobs = batches * (len(variants) + 1)
        rebuilt = len(variants) * (1 if self._pieces_stay(len(variants)) else batches)
        of_samples = self._sample_seconds(layout) * sum(layout.sizes[:batches])
        seconds = runs * of_samples + rebuilt * _REBUILD_S + jobs * _JOB_S
        return Cost(len(variants), jobs, runs, self.memory(layout.size), seconds)

    def work(self, jobs: Sequence[Job], layout: Layout) -> dict[Job, int]:
        """Foresee what every job takes, in milliseconds and at least one."""
        run = self._sample_seconds(layout)
        pairs = [choice for job in jobs if isinstance(job, PairsJob) for choice in job.others]
        variants = [job.variant for job in jobs if isinstance(job, ResponseJob)]
        share = self._shares({unit for unit, _ in (*variants, *pairs)})
        stays = self._pieces_stay(len(jobs) // max(len({job.batch for job in jobs}), 1))
        work = {}
        for job in jobs:
            rebuilt = _REBUILD_S if job.batch == 0 or not stays else 0.0
            if isinstance(job, ResponseJob):
                runs = share[job.variant[0]]
            elif isinstance(job, LocalJob):
                unit, option = job.variant
                runs, rebuilt = 0.0, rebuilt + self.rounding_seconds(Variant(unit, Option.parse(option)))
            elif isinstance(job, PairsJob):
                runs, rebuilt = sum(share[unit] for unit, _ in job.others), rebuilt * len(job.others)
            else:
                runs = 1.0
            work[job] = max(round(1000 * (runs * run * layout.sizes[job.batch] + rebuilt + _JOB_S)), 1)
        return work

    def centre_work(self, layout: Layout) -> Callable[[Job], float]:
        """Return what tells how long a worker runs before the first job of a batch: float, and the centre if another.

        In milliseconds, as work is.
        """
        return lambda job: (
            (2.0 if starts_from(job)[0] else 1.0) * 1000 * self._sample_seconds(layout) * layout.sizes[job.batch]
        )

    def rounding_seconds(self, variant: Variant) -> float:
        """Foresee the seconds of rounding the weights of a unit for an option, which is done once."""
        if not variant.option.weight_bits:
            return 0.0
        seconds = 0.0
        for layer in self.calibrated.space.unit(variant.unit).layers:
            for name in layer.weights:
                view, count = self._hessian_views.get(name), math.prod(layer.weight_shape)
                if view is None:
                    seconds += _NEAREST_S * count
                else:
                    seconds += _ROUNDED_S * count + _FACTORED_S * view.groups * view.columns**3
        return seconds

    def local_seconds(self, count: int) -> float:
        """Foresee the seconds of finding what some variants err by where they stand, their weights rounded already."""
        return _REBUILD_S * count

    def hessian_seconds(self, plan: Plan, ceiling: int) -> float:
        """Foresee the seconds of counting the Hessians of a plan: a few samples are counted, and thrown away."""
        samples = self.workspace.samples
        few, seconds = _Few(samples, 4 if len(samples) > _MANY else 2), 0.0
        for part in passes(self.calibrated.missing_hessians(plan), hessian_room(ceiling)):
            wanted = {reading.tensor for readings in part.values() for reading in readings}
            run = self.workspace.runner(wanted, self.calibrated.model)
            run(next(iter(few)))
            began = time.perf_counter()
            for _ in count(run, few, part):
                pass
            seconds += (time.perf_counter() - began) / (few.count + 1) * len(few)  # one runs while another is counted
        return seconds

    def position(self, variant: Variant) -> int:
        """Return the first segment that a variant changes."""
        layers = self.calibrated.space.unit(variant.unit).layers
        return min(self.cuts.segment_of(layer.node) for layer in layers)

    def _shares(self, units: Iterable[str]) -> dict[str, float]:
        """Return for each unit the share of a run that comes at or behind it."""
        macs = np.array([max(segment.macs, 1) for segment in self.cuts.segments], np.float64)
        suffix = macs[::-1].cumsum()[::-1] / macs.sum()
        return {unit: float(suffix[self.position(Variant(unit, FLOAT))]) for unit in units}

    def _pieces_stay(self, variants: int) -> bool:
        """Tell whether what variants change stays in memory from batch to batch."""
        return variants * self._weight_bytes / len(self.cuts.segments) < RECENT_BYTES

    def _sample_seconds(self, layout: Layout) -> float:
        """Return the seconds of the literal model on one sample, from a few timed runs of the float model."""
        if self._seconds is None:
            session = self.device.session(self.workspace.float_model, mode="deployed", threads=self.threads)
            batch = read_batch(layout.folder, 0)
            feed = {name: self.device.put(array) for name, array in batch.feeds[0].items()}
            session.run(feed)
            alone = self.threads == 1 and not self.device.identity
            clock = time.thread_time if alone else time.perf_counter  # not what others do meanwhile
            times = []
            for _ in range(_TIMED):
                began = clock()
                session.run(feed)
                times.append(clock() - began)
            seconds = len(batch.rows) * float(np.median(times)) / _LITERAL_SPEED
            self._seconds = seconds / layout.sizes[0]
        return self._seconds

    @property
    def _tensors(self) -> list[int]:
        """The bytes of every tensor of one sample that was counted."""
        return [4 * stats.count // len(self.workspace.samples) for stats in self.calibrated.known.tensors.values()]

    @cached_property
    def _hessian_views(self) -> dict[str, View]:
        return self.calibrated.hessian_views()

    @cached_property
    def _weight_bytes(self) -> int:
        return weight_bytes(self.calibrated.model)
