"""The front of plans over one budget: measured once, every point measured again as a whole."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxmpq.artifacts import Plan, Space
from onnxmpq.budgets.limits import budget as find_budget
from onnxmpq.budgets.limits import parse_limits
from onnxmpq.data.samples import Data
from onnxmpq.disk.files import write_whole
from onnxmpq.errors import InputError
from onnxmpq.options import Constraints, GraphOptions, MeasureOptions, Numbers, NumbersAsked, SearchOptions
from onnxmpq.search.constraints import tried
from onnxmpq.search.loop import Point, Search
from onnxmpq.search.loop import as_json as point_json
from onnxmpq.sensitivity.table import Table
from onnxmpq.sensitivity.workers.executors import opened
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import Model, Progress, prepare, silent
from onnxmpq.workspace.workspace import workspace


@dataclass(frozen=True, slots=True)
class Front:
    """Plans over one budget, each with what it takes and what it measured, from small to large."""

    over: str
    float_file_bytes: int
    plans: tuple[Plan, ...]
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    space: Space | None = None
    table: Table | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the front as plain JSON data; ``Plan.read`` takes one of its points, counted from 1."""
        return {
            "schema": 1,
            "over": self.over,
            "float_file_bytes": self.float_file_bytes,
            "notes": list(self.notes),
            "points": [
                {**point_json(point), "plan": plan.to_json()}
                for point, plan in zip(self.points, self.plans, strict=True)
            ],
        }

    def write(self, path: Path, *, overwrite: bool = True) -> None:
        """Write the front as JSON, whole or not at all."""
        write_whole(path, json.dumps(self.to_json(), indent=2) + "\n", "front", overwrite=overwrite)


def pareto(
    model: Model,
    calibration: Data,
    *,
    target: str = "ort-cpu",
    over: str = "size",
    points: int = 20,
    budget: Mapping[str, object] | Sequence[str] = (),
    numbers: NumbersAsked = None,
    graph: GraphOptions = GraphOptions(),
    constraints: Constraints = Constraints(),
    search: SearchOptions = SearchOptions(),
    measure: MeasureOptions = MeasureOptions(),
    progress: Progress = silent,
) -> Front:
    """Return the front over one budget (size, bits, bops or memory), each point with the loss that it measured.

    Responses are measured once for all points; other budgets hold for every point. A method without a ``front`` of its
    own proposes plans for every limit. Every keyword is what one stage needs to know.

    >>> import numpy as np, onnx
    >>> model = onnx.parser.parse_model(
    ...     '<ir_version: 8, opset_import: ["": 17]> g (float[n, 64] x) => (float[n, 64] y) '
    ...     "{ h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }"
    ... )
    >>> weights = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    >>> model.graph.initializer.extend(map(onnx.numpy_helper.from_array, weights, "ab"))
    >>> front = pareto(model, {"x": weights[0]}, points=3)
    >>> sizes, losses = [p.file_bytes for p in front.points], [p.loss.value for p in front.points]
    >>> sizes == sorted(sizes), losses == sorted(losses, reverse=True)
    (True, True)
    """
    kind = find_budget(over).name
    if points < 2:
        raise InputError(f"A front of {points} points is none: ask for 2 or more.")
    prepared = prepare(model, target, progress, extra_passes=graph.passes)
    settled = Numbers.asked(numbers, Numbers.searched())
    with (
        opened(measure) as measuring,
        workspace(prepared, calibration, settled, progress, tried(prepared.space)) as place,
        Search(Exporter(place), place.empty_plan("pareto", graph), search, measuring, constraints) as found,
    ):
        points_found, agreement, table = found.front(kind, points, parse_limits(budget))
    return Front(
        kind,
        prepared.source.size_bytes,
        tuple(found.plan(point.choices) for point in points_found),
        points_found,
        agreement.notes if agreement else (),
        prepared.space,
        table,
    )
