"""Plans as onnxruntime's quantiser writes them: ``TensorQuantOverrides``, out and back."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxmpq.artifacts import Plan
from onnxmpq.data.samples import Data
from onnxmpq.disk.reading import read_json
from onnxmpq.errors import InputError
from onnxmpq.exchange.overrides import from_overrides, to_overrides
from onnxmpq.options import Numbers
from onnxmpq.workspace.prepare import Model, Progress, checked_plan, prepare, silent
from onnxmpq.workspace.workspace import workspace


def export_overrides(
    model: Model,
    plan: Plan | str | os.PathLike[str],
    calibration: Data,
    *,
    target: str = "ort-cpu",
    numbers: Numbers | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return a plan as ``TensorQuantOverrides``: types, scales and zero points are those of the deployed file."""
    given = plan if isinstance(plan, Plan) else Plan.read(Path(plan))
    prepared = prepare(model, target, progress, extra_passes=given.passes)
    checked = checked_plan(given, prepared)
    numbers = numbers or Numbers.of(given.ranges)
    if numbers.smooth not in ("auto", "off"):
        raise InputError(
            f"The plan moves outliers into weights ({numbers.smooth}), and overrides are for the weights as they were. "
            "Make a plan with --smooth off."
        )
    with workspace(prepared, calibration, numbers, progress) as opened:
        return to_overrides(opened.lowered(checked), prepared.space)


def import_overrides(model: Model, overrides: Any, *, target: str = "ort-cpu", progress: Progress = silent) -> Plan:
    """Return the plan that ``TensorQuantOverrides`` mean for a model: the data itself, or the path of its JSON."""
    data, where = overrides, ""
    if isinstance(overrides, str | os.PathLike):
        data, where = read_json(Path(overrides), "overrides"), str(overrides)
    prepared = prepare(model, target, progress)
    plan = from_overrides(data, prepared.model, prepared.space, where=where)
    return replace(plan, model_sha256=prepared.source.sha256)
