"""The simulated schedule: no job is lost whatever workers do, and many workers are near what can be had."""

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from benchmarks.schedule import Hand, Timed, divided, hands_of, read, simulated
from onnxmpq.options import MeasureOptions
from onnxmpq.sensitivity.workers.bundles import Load, bundled
from tests.opened import engine_on
from tests.small import MODELS, small_model

BATCHES, VARIANTS, CENTRE_S = 8, 60, 2.0
JOBS = [
    Timed("c", batch, batch * VARIANTS + place, 1.15 * (VARIANTS - place) / VARIANTS)
    for batch in range(BATCHES)
    for place in range(VARIANTS)
]
CENTRES = {("c", batch): CENTRE_S for batch in range(BATCHES)}
LOAD = Load({job: job.seconds for job in JOBS}, lambda job: job.held, lambda job: CENTRES[job.held])


@pytest.mark.parametrize("kind", ["even", "slow", "late", "leaving"])
@pytest.mark.parametrize("count", [1, 7, 200])
def test_no_job_is_lost_and_none_runs_twice_in_vain(kind: str, count: int) -> None:
    hands = hands_of(count, kind, 8.0)
    run = simulated(JOBS, hands, CENTRES, load_s=0.5)
    assert run.kept == len(JOBS)
    assert (run.lost > 0) == (kind == "leaving" and count > 1)


def test_what_half_of_them_had_when_they_died_at_once_is_done_by_the_others() -> None:
    run = simulated(JOBS, [*[Hand(leaves=3.0)] * 100, *[Hand()] * 100], CENTRES)
    assert run.kept == len(JOBS)
    assert run.lost > 50


def test_where_all_died_those_that_join_later_do_the_rest() -> None:
    run = simulated(JOBS[:20], [*[Hand(leaves=3.0)] * 10, Hand(joins=15.0)], CENTRES)
    assert run.kept == 20
    assert run.lost
    assert run.seconds > 15.0


def test_one_worker_takes_the_work_and_the_centres() -> None:
    run = simulated(JOBS, [Hand()], CENTRES)
    assert run.seconds == pytest.approx(run.work, rel=0.02)
    assert run.centres == BATCHES * CENTRE_S


def test_many_workers_are_near_the_bound() -> None:
    """Nobody is done before a centre and a job; each of so many can share no centre with another."""
    run = simulated(JOBS, hands_of(200, "even", 0.0), CENTRES)
    share = sum(job.seconds for job in JOBS) / 200
    assert run.seconds < 1.5 * (CENTRE_S + share)
    assert run.centres <= 1.1 * 200 * CENTRE_S


def test_workers_that_join_late_are_used() -> None:
    few = simulated(JOBS, [Hand()] * 100, CENTRES)
    late = simulated(JOBS, [*[Hand()] * 100, *[Hand(joins=2.0)] * 100], CENTRES)
    assert late.kept == len(JOBS)
    assert late.seconds <= few.seconds


def test_what_bounds_a_run_is_named() -> None:
    crowd = hands_of(200, "even", 0.0)
    assert simulated(JOBS, [Hand()], CENTRES).bound == "jobs"
    assert simulated(JOBS, crowd, CENTRES).bound == "centres"
    assert simulated(JOBS, crowd, CENTRES, keep_s=0.1).bound == "keeping"
    assert simulated(JOBS, [*[Hand()] * 7, Hand(slower=50.0)], CENTRES).bound == "waiting"


def test_more_workers_take_less_time() -> None:
    seconds = [simulated(JOBS, hands_of(count, "even", 0.0), CENTRES).seconds for count in (1, 2, 4, 8, 16, 32, 200)]
    assert seconds == sorted(seconds, reverse=True)


# ---- bundles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 50, 200, 1000])
def test_bundles_hold_every_job_once_in_order_and_one_batch_each(workers: int) -> None:
    bundles = bundled(JOBS, LOAD, workers)
    assert [job for bundle in bundles for job in bundle] == JOBS
    assert all(len({job.batch for job in bundle}) == 1 for bundle in bundles)


def test_few_workers_take_jobs_one_by_one() -> None:
    assert {len(bundle) for workers in (1, 2, 4) for bundle in bundled(JOBS, LOAD, workers)} == {1}


def test_every_worker_of_many_has_a_bundle_and_bundles_become_smaller() -> None:
    assert len(bundled(JOBS, LOAD, 200)) >= 180
    some = bundled(JOBS, LOAD, 8)
    work = [np.mean([sum(job.seconds for job in bundle) for bundle in group]) for _, group in groupby(some, _batch)]
    assert work[0] > work[-1] >= CENTRE_S / 2
    assert len(some) >= 16


def _batch(bundle: tuple[Timed, ...]) -> int:
    return bundle[0].batch


# ---- measured jobs ---------------------------------------------------------------------------------------------------


def test_the_jobs_of_a_store_are_simulated(tmp_path: Path) -> None:
    with np.load(MODELS / "digits_calibration.npz") as data:
        images = {"image": data["image"][:6]}
    options = MeasureOptions(store=tmp_path / "s.store", executor="inline", batch=3)
    with engine_on(small_model(), images, options) as engine:
        table = engine.table(engine.space.units[0].options[1:3])
    jobs, centres = read(tmp_path / "s.store")
    assert len(jobs) == 2 * len(table.variants)
    assert {batch for _, batch in centres} == {0, 1}
    assert all(job.seconds > 0 for job in jobs)
    listed = {
        "jobs": [[job.centre, job.batch, job.number, job.seconds] for job in jobs],
        "centres": [[*held, seconds] for held, seconds in centres.items()],
    }
    (tmp_path / "jobs.json").write_text(json.dumps(listed), "utf-8")
    assert read(tmp_path / "jobs.json") == (jobs, centres)
    more, halves = divided(jobs, centres, 5)
    assert len(more) == 5 * len(table.variants)
    assert sum(job.seconds for job in more) == pytest.approx(2 * sum(job.seconds for job in jobs if not job.batch))
    assert simulated(more, hands_of(3, "even", 0.0), halves).kept == len(more)
