"""Remove what does not reach an output.

    y = Relu(x); z = Exp(x); output y   ->   y = Relu(x); output y

Removed: nodes of the ONNX domains that nobody reads, initialisers that nobody reads, functions that are not called,
opsets of domains without nodes. Kept: public inputs and outputs, and nodes of other domains without any output, which
must have some effect of their own.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.model.layers import all_graphs, all_nodes
from onnxmpq.model.passkit import Pass


@dataclass(frozen=True)
class RemoveDeadCode(Pass):
    """Remove unused nodes, initialisers, functions and opsets."""

    name: ClassVar[str] = "remove-dead-code"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Go backwards through each graph, so that one sweep is enough."""
        removed = _sweep(model.graph)
        for graph in all_graphs(model):
            for name, value in list(graph.initializers.items()):
                if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
                    del graph.initializers[name]
                    removed += 1
        removed += _drop_functions(model)
        called = [node for function in model.functions.values() for node in function.all_nodes()]
        domains = {"", "ai.onnx"} | {node.domain for node in (*all_nodes(model), *called)}
        for domain in model.opset_imports.keys() - domains:
            del model.opset_imports[domain]
            removed += 1
        return ir.passes.PassResult(model, modified=removed > 0)


def _sweep(graph: ir.Graph) -> int:
    removed = 0
    for node in reversed(graph):
        if node.outputs and not any(value.uses() or value.is_graph_output() for value in node.outputs):
            _release(node)
            graph.remove(node, safe=True)
            removed += 1
            continue
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                removed += _sweep(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS:
                removed += sum(map(_sweep, attribute.as_graphs()))
    return removed


def _release(node: ir.Node) -> None:
    """Let go of what the bodies of a dead node read from outside."""
    for attribute in node.attributes.values():
        graphs = (
            [attribute.as_graph()]
            if attribute.type == ir.AttributeType.GRAPH
            else attribute.as_graphs()
            if attribute.type == ir.AttributeType.GRAPHS
            else []
        )
        for graph in graphs:
            for inner in graph.all_nodes():
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)


def _drop_functions(model: ir.Model) -> int:
    pending, called = list(all_nodes(model)), set()
    while pending:
        key = pending.pop().op_identifier()
        if key in model.functions and key not in called:
            called.add(key)
            pending.extend(model.functions[key].all_nodes())
    unused = model.functions.keys() - called
    for key in unused:
        del model.functions[key]
    return len(unused)
