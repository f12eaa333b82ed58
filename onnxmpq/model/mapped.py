"""Big tensors of a model file stay in the file: they are read through a map of it, and written one by one.

    data = mapped_file(path)             the bytes of a file, without reading it
    bare, places = without_big(data)     a serialised model whose big initialisers are empty, and where their bytes lie
    fill(model, ...)                     gives the model tensors that lie in the map
    let_go(tensor)                       gives back the memory of a tensor's pages; reading fetches them anew
    write_with(proto, tensors, file)     writes what serialising the whole model would give
    read_mapped(path)                    a model file read so: its big initialisers are empty, and come beside it

A model in protobuf is field 7, the graph; in it fields 5, the initialisers; in those field 9, the bytes.
"""

import math
import mmap
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

BIG = 1 << 17
"""Bytes from which on a tensor stays in its file."""
_GRAPH, _INITIALISER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_CHUNK = 1 << 24

Places: TypeAlias = dict[int, tuple[int, int]]
"""Where the bytes of initialisers lie in a file, first and behind the last, by their position in the graph."""


class _Field(NamedTuple):
    """A field of a message: where its tag, its content and what follows begin."""

    number: int
    wire: int
    tag: int
    start: int
    end: int


class MappedTensor(ir.Tensor[npt.NDArray[Any]]):
    """A tensor that lies in a mapped file."""

    def __init__(self, array: npt.NDArray[Any], like: onnx.TensorProto) -> None:
        """Take an array that reads from a file, and everything else from ``like``."""
        super().__init__(
            array,
            dtype=ir.DataType(like.data_type),
            name=like.name,
            doc_string=like.doc_string,
            metadata_props={entry.key: entry.value for entry in like.metadata_props},
        )

    def numpy(self) -> npt.NDArray[Any]:
        """Return the array; protobuf aligns nothing, and numpy sums what is not aligned in another order."""
        return np.require(super().numpy(), requirements="A")


def mapped_file(path: Path) -> memoryview:
    """Return the bytes of a file, which are read when they are looked at; those of a small one are read now."""
    with path.open("rb") as file:
        if path.stat().st_size <= BIG:
            return memoryview(file.read())
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def without_big(data: memoryview) -> tuple[bytes | memoryview, Places]:
    """Return a serialised model with the bytes of big initialisers taken out, and where those lie.

    What is no protobuf, or is written as no usual writer does it, is returned as it is.
    """
    places: Places = {}
    try:
        graphs = [field for field in _fields(data, 0, len(data)) if field.number == _GRAPH]
        if len(data) <= BIG or len(graphs) != 1 or graphs[0].wire != _LENGTH:
            return data, places
        initialisers = [f for f in _fields(data, graphs[0].start, graphs[0].end) if f.number == _INITIALISER]
        for index, field in enumerate(initialisers):
            raw = [f for f in _fields(data, field.start, field.end) if f.number == _RAW_DATA]
            if len(raw) == 1 and raw[0].wire == _LENGTH and raw[0].end - raw[0].start >= BIG:
                places[index] = raw[0].start, raw[0].end
        return b"".join(_pieces(data, graphs[0], initialisers, {index: b"" for index in places})), places
    except ValueError:
        return data, {}


def put_back(proto: onnx.ModelProto, data: memoryview, places: Places) -> Places:
    """Put bytes back that do not make the tensor that they are said to be; return the places of the others."""
    names = Counter(tensor.name for tensor in proto.graph.initializer)
    fitting: Places = {}
    for index, (start, end) in places.items():
        tensor = proto.graph.initializer[index]
        if _fits(tensor, end - start) and tensor.name and names[tensor.name] == 1:
            fitting[index] = start, end
        else:
            tensor.raw_data = bytes(data[start:end])
    return fitting


def read_mapped(path: Path) -> tuple[onnx.ModelProto, dict[str, MappedTensor]]:
    """Read a model file; its big initialisers are empty, and come beside it by their names."""
    data = mapped_file(path)
    bare, places = without_big(data)
    proto = onnx.ModelProto.FromString(bytes(bare))
    return proto, _tensors(proto, data, put_back(proto, data, places))


def load_mapped(path: Path) -> ir.Model:
    """Read a model file of our own; its big initialisers lie in the map."""
    proto, tensors = read_mapped(path)
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    for name, tensor in tensors.items():
        model.graph.initializers[name].const_value = tensor
    return model


def fill(model: ir.Model, proto: onnx.ModelProto, data: memoryview, places: Places) -> None:
    """Give the initialisers of a model, which was made of ``proto``, the tensors that lie in the map."""
    for name, tensor in _tensors(proto, data, places).items():
        model.graph.initializers[name].const_value = tensor


