"""``python -m benchmarks schedule``: what measured jobs would take on many workers, some of them late, leaving or slow.

    store, or a saved list ─▶ jobs with their seconds ─▶ run_bundled ─▶ SimulatedExecutor ─▶ seconds that never passed

What hands out jobs is what hands them out in a run; workers, and the time, are simulated. A worker that takes a job of
another batch than its last one runs the centre first, and each that joins loads the model. Jobs of a store have the
seconds that they took where they ran in one process: ``onnxmpq measure --executor inline --store FILE``.
"""

import heapq
import json
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from onnxmpq.sensitivity.workers.bundles import Load, run_bundled

P = ParamSpec("P")
T = TypeVar("T")
COUNTS = (1, 2, 4, 8, 16, 32, 64, 100, 200)


@dataclass(frozen=True, slots=True)
class Timed:
    """One measured job: what it starts from (a centre and a batch), which it is among those, and its seconds."""

    centre: str
    batch: int
    number: int
    seconds: float

    @property
    def held(self) -> tuple[str, int]:
        """Return what a worker keeps for it."""
        return self.centre, self.batch


@dataclass(frozen=True, slots=True)
class Hand:
    """A simulated worker: when it joins and leaves, and by how much it is slower than where jobs were measured."""

    joins: float = 0.0
    leaves: float = float("inf")
    slower: float = 1.0


@dataclass(slots=True)
class _At:
    """What a worker does: the centre that it keeps, and the task that it has."""

    hand: Hand
    held: object = None
    loaded: bool = False
    task: "tuple[int, Future[Any], Callable[[], Any]] | None" = None


