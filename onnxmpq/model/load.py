"""Load a model, or say in one sentence why it cannot be loaded.

Protobuf reads many broken files without complaint, so what was read is checked: there is a graph, it has nodes, every
tensor has the bytes that its shape asks for, every value that is read exists, and external data stays in the folder
of the model. Big weights are memory-mapped, in external files and in the model's own, and read for the digest only.
"""

import hashlib
import logging
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxmpq.errors import InputError
from onnxmpq.model.layers import all_graphs, graphs_from
from onnxmpq.model.mapped import fill, let_go, mapped_file, put_back, without_big
from onnxmpq.model.protos import graphs
from onnxmpq.model.save import LARGEST_PROTOBUF, skeleton, tensors
from onnxmpq.model.standard import faults, texts

LOWEST_OPSET = 7
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Source:
    """A model as it was given. ``opset`` is that of the ONNX domain, 0 if the model uses no operator of it."""

    model: ir.Model
    path: Path | None
    sha256: str
    opset: int
    size_bytes: int


def load(source: str | Path | onnx.ModelProto | ir.Model) -> Source:
    """Load a model from a file or take one from memory.

    The digest covers the file and its external data files. A model in memory is neither changed nor copied, unless
    its nodes must be sorted, and must not be changed afterwards. Raise InputError for what is no usable model.
    """
    if isinstance(source, (str, Path)):
        return _from_file(Path(source))
    if isinstance(source, ir.Model):
        _check_nodes(source, "The model")
        # Sorting it would change what is the caller's, and onnx_ir clones only what is in order.
        model = source if _in_order(source.graph, set()) else ir.from_proto(ir.to_proto(source))
        _check_reads(model, "The model")
        sha256, size_bytes = digest_of_parts(model)
    else:
        model = _from_proto(source, "The model")
        outside = next((t for t in tensors(model) if isinstance(t, ir.ExternalTensor)), None)
        if outside is not None:
            raise InputError(
                f"The model in memory keeps tensor '{outside.name}' in an external file ('{outside.location}'), and a "
                "ModelProto does not say in which folder. Load it by its path instead."
            )
        if sum(tensor.nbytes for tensor in tensors(model)) > LARGEST_PROTOBUF:  # no protobuf can be made of it
            sha256, size_bytes = digest_of_parts(model)
        else:
            data = _serialized(source)
            sha256, size_bytes = hashlib.sha256(data).hexdigest(), len(data)
    return Source(model, None, sha256, _checked(model, "The model"), size_bytes)


def _from_file(path: Path) -> Source:
    where = f"'{path}'"
    if os.path.isdir(path):
        raise InputError(f"{where} is a folder. Expected an ONNX model: name the .onnx file in it.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{where} is a device or a pipe. Expected an ONNX model: name a file.")
    try:
        data = mapped_file(path)
    except FileNotFoundError:
        raise InputError(f"There is no file {where}. Expected an ONNX model: check the path.") from None
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}. Check its permissions.") from None
    proto = onnx.ModelProto()
    bare, places = without_big(data)
    try:
        proto.ParseFromString(bare)  # pyright: ignore[reportArgumentType]  # takes views
    except MemoryError:
        raise
    except Exception:  # protobuf's DecodeError, which it gives no type for
        raise InputError(
            f"{where} is not an ONNX model, or is cut short ({len(data):,} bytes). Expected protobuf: fetch or export "
            "it again."
        ) from None
    digest, size_bytes = hashlib.sha256(data), len(data)
    places = put_back(proto, data, places)
    model = _from_proto(proto, where)
    fill(model, proto, data, places)
    for tensor in tensors(model):
        let_go(tensor)
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        ir.external_data.set_base_dir(graph, path.parent or ".")
    opset = _checked(model, where)
    for file in _external_files(model, path):
        size_bytes += file.stat().st_size
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return Source(model, path, digest.hexdigest(), opset, size_bytes)


