"""Nodes, bodies, types and tensors as protobuf, under the names that they have in one piece.

    of the normalised model   T, conv_1           keep their names
    added by lowering         T_scale, T_dq ...   #0, #1 ... in the order in which they appear

Equal pieces have equal names, and so equal bytes, whatever plan they were lowered with.
"""

from collections.abc import Mapping
from itertools import count

import onnx
import onnx_ir as ir

from onnxmpq.cuts.origins import Origins
from onnxmpq.errors import InternalError


class Naming:
    """The names in one piece: those of the normalised model, and numbers for what lowering added.

    Numbers follow the order of appearance, so that they depend on nothing outside the piece.
    """

    def __init__(self, origins: Origins, incoming: Mapping[ir.Value, str]) -> None:
        self.origins, self.incoming = origins, incoming
        self.names: dict[ir.Value, str] = {}
        self.taken = set(incoming.values())
        self.counter = count()

    def fix(self, value: ir.Value, name: str) -> None:
        """Give a value the name under which it leaves the piece."""
        self.names[value] = name
        self.taken.add(name)

    def of(self, value: ir.Value | None) -> str:
        """Return the name of a value; nothing for what is left out."""
        if value is None or not value.name:
            return ""
        known = self.names.get(value) or self.incoming.get(self.origins.source(value) or value)
        if known is not None:
            return known
        name = self.origins.tensor.get(value, value.name)
        if name in self.taken or name not in self.origins.original.values or self.origins.quantised_by(value):
            name = self.fresh()
        self.fix(value, name)
        return name

    def fresh(self) -> str:
        """Return a name that nothing else has."""
        known = self.origins.original
        return next(name for n in self.counter if (name := f"#{n}") not in known.values and name not in known.nodes)

    def node(self, node: ir.Node) -> onnx.NodeProto:
        """Write a node."""
        name = node.name if node.name in self.origins.original.nodes else self.fresh()
        proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain, overload=node.overload, name=name)
        proto.input.extend(self.of(value) for value in node.inputs)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                proto.attribute.add(name=attribute.name, type="GRAPH", g=self.body(attribute.as_graph()))
            elif attribute.type == ir.AttributeType.GRAPHS:
                bodies = [self.body(body) for body in attribute.as_graphs()]
                proto.attribute.add(name=attribute.name, type="GRAPHS", graphs=bodies)
            else:
                proto.attribute.append(ir.serde.serialize_attribute(attribute))  # ir.to_proto takes ten times as long
                proto.attribute[-1].ClearField("doc_string")
        proto.output.extend(self.of(value) for value in node.outputs)
        return proto

    def body(self, graph: ir.Graph) -> onnx.GraphProto:
        """Write the body of an If, Loop or Scan."""
        proto = onnx.GraphProto(name=graph.name or "body")
        proto.input.extend(value_proto(value, self.of(value)) for value in graph.inputs)
        proto.node.extend(self.node(node) for node in graph)
        proto.output.extend(value_proto(value, self.of(value)) for value in graph.outputs)
        constants = (value for value in graph.initializers.values() if value not in graph.inputs)
        proto.initializer.extend(tensor_proto(content(value), self.of(value)) for value in constants)
        return proto


def content(value: ir.Value) -> ir.TensorProtocol:
    """Return the tensor of an initialiser."""
    if value.const_value is None:
        raise InternalError(f"The value '{value.name}' is made by nothing.")
    return value.const_value


def value_proto(like: ir.Value, name: str) -> onnx.ValueInfoProto:
    """Return a type and shape under a name."""
    proto = onnx.ValueInfoProto(name=name)
    if like.type is not None:
        ir.serde.serialize_type_into(proto.type, like.type)
        if like.shape is not None:
            ir.serde.serialize_shape_into(proto.type, like.shape)
    return proto


def tensor_proto(tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
    """Return a tensor with its bytes inside, wherever they are now."""
    if tensor.dtype != ir.DataType.STRING:
        sizes = tensor.shape.numpy()
        return onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=sizes, raw_data=tensor.tobytes())
    proto = ir.serde.serialize_tensor(tensor)
    proto.name = name
    proto.ClearField("doc_string")
    return proto
