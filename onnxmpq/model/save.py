"""Save a model: either the whole file is there afterwards, or nothing has changed.

A model that protobuf cannot hold (2 GB) keeps its weights in ``<name>.data`` beside it. Both are written under
temporary names first, which no failure leaves behind.
"""

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import onnx
import onnx_ir as ir

from onnxmpq.disk.files import reason
from onnxmpq.disk.leftovers import note
from onnxmpq.errors import InputError
from onnxmpq.model.layers import all_graphs, graphs_from
from onnxmpq.model.mapped import BIG, let_go, write_bytes, write_with

LARGEST_PROTOBUF = (1 << 31) - (1 << 26)  # protobuf's limit, less 64 MiB for everything that is no weight
_BIG = 1024  # bytes; tensors above it go to the external file, or are left out of a skeleton


def save(
    model: ir.Model,
    path: Path,
    *,
    overwrite: bool = False,
    largest_protobuf: int = LARGEST_PROTOBUF,
    trim: Callable[[onnx.ModelProto], None] = lambda _: None,
) -> int:
    """Write ``model`` to ``path`` and return the bytes written, external data included.

    ``trim`` may take out of the file what need not be in it. ``model`` is left as it is. Raise InputError if the
    destination cannot be written, or exists without ``overwrite``.
    """
    path = Path(os.path.realpath(path))  # so that a link is written through, not replaced
    data_path = path.with_name(path.name + ".data")
    external = _is_external(model, largest_protobuf)
    for taken in (path, data_path) if external else (path,):
        if taken.is_dir():
            raise InputError(f"'{taken}' is a folder. Expected a file to write to: add a file name.")
        if taken.exists() and not overwrite:
            raise InputError(f"'{taken}' exists already. Give another name, or --overwrite to replace it.")
    if not path.parent.is_dir():
        raise InputError(f"There is no folder '{path.parent}' to write '{path.name}' to. Create it first.")
    _map_before_replacing(model, {path, data_path})
    written: dict[Path, Path] = {}
    try:
        copy = model.clone()
        if external:
            with _Temporary(data_path, written) as file:
                _move_out(copy, file, data_path.name)
        with _Temporary(path, written) as file:
            _write(copy, file, data_path.name if external else "", trim)
        size = sum(temporary.stat().st_size for temporary in written)
        _install(written)
        return size
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {reason(error)}.") from error
    finally:
        for temporary in written:
            temporary.unlink(missing_ok=True)


def size_of(
    model: ir.Model,
    name: str,
    *,
    largest_protobuf: int = LARGEST_PROTOBUF,
    trim: Callable[[onnx.ModelProto], None] = lambda _: None,
) -> int:
    """Return the bytes that ``save`` would write to a file called ``name``; nothing is written."""
    copy, counted = model.clone(), _Counted()
    data_name = f"{name}.data" if _is_external(model, largest_protobuf) else ""
    if data_name:
        _move_out(copy, counted, data_name)
    _write(copy, counted, data_name, trim)
    return counted.tell()


def _is_external(model: ir.Model, largest_protobuf: int) -> bool:
    """Tell whether the weights of a model have to lie beside it."""
    return sum(tensor.nbytes for tensor in tensors(model)) > largest_protobuf


def _write(copy: ir.Model, file: BinaryIO, data_name: str, trim: Callable[[onnx.ModelProto], None]) -> None:
    """Write a model, of which what does not lie in the file called ``data_name`` is put in."""
    _move_in(copy, keep=data_name)
    aside = _set_aside(copy)
    proto = ir.serde.serialize_model(copy)
    for tensor in proto.graph.initializer:
        if tensor.name in aside:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = b""
    trim(proto)
    write_with(proto, aside, file)


