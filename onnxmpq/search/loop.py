"""The search stage: from a prepared model, samples and budgets to measured plans.

    Search(exporter, empty, ...)      opens the measuring engine
    .study(limits)                    what methods work with, under budgets
    .whole(choices), .shift(by)       the files of plans, and rows that foresee what those take
    .front(kind, points)              plans over one budget, from one measurement

File sizes are those of files: what a plan stores beside its units (graph, names, scales of activations) is found by
serialising it, so that a plan is within its size to the byte before it is exported.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from onnxmpq.artifacts import FLOAT, Estimate, Option, Plan, Space
from onnxmpq.budgets.limits import Limit, budget
from onnxmpq.budgets.size import Size
from onnxmpq.data.samples import Samples
from onnxmpq.errors import InputError
from onnxmpq.methods.agreement import Agreement
from onnxmpq.methods.named import chosen
from onnxmpq.methods.rows import make_rows
from onnxmpq.methods.study import Choices, Menu, Study, blending, drawn
from onnxmpq.methods.uniform import uniform_choices
from onnxmpq.options import Constraints, MeasureOptions, SearchOptions
from onnxmpq.search.constraints import held_together, make_menu, menu_of
from onnxmpq.search.placing import restricted, with_float_kernels
from onnxmpq.search.sizing import Sizing
from onnxmpq.search.whole import Whole
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.sensitivity.table import Table
from onnxmpq.solve import Solution, relative_gap
from onnxmpq.workspace.export import Exporter

_SIZE = Size()


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


class Search:
    """One model, one set of samples: everything is measured once, whatever is asked. Use it as a context manager."""

    def __init__(
        self,
        exporter: Exporter,
        empty: Plan,
        options: SearchOptions,
        measure: MeasureOptions,
        constraints: Constraints,
        judged: Samples | None = None,
        kernels: Mapping[str, Option] | None = None,
    ) -> None:
        """Open the engine; choices become files as ``empty`` would with them in it.

        Metrics of files are judged on the labels of ``judged``, where it has some, and else on the samples. Units that
        ``kernels`` names have the options alone that run on those.
        """
        self.exporter, self.empty, self.method = exporter, empty, chosen(options)
        self.workspace, self.effort, self.seed = exporter.workspace, options.effort, measure.seed
        target = self.workspace.prepared.target
        self.options, constraints = menu_of(options.options, target), held_together(constraints, target)
        # What is measured is written in a higher opset; its units are the same, with figures of that opset.
        measured = self.workspace.raised()
        offered = self.options if kernels is None else with_float_kernels(self.options)
        self.menu = restricted(make_menu(measured.space, offered, constraints), kernels or {})
        if measure.blends is None:
            measure = replace(measure, blends="sure" if blending(self.method) else False)
        self.engine = Engine(self.workspace, measure, calibrated=measured)
        self.judged = judged if judged is not None and judged.labels is not None else self.workspace.samples
        self.sizing = Sizing(exporter, empty, self.menu)
        self._shifts: Counter[str] = Counter()
        self._solved: dict[tuple[object, ...], Solution] = {}
        self._files: dict[tuple[Option, ...], Whole] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.close()

    def plan(self, choices: Choices) -> Plan:
        """Return the plan that choices are."""
        return replace(self.empty, choices=choices)

    def study(self, limits: Sequence[Limit], menu: Menu | None = None, effort: str | None = None) -> Study:
        """Return the study of some budgets; rows of sizes count what each option adds to the graph, too."""
        menu = menu or self.menu
        sized = any(limit.budget.of_file for limit in limits)
        rows = tuple(
            row.shifted(self._shifts[row.limit.kind])
            for row in make_rows(limits, menu, self, self.sizing.beside(menu.offered) if sized else None)
        )
        effort = effort or self.effort
        progress = self.workspace.progress
        return Study(self.engine, menu, rows, effort=effort, seed=self.seed, progress=progress, solved=self._solved)

    def whole(self, choices: Choices) -> Whole:
        """Return the file that choices lead to."""
        key = tuple(choices.get(unit.name, FLOAT) for unit in self.menu.units)
        if key not in self._files:
            classes = self.engine.heads[0].kind != "power"
            self._files[key] = Whole(self.exporter, self.plan(choices), self.judged, classes=classes)
        return self._files[key]

    def shift(self, by: Mapping[str, int]) -> None:
        """Let rows of some budgets foresee more than they did so far."""
        self._shifts.update(by)

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
            file, known = self.whole(choices), row.limit.budget
            usage = known.actual(file) if known.whole else row.total(study.usage(choices)[0])
            made.append(Point(row.total(limit), choices, usage, file.size, predicted, bound, loss, status, source))
        return tuple(_undominated(made)), study.agreement(), study.first

    @property
    def overhead(self) -> int:
        """Return the bytes of a file that belong to no unit."""
        return self.sizing.bare

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

    def amount(self, limit: Limit) -> int:
        """Return the amount of a limit, where it is a share too."""
        return int(limit.amount * limit.budget.of_float(self) if limit.share else limit.amount)

    def extremes(self) -> tuple[int, int]:
        """Return the bytes of the files with every unit at its fewest and at its most bits."""
        least, most = (self.whole(choices).size for choices in self.ends())
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
