"""A search that measures nothing: what it may choose, whether budgets can be met, and what it would take."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from onnxmpq.budgets.limits import parse_limits
from onnxmpq.data.samples import Data
from onnxmpq.methods.study import staged
from onnxmpq.options import Constraints, GraphOptions, MeasureOptions, Numbers, NumbersAsked, SearchOptions
from onnxmpq.search.duration import Where, efforts, first_cost
from onnxmpq.search.loop import Search
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import Model, Progress, prepare, silent
from onnxmpq.workspace.workspace import workspace


@dataclass(frozen=True, slots=True)
class Effort:
    """What a search of one effort is likely to take: runs of the model on all samples, and seconds of the whole."""

    runs: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Units and variants, the files that are possible, and what measuring takes in runs of the model on all samples.

    ``full_runs`` and ``seconds`` are those of the first measurement, ``most_runs`` about the most of the whole search
    where the method knows, ``seconds`` and ``memory_bytes`` those of one process, of which there are ``processes`` side
    by side; files are between ``least_bytes`` and ``most_bytes``. ``efforts`` tells what each effort buys, from the
    beginning to the end and in these processes: what they share, and what only one of them can do.
    """

    method: str
    units: int
    variants: int
    samples: int
    blends: int
    full_runs: float
    most_runs: float
    seconds: float
    memory_bytes: int
    processes: int
    least_bytes: int
    most_bytes: int
    float_bytes: int
    efforts: Mapping[str, Effort]

    @property
    def most_seconds(self) -> float:
        """Return about the most seconds of measuring, at the pace of the first measurement."""
        return self.seconds * self.most_runs / self.full_runs

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {**asdict(self), "most_seconds": self.most_seconds}


def foresee(
    model: Model,
    calibration: Data,
    *,
    target: str = "ort-cpu",
    budget: Mapping[str, object] | Sequence[str] = (),
    numbers: NumbersAsked = None,
    graph: GraphOptions = GraphOptions(),
    constraints: Constraints = Constraints(),
    search: SearchOptions = SearchOptions(),
    measure: MeasureOptions = MeasureOptions(),
    progress: Progress = silent,
) -> Forecast:
    """Return what a search would take; raise InfeasibleError where no plan meets the budgets. Nothing is measured.

    Every keyword is what one stage needs to know; results that a store has are left alone.
    """
    began = time.monotonic()
    prepared = prepare(model, target, progress, extra_passes=graph.passes)
    settled = Numbers.asked(numbers, Numbers.searched())
    here = replace(measure, executor="inline", store=None)
    with (
        workspace(prepared, calibration, settled, progress) as place,
        Search(Exporter(place), place.empty_plan("", graph), search, here, constraints) as looked,
    ):
        opened = time.monotonic() - began
        least, most = looked.extremes()
        limits = parse_limits(budget)
        study = looked.study(limits)
        study.solve(study.problem(np.zeros(sum(map(len, looked.menu.options)))))
        engine, variants = looked.engine, looked.menu.variants
        cost, runs = first_cost(looked, study), study.table_runs(variants, staged=staged(looked.method))
        most_runs = getattr(looked.method, "most_runs", lambda _: runs)(study)
        where = Where.of(measure, cost)
        buys = efforts(looked, limits, where)
        return Forecast(
            method=looked.method.name,
            units=len(looked.menu.units),
            variants=len(variants),
            samples=engine.plain,
            blends=engine.samples - engine.plain,
            full_runs=runs,
            most_runs=max(most_runs, runs),
            seconds=cost.seconds,
            memory_bytes=cost.memory,
            processes=where.processes,
            least_bytes=least,
            most_bytes=most,
            float_bytes=prepared.source.size_bytes,
            efforts={name: Effort(likely, opened + seconds) for name, (likely, seconds) in buys.items()},
        )
