"""Damage to models that knows what a model is made of: nodes, values, weights, attributes, bodies, functions, bytes.

    damaged(base, [11, 5, 70])     each number is the seed of one change, made one after another

Most mutants are nearly right, which reaches further than noise: a wrong rank under a right name, a weight of the wrong
type, a node twice, a body in the place of a node.
"""

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Change = Callable[[onnx.ModelProto, random.Random], None]

_EXTREME = (0, 1, -1, 2, 3, 7, 255, -128, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63))
_OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "LSTM", "GRU", "Add", "Mul", "Div", "Relu", "Clip"),
    *("Softmax", "Reshape", "Transpose", "Concat", "Split", "Slice", "Pad", "Cast", "Identity", "Dropout", "Constant"),
    *("BatchNormalization", "LayerNormalization", "GlobalAveragePool", "MaxPool", "Squeeze", "Unsqueeze", "Shape"),
    *("ConstantOfShape", "Expand", "Tile", "Range", "OneHot", "Where", "If", "Loop", "Scan", "SequenceConstruct"),
    *("SequenceAt", "Optional", "OptionalGetElement", "QuantizeLinear", "DequantizeLinear", "NonZero", "TopK"),
    *("StringNormalizer", "Einsum", "Resize", "RandomNormal", "Nothing"),
)


def damaged(base: bytes, seeds: list[int]) -> bytes:
    """Return the base with one change for each seed; changes to bytes come when they come, and end the others."""
    model = onnx.ModelProto.FromString(base)
    for place, seed in enumerate(seeds):
        chance = random.Random(seed)
        change = chance.choice(CHANGES)
        try:
            change(model, chance)
        except Exception:  # nothing of that kind is left, or it is too damaged already
            continue
        if chance.random() < 0.02:
            return _bytes(model, random.Random(seed + place))
    return bytes(model.SerializeToString())


