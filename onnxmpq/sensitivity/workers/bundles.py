"""Jobs that go to a worker together, so that many workers do not each run the centre of every batch.

    jobs of batch 0 │ jobs of batch 1 │ ...        one by one: every worker meets every batch, and runs its centre
    ├──┬──┬──┤      │ ├──┬──┬──┤      │            in bundles: a worker meets as many batches as it takes bundles

A worker keeps the centre of the batch that it saw last. As long as each has many jobs of every batch that costs little;
for many workers it is most of what they do. What is in a bundle is of one batch and one centre, in the order of the
jobs. Results are the same, and are handed over one by one.
"""

import concurrent.futures
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Generic, TypeVar

from onnxmpq.sensitivity.workers.executors import in_flight, workers_of
from onnxmpq.sensitivity.workers.running import run_jobs

J = TypeVar("J")
R = TypeVar("R")

MUCH = 0.2  # of the time of a worker: centres that take more are shared by bundles
EACH = 2  # bundles for each worker of what is left: they become smaller, and who is slow or joins late takes fewer


@dataclass(frozen=True, slots=True)
class Load(Generic[J]):
    """What jobs take: ``work`` of each, what a worker keeps for it (``held``), and how long it takes to make that.

    Consecutive jobs for which the same is kept can share it; ``centre`` tells what that takes before any of them.
    """

    work: Mapping[J, float]
    held: Callable[[J], Hashable]
    centre: Callable[[J], float]


@dataclass(frozen=True, slots=True)
class Together(Generic[J, R]):
    """Does the jobs of a bundle one after the other, in a worker."""

    function: Callable[[J], R]

    def __call__(self, jobs: tuple[J, ...]) -> list[R]:
        """Return the results in the order of the jobs."""
        return [self.function(job) for job in jobs]


def run_bundled(
    function: Callable[[J], R],
    jobs: Sequence[J],
    executor: Executor,
    *,
    on_result: Callable[[J, R], None],
    load: Load[J],
    ahead: int = 0,
    wait: Callable[..., Any] = concurrent.futures.wait,
) -> None:
    """Run jobs as ``run_jobs`` does, in bundles where there are many workers; a bundle that is lost runs job by job.

    Where ``ahead`` is 0 it follows the number of workers, which may join and leave.
    """
    bundles = bundled(jobs, load, workers_of(executor))

    def each(bundle: tuple[J, ...], results: list[R]) -> None:
        for job, result in zip(bundle, results, strict=True):
            on_result(job, result)

    run_jobs(
        Together(function),
        bundles,
        executor,
        on_result=each,
        ahead=ahead or partial(in_flight, executor),
        split=lambda bundle: [(job,) for job in bundle],
        wait=wait,
    )


def bundled(jobs: Sequence[J], load: Load[J], workers: int) -> list[tuple[J, ...]]:
    """Return jobs in bundles, one by one where workers are few."""
    groups = [list(group) for _, group in groupby(jobs, load.held)]
    if not groups:
        return []
    each = sum(load.work[job] for job in jobs) / workers
    centres = [load.centre(group[0]) for group in groups]
    if workers < 2 or sum(centres) <= MUCH * (sum(centres) + each):
        return [(job,) for job in jobs]
    found: list[tuple[J, ...]] = []
    left = each * workers
    for group, centre in zip(groups, centres, strict=True):
        most = min(max(left / workers / EACH, centre), each)  # and some for every worker
        found += _cut(group, load.work, most)
        left -= sum(load.work[job] for job in group)
    return found


def _cut(group: Sequence[J], work: Mapping[J, float], most: float) -> list[tuple[J, ...]]:
    """Cut the jobs of one batch into bundles of about as much work, ``most`` if jobs are not larger themselves."""
    total = sum(work[job] for job in group)
    each = total / max(1.0, -(-total // most))
    found: list[list[J]] = [[]]
    done = 0.0
    for job in group:
        if found[-1] and done + work[job] / 2 > each * len(found):
            found.append([])
        found[-1].append(job)
        done += work[job]
    return [tuple(bundle) for bundle in found]
