"""Remove Identity nodes.

    y = Identity(x)   ->   every use of y becomes a use of x

Kept: an Identity between two public values (graph inputs, outputs, initialisers), since two public names cannot become
one, and one that brings an outer value out of a body, since bodies must produce their outputs themselves.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.model.layers import all_graphs, is_standard
from onnxmpq.model.passkit import Pass, bypass


@dataclass(frozen=True)
class RemoveIdentity(Pass):
    """Remove Identity nodes, except those named in ``keep``."""

    name: ClassVar[str] = "remove-identity"
    keep: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewire the uses of each Identity, then drop the node."""
        removed = 0
        for graph in all_graphs(model):
            for node in graph:
                if node.op_type == "Identity" and is_standard(node) and node.name not in self.keep:
                    removed += bypass(node)
        return ir.passes.PassResult(model, modified=removed > 0)
