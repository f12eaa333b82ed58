"""Give every node and every value a name of its own, and every graph some name.

    Relu(x) -> "", Relu(y) -> ""   ->   Relu_0, Relu_1

Names of inputs and outputs of the main graph stay. Of two values that share a name (bodies side by side may) the first
in the order of the graph keeps it. Outputs that a node leaves out stay without a name: that is how they are left out.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.graph.layers import subgraphs
from onnxmpq.passkit import Pass


@dataclass(frozen=True)
class NameEverything(Pass):
    """Make names unique over all graphs and bodies."""

    name: ClassVar[str] = "name-everything"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name in the order of the graph, so that the same model always gets the same names."""
        public = [*model.graph.inputs, *model.graph.outputs]
        names = _Names({value.name for value in public if value.name}, set(public))
        names.name_graph(model.graph)
        return ir.passes.PassResult(model, modified=names.changed)


@dataclass
class _Names:
    values: set[str]
    done: set[ir.Value]
    nodes: set[str] = field(default_factory=set)
    changed: bool = False

    def name_graph(self, graph: ir.Graph) -> None:
        if not graph.name:
            graph.name, self.changed = "graph", True
        for value in (*graph.inputs, *list(graph.initializers.values())):
            self.name_value(value, "value")
        for node in graph:
            name = _free(node.name or "", node.op_type, self.nodes)
            if name != node.name:
                node.name, self.changed = name, True
            for index, value in enumerate(node.outputs):
                if value.name or value.uses() or value.is_graph_output():
                    self.name_value(value, f"{name}_output_{index}")
            for body in subgraphs(node):
                self.name_graph(body)

    def name_value(self, value: ir.Value, default: str) -> None:
        if value in self.done:
            return
        self.done.add(value)
        name = _free(value.name or "", default, self.values)
        if name != value.name:
            value.name, self.changed = name, True


def _free(name: str, default: str, taken: set[str]) -> str:
    """Return ``name`` if it is free, else the first free one that is numbered, and take it."""
    stem, number = name or default, 0
    candidate = name or f"{default}_0"
    while candidate in taken:
        number += 1
        candidate = f"{stem}_{number}"
    taken.add(candidate)
    return candidate
