"""Give every node and every value a name of its own, and every graph some name.

    Relu(x) -> "", Relu(y) -> ""   ->   Relu_0, Relu_1

Names of inputs and outputs of the main graph stay. Of two values that share a name (bodies side by side may) the first
in the order of the graph keeps it. Outputs that a node leaves out stay without a name: that is how they are left out.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.model.layers import subgraphs
from onnxmpq.model.passkit import Pass


@dataclass(frozen=True)
class NameEverything(Pass):
    """Make names unique over all graphs and bodies."""

    name: ClassVar[str] = "name-everything"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name in the order of the graph, so that the same model always gets the same names."""
        public = [*model.graph.inputs, *model.graph.outputs]
        names = _Names(_Taken({value.name for value in public if value.name}), set(public))
        names.name_graph(model.graph)
        return ir.passes.PassResult(model, modified=names.changed)


@dataclass
class _Taken:
    """Names that are taken, and from which number on a stem may be free."""

    names: set[str] = field(default_factory=set)
    next_number: dict[str, int] = field(default_factory=dict)

    def free(self, name: str, default: str) -> str:
        """Return ``name`` if it is free, else the first free one that is numbered, and take it."""
        stem = name or default
        number = self.next_number.get(stem, 1)
        candidate = name or f"{default}_0"
        if candidate in self.names:
            while (candidate := f"{stem}_{number}") in self.names:
                number += 1
            self.next_number[stem] = number + 1
        self.names.add(candidate)
        return candidate


@dataclass
class _Names:
    values: _Taken
    done: set[ir.Value]
    nodes: _Taken = field(default_factory=_Taken)
    changed: bool = False

    def name_graph(self, graph: ir.Graph) -> None:
        if not graph.name:
            graph.name, self.changed = "graph", True
        for value in (*graph.inputs, *list(graph.initializers.values())):
            self.name_value(value, "value")
        for node in graph:
            name = self.nodes.free(node.name or "", node.op_type)
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
        name = self.values.free(value.name or "", default)
        if name != value.name:
            value.name, self.changed = name, True