def _tensors(proto: onnx.ModelProto, data: memoryview, places: Places) -> dict[str, MappedTensor]:
    """Return the tensors that lie in the map, by their names."""
    found: dict[str, MappedTensor] = {}
    for index, (start, end) in places.items():
        tensor = proto.graph.initializer[index]
        dtype = np.dtype(ir.DataType(tensor.data_type).numpy())
        array = np.frombuffer(data[start:end], dtype).reshape(tuple(tensor.dims))
        found[tensor.name] = MappedTensor(array, tensor)
    return found


def let_go(tensor: object) -> None:
    """Give back the memory that the pages of a mapped file take; whoever reads them again, fetches them again."""
    lies_in = getattr(tensor, "raw", tensor)  # of an external tensor the map itself, of others an array
    while isinstance(lies_in, np.ndarray | memoryview):
        lies_in = lies_in.obj if isinstance(lies_in, memoryview) else lies_in.base
    if isinstance(lies_in, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        lies_in.madvise(mmap.MADV_DONTNEED)


def write_with(proto: onnx.ModelProto, tensors: Mapping[str, ir.TensorProtocol], file: BinaryIO) -> None:
    """Write a model, with the bytes of some initialisers, which are empty in ``proto``, put in."""
    bare = memoryview(proto.SerializeToString())
    (graph,) = (field for field in _fields(bare, 0, len(bare)) if field.number == _GRAPH)
    initialisers = [f for f in _fields(bare, graph.start, graph.end) if f.number == _INITIALISER]
    names = [tensor.name for tensor in proto.graph.initializer]
    contents = {index: tensors[name] for index, name in enumerate(names) if name in tensors}
    for piece in _pieces(bare, graph, initialisers, contents):
        if isinstance(piece, bytes | memoryview):
            file.write(piece)
        else:
            write_bytes(piece, file)


def write_bytes(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """Write the bytes of a tensor without a copy of them, where they are laid out as protobuf has them."""
    if isinstance(tensor, ir.PackedTensor):
        array = tensor.numpy_packed()
    elif tensor.dtype.bitwidth >= 8 and sys.byteorder == "little":
        array = np.asarray(tensor.numpy())
    else:
        array = np.frombuffer(tensor.tobytes(), np.uint8)
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _CHUNK):
        file.write(flat[start : start + _CHUNK].data)
    let_go(tensor)


def _fits(tensor: onnx.TensorProto, size: int) -> bool:
    """Tell whether so many bytes are the tensor's own, of a type that arrays have, and all that it holds."""
    held = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    try:
        dtype = ir.DataType(tensor.data_type)
        whole = dtype.bitwidth >= 8 and math.prod(tensor.dims) * dtype.bitwidth == 8 * size
    except (ValueError, TypeError):  # a type that is not known, or has no width
        return False
    return whole and min(tensor.dims, default=1) >= 0 and tensor.HasField("raw_data") and not any(map(len, held))


def _pieces(
    data: memoryview, graph: _Field, initialisers: list[_Field], contents: Mapping[int, bytes | ir.TensorProtocol]
) -> Iterator[Any]:
    """Yield a serialised model piece by piece, with other contents of ``raw_data`` in some initialisers."""
    heads: dict[int, tuple[_Field, bytes, bytes]] = {}
    grown = 0
    for index, content in contents.items():
        field = initialisers[index]
        (raw,) = (f for f in _fields(data, field.start, field.end) if f.number == _RAW_DATA)
        size = len(content) if isinstance(content, bytes) else content.nbytes
        inner = _tag(_RAW_DATA) + _varint(size)
        length = field.end - field.start - (raw.end - raw.tag) + len(inner) + size
        outer = _tag(_INITIALISER) + _varint(length)
        heads[index] = raw, outer, inner
        grown += len(outer) + length - (field.end - field.tag)
    yield data[: graph.tag]
    yield _tag(_GRAPH) + _varint(graph.end - graph.start + grown)
    position = graph.start
    for index, (raw, outer, inner) in sorted(heads.items()):
        field = initialisers[index]
        yield from (data[position : field.tag], outer, data[field.start : raw.tag], inner, contents[index])
        yield data[raw.end : field.end]
        position = field.end
    yield data[position:]


def _fields(data: memoryview, start: int, end: int) -> Iterator[_Field]:
    """Yield the fields of a message; raise ValueError where it is none."""
    while start < end:
        tag = start
        key, start = _read_varint(data, start, end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            _, stop = _read_varint(data, start, end)
        elif wire == _LENGTH:
            size, start = _read_varint(data, start, end)
            stop = start + size
        elif wire in (_FIXED64, _FIXED32):
            stop = start + (8 if wire == _FIXED64 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if not number or stop > end:
            raise ValueError("cut short")
        yield _Field(number, wire, tag, start, stop)
        start = stop


def _read_varint(data: memoryview, start: int, end: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            break
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("no number")


def _varint(value: int) -> bytes:
    """Write a number.

    >>> _varint(300).hex()
    'ac02'
    """
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def _tag(number: int) -> bytes:
    """Return what a field of bytes begins with."""
    return _varint(number << 3 | _LENGTH)
