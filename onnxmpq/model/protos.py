"""Walking models as protobuf has them, bodies of If, Loop and Scan included."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and every body below it."""
    yield graph
    yield from bodies_of(graph.node)


def bodies_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Yield every body below some nodes."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)
            for body in attribute.graphs:
                yield from graphs(body)


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model: initialisers and attributes, of all graphs and functions."""
    bodies = [*graphs(proto.graph), *(body for function in proto.functions for body in bodies_of(function.node))]
    for body in bodies:
        yield from body.initializer
    for part in (*bodies, *proto.functions):
        for attribute in (attribute for node in part.node for attribute in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def locations(proto: onnx.ModelProto) -> list[onnx.StringStringEntryProto]:
    """Return the entries in which the tensors of a model name the files that they lie in."""
    return [
        entry
        for tensor in tensors(proto)
        for entry in tensor.external_data
        if tensor.data_location == onnx.TensorProto.EXTERNAL and entry.key == "location"
    ]


def bytes_on_disk(path: Path, proto: onnx.ModelProto) -> int:
    """Return the bytes of a model file and of the external data beside it."""
    beside: int = sum((path.parent / name).stat().st_size for name in {entry.value for entry in locations(proto)})
    return path.stat().st_size + beside