def _bytes(model: onnx.ModelProto, chance: random.Random) -> bytes:
    """Damage the file rather than the model."""
    data = bytearray(model.SerializeToString())
    match chance.randrange(4):
        case 0:
            del data[chance.randrange(len(data)) :]
        case 1:
            for _ in range(chance.randint(1, 8)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        case 2:
            start = chance.randrange(len(data))
            data[start:start] = data[start : start + chance.randint(1, 200)]
        case _:
            name = next((node.output[0] for node in model.graph.node if node.output), "x").encode()
            data = bytearray(bytes(data).replace(name, bytes([0xFF]) * len(name)))
    return bytes(data)


def _node(model: onnx.ModelProto, chance: random.Random) -> onnx.NodeProto:
    node: onnx.NodeProto = chance.choice(list(model.graph.node))
    return node


def _value(model: onnx.ModelProto, chance: random.Random) -> str:
    """Return a name: mostly of a value that is there."""
    graph = model.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    names += [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
    strange = ["", "nobody", "x" * 5000, "a\x00b", "a\x1b[31mb", "../../etc/passwd", "ünïcode", "%s{}[red]"]
    return chance.choice(names) if chance.random() < 0.85 else chance.choice(strange)


def delete_node(model: onnx.ModelProto, chance: random.Random) -> None:
    """Take a node out."""
    del model.graph.node[chance.randrange(len(model.graph.node))]


def double_node(model: onnx.ModelProto, chance: random.Random) -> None:
    """Put a node in twice, at times with outputs of its own."""
    copy = onnx.NodeProto()
    copy.CopyFrom(_node(model, chance))
    if chance.random() < 0.7:
        for place in range(len(copy.output)):
            copy.output[place] += "_again"
    model.graph.node.insert(chance.randint(0, len(model.graph.node)), copy)


def move_node(model: onnx.ModelProto, chance: random.Random) -> None:
    """Let a node stand elsewhere."""
    node = model.graph.node.pop(chance.randrange(len(model.graph.node)))
    model.graph.node.insert(chance.randint(0, len(model.graph.node)), node)


def rename_operator(model: onnx.ModelProto, chance: random.Random) -> None:
    """Let a node be another operator, or one of another domain."""
    node = _node(model, chance)
    if chance.random() < 0.8:
        node.op_type = chance.choice(_OPERATORS)
    else:
        node.domain = chance.choice(("ai.onnx", "ai.onnx.ml", "com.microsoft", "nobody", ""))


def change_input(model: onnx.ModelProto, chance: random.Random) -> None:
    """Let a node read something else, less, or more."""
    node = _node(model, chance)
    match chance.randrange(5):
        case 0:
            node.input.append(_value(model, chance))
        case 1:
            del node.input[chance.randrange(len(node.input))]
        case 2:
            del node.input[:]
        case 3:
            node.input[chance.randrange(len(node.input))] = ""
        case _:
            node.input[chance.randrange(len(node.input))] = _value(model, chance)


def change_output(model: onnx.ModelProto, chance: random.Random) -> None:
    """Let a node give something else, less, or more."""
    node = _node(model, chance)
    match chance.randrange(4):
        case 0:
            node.output.append(f"more{chance.randrange(9)}")
        case 1:
            del node.output[chance.randrange(len(node.output))]
        case 2:
            node.output[chance.randrange(len(node.output))] = _value(model, chance)
        case _:
            node.output[0] = ""


def change_attribute(model: onnx.ModelProto, chance: random.Random) -> None:
    """Change, add or take an attribute."""
    node = _node(model, chance)
    kind = chance.randrange(6)
    if kind == 0 or not node.attribute:
        name = chance.choice(("axis", "kernel_shape", "pads", "group", "to", "perm", "body", "value", "alpha", "x"))
        node.attribute.append(_attribute(name, chance))
        return
    place = chance.randrange(len(node.attribute))
    attribute = node.attribute[place]
    if kind == 1:
        del node.attribute[place]
    elif kind == 2:
        attribute.type = chance.choice((*AttributeProto.AttributeType.values(), 77))  # pyright: ignore[reportAttributeAccessIssue]
    elif kind == 3:
        attribute.ref_attr_name = "outer"
    elif attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(_EXTREME)
        if chance.random() < 0.3:
            attribute.ints.extend([1] * chance.randint(1, 9))
    else:
        node.attribute[place].CopyFrom(_attribute(attribute.name, chance))


def _attribute(name: str, chance: random.Random) -> AttributeProto:
    made = AttributeProto(name=name)
    match chance.randrange(6):
        case 0:
            made.type, made.i = AttributeProto.INT, chance.choice(_EXTREME)
        case 1:
            made.type = AttributeProto.INTS
            made.ints.extend(chance.choice(_EXTREME) for _ in range(chance.randrange(6)))
        case 2:
            made.type, made.f = AttributeProto.FLOAT, chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
        case 3:
            made.type, made.s = AttributeProto.STRING, chance.choice((b"", b"SAME_UPPER", b"\xff\xfe", b"x" * 1000))
        case 4:
            made.type = AttributeProto.TENSOR
            made.t.CopyFrom(numpy_helper.from_array(np.arange(chance.randrange(5), dtype=np.int64), "t"))
        case _:
            made.type = AttributeProto.GRAPH
    return made


def _tensor(model: onnx.ModelProto, chance: random.Random) -> TensorProto:
    tensor: TensorProto = chance.choice(list(model.graph.initializer))
    return tensor


def change_shape(model: onnx.ModelProto, chance: random.Random) -> None:
    """Give a weight another shape, with or without the numbers for it."""
    tensor = _tensor(model, chance)
    dims = list(tensor.dims)
    match chance.randrange(6):
        case 0:
            dims = dims[::-1]
        case 1:
            dims = [*dims, 1]
        case 2:
            dims = dims[1:]
        case 3:
            dims = [int(np.prod(dims))]
        case 4:
            dims[chance.randrange(len(dims))] = chance.choice(_EXTREME)
        case _:
            dims = [0, *dims]
    if chance.random() < 0.4 and all(0 <= dim < 4096 for dim in dims) and np.prod(dims) < 1 << 20:
        array = np.resize(numpy_helper.to_array(tensor), dims)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    else:
        del tensor.dims[:]
        tensor.dims.extend(dims)


def change_type(model: onnx.ModelProto, chance: random.Random) -> None:
    """Give a weight another type, with or without a cast."""
    tensor = _tensor(model, chance)
    if chance.random() < 0.6:
        kind = chance.choice(("float16", "float64", "int8", "uint8", "int32", "int64", "bool", "complex64"))
        with np.errstate(all="ignore"):
            cast = numpy_helper.to_array(tensor).astype(kind)
        tensor.CopyFrom(numpy_helper.from_array(cast, tensor.name))
    else:
        tensor.data_type = chance.choice((0, *range(1, 30), 77))


def change_numbers(model: onnx.ModelProto, chance: random.Random) -> None:
    """Fill a weight with numbers that nobody expects."""
    tensor = _tensor(model, chance)
    array = numpy_helper.to_array(tensor).copy()
    if not array.size:
        return
    if array.dtype.kind == "f":
        value = chance.choice((0.0, np.nan, np.inf, -np.inf, 1e38, 1e-44, -0.0, 1e-38))
    else:
        value = chance.choice((0, -1, np.iinfo(array.dtype).max, np.iinfo(array.dtype).min))
    with np.errstate(all="ignore"):
        if chance.random() < 0.5:
            array[...] = value
        else:
            array.reshape(-1)[chance.randrange(array.size)] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def cut_numbers(model: onnx.ModelProto, chance: random.Random) -> None:
    """Let a weight have fewer or more bytes than it says."""
    tensor = _tensor(model, chance)
    data = tensor.raw_data
    tensor.raw_data = data[: chance.randrange(len(data) + 1)] if chance.random() < 0.6 else data + b"\0" * 5


def change_weight(model: onnx.ModelProto, chance: random.Random) -> None:
    """Rename, double, drop or move a weight."""
    graph = model.graph
    place = chance.randrange(len(graph.initializer))
    tensor = graph.initializer[place]
    match chance.randrange(6):
        case 0:
            tensor.name = _value(model, chance)
        case 1:
            graph.initializer.append(tensor)
        case 2:
            del graph.initializer[place]
        case 3:
            graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
            del graph.initializer[place]
        case 4:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        case _:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(
                key="location", value=chance.choice(("w.bin", "", "/dev/zero", "..", "a\0b", "m.onnx"))
            )
            tensor.ClearField("raw_data")


def change_public(model: onnx.ModelProto, chance: random.Random) -> None:
    """Change what the model says of its inputs and outputs."""
    graph = model.graph
    values = chance.choice((graph.input, graph.output, graph.output))
    place = chance.randrange(len(values))
    value = values[place]
    match chance.randrange(9):
        case 0:
            value.name = _value(model, chance)
        case 1:
            del values[place]
        case 2:
            value.type.tensor_type.elem_type = chance.choice((0, *range(1, 24), 77))
        case 3:
            value.type.tensor_type.shape.dim.add().dim_value = chance.choice(_EXTREME)
        case 4:
            dims = value.type.tensor_type.shape.dim
            dims[chance.randrange(len(dims))].dim_value = chance.choice(_EXTREME)
        case 5:
            value.type.ClearField("value")
        case 6:
            inner = onnx.TypeProto()
            inner.CopyFrom(value.type)
            kind = value.type.sequence_type if chance.random() < 0.5 else value.type.optional_type
            kind.elem_type.CopyFrom(inner)
        case 7:
            values.append(value)
        case _:
            graph.output.append(onnx.ValueInfoProto(name=_value(model, chance)))


def change_header(model: onnx.ModelProto, chance: random.Random) -> None:
    """Change versions, domains and text."""
    match chance.randrange(6):
        case 0:
            model.ir_version = chance.choice((0, 1, 3, 7, 99, -1, 1 << 40))
        case 1:
            model.opset_import[0].version = chance.choice((0, 1, 6, 7, 11, 13, 21, 99, -5))
        case 2:
            model.opset_import[0].domain = chance.choice(("ai.onnx", "nobody", "ai.onnx.ml"))
        case 3:
            model.opset_import.add(domain=chance.choice(("", "nobody")), version=chance.choice((1, 13, 21)))
        case 4:
            model.graph.doc_string = "\x1b[31m" * 10000
            model.metadata_props.add(key="\x1b", value="x" * 100000)
        case _:
            model.graph.name = ""


def nest(model: onnx.ModelProto, chance: random.Random) -> None:
    """Put the last nodes into the branches of an If, or into a Loop; they read the outer values."""
    graph = model.graph
    count = chance.randint(1, len(graph.node))
    inner = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node[-count:]]
    outs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in graph.output]
    del graph.node[-count:]
    names = [value.name for value in outs]
    body = helper.make_graph(inner, "body", [], outs)
    if chance.random() < 0.6:
        graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        graph.node.append(helper.make_node("If", ["yes"], names, then_branch=body, else_branch=body))
        return
    graph.initializer.append(numpy_helper.from_array(np.array(2, np.int64), "trips"))
    scalar = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    inner.append(helper.make_node("Identity", ["c"], ["go"]))
    body = helper.make_graph(inner, "body", scalar, [helper.make_tensor_value_info("go", TensorProto.BOOL, []), *outs])
    graph.node.append(helper.make_node("Loop", ["trips", ""], names, body=body))


