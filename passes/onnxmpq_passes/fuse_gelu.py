"""Write the parts of a Gelu as one operator.

    x / 1.414 -> Erf -> + 1 -> * 0.5 -> * x        ->  Gelu(x)
    x / 1.414 -> Erf -> + 1 -> * x   -> * 0.5      ->  Gelu(x)
    x / 1.414 -> Erf -> + 1 -> * (x * 0.5)         ->  Gelu(x)

Factors stand on either side, and x may be multiplied by 0.707. Gelu came with opset 20, to which the model is raised.
Kept: parts that others read, and numbers that are others than these. Outputs are equal but for rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.model.layers import all_graphs, constant, is_standard, sole_use
from onnxmpq.model.opset import raise_opset
from onnxmpq.model.passkit import Pass

_OPSET = 20
_ROOT = 2.0**0.5
_NEAR = 1e-4


@dataclass(frozen=True)
class FuseGelu(Pass):
    """Find every Erf with the rest of a Gelu around it."""

    name: ClassVar[str] = "fuse-gelu"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Put a Gelu in the place of the last part; nobody reads the others any more."""
        if not any(True for _ in _found(model)):
            return ir.passes.PassResult(model, modified=False)
        raise_opset(model, _OPSET)
        for graph, x, last in list(_found(model)):
            new = ir.node("Gelu", [x], name=last.name)
            old, result = last.outputs[0], new.outputs[0]
            result.name, result.type, result.shape = old.name, old.type, old.shape
            old.replace_all_uses_with(result, replace_graph_outputs=True)
            graph.insert_before(last, new)
            _drop(graph, last)
        return ir.passes.PassResult(model, modified=True)


def _found(model: ir.Model) -> Iterator[tuple[ir.Graph, ir.Value, ir.Node]]:
    """Yield what every Gelu in parts reads, and the last of its parts."""
    for graph in all_graphs(model):
        for node in graph:
            if node.op_type == "Erf" and is_standard(node):
                yield from ((graph, x, last) for x, last in _gelu(node))


def _gelu(erf: ir.Node) -> list[tuple[ir.Value, ir.Node]]:
    """Return what the Gelu around an Erf reads, and its last part; nothing where there is none."""
    x = _halved_root(erf.inputs[0])
    add = sole_use(erf.outputs[0])
    if x is None or add is None or add.op_type != "Add" or _factor(add, erf.outputs[0]) != 1.0:
        return []
    first = sole_use(add.outputs[0])
    if first is None or first.op_type != "Mul":
        return []
    other = _other(first, add.outputs[0])
    if _is_half_of(other, x):
        return [(x, first)]
    second = sole_use(first.outputs[0])
    if second is None or second.op_type != "Mul" or first.outputs[0].is_graph_output():
        return []
    pair = {_part(other, x), _part(_other(second, first.outputs[0]), x)}
    return [(x, second)] if pair == {"x", "half"} else []


def _halved_root(value: ir.Value | None) -> ir.Value | None:
    """Return what is divided by the root of 2, or multiplied by its inverse."""
    node = value.producer() if value is not None else None
    if node is None or value is None or sole_use(value) is None or node.op_type not in ("Div", "Mul"):
        return None
    for index in (1, 0) if node.op_type == "Mul" else (1,):
        number = _scalar(node.inputs[index])
        wanted = _ROOT if node.op_type == "Div" else 1 / _ROOT
        if number is not None and abs(number - wanted) < _NEAR:
            return node.inputs[1 - index]
    return None


def _is_half_of(value: ir.Value | None, x: ir.Value) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == "Mul" and x in node.inputs and _factor(node, x) == 0.5


def _part(value: ir.Value | None, x: ir.Value) -> str:
    return "x" if value is x else "half" if _scalar(value) == 0.5 else ""


def _factor(node: ir.Node, value: ir.Value) -> float | None:
    return _scalar(_other(node, value))


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def _scalar(value: ir.Value | None) -> float | None:
    tensor = constant(value)
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def _drop(graph: ir.Graph | ir.Function, node: ir.Node) -> None:
    """Remove a node that nobody reads, and what is in front of it for it alone."""
    pending = [node]
    while pending:
        one = pending.pop()
        if one.graph is None or any(value.uses() or value.is_graph_output() for value in one.outputs):
            continue
        before = [producer for value in one.inputs if value is not None and (producer := value.producer()) is not None]
        graph.remove(one, safe=True)
        pending += [each for each in before if each.op_type in ("Mul", "Add", "Erf", "Div")]
