"""What a search would do and take, before anything is measured: what it may choose, and whether budgets can be met."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxmpq.artifacts import Option, Plan
from onnxmpq.budgets.limits import parse_limits
from onnxmpq.data.samples import Data
from onnxmpq.lower.calibrated import Numbers
from onnxmpq.methods.named import method as find_method
from onnxmpq.methods.study import Method, check_effort
from onnxmpq.search.constraints import Constraints
from onnxmpq.search.loop import OPTIONS, Search, Wish
from onnxmpq.sensitivity.settings import Settings
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import Model, Progress, parsed, prepare, silent
from onnxmpq.workspace.workspace import workspace


@dataclass(frozen=True, slots=True)
class Forecast:
    """Units and variants, the files that are possible, and what measuring takes in runs of the model on all samples.

    ``full_runs`` and ``seconds`` are those of the first measurement, ``most_runs`` about the most of the whole search
    where the method knows; files are between ``least_bytes`` and ``most_bytes``.
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
    least_bytes: int
    most_bytes: int
    float_bytes: int

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
    method: str | Method = "gram",
    budget: Mapping[str, object] | Sequence[str] = (),
    options: Sequence[str | Option] = OPTIONS,
    keep: Sequence[str] = (),
    exclude: Sequence[str] = (),
    ties: Sequence[str] = (),
    effort: str = "default",
    seed: int = 0,
    settings: Settings | None = None,
    numbers: Numbers | None = None,
    extra_passes: Sequence[str] = (),
    keep_metadata: bool = False,
    progress: Progress = silent,
) -> Forecast:
    """Return what a search would take; raise InfeasibleError where no plan meets the budgets. Nothing is measured."""
    found = method if not isinstance(method, str) else find_method(method)
    constraints = Constraints(tuple(keep), tuple(exclude), tuple(ties))
    wish = Wish(found, parsed(options), constraints, check_effort(effort), seed, settings or Settings())
    prepared = prepare(model, target, progress, extra_passes=extra_passes)
    numbers = numbers or Numbers.of({"rounding": "gptq"})
    made_for = (prepared.source.sha256, numbers.told(), prepared.passes, keep_metadata)
    empty = Plan(prepared.space.target, found.name, {}, *made_for)
    with (
        workspace(prepared, calibration, numbers, progress) as opened,
        Search(Exporter(opened), empty, wish) as search,
    ):
        least, most = search.extremes()
        study = search.study(parse_limits(budget))
        study.solve(study.problem(np.zeros(sum(map(len, search.menu.options)))))
        engine, variants = search.engine, search.menu.variants
        cost = engine.cost(variants)
        runs = cost.full_runs * engine.repeats
        most_runs = getattr(found, "most_runs", lambda _: runs)(study)
        return Forecast(
            method=found.name,
            units=len(search.menu.units),
            variants=len(variants),
            samples=engine.plain,
            blends=engine.samples - engine.plain,
            full_runs=runs,
            most_runs=max(most_runs, runs),
            seconds=cost.seconds,
            memory_bytes=cost.memory,
            least_bytes=least,
            most_bytes=most,
            float_bytes=prepared.source.size_bytes,
        )