def _serialized(proto: onnx.ModelProto) -> bytes:
    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except Exception as error:  # protobuf raises different types for too large and for incomplete messages
        raise InputError(
            f"The ModelProto cannot be read ({_first_line(error)}). Load it by its path instead."
        ) from None


def _from_proto(proto: onnx.ModelProto, where: str) -> ir.Model:
    """Check what onnx_ir would read wrongly without a word, then hand over to it."""
    if not proto.HasField("graph") or not proto.opset_import or proto.ir_version < 1:
        raise InputError(f"{where} is not an ONNX model: it has no graph or names no opset. Export it again.")
    sparse = [graph.sparse_initializer[0].values.name for graph in graphs(proto.graph) if graph.sparse_initializer]
    if sparse:
        raise InputError(
            f"{where} holds a sparse weight ('{sparse[0]}'), which is not supported. Store it as a dense tensor."
        )
    quiet = logging.getLogger("onnx_ir")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it warns of what _checked refuses
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # whatever a malformed message makes the reader trip over
        raise InputError(f"{where} is not a valid ONNX model: {_first_line(error)}. Export it again.") from error
    finally:
        quiet.setLevel(level)
    if any(isinstance(text, bytes) for text in texts(model)):  # what protobuf gives for a string that is none
        raise InputError(f"{where} holds a name that is not UTF-8. Export it again.")
    _check_nodes(model, where)
    return model


def _check_nodes(model: ir.Model, where: str) -> None:
    """Refuse nodes that are not what their operators ask for; several are told at once."""
    if found := faults(model):
        raise InputError(f"{where} is broken: {'; '.join(found)}. Export it again.")


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0][:200].rstrip(".") or type(error).__name__


def _checked(model: ir.Model, where: str) -> int:
    """Raise InputError if the model cannot be worked with; return its opset."""
    if not len(model.graph):
        raise InputError(f"{where} has an empty graph: there is nothing to compile. Export it again.")
    opset = opset_of(model)
    if opset < LOWEST_OPSET and (opset or any(not node.domain for graph in all_graphs(model) for node in graph)):
        raise InputError(
            f"{where} uses opset {opset or 'of an unknown version'}. Expected {LOWEST_OPSET} or later: export it "
            "again with a newer opset, or convert it with onnx.version_converter."
        )
    for tensor in tensors(model):
        _check_bytes(tensor, where)
    _check_reads(model, where)
    return opset


def opset_of(model: ir.Model) -> int:
    """Return the version of the ONNX domain that the model imports, or 0."""
    imports = model.opset_imports
    return imports.get("", imports.get("ai.onnx", 0))


def _check_reads(model: ir.Model, where: str) -> None:
    """Refuse values that nothing produces, and sort the nodes of graphs that are out of order."""
    for graph in (*all_graphs(model), *(body for f in model.functions.values() for body in graphs_from(f.graph))):
        for node in graph:
            for value in node.inputs:
                if value is not None and not _exists(value):
                    raise InputError(
                        f"{where} is broken: node '{node.name}' ({node.op_type}) reads '{value.name}', which nothing "
                        "produces. Export it again."
                    )
        for value in graph.outputs:
            if not _exists(value):
                raise InputError(f"{where} is broken: nothing produces its output '{value.name}'. Export it again.")
    if not _in_order(model.graph, set()):
        try:
            model.graph.sort()
        except ValueError:
            raise InputError(f"{where} has a cycle among its nodes. Export it again.") from None


