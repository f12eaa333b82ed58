"""The search stage: from a prepared model, samples and budgets to measured plans.

    Search(exporter, empty, ...)      opens the measuring engine
    .decide(limits)                   the best measured plan within budgets
    .within_drop(limits, metric)      the smallest plan that keeps a metric
    .front(kind, points)              plans over one budget, from one measurement

File sizes are those of files: what a plan stores beside its units (graph, names, scales of activations) is found by
serialising it, so that a plan is within its size to the byte before it is exported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from onnxmpq.artifacts import FLOAT, Estimate, Option, Plan, Space
from onnxmpq.budgets.limits import Limit, budget
from onnxmpq.budgets.size import Size
from onnxmpq.errors import InfeasibleError, InputError
from onnxmpq.methods.agreement import Agreement
from onnxmpq.methods.named import chosen
from onnxmpq.methods.study import Choices, Menu, Study, blending, drawn, make_rows
from onnxmpq.methods.uniform import uniform_choices
from onnxmpq.options import EFFORTS, Constraints, MeasureOptions, SearchOptions
from onnxmpq.search.constraints import make_menu
from onnxmpq.search.decide import Decision, decide
from onnxmpq.search.sizing import Sizing
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.sensitivity.table import Table
from onnxmpq.solve import relative_gap
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import parsed

_SIZE = Size()
SIZING_ROUNDS = 6
BISECTIONS = 6
NEARLY = 1.02  # of the best loss: a plan whose file fits is taken at that, and the search is not done again


@dataclass(frozen=True, slots=True)
class Point:
    """One plan of a front: the limit it was solved for, what it takes of it, its file, and what it loses.

    ``source`` is the method or the uniform plan that it comes from; of a uniform one nothing was predicted.
    """

    limit: float
    choices: Choices
    usage: float
    file_bytes: int
    predicted: float | None
    bound: float | None
    loss: Estimate
    status: str
    source: str

    @property
    def gap(self) -> float | None:
        """Return how much of what was predicted the bound leaves open; None where nothing was."""
        if self.predicted is None or self.bound is None:
            return None
        return relative_gap(self.predicted, self.bound)


Metric = Callable[[Choices], tuple[float, float]]
"""How far the metric falls with a plan, as a share, and its standard error."""


class Search:
    """One model, one set of samples: everything is measured once, whatever is asked. Use it as a context manager."""

    def __init__(
        self,
        exporter: Exporter,
        empty: Plan,
        options: SearchOptions,
        measure: MeasureOptions,
        constraints: Constraints,
    ) -> None:
        """Open the engine; choices become files as ``empty`` would with them in it."""
        self.exporter, self.empty, self.method = exporter, empty, chosen(options)
        self.workspace, self.effort, self.seed = exporter.workspace, options.effort, measure.seed
        self.options = parsed(options.options)
        # What is measured is written in a higher opset; its units are the same, with figures of that opset.
        measured = self.workspace.raised()
        self.menu = make_menu(measured.space, self.options, constraints)
        if measure.blends is None:
            measure = replace(measure, blends=blending(self.method))
        self.engine = Engine(self.workspace, measure, calibrated=measured)
        self.sizing = Sizing(exporter, empty, self.menu)
        self._overhead: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.close()

    def plan(self, choices: Choices) -> Plan:
        """Return the plan that choices are."""
        return replace(self.empty, choices=choices)

    def size(self, choices: Choices) -> int:
        """Return the bytes of the file that choices lead to."""
        return self.sizing.size(choices)

    def study(self, limits: Sequence[Limit], menu: Menu | None = None, effort: str | None = None) -> Study:
        """Return the study of some budgets; rows of sizes count what each option adds to the graph, too."""
        menu = menu or self.menu
        sized = any(limit.budget.of_file for limit in limits)
        rows = make_rows(limits, menu, self, self.sizing.beside(menu.offered) if sized else None)
        effort = effort or self.effort
        return Study(self.engine, menu, rows, effort=effort, seed=self.seed, progress=self.workspace.progress)

    def decide(self, limits: Sequence[Limit]) -> Decision:
        """Return the best measured plan within the budgets; its file is within its size to the byte.

        Rows foresee the size of a file up to the names of shared tensors. Where the best plan's file turns out larger,
        or the nearest plan's smaller than its row says, what belongs to no unit is corrected and the search done again,
        with little effort until files fit.
        """
        size = next((limit for limit in limits if limit.budget.of_file), None)
        if size is None:
            study = self.study(limits)
            return _judged(decide(study, self.method), study)
        most = self._bytes(size)
        effort: str = EFFORTS[0]
        last: Choices | None = None
        for number in range(SIZING_ROUNDS):
            study = self.study(limits, effort=effort)
            sizes = _Sizes(self.size, most)
            try:
                decision = decide(study, self.method, sizes.fits)
            except InfeasibleError:
                nearest = study.nearest()
                if nearest is None or self.size(nearest) == study.foreseen_bytes(nearest):
                    raise
                self._overhead = self.overhead + self.size(nearest) - study.foreseen_bytes(nearest)
                last = nearest if study.feasible(nearest, but=size.kind) and self.size(nearest) <= most else last
                continue
            first, over = next(iter(sizes.over.items()))
            within = sizes.fits(decision.choices)
            if within and decision.loss.value <= NEARLY * study.losses([dict(first)])[0].value:
                if effort == self.effort:
                    return _judged(decision, study)
                effort = self.effort
            else:
                self._overhead = self.overhead + (over << number)
        if last is None:
            raise InfeasibleError(f"No plan was found whose file is within {size}. Loosen it by a few bytes.")
        held = tuple((last.get(unit.name, FLOAT),) for unit in self.menu.units)
        study = self.study([limit for limit in limits if limit != size], menu=Menu(self.menu.units, held))
        return _judged(decide(study, self.method), study)

    def within_drop(self, limits: Sequence[Limit], metric: Metric) -> tuple[Decision, tuple[float, float]]:
        """Return the smallest plan, within the other budgets, whose metric falls no more than asked, and how far.

        A fall counts with two standard errors, and a gain as none. Sizes are bisected: a larger file is taken to lose
        no more.
        """
        drop = next(limit for limit in limits if limit.budget.bisected)
        given = [limit for limit in limits if limit.budget.of_file]
        rest = [limit for limit in limits if limit != drop and limit not in given]
        least, most = self.extremes()
        low, high = least, min([most, *(self._bytes(limit) for limit in given)])
        finest = self.decide([*rest, Limit(Size.name, float(high), share=False)])
        fall, error = metric(finest.choices)
        if _surely(fall, error) > drop.amount:
            raise InfeasibleError(
                f"No plan of {', '.join(map(str, self.options))} keeps the metric within {drop}: the best one "
                f"that was found loses {100 * fall:.2f} ± {100 * error:.2f}%, and two errors count. Offer more precise "
                "options, allow a larger drop, or give more samples."
            )
        best = (finest, (fall, error))
        smallest = self._tried(rest, low, metric, drop.amount)
        if smallest is not None:
            return smallest
        for _ in range(BISECTIONS):
            middle = round((low * high) ** 0.5)
            tried = self._tried(rest, middle, metric, drop.amount)
            if tried is None:
                low = middle
            else:
                best, high = tried, min(middle, self.size(tried[0].choices))
            if high <= low * 1.01:
                break
        return best

    def _tried(
        self, rest: Sequence[Limit], size: int, metric: Metric, allowed: float
    ) -> tuple[Decision, tuple[float, float]] | None:
        try:
            decision = self.decide([*rest, Limit(Size.name, float(size), share=False)])
        except InfeasibleError:
            return None
        drop, error = metric(decision.choices)
        return (decision, (drop, error)) if _surely(drop, error) <= allowed else None

    def front(
        self, kind: str, points: int, limits: Sequence[Limit] = ()
    ) -> tuple[tuple[Point, ...], Agreement | None, Table | None]:
        """Return measured plans over one budget, from the least to the most it can be; others stay as they are.

        Uniform plans within the other budgets are among them. The agreement is that of the samples,
        the table that of the responses.
        """
        if not budget(kind).rows:
            raise InputError(f"A front does not run over '{kind}', since what is lost is its other axis. Give another.")
        wide = Limit(kind, 1e18, share=False)
        study = self.study([wide, *(limit for limit in limits if limit.kind != kind)])
        row = study.rows[0]
        starts = np.cumsum([0, *(len(options) for options in self.menu.options)])[:-1]
        least = int(np.minimum.reduceat(row.weights, starts).sum())
        most = int(np.maximum.reduceat(row.weights, starts).sum())
        wanted = np.unique(np.geomspace(max(least, 1), max(most, 1), points).round().astype(np.int64))
        limits_within = [int(value) for value in wanted if value >= least] or [least]
        method = self.method
        found = [(*made, method.name) for made in drawn(study, method, kind, limits_within)]
        for option in self.options:
            level = uniform_choices(self.menu.units, self.menu.options, option)
            if option != FLOAT and study.feasible(level):
                found.append((level, study.usage(level)[0], None, None, "measured", f"uniform {option}"))
        made = []
        losses = study.losses([choices for choices, *_ in found])
        for (choices, limit, predicted, bound, status, source), loss in zip(found, losses, strict=True):
            file_bytes = self.size(choices)
            usage = file_bytes if row.limit.budget.of_file else row.total(study.usage(choices)[0])
            made.append(
                Point(row.total(limit), choices, usage, file_bytes, predicted, bound, loss, status, source),
            )
        return tuple(_undominated(made)), study.agreement(), study.first

    @property
    def overhead(self) -> int:
        """Return the bytes of a file that belong to no unit."""
        if self._overhead is None:
            self._overhead = self.sizing.bare
        return self._overhead

    @property
    def space(self) -> Space:
        """The units as they are measured."""
        return self.engine.space

    @property
    def source_bytes(self) -> int:
        """The bytes of the float file."""
        return self.workspace.prepared.source.size_bytes

    @property
    def live_bytes(self) -> int:
        """The bytes of the largest activations that are there at once."""
        return self.engine.live_bytes

    def _bytes(self, limit: Limit) -> int:
        return int(limit.amount * self.workspace.prepared.source.size_bytes if limit.share else limit.amount)

    def extremes(self) -> tuple[int, int]:
        """Return the bytes of the files with every unit at its fewest and at its most bits."""
        least, most = (self.size(choices) for choices in self.ends())
        return least + 1, most + 1

    def ends(self) -> tuple[Choices, Choices]:
        """Return the plans with every unit at its fewest and at its most bits."""
        found = []
        for place in (0, -1):
            choices = {
                unit.name: sorted(options, key=lambda o: _SIZE.weight(unit, o))[place]
                for unit, options in zip(self.menu.units, self.menu.options, strict=True)
            }
            found.append({unit: option for unit, option in choices.items() if option != FLOAT})
        return found[0], found[1]


def _surely(fall: float, error: float) -> float:
    """Return by how much a metric falls at most, as far as its samples can tell.

    The smallest of several files that pass is likely to be one whose samples were kind to it.
    """
    return max(fall, 0.0) + 2.0 * error


class _Sizes:
    """By how many bytes the files of plans exceed a size, in the order in which they were asked for."""

    def __init__(self, size: Callable[[Choices], int], most: int) -> None:
        """Start with nothing asked."""
        self.size, self.most = size, most
        self.over: dict[tuple[tuple[str, Option], ...], int] = {}

    def fits(self, choices: Choices) -> bool:
        """Tell whether the file of a plan is within the size."""
        key = tuple(choices.items())
        if key not in self.over:
            self.over[key] = self.size(choices) - self.most
        return self.over[key] <= 0


def _judged(decision: Decision, study: Study) -> Decision:
    """Add how far the samples agree with themselves, and what is to be said of it."""
    found = study.agreement()
    return replace(decision, agreement=found, notes=(*decision.notes, *(found.notes if found else ())))


def _undominated(points: Sequence[Point]) -> list[Point]:
    """Keep points that measured better than every smaller one."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.usage, point.loss.value)):
        if not kept or point.loss.value < kept[-1].loss.value:
            kept.append(point)
    return kept


def as_json(point: Point) -> dict[str, Any]:
    """Return a point as plain JSON data."""
    return {
        "limit": point.limit,
        "usage": point.usage,
        "file_bytes": point.file_bytes,
        "predicted": point.predicted,
        "bound": point.bound,
        "gap": point.gap,
        "loss": point.loss.value,
        "loss_error": point.loss.error,
        "status": point.status,
        "source": point.source,
        "choices": {unit: str(option) for unit, option in point.choices.items()},
    }
