"""Remove Dropout, which does nothing when a model is not being trained.

    y = Dropout(x, ratio)   ->   every use of y becomes a use of x

Where x and y are both public the node becomes an Identity. Kept: a Dropout in training mode, or whose mask is read.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.model.layers import all_graphs, constant, is_standard
from onnxmpq.model.passkit import Pass, bypass


@dataclass(frozen=True)
class RemoveDropout(Pass):
    """Remove the Dropout nodes of every graph and body."""

    name: ClassVar[str] = "remove-dropout"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewire the uses of each Dropout, then drop the node."""
        removed = 0
        for graph in all_graphs(model):
            for node in graph:
                if node.op_type != "Dropout" or not is_standard(node) or _trains(node) or _mask_is_read(node):
                    continue
                node.resize_outputs(1)
                if not bypass(node):
                    node.op_type = "Identity"
                    node.attributes.clear()
                    node.resize_inputs(1)
                removed += 1
        return ir.passes.PassResult(model, modified=removed > 0)


def _trains(node: ir.Node) -> bool:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    mode = constant(node.inputs[2])
    return mode is None or bool(mode.numpy())


def _mask_is_read(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
