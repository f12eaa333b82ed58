"""What onnxruntime's profiler says of a model: the time of every step, traced to the layers of the file."""

import json
from collections import defaultdict
from collections.abc import Container

import numpy as np
import onnx

from onnxmpq.runtimes.base import Origin, Step

WARM_UP = 2
"""Runs that are not counted."""
_KEPT = 0.75
"""Of the times of a step the share that is: others were disturbed."""
_MICRO = 1e-6
_ENDING = "_kernel_time"


def steps_of(
    profile: str, optimised: onnx.ModelProto, source: onnx.ModelProto, computing: Container[str]
) -> tuple[Step, ...]:
    """Read a profile; the optimised graph says what each step reads and gives, the source which layers there are.

    Only ``computing`` kernels stand for layers. Bodies of If, Loop and Scan are counted in the step that runs them.
    """
    times: defaultdict[str, list[float]] = defaultdict(list)
    for event in json.loads(profile):
        if event.get("cat") == "Node" and event["name"].endswith(_ENDING):
            times[event["name"].removesuffix(_ENDING)].append(event["dur"] * _MICRO)
    origin = Origin(source)
    steps = []
    for node in optimised.graph.node:
        layer = origin.find(node.op_type, (node.name, *node.output)) if node.op_type in computing else None
        seconds = usual(times[node.name][WARM_UP:])
        steps.append(Step(layer or "", node.op_type, tuple(node.input), tuple(node.output), seconds))
    return tuple(steps)


def usual(seconds: list[float]) -> float:
    """Return the mean of the shorter times; they come in whole microseconds, and a few are far too long.

    >>> usual([2e-6, 1e-6, 2e-6, 90e-6]) < 2e-6
    True
    """
    if not seconds:
        return 0.0
    kept = sorted(seconds)[: max(1, round(_KEPT * len(seconds)))]
    return float(np.mean(kept))
