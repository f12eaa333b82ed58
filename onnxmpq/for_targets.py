"""One plan, many targets: it is decided once, and a file is made, proved and judged for each.

model, samples ──▶ quantize for the first target ──▶ plan ──▶ the same for each of the others, as near as it can be
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxmpq.api import Result, quantize
from onnxmpq.artifacts import Option, Plan
from onnxmpq.data.samples import Data
from onnxmpq.disk.files import plan_of, refuse_shared
from onnxmpq.errors import InputError, OnnxmpqError
from onnxmpq.options import GraphOptions, NumbersAsked, VerifyOptions
from onnxmpq.search.retarget import Retargeted, retarget
from onnxmpq.targets import target as find_target
from onnxmpq.verification.publish import checked_output
from onnxmpq.workspace.prepare import Model, Progress, silent


@dataclass(frozen=True, slots=True)
class ForTarget:
    """What came of one target: a file, or what stands against it; of all but the first what moved in the plan."""

    target: str
    result: Result | None
    retargeted: Retargeted | None = None
    error: OnnxmpqError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "target": self.target,
            "result": self.result.to_json() if self.result else None,
            "retargeted": self.retargeted.to_json() if self.retargeted else None,
            "error": str(self.error) if self.error else None,
        }


def quantize_for(
    model: Model,
    calibration: Data,
    *,
    output: str | os.PathLike[str],
    targets: Sequence[str],
    numbers: NumbersAsked = None,
    graph: GraphOptions = GraphOptions(),
    verify: VerifyOptions = VerifyOptions(),
    evaluation: Data | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    **deciding: Any,
) -> list[ForTarget]:
    """Quantise a model for several targets by one plan; files are called after ``output`` and the targets.

    The plan is decided for the first target, as ``quantize`` does it with what is ``deciding``: a budget, an option, a
    search. The others take it as near as they can without being less precise. A target that cannot be served does not
    stand against the others; the first one does.
    """
    named = [find_target(name).name for name in targets]
    if len(set(named)) < len(named) or len(named) < 2:
        raise InputError(f"Several targets, each once, are expected; given: {', '.join(targets) or 'none'}.")
    paths = [output_for(Path(output), name) for name in named]
    writes = {f"output for {name}": path for name, path in zip(named, paths, strict=True)}
    writes |= {f"plan for {name}": plan_of(path) for name, path in zip(named, paths, strict=True)}
    reads = {"model": Path(model) if isinstance(model, str | os.PathLike) else None}
    refuse_shared(reads, writes)
    for path in paths:
        checked_output(path, overwrite)
    common: dict[str, Any] = {
        "graph": graph,
        "verify": verify,
        "evaluation": evaluation,
        "overwrite": overwrite,
        "progress": progress,
    }
    first = quantize(model, calibration, output=paths[0], target=targets[0], numbers=numbers, **common, **deciding)
    found = [ForTarget(named[0], first)]
    for target, name, path in zip(targets[1:], named[1:], paths[1:], strict=True):
        moved: Retargeted | None = None
        try:
            moved = retarget(model, elsewhere(first), target, progress)
            result = quantize(model, calibration, output=path, target=target, plan=moved.plan, **common)
        except OnnxmpqError as error:
            found.append(ForTarget(name, None, moved, error))
        else:
            found.append(ForTarget(name, result, moved))
    return found


def elsewhere(result: Result) -> Plan:
    """Return the plan of a result for machines on which integer kernels may be faster than on this one.

    Units that gave up the bits of activations for speed alone have them back.
    """
    decided = result.decided.choices if result.decided else {}
    choices = {
        unit: decided[unit]
        if unit in decided and option == Option(decided[unit].weight_bits, 0, decided[unit].block)
        else option
        for unit, option in result.plan.choices.items()
    }
    return replace(result.plan, choices=choices)


def output_for(output: Path, target: str) -> Path:
    """Return the name of the file for a target.

    >>> output_for(Path("small.onnx"), "ort-cpu@vnni").name
    'small.ort-cpu@vnni.onnx'
    """
    return output.with_name(f"{output.stem}.{target}{output.suffix}")
