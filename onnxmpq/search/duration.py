"""How long a search will take, part by part in seconds: foreseen for every effort, and told to the clock of a run.

    hessians ─▶ first table ─▶ tables around plans ─▶ plans ─▶ deciding ─▶ layers fitted ─▶ the file, verified

What is measured of the machine is how long a sample takes, and how long its part of the Hessians; the rest is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from onnxmpq.artifacts import Plan
from onnxmpq.budgets.limits import Limit
from onnxmpq.methods.likely import Work, likely
from onnxmpq.methods.study import Study, staged
from onnxmpq.options import EFFORTS, MeasureOptions
from onnxmpq.search.loop import Search
from onnxmpq.sensitivity.table import Cost, Variant
from onnxmpq.sensitivity.workers.bundles import EACH, MUCH
from onnxmpq.sensitivity.workers.executors import crowding, side_by_side
from onnxmpq.workspace.clock import Clock, Part
from onnxmpq.workspace.workspace import MOST_FITTED

MEASURING = ("centre", "responses")
FITTING = ("fit layers",)
FINISHING = ("lower", "verify", "guard", "accuracy")
_FITTED_RUNS = 6.0  # of all that layers are fitted on: in two networks, and once more within segments
_FITTED_HESSIANS = 2.4  # times what Hessians take: two moments instead of one, of half the places or fewer
_FITTED_S = 0.05  # for each unit: lowering and loading its pieces
_REFINED_S = 5e-8  # for each number that a table's responses hold: steps from plans, by superposition
_STEPS_AGAIN = 0.3  # of that, around plans, where fewer options are near
_SOLVED_S = 0.05  # for each unit: the problems of one table
_VERIFIED = 300.0  # runs of a sample that it takes to verify and judge a file
_FINISHED_S = 1.0  # the same, besides
_BISECTED = 4.0  # sizes that are searched where the smallest file within a drop is wanted


@dataclass(frozen=True, slots=True)
class Where:
    """How many ``processes`` run jobs, and by how much each is ``slower`` than one that has a core for itself.

    ``slower_alone`` is this process while the others have nothing to do.
    """

    processes: int = 1
    slower: float = 1.0
    slower_alone: float = 1.0

    @classmethod
    def of(cls, measure: MeasureOptions, cost: Cost) -> Self:
        """Look at where jobs of such a cost would run now."""
        processes = side_by_side(measure, cost.seconds, cost.memory)
        return cls(processes, crowding(measure, processes), crowding(measure, 1))


def foretell(search: Search, limits: Sequence[Limit]) -> tuple[Part, ...]:
    """Let the clock of a run, if it has one, know what a search will do from now on; return that."""
    clock = search.workspace.progress
    if not isinstance(clock, Clock):
        return ()
    study, how = search.study([limit for limit in limits if limit.budget.rows]), search.engine.options
    where = Where.of(how, first_cost(search, study))
    found = parts(search, study, where, sizes=_sizes(limits))
    clock.foresee(found)
    return found


def parts(
    search: Search, study: Study, where: Where, *, sizes: float = 1.0, hessians: float | None = None
) -> tuple[Part, ...]:
    """Return what a search of one effort is likely to do, in the order in which it begins.

    Several sizes may be searched, with one table. ``hessians`` are the seconds of counting these, where they are known.
    """
    work = likely(search.method, study)
    run = run_seconds(search)
    whole = study.table_runs(study.menu.variants, staged=staged(search.method))
    first, again = (first_cost(search, study).seconds * runs / whole for runs in (work.first, work.again))
    first += making_seconds(search, study, work)
    batches = study.batches(staged=staged(search.method))
    centre = 2.0 * run * study.repeats(staged=staged(search.method))
    end = (*FITTING, *FINISHING[:1])
    hessians = hessian_seconds(search) if hessians is None else hessians
    shared_in_part = (1.0 + 1.0 / where.processes) / 2  # few plans at a time: half of them find the others idle
    found = [
        Part(("count Hessians",), hessians, "share", ("responses",)),
        Part(MEASURING, first, "work", ("solve", "pairs", "plans", *end), _pace(first, centre, batches, where)),
        Part(MEASURING, again, "work", end, _pace(again, centre, batches, where)),
        Part(("plans",), sizes * work.plans * run, "work", end, where.slower * shared_in_part),
        Part(("pairs",), work.pairs * run, "work", end, where.slower / where.processes),
        Part(("solve", "sizes"), where.slower_alone * sizes * deciding_seconds(search, study, work), "time", end),
        Part(FITTING, where.slower_alone * sizes * fitting_seconds(search, run, hessians), "share", FINISHING[1:2]),
        Part(FINISHING, where.slower_alone * finishing_seconds(search, run)),
    ]
    return tuple(part for part in found if part.seconds > 0)


def wall_seconds(found: Sequence[Part]) -> float:
    """Return how long parts take."""
    return sum(part.seconds * part.pace for part in found)


def efforts(search: Search, limits: Sequence[Limit], where: Where) -> dict[str, tuple[float, float]]:
    """Return for every effort the runs of the model that a search is likely to take, and the seconds of all of it."""
    found: dict[str, tuple[float, float]] = {}
    rows = [limit for limit in limits if limit.budget.rows]
    hessians = hessian_seconds(search)
    for effort in EFFORTS:
        study = search.study(rows, effort=effort)
        made = parts(search, study, where, sizes=_sizes(limits), hessians=hessians)
        found[effort] = (likely(search.method, study).runs, wall_seconds(made))
    return found


def first_cost(search: Search, study: Study) -> Cost:
    """Return what the first measurement takes in one process."""
    return search.engine.cost(study.menu.variants, study.batches(staged=staged(search.method)))


def run_seconds(search: Search) -> float:
    """Return the seconds of one run of the model on all that was given, in one process."""
    engine = search.engine
    return engine.cost(()).seconds / 2 / engine.repeats


def making_seconds(search: Search, study: Study, work: Work) -> float:
    """Foresee the seconds of rounding all weights, and of finding what variants err by where they stand."""
    estimator = search.engine.estimator
    return sum(map(estimator.rounding_seconds, study.menu.variants)) + estimator.local_seconds(work.locally)


def hessian_seconds(search: Search) -> float:
    """Foresee the seconds of counting Hessians of what may be rounded."""
    widest = {unit.name: max(unit.options) for unit in search.menu.units}
    engine = search.engine
    return engine.estimator.hessian_seconds(Plan(engine.space.target, "", widest), engine.options.memory)


def deciding_seconds(search: Search, study: Study, work: Work) -> float:
    """Foresee the seconds of solving, and of steps by superposition, for the first table and those around plans."""
    engine = search.engine
    samples = engine.samples * (engine.first_share if staged(search.method) else 1.0)
    width = 0 if engine.sketches else sum(head.width for head in engine.heads)  # of sketches no steps are made
    numbers = len(study.menu.variants) * samples * width
    tables = 1.0 if study.effort == EFFORTS[0] else 2.0
    tables += _STEPS_AGAIN * work.again / work.first if work.first else 0.0
    return tables * (numbers * _REFINED_S + len(study.menu.units) * _SOLVED_S)


def fitting_seconds(search: Search, run: float, hessians: float) -> float:
    """Foresee the seconds of fitting the layers of a plan in the order of the network, where that is done."""
    workspace, estimator = search.workspace, search.engine.estimator
    if workspace.calibrated.numbers.rounding != "sequential":
        return 0.0
    share = min(MOST_FITTED / len(workspace.samples), 1.0)
    widest = [Variant(unit.name, max(unit.options)) for unit in search.menu.units]
    rounding = sum(map(estimator.rounding_seconds, widest))
    return share * (_FITTED_RUNS * run + _FITTED_HESSIANS * hessians) + rounding + _FITTED_S * len(widest)


def finishing_seconds(search: Search, run: float) -> float:
    """Foresee the seconds of writing the file, verifying and judging it."""
    return _FINISHED_S + _VERIFIED * run * search.engine.repeats / search.engine.samples


def _pace(seconds: float, centre: float, batches: int, where: Where) -> float:
    """Return the share of some seconds of a table that it takes in several processes.

    They share its jobs and, batch by batch, its centre; then each runs the centre of every batch by itself, or of
    those alone from which it takes a bundle.
    """
    processes = where.processes
    if processes == 1 or not seconds:
        return where.slower
    each = max(seconds - centre, 0.0) / processes
    few = centre <= MUCH * (centre + each)
    own = centre if few else min(EACH, batches) * centre / batches
    return where.slower * min((each + centre / min(processes, batches) + own) / seconds, 1.0)


def _sizes(limits: Sequence[Limit]) -> float:
    return 1.0 if all(limit.budget.rows for limit in limits) else _BISECTED