@dataclass(slots=True)
class SimulatedExecutor(Executor):
    """Workers and a time that passes when it is waited for; ``wait`` stands in for that of `concurrent.futures`.

    A task takes ``sent_s`` to come and go, and the first one of a worker ``load_s`` more. A worker that leaves loses
    its task. ``spent_s`` is what workers did in all, ``centres_s`` what of it went to centres.
    """

    hands: Sequence[Hand]
    centre_s: Callable[[Timed], float]
    sent_s: float = 0.005
    load_s: float = 0.0
    now: float = 0.0
    spent_s: float = 0.0
    centres_s: float = 0.0
    lost: int = 0
    _at: list[_At] = field(init=False)
    _queue: "deque[tuple[Future[Any], Callable[[], Any], tuple[Timed, ...]]]" = field(default_factory=deque)
    _events: list[tuple[float, int, int, str]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        """Let workers come and go at their times."""
        self._at = [_At(hand) for hand in self.hands]
        for number, hand in enumerate(self.hands):
            self._push(hand.joins, number, "joins")
            if hand.leaves < float("inf"):
                self._push(hand.leaves, number, "leaves")

    @property
    def workers(self) -> int:
        """How many workers there are at the moment."""
        return max(sum(hand.joins <= self.now < hand.leaves for hand in self.hands), 1)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a bundle of jobs."""
        future: Future[T] = Future()
        bundle = cast("tuple[Timed, ...]", args[0])
        self._queue.append((future, lambda: fn(*args, **kwargs), bundle))
        return future

    def wait(
        self, futures: Iterable[Future[Any]], timeout: float, return_when: str
    ) -> tuple[set[Future[Any]], set[Any]]:
        """Let time pass until one of the futures is done."""
        wanted = set(futures)
        self._hand_out()
        while not (done := {future for future in wanted if future.done()}):
            if not self._events:
                raise RuntimeError("No worker is left, and none will join.")
            moment, _, number, what = heapq.heappop(self._events)
            self.now = max(self.now, moment)
            self._happens(number, what)
            self._hand_out()
        return done, wanted - done

    def _happens(self, number: int, what: str) -> None:
        """Let a worker join, finish its task, or leave and lose it."""
        worker = self._at[number]
        if what == "joins" or worker.task is None:
            return
        token, future, call = worker.task
        if what == "leaves":
            self.lost += 1
            future.set_exception(BrokenExecutor("The worker left."))
        elif what == str(token):
            future.set_result(call())
        else:
            return
        worker.task = None

    def _hand_out(self) -> None:
        """Give what waits to workers that are there and free, first come, first served."""
        for number, worker in enumerate(self._at):
            there = worker.hand.joins <= self.now < worker.hand.leaves
            if self._queue and there and worker.task is None:
                future, call, bundle = self._queue.popleft()
                future.set_running_or_notify_cancel()
                centre = 0.0 if worker.held == bundle[0].held else self.centre_s(bundle[0]) * worker.hand.slower
                work = sum(job.seconds for job in bundle) * worker.hand.slower
                seconds = self.sent_s + centre + work + (0.0 if worker.loaded else self.load_s)
                token = self._count + 1
                worker.held, worker.loaded, worker.task = bundle[0].held, True, (token, future, call)
                self.spent_s, self.centres_s = self.spent_s + seconds, self.centres_s + centre
                self._push(self.now + seconds, number, str(token))

    def _push(self, moment: float, number: int, what: str) -> None:
        self._count += 1
        heapq.heappush(self._events, (moment, self._count, number, what))


@dataclass(frozen=True, slots=True)
class Run:
    """What a simulated run took, and the least that it could have: all the work, shared evenly, or the longest job."""

    workers: int
    seconds: float
    least: float
    work: float
    centres: float
    busy: float
    lost: int
    kept: int
    keeping: float

    @property
    def efficiency(self) -> float:
        """Return the work of one worker, centres included, over what all workers were there for."""
        return self.work / (self.workers * self.seconds)

    @property
    def bound(self) -> str:
        """Say what most of the time of workers goes to besides jobs; or that results come faster than they are kept."""
        if self.keeping > 0.5 * self.seconds:
            return "keeping"
        shares = {"centres": self.centres, "waiting": max(self.workers * self.seconds - self.busy, 0.0)}
        name = max(shares, key=lambda name: shares[name])
        return name if shares[name] > self.work / 10 else "jobs"


def simulated(
    jobs: Sequence[Timed],
    hands: Sequence[Hand],
    centres: Mapping[tuple[str, int], float],
    *,
    keep_s: float = 0.002,
    load_s: float = 0.0,
) -> Run:
    """Run measured jobs on simulated workers, as ``run_bundled`` hands them out; keeping a result takes ``keep_s``."""
    executor = SimulatedExecutor(hands, lambda job: centres[job.held], load_s=load_s)
    kept: list[Timed] = []

    def keep(job: Timed, result: Timed) -> None:
        kept.append(result)
        executor.now += keep_s

    load = Load({job: job.seconds for job in jobs}, lambda job: job.held, lambda job: centres[job.held])
    run_bundled(_done, jobs, executor, on_result=keep, load=load, wait=executor.wait)
    own = sum(job.seconds for job in jobs)
    work = own + sum(centres[held] for held in dict.fromkeys(job.held for job in jobs))
    least = max(own / len(hands), max(job.seconds + centres[job.held] for job in jobs), keep_s * len(jobs))
    return Run(
        *(len(hands), executor.now, least, work, executor.centres_s, executor.spent_s),
        *(executor.lost, len(set(kept)), keep_s * len(jobs)),
    )


def _done(job: Timed) -> Timed:
    return job


def hands_of(count: int, kind: str, seconds: float, seed: int = 0) -> list[Hand]:
    """Return workers of a kind: ``even``, a fifth ``slow``, half of them ``late``, or a quarter ``leaving``.

    They are slower by four; they come and go within ``seconds``.
    """
    generator = np.random.default_rng(seed)
    some = generator.permutation(count)
    found = [Hand() for _ in range(count)]
    for place in some[: count // 5 if kind == "slow" else count // 2 if kind == "late" else 0]:
        found[place] = Hand(slower=4.0) if kind == "slow" else Hand(joins=float(generator.uniform(0, seconds)))
    for place in some[: count // 4 if kind == "leaving" else 0]:
        found[place] = Hand(leaves=float(generator.uniform(0, seconds)))
    return found


def read(file: Path) -> tuple[list[Timed], dict[tuple[str, int], float]]:
    """Read measured responses, and the seconds of their centres, from a store or a list that was saved from one."""
    if file.suffix == ".json":
        held = json.loads(file.read_text("utf-8"))
        jobs = [Timed(*job) for job in held["jobs"]]
        return jobs, {(centre, batch): seconds for centre, batch, seconds in held["centres"]}
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as sql:
        rows = [
            (json.loads(job), seconds)
            for job, seconds in sql.execute("SELECT job, seconds FROM results ORDER BY rowid")
        ]
    centres = {_held(job["CentreJob"]): seconds for job, seconds in rows if "CentreJob" in job}
    found = [(_held(job["ResponseJob"]), seconds) for job, seconds in rows if "ResponseJob" in job]
    jobs = [Timed(*held, number, seconds) for number, (held, seconds) in enumerate(found)]
    return jobs, {held: centres.get(held, 0.0) for held in dict.fromkeys(job.held for job in jobs)}


def _held(job: Mapping[str, Any]) -> tuple[str, int]:
    return json.dumps(job["centre"]), int(job["batch"])


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--workers", "counts", multiple=True, type=click.IntRange(min=1), default=COUNTS, show_default=True)
@click.option("--batches", default=0, help="As if samples were in so many batches; as they were if 0.")
@click.option("--load", "load_s", default=0.5, show_default=True, help="Seconds that a worker takes to load the model.")
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the jobs as a list, without results."
)
def schedule(file: Path, counts: Sequence[int], batches: int, load_s: float, save: Path | None) -> None:
    """Simulate the jobs of a store, or of a saved list, on many workers."""
    jobs, centres = read(file)
    if save:
        rows = [[job.centre, job.batch, job.number, job.seconds] for job in jobs]
        save.write_text(
            json.dumps({"jobs": rows, "centres": [[*held, s] for held, s in centres.items()]}) + "\n", "utf-8"
        )
    if batches:
        jobs, centres = divided(jobs, centres, batches)
    grid = Table(
        title=f"{len(jobs)} jobs in {len(centres)} batches, {sum(job.seconds for job in jobs):.1f} s in one process"
    )
    for column in ("workers", "kind", "seconds", "least", "efficiency", "centres", "lost", "bound by"):
        grid.add_column(column, justify="left" if column in ("kind", "bound by") else "right")
    for count in counts:
        even = simulated(jobs, hands_of(count, "even", 0), centres, load_s=load_s)
        for kind in ("even", "slow", "late", "leaving") if count >= 8 else ("even",):
            run = simulated(jobs, hands_of(count, kind, even.seconds), centres, load_s=load_s)
            grid.add_row(
                *(str(count), kind, f"{run.seconds:.1f}", f"{run.least:.1f}", f"{run.efficiency:.0%}"),
                *(f"{run.centres / run.busy:.0%}", str(run.lost), run.bound),
            )
    Console(width=120).print(grid)


def divided(
    jobs: Sequence[Timed], centres: Mapping[tuple[str, int], float], batches: int
) -> tuple[list[Timed], dict[tuple[str, int], float]]:
    """Return the same work with the samples of each centre in another number of batches."""
    found, made = [], {}
    for centre in dict.fromkeys(job.centre for job in jobs):
        own = [job for job in jobs if job.centre == centre]
        there = len({job.batch for job in own})
        first = [job for job in own if job.batch == own[0].batch]
        for batch in range(batches):
            made[centre, batch] = sum(s for held, s in centres.items() if held[0] == centre) / batches
            found += [Timed(centre, batch, job.number, job.seconds * there / batches) for job in first]
    return found, made
