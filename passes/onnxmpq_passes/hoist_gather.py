"""Pick rows before computing on them, not after.

    y = Gather(f(x), i)   ->   y = f(Gather(x, i))

for f that treats rows alone: the left operand of MatMul, LayerNormalization, Softmax, element-wise operators, sums of
such branches, and Transpose and Reshape as far as they keep the rows. A transformer that reads its class token only
then computes its last block for that token only, but for keys and values. Outputs are equal but for the rounding of
matrix products of another height.

Kept: a Gather behind which no MatMul gets cheaper, rows that others read too, and axes of unknown meaning (the summed
axis of a product, the axis that a norm or Softmax spans, operands whose broadcast is not known).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.model.layers import all_graphs, constant, is_standard, shape_of, sole_use
from onnxmpq.model.passkit import Pass, add_initializer

_UNARY = frozenset(
    {"Relu", "Gelu", "Erf", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Softplus"}
)
_UNARY_LIKE = _UNARY | {"Neg", "Abs", "Sqrt", "Exp", "Identity", "Clip"}
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})


@dataclass(frozen=True)
class HoistGather(Pass):
    """Move every Gather with constant indices up through what treats rows alone."""

    name: ClassVar[str] = "hoist-gather"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge equal Gathers and hoist one at a time until none gets anywhere."""
        hoisted = 0
        for graph in all_graphs(model):
            while _hoist_one(graph):
                hoisted += 1
                _merge_equal(graph)
        return ir.passes.PassResult(model, modified=hoisted > 0)


def _hoist_one(graph: ir.Graph) -> bool:
    for node in graph:
        if node.op_type != "Gather" or not is_standard(node):
            continue
        value, indices = node.inputs
        picked = constant(indices)
        if value is None or value.shape is None or picked is None or len(shape_of(picked)) > 1:
            continue
        rank = len(value.shape)
        axis = node.attributes.get_int("axis", 0) % max(rank, 1)
        rows = value.shape[axis] if rank else 0
        if isinstance(rows, int) and picked.size * 2 > rows:
            continue
        if sole_use(value) is node and _products(value, axis, graph) > 0:
            _hoist(node, value, axis, np.atleast_1d(picked.numpy()), graph)
            return True
    return False


def _passes(value: ir.Value, axis: int, graph: ir.Graph) -> ir.Node | None:
    """Return the producer of ``value`` if rows along ``axis`` may be picked from its inputs instead."""
    node = value.producer()
    if node is None or node.graph is not graph or not is_standard(node) or value.shape is None:
        return None
    if sole_use(value) is None or len([output for output in node.outputs if output.uses()]) > 1:
        return None
    rank = len(value.shape)
    match node.op_type:
        case "LayerNormalization":
            return node if axis < node.attributes.get_int("axis", -1) % rank else None
        case "Softmax":
            return node if axis != node.attributes.get_int("axis", -1) % rank else None
        case "MatMul":
            left, right = (x.shape if x is not None else None for x in node.inputs)
            if left is None or right is None or len(left) != rank or axis == rank - 1:
                return None
            return node if axis == rank - 2 or len(right) == 2 else None
        case "Transpose":
            return node if node.attributes.get_ints("perm") else None
        case "Reshape":
            return node if _keeps_rows(node, value, axis) else None
        case op if op in _BINARY:
            return node if all(_has_axis(x, value, axis) is not None for x in node.inputs) else None
        case op if op in _UNARY_LIKE:
            return node
    return None


def _keeps_rows(node: ir.Node, result: ir.Value, axis: int) -> bool:
    """Tell whether a Reshape leaves everything up to ``axis`` as it is, so that rows stay rows."""
    before, target = node.inputs[0], constant(node.inputs[1])
    if before is None or before.shape is None or result.shape is None or target is None:
        return False
    if node.attributes.get_int("allowzero", 0) or len(before.shape) <= axis:
        return False
    return list(before.shape)[: axis + 1] == list(result.shape)[: axis + 1]


def _has_axis(operand: ir.Value | None, result: ir.Value, axis: int) -> bool | None:
    """Tell whether an operand has rows of its own along an axis of the result; None if that cannot be known."""
    if operand is None or operand.shape is None or result.shape is None:
        return None
    own = axis - (len(result.shape) - len(operand.shape))
    if own < 0 or operand.shape[own] == 1:
        return False
    return True if operand.shape[own] == result.shape[axis] else None