def _exists(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()


def _in_order(graph: ir.Graph, seen: set[ir.Value]) -> bool:
    """Tell whether every node stands after those it reads from; ``seen`` are the values known so far."""
    seen |= {*graph.inputs, *graph.initializers.values()}
    for node in graph:
        if any(value is not None and value not in seen for value in node.inputs):
            return False
        for attribute in node.attributes.values():
            bodies = (
                (attribute.as_graph(),)
                if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref()
                else attribute.as_graphs()
                if attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref()
                else ()
            )
            if not all(_in_order(body, seen) for body in bodies):
                return False
        seen.update(node.outputs)
    return True


def _check_bytes(tensor: ir.TensorProtocol, where: str) -> None:
    """Refuse a tensor with more or fewer bytes than its shape and type ask for."""
    proto: Any = tensor.raw if isinstance(tensor, ir.serde.TensorProtoTensor) else None
    try:
        elements, bits = math.prod(tensor.shape.numpy()), tensor.dtype.bitwidth
    except (ValueError, TypeError):
        if isinstance(tensor, ir.StringTensor):
            return
        raise InputError(
            f"{where} holds tensor '{tensor.name}' of a type that is not known. Install a newer onnx_ir."
        ) from None
    if proto is None:
        return
    if proto.HasField("raw_data"):
        found, expected, unit = len(proto.raw_data), math.ceil(elements * bits / 8), "bytes"
    else:
        packed = math.ceil(elements * bits / 8) if bits < 8 and bits != 6 else elements
        fields = (proto.float_data, proto.int32_data, proto.int64_data, proto.double_data, proto.uint64_data)
        found, unit = max(map(len, fields)), "values"
        expected = 2 * elements if tensor.dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128) else packed
    if found != expected:
        raise InputError(
            f"{where} is cut short or broken: tensor '{tensor.name}' has {found:,} {unit}, its shape "
            f"{list(tensor.shape.numpy())} asks for {expected:,}. Fetch or export it again."
        )


def _external_files(model: ir.Model, path: Path) -> list[Path]:
    """Check every reference to an external file and return the files, each once, sorted by location."""
    folder = Path(os.path.realpath(path.parent))
    files: dict[str, Path] = {}
    for tensor in tensors(model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = os.fspath(tensor.location)
        if location not in files:
            files[location] = _contained(folder, location, path)
        size = files[location].stat().st_size
        offset, length = tensor.offset or 0, tensor.length or tensor.nbytes
        if length != tensor.nbytes:
            raise InputError(
                f"'{path}' gives {length:,} bytes to tensor '{tensor.name}' in '{location}', its shape "
                f"{list(tensor.shape.numpy())} asks for {tensor.nbytes:,}. Export it again."
            )
        if offset < 0 or offset + length > size:
            raise InputError(
                f"'{location}' beside '{path}' is cut short: tensor '{tensor.name}' ends at byte {offset + length:,}, "
                f"the file at {size:,}. Fetch or export it again."
            )
    return [files[location] for location in sorted(files)]


def _contained(folder: Path, location: str, path: Path) -> Path:
    """Return the file ``location`` names, refusing what lies outside ``folder``."""
    parts = Path(location).parts
    file = folder / location
    if not location or Path(location).is_absolute() or ".." in parts or {"\\", "\0"} & set(location):
        raise InputError(
            f"'{path}' keeps weights in '{location}', outside its own folder, which is refused. Move the file beside "
            "the model and name it relatively."
        )
    try:
        status = file.stat()
    except OSError:
        raise InputError(
            f"'{path}' keeps weights in '{location}', and there is no such file beside it. Copy it there."
        ) from None
    real = Path(os.path.realpath(file))
    if folder not in real.parents:
        raise InputError(
            f"'{path}' keeps weights in '{location}', a link to '{real}' outside its own folder, which is refused. "
            "Copy the file beside the model."
        )
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise InputError(
            f"'{path}' keeps weights in '{location}', which is not a plain file of its own (a folder, a device or a "
            "hard link). Copy the file beside the model."
        )
    return file


def digest_of_parts(model: ir.Model) -> tuple[str, int]:
    """Digest a model in memory without serialising it whole: its skeleton, then each big tensor."""
    data = skeleton(model).SerializeToString(deterministic=True)
    digest, size = hashlib.sha256(data), len(data)
    for tensor in tensors(model):
        if tensor.dtype != ir.DataType.STRING:
            digest.update(tensor.tobytes())
            size += tensor.nbytes
    return digest.hexdigest(), size
