"""onnxmpq: a precision of its own for every layer of an exported ONNX model.

>>> import onnxmpq
>>> str(onnxmpq.Option.parse("w4a8"))
'w4a8'

``quantize`` goes the whole way from a model and samples to a verified file, ``pareto`` to a front of plans over one
budget; ``inspect`` shows what could be quantised, ``measure`` what it costs, ``plan_from`` makes plans of that alone.
Names are loaded when they are first used, so that the import is fast.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from onnxmpq.version import __version__

if TYPE_CHECKING:
    from onnxmpq.api import Result, inspect, measure, quantize
    from onnxmpq.artifacts import Option, Plan, Space, Verdict
    from onnxmpq.data.images import Images
    from onnxmpq.errors import InfeasibleError, InputError, InternalError, OnnxmpqError, VerifyError
    from onnxmpq.for_targets import ForTarget, quantize_for
    from onnxmpq.guard.diagnosis import Diagnosis, diagnose
    from onnxmpq.methods.named import method
    from onnxmpq.options import Constraints, GraphOptions, MeasureOptions, Numbers, SearchOptions, VerifyOptions
    from onnxmpq.report.plans import Measured
    from onnxmpq.report.write import write_report
    from onnxmpq.search.dry_run import Forecast, foresee
    from onnxmpq.search.from_table import Planned, plan_from
    from onnxmpq.search.front import Front, pareto
    from onnxmpq.search.retarget import Retargeted, retarget
    from onnxmpq.targets import Target, target

# onnxruntime reports its use from its import on; who wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "artifacts": ("Option", "Plan", "Space", "Verdict"),
    "options": ("Constraints", "GraphOptions", "MeasureOptions", "Numbers", "SearchOptions", "VerifyOptions"),
    "api": ("Result", "inspect", "measure", "quantize"),
    "errors": ("InfeasibleError", "InputError", "InternalError", "OnnxmpqError", "VerifyError"),
    "search.dry_run": ("Forecast", "foresee"),
    "search.front": ("Front", "pareto"),
    "search.from_table": ("Planned", "plan_from"),
    "search.retarget": ("Retargeted", "retarget"),
    "for_targets": ("ForTarget", "quantize_for"),
    "guard.diagnosis": ("Diagnosis", "diagnose"),
    "data.images": ("Images",),
    "methods.named": ("method",),
    "report.plans": ("Measured",),
    "report.write": ("write_report",),
    "targets": ("Target", "target"),
}

__all__ = [
    "Constraints",
    "Diagnosis",
    "ForTarget",
    "Forecast",
    "Front",
    "GraphOptions",
    "Images",
    "InfeasibleError",
    "InputError",
    "InternalError",
    "MeasureOptions",
    "Measured",
    "Numbers",
    "OnnxmpqError",
    "Option",
    "Plan",
    "Planned",
    "Result",
    "Retargeted",
    "SearchOptions",
    "Space",
    "Target",
    "Verdict",
    "VerifyError",
    "VerifyOptions",
    "__version__",
    "diagnose",
    "foresee",
    "inspect",
    "measure",
    "method",
    "pareto",
    "plan_from",
    "quantize",
    "quantize_for",
    "retarget",
    "target",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"onnxmpq.{module}"), name)
    raise AttributeError(f"module 'onnxmpq' has no attribute '{name}'")