class _Counted(io.BytesIO):
    """A file that only counts what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def write(self, data: Any, /) -> int:
        """Count some bytes."""
        size = memoryview(data).nbytes
        self.count += size
        return size

    def tell(self) -> int:
        """Return how many there were."""
        return self.count

    def fileno(self) -> int:
        """Refuse: there is no file to be written past this."""
        raise OSError("no file")


def _install(written: dict[Path, Path]) -> None:
    """Move the files to their places, external data first, and all back if one cannot be moved."""
    installed: list[tuple[Path, Path]] = []
    try:
        for temporary, final in written.items():
            old = temporary.with_suffix(".old")
            if final.exists():
                with contextlib.suppress(OSError):  # a file system without hard links: cannot be taken back then
                    os.link(final, old)
            os.replace(temporary, final)
            installed.append((final, old))
    except BaseException:
        for final, old in reversed(installed):
            os.replace(old, final) if old.exists() else final.unlink()
        raise
    finally:
        for temporary in written:
            temporary.with_suffix(".old").unlink(missing_ok=True)


class _Temporary:
    """A file beside ``final`` that is on the disk when the block ends; ``written`` remembers it for the clean-up."""

    def __init__(self, final: Path, written: dict[Path, Path]) -> None:
        self.path = final.with_name(f".{final.name}.{secrets.token_hex(6)}.tmp")
        written[self.path] = final
        note(self.path)

    def __enter__(self) -> BinaryIO:
        self.file = self.path.open("xb")
        return self.file

    def __exit__(self, kind: object, *_: object) -> None:
        with self.file:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every tensor of the model: initialisers and attributes, of all graphs and functions."""
    for graph in (*all_graphs(model), *(g for f in model.functions.values() for g in graphs_from(f.graph))):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.value  # as_tensor asks a protocol whether it is one, which takes long
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield from attribute.as_tensors()


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """Return the model as protobuf without the bytes of its big tensors, of which type and shape remain."""
    copy = model.clone()
    for value in _initializers(copy):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _BIG and tensor.dtype != ir.DataType.STRING:
            value.const_value = _reference(tensor, value.name or "", "-", None)
    return ir.serde.serialize_model(copy)


def _initializers(model: ir.Model) -> list[ir.Value]:
    return [value for graph in all_graphs(model) for value in graph.initializers.values()]


def _reference(tensor: ir.TensorProtocol, name: str, location: str, offset: int | None) -> ir.ExternalTensor:
    """Return ``tensor`` as a reference into an external file."""
    return ir.ExternalTensor(
        location,
        offset,
        None if offset is None else tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props) or None,
    )


def _move_out(copy: ir.Model, file: BinaryIO, location: str) -> None:
    """Write the big initialisers to ``file`` and refer to them there; one tensor used twice is written once."""
    offsets: dict[int, int] = {}
    for value in _initializers(copy):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _BIG or tensor.dtype == ir.DataType.STRING:
            continue
        if id(tensor) not in offsets:
            file.write(b"\0" * (-file.tell() % 64))
            offsets[id(tensor)] = file.tell()
            if isinstance(tensor, ir.ExternalTensor):
                tensor.tofile(file)  # from file to file
            else:
                write_bytes(tensor, file)
        value.const_value = _reference(tensor, value.name or "", location, offsets[id(tensor)])


def _set_aside(copy: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Take big initialisers, which are written one by one, out of the main graph; references stand for them."""
    aside: dict[str, ir.TensorProtocol] = {}
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.Tensor | ir.PackedTensor) and tensor.nbytes >= BIG:
            aside[name] = tensor
            value.const_value = _reference(tensor, name, "-", None)
    return aside


def contained(model: ir.Model) -> onnx.ModelProto:
    """Return a small model as protobuf with all its weights inside, wherever they lie: bytes have no folder."""
    copy = model.clone()
    _move_in(copy, keep="")
    return ir.serde.serialize_model(copy)


def _move_in(copy: ir.Model, keep: str) -> None:
    """Turn references into any external file but ``keep`` into plain tensors."""
    for value in _initializers(copy):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.location != keep:
            value.const_value = _inside(tensor)
    for graph in all_graphs(copy):
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    tensor = attribute.as_tensor()
                    if isinstance(tensor, ir.ExternalTensor):
                        node.attributes[name] = ir.AttrTensor(name, _inside(tensor), doc_string=attribute.doc_string)


def _inside(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    """Return a plain tensor; a small one is a copy, since a page that is read brings its neighbours into memory."""
    array = tensor.numpy()
    if tensor.nbytes < BIG:
        array = array.copy()
        let_go(tensor)
    return ir.Tensor(
        array,
        dtype=tensor.dtype,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props) or None,
    )


def _map_before_replacing(model: ir.Model, replaced: set[Path]) -> None:
    """Open weights that lie in a file about to be replaced: the old file lives on for those who have it mapped."""
    for tensor in tensors(model):
        if isinstance(tensor, ir.ExternalTensor) and Path(os.path.realpath(tensor.path)) in replaced:
            tensor.numpy()
