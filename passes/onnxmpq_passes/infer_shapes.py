"""Fill in types and shapes that follow from those of the inputs.

    x: float[1,3], y = Relu(x)   ->   y: float[1,3]

What the model declares stays; only what is missing is added, a dimension that is not a number included. The outputs
of the model get a type and its shape if they have no type, nothing else. Big weights are not serialised for this.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_ir as ir

from onnxmpq.model.passkit import Pass
from onnxmpq.model.save import skeleton


@dataclass(frozen=True)
class InferShapes(Pass):
    """Infer with onnx; operators it does not know stop the inference there, not everywhere."""

    name: ClassVar[str] = "infer-shapes"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infer on a skeleton of the model and take over what is new."""
        try:
            given = skeleton(model)
            proto = onnx.shape_inference.infer_shapes(given, data_prop=True)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
            return ir.passes.PassResult(model, modified=False)
        if proto == given:  # as most often: nothing is missing
            return ir.passes.PassResult(model, modified=False)
        inferred, filled = ir.from_proto(proto), 0
        public = {*model.graph.inputs, *model.graph.outputs}
        for graph, twin in zip(model.graphs(), inferred.graphs(), strict=True):
            for node, other in zip(graph, twin, strict=True):
                for value, found in zip(node.outputs, other.outputs, strict=False):
                    filled += _fill(value, found, value in public)
            for value, found in zip(graph.inputs, twin.inputs, strict=True):
                filled += _fill(value, found, value in public)
        return ir.passes.PassResult(model, modified=filled > 0)


def _fill(value: ir.Value, found: ir.Value, public: bool) -> bool:
    filled = False
    if value.type is None and found.type is not None:
        value.type, filled = found.type, True
        value.shape = value.shape or found.shape
    if public or found.shape is None:
        return filled
    if value.shape is None:
        value.shape = found.shape
        return True
    if len(value.shape) != len(found.shape):
        return filled
    known = [
        b if not isinstance(a, int) and isinstance(b, int) else a for a, b in zip(value.shape, found.shape, strict=True)
    ]
    if known != list(value.shape):
        value.shape, filled = ir.Shape(known), True
    return filled