def call(model: onnx.ModelProto, chance: random.Random) -> None:
    """Put a node into a function of the model, at times one that calls itself."""
    node = _node(model, chance)
    inner = onnx.NodeProto.FromString(node.SerializeToString())
    nodes = [inner]
    if chance.random() < 0.2:
        nodes.append(helper.make_node("Called", [node.input[0]], ["again"], domain="mine"))
    opset = helper.make_opsetid("", chance.choice((model.opset_import[0].version, 9)))
    names = list(dict.fromkeys(name for name in node.input if name))
    made = helper.make_function(
        "mine", "Called", names, list(node.output), nodes, [opset, helper.make_opsetid("mine", 1)]
    )
    model.functions.append(made)
    model.opset_import.add(domain="mine", version=1)
    del node.attribute[:]
    del node.input[:]
    node.input.extend(names)
    node.op_type, node.domain = "Called", "mine"


def insert_node(model: onnx.ModelProto, chance: random.Random) -> None:
    """Put an operator between a value and one of its readers."""
    node = _node(model, chance)
    place = chance.randrange(len(node.input))
    name = f"{node.input[place]}_{chance.randrange(1 << 30)}"
    kind = chance.choice(_OPERATORS)
    more = [_value(model, chance) for _ in range(chance.choice((0, 0, 1, 1, 2)))]
    added = helper.make_node(kind, [node.input[place], *more], [name])
    if chance.random() < 0.5:
        added.attribute.append(_attribute(chance.choice(("axis", "perm", "to", "axes", "keepdims", "value")), chance))
    node.input[place] = name
    index = next(i for i, other in enumerate(model.graph.node) if other is node or other == node)
    model.graph.node.insert(index, added)


def extremes(model: onnx.ModelProto, chance: random.Random) -> None:
    """Let constants meet that arithmetic does not survive."""
    kind, low = chance.choice((("int64", -(1 << 63)), ("int32", -(1 << 31))))
    operator = chance.choice(("Div", "Mod", "Mul", "Sub", "Pow", "BitShift", "Add"))
    number = f"n{chance.randrange(1 << 30)}"
    by = chance.choice((-1, 0))
    model.graph.initializer.append(numpy_helper.from_array(np.array([low], kind), f"{number}a"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([by], kind), f"{number}b"))
    model.graph.node.insert(0, helper.make_node(operator, [f"{number}a", f"{number}b"], [number]))
    model.graph.output.append(helper.make_tensor_value_info(number, TensorProto.DataType.Value(kind.upper()), [1]))


CHANGES: tuple[Change, ...] = (
    *(delete_node, double_node, move_node, rename_operator, change_input, change_input, change_output),
    *(change_attribute, change_attribute, change_shape, change_type, change_numbers, cut_numbers, change_weight),
    *(change_public, change_public, change_header, nest, call, insert_node, insert_node, extremes),
)
