"""Hold the nodes of a model against the operators of the ONNX standard, before anything believes them.

Later stages read the second input of a Gather, or the body of a Loop, without looking whether there is one; so do
native libraries, some of which end the whole process where there is none. Operators that it does not know
are let be: runtimes have more.
"""

import functools
from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir

from onnxmpq.model.layers import graphs_from, values_of

_MOST_TOLD = 5
_Option = onnx.defs.OpSchema.FormalParameterOption


def faults(model: ir.Model) -> list[str]:
    """Say which nodes are not as their operators ask; the first few, in the order of the graph."""
    return [fault for _, fault in zip(range(_MOST_TOLD), _faults(model), strict=False)]


def texts(model: ir.Model) -> Iterator[str | bytes | None]:
    """Yield every name and remark of a model."""
    yield from (model.producer_name, model.producer_version, model.domain, model.doc_string, *model.opset_imports)
    yield from (text for pair in model.metadata_props.items() for text in pair)
    tops = (model.graph, *(function.graph for function in model.functions.values()))
    for graph in (body for top in tops for body in graphs_from(top)):
        yield from (graph.name, graph.doc_string)
        for node in graph:
            yield from (node.name, node.op_type, node.domain, node.overload, node.doc_string, *node.attributes)
            yield from (text for pair in node.metadata_props.items() for text in pair)
        for value in values_of(graph):
            yield from (value.name, value.doc_string)
            yield from (text for pair in value.metadata_props.items() for text in pair)
    for function in model.functions.values():
        yield from (function.domain, function.name, function.overload, function.doc_string)


def _faults(model: ir.Model) -> Iterator[str]:
    """Yield what is wrong, the bodies of nodes and functions included."""
    for node in _nodes(model.graph):
        yield from _of_node(node, model.opset_imports, model, in_function=False)
    for function in model.functions.values():
        for node in _nodes(function.graph):
            yield from _of_node(node, function.opset_imports, model, in_function=True)


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes of a graph and of the bodies below it."""
    return (node for body in graphs_from(graph) for node in body)


def _of_node(node: ir.Node, opsets: dict[str, int], model: ir.Model, *, in_function: bool) -> Iterator[str]:
    """Yield what is wrong with one node."""
    told = f"node '{node.name}' ({node.op_type})"
    for attribute in node.attributes.values():
        if attribute.is_ref():
            if not in_function:
                yield f"{told} takes attribute '{attribute.name}' from a function, and stands in none"
        elif attribute.type == ir.AttributeType.UNDEFINED or not _holds(attribute):
            yield f"{told} has an attribute '{attribute.name}' without a value of its type"
    if node.op_identifier() in model.functions:
        return
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = opsets.get(domain) or opsets.get("ai.onnx" if not domain else domain)
    if version is None:
        return
    schema = _schema(node.op_type, version, domain)
    if schema is None:
        return
    yield from _arity(told, "input", [value is not None for value in node.inputs], schema)
    yield from _arity(told, "output", [bool(value.name) or value.name is None for value in node.outputs], schema)
    yield from _attributes(told, node, schema)


def _holds(attribute: ir.Attr) -> bool:
    """Tell whether an attribute that should be a graph or a tensor is one."""
    match attribute.type:
        case ir.AttributeType.GRAPH:
            return isinstance(attribute.value, ir.Graph)
        case ir.AttributeType.TENSOR:
            return attribute.value is not None and attribute.value.dtype != ir.DataType.UNDEFINED
        case _:
            return attribute.value is not None


@functools.cache
def _schema(op_type: str, version: int, domain: str) -> Any:
    """Return the operator as the standard has it, or None."""
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def _arity(told: str, what: str, there: list[bool], schema: Any) -> Iterator[str]:
    """Yield what is wrong with the number of inputs or outputs, and with those that are left out."""
    least, most = (schema.min_input, schema.max_input) if what == "input" else (schema.min_output, schema.max_output)
    if not least <= len(there) <= most:
        expected = str(least) if least == most else f"at least {least}" if most > 1 << 20 else f"{least} to {most}"
        yield f"{told} has {len(there)} {what}s, expected {expected}"
        return
    formal = schema.inputs if what == "input" else schema.outputs
    for place, (given, parameter) in enumerate(zip(there, formal, strict=False)):
        if not given and parameter.option == _Option.Single:
            yield f"{told} leaves out its {what} {place} ('{parameter.name}')"


def _attributes(told: str, node: ir.Node, schema: Any) -> Iterator[str]:
    """Yield what is wrong with attributes: unknown ones, those of a wrong type, those that are missing."""
    for name, attribute in node.attributes.items():
        known = schema.attributes.get(name)
        if known is None:
            yield f"{told} has an attribute '{name}', which its operator does not know"
        elif known.type.value != attribute.type.value:
            yield f"{told} has a {attribute.type.name} as attribute '{name}', expected {known.type.name}"
    for name, known in schema.attributes.items():
        if known.required and name not in node.attributes:
            yield f"{told} lacks attribute '{name}'"
