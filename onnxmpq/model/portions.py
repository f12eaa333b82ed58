"""What the bytes of a model file are: weights, scales, other tensors, graph and text. They add up to the file.

A weight is what a layer multiplies by, in codes or as floats; a scale or zero point is what turns codes back. Bytes of
a tensor are those of its content: names, shapes and all that holds the parts together belong to the graph. Text is doc
strings, metadata and types of inner values.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxmpq.errors import InputError
from onnxmpq.model.load import Source
from onnxmpq.model.mapped import read_mapped
from onnxmpq.model.protos import bytes_on_disk, graphs, tensors
from onnxmpq.model.save import skeleton
from onnxmpq.model.text import described

_LAYERS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "QLinearConv": (3,),
    "QLinearMatMul": (3,),
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "MatMulNBits": (1,),
    "DynamicQuantizeMatMul": (1,),
    "GatherBlockQuantized": (0,),
}
"""Where operators take weights."""
_SCALES = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulNBits": (2, 3),
    "DynamicQuantizeMatMul": (2, 3),
    "GatherBlockQuantized": (2, 3),
    "Quant": (1, 2, 3),
}
"""Where operators take scales and zero points."""
_MOVED = ("Cast", "Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Gather", "Slice")
_THROUGH = ("DequantizeLinear", "Quant", "Mul", "Sub", "BitShift", "BitwiseAnd", "BitwiseOr", *_MOVED)
"""What may stand between stored codes and the layer that reads them."""
_STEPS = 14


@dataclass(frozen=True, slots=True)
class Portions:
    """Bytes of a file by what they are."""

    weights: int
    scales: int
    other: int
    graph: int
    text: int

    @property
    def total(self) -> int:
        """Return the bytes of the file, external data included."""
        return self.weights + self.scales + self.other + self.graph + self.text

    def parts(self) -> tuple[tuple[str, int], ...]:
        """Return what there is, with a name for people, in the order of the fields.

        >>> Portions(40, 0, 0, 9, 1).parts()
        (('weights', 40), ('graph', 9), ('text', 1))
        """
        named = {"other": "other tensors"}
        return tuple((named.get(name, name), count) for name, count in asdict(self).items() if count)

    def to_json(self) -> dict[str, int]:
        """Return the portions as plain JSON data."""
        return asdict(self)


def portions_of_file(path: Path) -> Portions:
    """Return what the bytes of a model file are, those of its external data included."""
    try:
        proto, large = read_mapped(path)
        size = bytes_on_disk(path, proto)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}.") from error
    for tensor in proto.graph.initializer:
        if tensor.name in large:
            tensor.external_data.add(key="length", value=str(large[tensor.name].nbytes))
    return portions(proto, size)


def portions_of(source: Source) -> Portions:
    """Return what the bytes of a model are that was loaded, from a file or from memory."""
    if source.path is not None:
        return portions_of_file(source.path)
    return portions(skeleton(source.model), source.size_bytes)


def portions(proto: onnx.ModelProto, size: int) -> Portions:
    """Return what the ``size`` bytes of a model are."""
    stored = {tensor.name: content(tensor) for graph in graphs(proto.graph) for tensor in graph.initializer}
    fed = {name: node for graph in graphs(proto.graph) for node in graph.node for name in node.output}
    constants: dict[str, int] = {}
    for name, node in fed.items():
        if node.op_type == "Constant":
            constants[name] = sum(content(attribute.t) for attribute in node.attribute if attribute.HasField("t"))
    known = stored | constants
    scales, weights = _roles(proto, fed, known)
    text = _text(proto)
    everything = sum(content(tensor) for tensor in tensors(proto))
    in_weights, in_scales = (sum(known[name] for name in names) for names in (weights, scales))
    return Portions(in_weights, in_scales, everything - in_weights - in_scales, size - everything - text, text)


def _roles(proto: onnx.ModelProto, fed: dict[str, onnx.NodeProto], known: dict[str, int]) -> tuple[set[str], set[str]]:
    """Return the names of stored scales and of stored weights."""
    scales: set[str] = set()
    weights: set[str] = set()
    for node in (node for graph in graphs(proto.graph) for node in graph.node):
        scales.update(_stored(node, _SCALES.get(node.op_type, ()), known))
        scales.update(_looked_up(node, fed, known) if node.op_type == "Mul" else ())
    for node in (node for graph in graphs(proto.graph) for node in graph.node):
        for place in _LAYERS.get(node.op_type, ()):
            if place < len(node.input):
                stored, beside = _behind(node.input[place], fed, known, scales)
                weights.update(stored)
                scales.update(beside if stored else ())
    return scales - weights, weights


def _looked_up(node: onnx.NodeProto, fed: dict[str, onnx.NodeProto], known: dict[str, int]) -> Iterator[str]:
    """Yield the table of scales whose rows a product takes beside the codes of the same rows."""
    kinds = {fed[name].op_type for name in node.input if name in fed}
    if kinds == {"Cast", "Gather"}:
        yield from (
            name for one in node.input if fed[one].op_type == "Gather" for name in _stored(fed[one], (0,), known)
        )


def _behind(
    name: str, fed: dict[str, onnx.NodeProto], known: dict[str, int], scales: set[str], steps: int = _STEPS
) -> tuple[list[str], list[str]]:
    """Return the stored tensors that end up at ``name``, several where they are put together, and their scales."""
    if name in known:
        return ([name] if name not in scales else []), []
    node = fed.get(name)
    if node is None or node.op_type not in _THROUGH or not node.input or not steps:
        return [], []
    beside = [other for other in node.input if other in known] if node.op_type == "Mul" else []
    if node.op_type == "Mul" and len(beside) != 1:
        return [], []
    first = next((other for other in node.input if other not in beside), "")
    parts = node.input if node.op_type == "BitwiseOr" else [first]
    found = [_behind(part, fed, known, scales, steps - 1) for part in parts]
    if not all(stored for stored, _ in found):
        return [], []
    return [name for stored, _ in found for name in stored], [*beside, *(name for _, more in found for name in more)]


def _stored(node: onnx.NodeProto, places: tuple[int, ...], known: dict[str, int]) -> Iterator[str]:
    yield from (node.input[place] for place in places if place < len(node.input) and node.input[place] in known)


def content(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor's content, wherever they are."""
    for entry in tensor.external_data:
        if entry.key == "length":
            return int(entry.value)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        elements: int = math.prod(tensor.dims)
        return math.ceil(elements * ir.DataType(tensor.data_type).itemsize)
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    bare = onnx.TensorProto()
    bare.CopyFrom(tensor)
    for name in ("name", "doc_string", "dims", "data_type", "metadata_props", "data_location", "external_data"):
        bare.ClearField(name)
    return int(bare.ByteSize())


def _text(proto: onnx.ModelProto) -> int:
    """Return the bytes of doc strings, metadata and types of inner values, each once."""
    ends = [info for graph in graphs(proto.graph) for info in (*graph.input, *graph.output)]
    rest = [part for part in described(proto) if not isinstance(part, onnx.ValueInfoProto)]
    total = sum(
        _field(info.ByteSize()) for body in (*graphs(proto.graph), *proto.functions) for info in body.value_info
    )
    for part in (proto, *ends, *rest):
        total += _field(len(part.doc_string.encode())) if part.doc_string else 0
        total += sum(_field(entry.ByteSize()) for entry in part.metadata_props)
    return total


def _field(length: int) -> int:
    """Return the bytes of a field with so much content: its tag, its length, its content."""
    return 1 + (length.bit_length() + 6) // 7 + length
