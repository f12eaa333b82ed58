"""Turn Constant nodes into initialisers of the graph they stand in.

    w = Constant{value}()   ->   initialiser w

Kept: a Constant that is an output of its graph (bodies must produce their outputs themselves), strings and sparse
tensors, and values taken from a function's attributes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.model.layers import all_graphs
from onnxmpq.model.passkit import Pass, replace_by_initializer


@dataclass(frozen=True)
class LiftConstants(Pass):
    """Lift the constants of every graph and body."""

    name: ClassVar[str] = "lift-constants"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Register each value under the name it had."""
        lifted = 0
        for graph in all_graphs(model):
            for node in graph:
                if node.op_type != "Constant" or node.domain or node.outputs[0].is_graph_output():
                    continue
                tensor = _tensor(node)
                if tensor is None:
                    continue
                replace_by_initializer(node.outputs[0], tensor)
                graph.remove(node, safe=True)
                lifted += 1
        return ir.passes.PassResult(model, modified=lifted > 0)


def _tensor(node: ir.Node) -> ir.TensorProtocol | None:
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        match name:
            case "value":
                tensor = attribute.as_tensor()
                return None if tensor.dtype == ir.DataType.STRING else _under_a_name_of_its_own(tensor)
            case "value_float":
                return ir.tensor(np.array(attribute.as_float(), np.float32))
            case "value_floats":
                return ir.tensor(np.array(attribute.as_floats(), np.float32))
            case "value_int":
                return ir.tensor(np.array(attribute.as_int(), np.int64))
            case "value_ints":
                return ir.tensor(np.array(attribute.as_ints(), np.int64))
    return None


def _under_a_name_of_its_own(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Refer to ``tensor`` without a copy: naming it would rename it in the model this one was cloned from."""
    return ir.LazyTensor(lambda: tensor, tensor.dtype, ir.Shape(tensor.shape.numpy()))