def _row_inputs(node: ir.Node, result: ir.Value, axis: int) -> list[tuple[int, ir.Value, int]]:
    """Return the inputs of a node that have the rows, and the axis along which they have them."""
    count = 2 if node.op_type in _BINARY else 1
    operand = node.inputs[0]
    if operand is not None and node.op_type in ("Transpose", "Reshape"):
        perm = node.attributes.get_ints("perm") or ()
        return [(0, operand, perm[axis] if perm else axis)]
    found = []
    for index, operand in enumerate(node.inputs[:count]):
        if operand is not None and (count == 1 or _has_axis(operand, result, axis)):
            shift = len(result.shape or ()) - len(operand.shape or ())
            found.append((index, operand, axis - shift))
    return found


def _products(value: ir.Value, axis: int, graph: ir.Graph) -> int:
    """Count the weighted products that get cheaper if rows of ``value`` are picked earlier."""
    node = _passes(value, axis, graph)
    if node is None:
        return 0
    inner = sum(_products(operand, own, graph) for _, operand, own in _row_inputs(node, value, axis))
    return inner + (node.op_type == "MatMul")


def _hoist(gather: ir.Node, value: ir.Value, axis: int, indices: np.ndarray, graph: ir.Graph) -> None:
    """Pick rows as early as possible, keeping the axis, and drop it where the Gather did."""
    rows = add_initializer(graph, _fresh(graph, f"{gather.name or 'Gather'}_rows"), indices.astype(np.int64))
    scalar = constant(gather.inputs[1])
    picked = _picked(value, axis, rows, graph)
    result = gather.outputs[0]
    if scalar is not None and not shape_of(scalar):
        axes = add_initializer(graph, _fresh(graph, f"{gather.name or 'Gather'}_axes"), np.array([axis], np.int64))
        last = ir.node("Squeeze", [picked, axes], name=gather.name)
    else:
        last = ir.node("Identity", [picked], name=gather.name)
    last.outputs[0].name, last.outputs[0].type, last.outputs[0].shape = result.name, result.type, result.shape
    graph.insert_before(gather, [last])
    result.replace_all_uses_with(last.outputs[0], replace_graph_outputs=True)
    graph.remove(gather, safe=True)


def _picked(value: ir.Value, axis: int, rows: ir.Value, graph: ir.Graph) -> ir.Value:
    """Return the chosen rows of ``value``, from as early as they can be picked."""
    node = _passes(value, axis, graph)
    count = 0 if rows.const_value is None else rows.const_value.size
    if node is not None:
        for index, operand, own in _row_inputs(node, value, axis):
            node.replace_input_with(index, _picked(operand, own, rows, graph))
        target = constant(node.inputs[1]) if node.op_type == "Reshape" else None
        if target is not None:  # 0 copies the number of rows from the input
            sizes = np.where(np.arange(target.size) == axis, 0, target.numpy()).astype(np.int64)
            node.replace_input_with(1, add_initializer(graph, _fresh(graph, f"{node.name}_shape"), sizes))
        value.shape = _with_rows(value, axis, count)
        return value
    gather = ir.node("Gather", [value, rows], {"axis": axis}, name=_fresh_node(graph, f"{value.name}_Gather"))
    output = gather.outputs[0]
    output.name, output.type = _fresh(graph, f"{value.name}_rows"), value.type
    output.shape = _with_rows(value, axis, count)
    producer = value.producer()
    if producer is not None and producer.graph is graph:
        graph.insert_after(producer, [gather])
    else:
        graph.insert_before(next(iter(graph)), [gather])
    return output


def _with_rows(value: ir.Value, axis: int, count: int) -> ir.Shape | None:
    if value.shape is None:
        return None
    return ir.Shape([count if i == axis else dim for i, dim in enumerate(value.shape)])


def _merge_equal(graph: ir.Graph) -> None:
    """Let Gathers of the same rows of one value be one."""
    first: dict[tuple[ir.Value | None, int, tuple[int, ...], bytes], ir.Node] = {}
    for node in graph:
        picked = constant(node.inputs[1]) if node.op_type == "Gather" and is_standard(node) else None
        if picked is None or node.outputs[0].is_graph_output():
            continue
        key = (node.inputs[0], node.attributes.get_int("axis", 0), shape_of(picked), picked.numpy().tobytes())
        twin = first.setdefault(key, node)
        if twin is not node:
            node.outputs[0].replace_all_uses_with(twin.outputs[0])
            graph.remove(node, safe=True)


def _fresh(graph: ir.Graph, name: str) -> str:
    """Return a name that no value of the graph has."""
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    taken |= {value.name for node in graph for value in node.outputs}
    while name in taken:
        name += "_"
    return name


def _fresh_node(graph: ir.Graph, name: str) -> str:
    """Return a name that no node of the graph has."""
    taken = {node.name for node in graph}
    while name in taken:
        name += "_"
    return name
