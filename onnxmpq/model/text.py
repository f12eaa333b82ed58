"""What exporters write into a model and no runtime reads: doc strings, metadata of nodes and values, inferred types.

    needed_types(model)         the inner values whose type or shape nothing else tells
    drop_text(proto, needed)    takes everything else out of a model that is about to be written

What stands at the model itself stays, since applications read it: its doc string and its ``metadata_props``, where
class names and dictionaries are kept.
"""

from collections.abc import Collection, Iterator
from typing import TypeAlias

import onnx
import onnx_ir as ir

from onnxmpq.model.layers import all_nodes, is_standard
from onnxmpq.model.protos import bodies_of, graphs, tensors
from onnxmpq.model.save import skeleton

Described: TypeAlias = onnx.NodeProto | onnx.GraphProto | onnx.ValueInfoProto | onnx.TensorProto | onnx.FunctionProto


def needed_types(model: ir.Model) -> frozenset[str]:
    """Return the inner values of a model whose declared types tell more than inference finds without them."""
    declared = {value.name: value for node in all_nodes(model) for value in node.outputs if value.type is not None}
    if not declared:
        return frozenset()
    bare = skeleton(model)
    for graph in graphs(bare.graph):
        del graph.value_info[:]
    try:
        inferred = ir.from_proto(onnx.shape_inference.infer_shapes(bare, data_prop=True))
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return frozenset(name for name in declared if name)
    found = {value.name: value for node in all_nodes(inferred) for value in node.outputs}
    return frozenset(name for name, value in declared.items() if name and not _told(value, found.get(name)))


def drop_text(proto: onnx.ModelProto, needed: Collection[str]) -> None:
    """Take texts out of a model, and types of inner values but of those that are ``needed``.

    Operators of other domains keep the types that they were given, since only their runtime can infer any.
    """
    for part in described(proto):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for body in (*graphs(proto.graph), *proto.functions):
        foreign = {name for node in body.node if node.domain not in ("", "ai.onnx") for name in node.output}
        kept = [info for info in body.value_info if info.name in needed or info.name in foreign]
        if len(kept) < len(body.value_info):
            kept = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in kept]
            del body.value_info[:]
            body.value_info.extend(kept)


def described(proto: onnx.ModelProto) -> Iterator[Described]:
    """Yield every part of a model that carries a doc string and metadata, but not the model itself."""
    bodies = [*graphs(proto.graph), *(body for function in proto.functions for body in bodies_of(function.node))]
    yield from proto.functions
    yield from bodies
    yield from tensors(proto)
    for body in bodies:
        yield from (*body.input, *body.output)
    for part in (*bodies, *proto.functions):
        yield from (*part.value_info, *part.node)


def _told(value: ir.Value, found: ir.Value | None) -> bool:
    """Tell whether inference found all that ``value`` declares; names of dimensions do not count."""
    if found is None or found.type != value.type:
        return False
    if value.shape is None:
        return True
    if found.shape is None or len(found.shape) != len(value.shape):
        return False
    return all(mine == theirs for mine, theirs in zip(value.shape, found.shape, strict=True) if isinstance(mine, int))


def forget_inferred(model: ir.Model, source: ir.Model) -> None:
    """Drop the types and shapes of inner values that the source did not write down: runtimes infer them again."""
    known = {v.name for node in all_nodes(source) for v in node.outputs if v.type is not None}
    for node in all_nodes(model):
        for value in node.outputs if is_standard(node) else ():
            if value.name not in known and not value.is_graph_output():
                value.type, value.shape = None, None
