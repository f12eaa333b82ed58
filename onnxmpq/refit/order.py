"""In what order layers are fitted within a segment, and what their outputs are added to.

x ─┬▶ Conv ─▶ Relu ─▶ Conv ─▶ Add ─▶     the first Conv, then the second, which makes up for what x lacks
   └──────────────────────────┘
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxmpq.artifacts import Layer
from onnxmpq.cuts.segments import Cuts
from onnxmpq.model.bodies import reads
from onnxmpq.model.layers import constant, is_standard, plain_product, sole_use
from onnxmpq.numerics.hessians import Reading


@dataclass(frozen=True, slots=True)
class Fit:
    """A layer that is fitted: how it reads its input, and the tensor that its output is added to, if any."""

    layer: Layer
    reading: Reading
    beside: str | None

    @property
    def weight(self) -> str:
        """The name of its weight."""
        return self.layer.weights[0]

    @property
    def rows(self) -> int:
        """The outputs of each group."""
        view = self.reading.view
        return math.prod(self.layer.weight_shape) // (view.groups * view.columns)


def steps(model: ir.Model, cuts: Cuts, readings: Mapping[str, tuple[Layer, Reading]]) -> list[list[list[Fit]]]:
    """Return for every segment its layers that are fitted, those that stand behind others in a later step.

    ``readings`` has the layers that may be fitted, by their nodes, and how they read.
    """
    nodes = {node.name or "": node for node in model.graph}
    found: list[list[list[Fit]]] = []
    for segment in cuts.segments:
        ahead: dict[ir.Value, int] = {}  # how many layers of the segment stand one behind the other in front of a value
        inside: defaultdict[int, list[Fit]] = defaultdict(list)
        for name in segment.nodes:
            node = nodes[name]
            step = max((ahead.get(value, 0) for value in reads(node)), default=0)
            if name in readings:
                layer, reading = readings[name]
                beside = _beside(node, layer, reading)
                if beside is not None and _home(beside, cuts) >= segment.index and ahead.get(beside, step + 1) > step:
                    beside = None  # which is made later
                inside[step].append(Fit(layer, reading, beside.name if beside is not None else None))
                step += 1
            ahead.update(dict.fromkeys(node.outputs, step))
        found.append([inside[step] for step in sorted(inside)])
    return found


def fits(
    model: ir.Model, readings: Mapping[str, tuple[Reading, ...]], layers: Iterable[Layer]
) -> dict[str, tuple[Layer, Reading]]:
    """Return by their nodes the layers that may be fitted: whose weight nobody else reads, and how they read."""
    found = {}
    for layer in layers:
        read = readings.get(layer.weights[0], ()) if len(layer.weights) == 1 else ()
        weight = model.graph.initializers.get(layer.weights[0]) if read else None
        if len(read) == 1 and weight is not None and sole_use(weight) is read[0].node and plain_product(read[0].node):
            found[layer.node] = layer, read[0]
    return found


def _home(value: ir.Value, cuts: Cuts) -> int:
    """Return the segment that makes a value; -1 for inputs."""
    node = value.producer()
    return -1 if node is None else cuts.segment_of(node.name or "")


def _beside(node: ir.Node, layer: Layer, reading: Reading) -> ir.Value | None:
    """Return what the output of a layer is added to and nothing else is done with, of its own shape."""
    if node.op_type != "Conv" and (layer.inputs != (0,) or reading.view.groups > 1):
        return None
    last = _end(node, layer)
    add = sole_use(last) if last is not None else None
    if last is None or add is None or add.op_type != "Add" or not is_standard(add):
        return None
    other = next((value for value in add.inputs if value is not None and value is not last), None)
    alike = other is not None and constant(other) is None and _dims(other) == _dims(last) is not None
    return other if alike else None


def _end(node: ir.Node, layer: Layer) -> ir.Value | None:
    """Return the value that a layer ends in: behind the Add of its bias where it has one."""
    value = node.outputs[0]
    if value.name == layer.output:
        return value
    add = sole_use(value)
    return add.outputs[0] if add is not None and add.outputs[0].name == layer.output else None


def _dims(value: ir.Value) -> tuple[str, ...] | None:
    """Return all but the first dimension, as text; None where they are not known."""
    if value.shape is None:
        return None
    found = tuple(str(dim) for dim in value.shape)[1:]
    return None if "None" in found else found
