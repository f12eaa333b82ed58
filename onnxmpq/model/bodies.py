"""Nodes that hold bodies (If, Loop, Scan), seen from the graph that they stand in.

If(c)                    reads c, and what its bodies take from outside: a, b
 ├ then: Add(a, b)       Add belongs to that If, as do all nodes below
 └ else: Mul(a, a)
"""

from collections.abc import Iterator

import onnx_ir as ir

from onnxmpq.model.layers import graphs_from, subgraphs


def reads(node: ir.Node) -> list[ir.Value]:
    """Return what a node reads, what its bodies take from outside included, each value once."""
    found = dict.fromkeys(value for value in node.inputs if value is not None)
    for body in subgraphs(node):
        found.update(dict.fromkeys(_captured(body)))
    return list(found)


def bodies_below(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the bodies in a node, and those in their nodes."""
    for body in subgraphs(node):
        yield from graphs_from(body)


def owners(model: ir.Model) -> dict[str, ir.Node]:
    """Map the name of every node in a body to the node of the main graph that holds it."""
    return {node.name or "": top for top in model.graph for body in bodies_below(top) for node in body}


def _captured(body: ir.Graph) -> Iterator[ir.Value]:
    """Yield what a body reads and does not make itself."""
    own = {*body.inputs, *body.initializers.values()}
    for node in body:
        yield from (value for value in reads(node) if value not in own)
        own.update(node.outputs)
    yield from (value for value in body.outputs if value not in own)
