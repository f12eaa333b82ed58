"""Which nodes of a normalised graph can be quantised, seen without any target in mind.

Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU, RNN   a constant weight, one or two activations
Gather                                              a constant table of rows (an embedding)
MatMul                                              a product of two activations (attention)
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxmpq.artifacts import Grouping, Layer

FLOAT_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the main graph and every body below it, outermost first."""
    return graphs_from(model.graph)


def graphs_from(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield a graph and every body below it, outermost first."""
    pending = deque([graph])
    while pending:
        graph = pending.popleft()
        yield graph
        for node in graph:
            pending += subgraphs(node)


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """Return the bodies that ``node`` carries (If, Loop, Scan), as far as they are there."""
    found: list[ir.Graph] = []
    if not node.attributes:  # as most nodes have none, and all of them are asked again and again
        return found
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found += [attribute.value] if isinstance(attribute.value, ir.Graph) else []
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += [body for body in attribute.value or () if isinstance(body, ir.Graph)]
    return found


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node of every graph."""
    for graph in all_graphs(model):
        yield from graph


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield every value that a graph itself defines: inputs, initialisers, what its nodes give."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of an initialiser that nobody can override, else None."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def is_standard(node: ir.Node) -> bool:
    """Tell whether a node is of the main ONNX domain."""
    return node.domain in ("", "ai.onnx")


def sole_use(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads ``value``, if there is just one and it is no graph output."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses))[0]


def shape_of(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return the shape of a constant as numbers."""
    return tuple(int(str(dim)) for dim in tensor.shape)


def dimensions(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Return the shape with None for what is not known, or None when not even the rank is."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def _elements(value: ir.Value | None) -> int:
    """Count elements per sample: unknown dimensions count as one."""
    return math.prod(dim or 1 for dim in dimensions(value) or ())


def plain_product(node: ir.Node) -> bool:
    """Tell whether a layer is its input times its weight plus its bias, without factors or a transposed input."""
    scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    transposed = node.attributes.get_int("transA", 0) != 0
    return node.op_type != "Gemm" or not (scaled or transposed)


def paddings(
    node: ir.Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the padding of a convolution in front of and behind each axis."""
    rank = len(kernel)
    mode = node.attributes.get_string("auto_pad") or "NOTSET"
    if mode.startswith("SAME"):
        totals = [
            max((-(-size // stride) - 1) * stride + dilation * (width - 1) + 1 - size, 0)
            for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        small = [total // 2 for total in totals]
        pairs = [(few, total - few) for few, total in zip(small, totals, strict=True)]
        return pairs if mode == "SAME_UPPER" else [(high, low) for low, high in pairs]
    explicit = node.attributes.get_ints("pads") if mode == "NOTSET" else None
    pads = list(explicit or [0] * (2 * rank))
    return list(zip(pads[:rank], pads[rank:], strict=True))


def find_layers(model: ir.Model) -> tuple[Layer, ...]:
    """Return every layer of the model, in the order of its nodes."""
    return tuple(
        layer
        for graph in all_graphs(model)
        for node in graph
        if is_standard(node) and (layer := _layer(node, graph is not model.graph)) is not None
    )


def _layer(node: ir.Node, in_body: bool) -> Layer | None:
    constants = {i: tensor for i, v in enumerate(node.inputs) if v is not None and (tensor := constant(v)) is not None}
    op = node.op_type
    grouping: Grouping = "dense"
    bias, bias_add, output = "", "", node.outputs[0]
    inputs: tuple[int, ...] = (0,)
    if op in ("Conv", "ConvTranspose"):
        weights: tuple[int, ...] = (1,)
        axes: tuple[int, ...] = (0,) if op == "Conv" else (1,)
        bias = _name(node, 2)
    elif op == "Gemm":
        weights, axes = (1,), ((0,) if node.attributes.get_int("transB", 0) else (1,))
        bias = _name(node, 2)
    elif op == "MatMul" and 1 in constants:
        rank = len(constants[1].shape)
        weights, axes = (1,), ((rank - 1,) if rank == 2 else (*range(rank - 2), rank - 1))
        bias, bias_add, output = _added_bias(node, constants[1])
    elif op == "MatMul" and 0 in constants:
        rank = len(constants[0].shape)
        weights, axes, inputs = (0,), tuple(range(rank - 1)), (1,)
    elif op == "MatMul":
        weights, axes, inputs = (), (), (0, 1)
    elif op in _RECURRENT:
        weights, axes = (1, 2), (0, 1)
    elif op == "Gather":
        weights, axes, inputs = (0,), (0,), ()
        if node.attributes.get_int("axis", 0) != 0:
            return None
    else:
        return None
    if not weights and any(value.dtype not in FLOAT_TYPES for value in node.inputs if value is not None):
        return None
    if any(i not in constants or constants[i].dtype not in FLOAT_TYPES for i in weights):
        return None
    shape = shape_of(constants[weights[0]]) if weights else ()
    if weights and len(shape) < 2:
        return None
    if op in ("Conv", "ConvTranspose"):
        groups = node.attributes.get_int("group", 1)
        channels = math.prod(shape[1:2]) * groups if op == "Conv" else math.prod(shape[:1])
        # several outputs for each input run in the kernels of grouped convolutions
        single = groups == channels and (op == "ConvTranspose" or shape[:1] == (groups,))
        grouping = "dense" if groups == 1 else "depthwise" if single else "grouped"
    dtype = constants[weights[0]].dtype if weights else (node.inputs[0].dtype if node.inputs[0] else None)
    return Layer(
        node=node.name or "",
        op=op,
        grouping=grouping,
        weights=tuple(_name(node, i) for i in weights),
        weight_shape=shape,
        weight_type=dtype.name if dtype else "",
        channel_axes=axes,
        inputs=inputs,
        bias=bias,
        bias_add=bias_add,
        output=output.name or "",
        macs=_macs(node, shape),
        in_body=in_body,
    )


def _name(node: ir.Node, index: int) -> str:
    value = node.inputs[index] if index < len(node.inputs) else None
    return (value.name or "") if value is not None else ""


def _added_bias(node: ir.Node, weight: ir.TensorProtocol) -> tuple[str, str, ir.Value]:
    """Find ``MatMul -> Add(constant of the weight's last dimension)`` and return bias, Add and its output."""
    add = sole_use(node.outputs[0])
    if add is not None and add.op_type == "Add" and is_standard(add) and add.graph is node.graph:
        other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
        tensor = constant(other)
        if tensor is not None and other is not None and shape_of(tensor) == (weight.shape[-1],):
            return other.name or "", add.name or "", add.outputs[0]
    return "", "", node.outputs[0]


def _macs(node: ir.Node, shape: tuple[int, ...]) -> int:
    """Count multiply-accumulates per sample; unknown dimensions count as one."""
    out = _elements(node.outputs[0])
    match node.op_type:
        case "Conv":
            return out * math.prod(shape[1:])
        case "ConvTranspose":
            return _elements(node.inputs[0]) * math.prod(shape[1:])
        case "Gemm":
            return out * shape[1 if node.attributes.get_int("transB", 0) else 0]
        case "MatMul":
            left = dimensions(node.inputs[0]) or ()
            return out * ((left[-1] if left else 0) or (shape[-2] if shape else 0) or 1)
        case "Gather":
            return 0
        case _:  # recurrent: every step multiplies all weights
            steps = (dimensions(node.inputs[0]) or (1,))[0] or 1
            return steps * sum(
                math.prod(shape_of(tensor)) for v in node.inputs[1:3] if (tensor := constant(v)) is not None
            )


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of a model's own initialisers."""
    held = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in held if tensor is not None)
