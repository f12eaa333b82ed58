"""Raise the opset of a model in place.

onnx's version converter knows how operators changed, but converting whole models with it loses types, metadata and
all that is over 2 GB, and leaves functions alone. So only the nodes whose operator changed between the two versions
are given to it, in one flat model in which each node has inputs and outputs of its own; what comes back is put in the
place of each node. Other domains, values, weights and names are never touched.

What the converter of onnx 1.23 gets wrong without a word is put right here:

    Resize 10 -> 11              loses the coordinates of opset 10: asymmetric, and nearest never rounds to nearest
    Hardmax 12 -> 13             keeps the axis, whose meaning changed as that of Softmax did
    Clip, Pad 10 -> 11           make float limits for float16 and double data
    GroupNormalization 20 -> 21  keeps one scale per group where one per channel is read from then on
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache

import numpy as np
import onnx
import onnx_ir as ir

from onnxmpq.errors import InputError
from onnxmpq.model.layers import constant

HIGHEST_IR = 13
_IR_OF_OPSET = {19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}


def raise_opset(model: ir.Model, version: int) -> bool:
    """Bring ``model`` to opset ``version`` in place, with an IR version that goes with it; never lower the opset.

    Return whether anything changed. Raise InputError, listing every node, if some operators cannot be converted; the
    model is then as it was.
    """
    if version > onnx.defs.onnx_opset_version():
        raise InputError(
            f"Opset {version} is newer than the installed onnx knows ({onnx.defs.onnx_opset_version()}). Install a "
            "newer onnx, or ask for a lower opset."
        )
    changes: list[_Change] = []
    for graph, opset in _graphs(model):
        if opset < version:
            changes += _convert(graph, opset, version)
    faults = [change for change in changes if change.fault]
    if faults:
        raise InputError(f"The opset cannot be raised to {version}: {_told(faults)}. Export the model again without.")
    for change in changes:
        change.apply()
    before = (dict(model.opset_imports), model.ir_version)
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        imports[""] = max(imports.pop("ai.onnx", imports.get("", 0)), version)
    model.ir_version = min(max(model.ir_version, _IR_OF_OPSET.get(model.opset_imports[""], 8)), HIGHEST_IR)
    return bool(changes) or before != (model.opset_imports, model.ir_version)


def changed_between(graph: ir.Graph, one: int, other: int) -> list[ir.Node]:
    """Return the nodes of ``graph`` that are written differently in two opsets, or are in one of them only."""
    return [change.node for change in _convert(graph, min(one, other), max(one, other)) if not change.is_nothing()]


def _graphs(model: ir.Model) -> Iterator[tuple[ir.Graph, int]]:
    """Yield every graph, bodies and functions included, with the opset it is written in."""
    imports = model.opset_imports
    opset = imports.get("", imports.get("ai.onnx", 0))
    yield from ((graph, opset) for graph in model.graphs())
    for function in model.functions.values():
        own = function.opset_imports.get("", function.opset_imports.get("ai.onnx", opset))
        yield from ((graph, own) for graph in (function.graph, *function.subgraphs()))


@cache
def _histories() -> Mapping[str, tuple[int, ...]]:
    """Return the opsets in which each operator of the ONNX domain changed; asking for the schemas takes long."""
    found: dict[str, tuple[int, ...]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            found[schema.name] = (*found.get(schema.name, ()), schema.since_version)
    return found


@dataclass(eq=False)
class _Change:
    """A node, and what stands for it in the new opset: protobuf nodes in order, or the reason why there is nothing."""

    node: ir.Node
    key: str
    source: int
    target: int
    outputs: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    fault: str = ""

    def crosses(self, version: int) -> bool:
        """Tell whether the step to ``version`` is among those made."""
        return self.source < version <= self.target

    def names(self, kind: str) -> list[str]:
        """Name the inputs or outputs in the flat model, each on its own; what is left out has no name."""
        values: Iterable[ir.Value | None] = self.node.inputs if kind == "i" else self.node.outputs[: self.outputs]
        return [f"{self.key}{kind}{i}" if value is not None else "" for i, value in enumerate(values)]

    def proto(self) -> onnx.NodeProto:
        """Write the node for the flat model."""
        op = "Softmax" if self.node.op_type == "Hardmax" and self.crosses(13) else self.node.op_type
        attributes = [ir.serde.serialize_attribute(a) for a in self.node.attributes.values() if not a.is_ref()]
        return onnx.NodeProto(op_type=op, input=self.names("i"), output=self.names("o"), attribute=attributes)

    def is_nothing(self) -> bool:
        """Tell whether the node is written the same in the new opset."""
        return not self.fault and [self.proto()] == self.nodes and len(self.node.outputs) == self.outputs

    def apply(self) -> None:
        """Put the new nodes in place; where only attributes change the node itself stays."""
        node = self.node
        if len(node.outputs) > self.outputs:
            node.resize_outputs(self.outputs)
        if len(self.nodes) == 1 and list(self.nodes[0].input) == self.names("i"):
            self._update(self.nodes[0])
        else:
            self._replace()
        if node.op_type == "GroupNormalization" and self.crosses(21):
            _scale_per_channel(node)

    def _update(self, proto: onnx.NodeProto) -> None:
        node, new = self.node, {attribute.name: attribute for attribute in proto.attribute}
        node.op_type = proto.op_type
        for name, attribute in list(node.attributes.items()):
            if name not in new and not attribute.is_ref():
                del node.attributes[name]
        for name, attribute in new.items():
            own = node.attributes.get(name)
            if own is None or own.is_ref() or ir.serde.serialize_attribute(own) != attribute:
                node.attributes[name] = ir.from_proto(attribute)

    def _replace(self) -> None:
        old, graph = self.node, self.node.graph
        assert graph is not None
        stem = next((value.name for value in old.outputs if value.name), "") or old.name or old.op_type
        values: dict[str, ir.Value | None] = dict(zip(self.names("i"), old.inputs, strict=True)) | {"": None}
        for index, proto in enumerate(self.nodes):
            new = ir.Node(
                "",
                proto.op_type,
                [values[name] for name in proto.input],
                [ir.from_proto(attribute) for attribute in proto.attribute],
                num_outputs=len(proto.output),
                name=f"{old.name or stem}/{proto.op_type}_{index}",
            )
            if proto.op_type in (old.op_type, "Resize", "ScatterElements"):
                new.name, new.doc_string = old.name, old.doc_string
                new.metadata_props.update(old.metadata_props)
            for value in new.outputs:
                value.name = f"{stem}/{proto.op_type}_{index}"
            values.update(zip(proto.output, new.outputs, strict=True))
            graph.insert_before(old, new)
        for name, value in zip(self.names("o"), old.outputs, strict=True):
            heir = values[name]
            assert heir is not None
            heir.name, heir.type, heir.shape, heir.doc_string = value.name, value.type, value.shape, value.doc_string
            heir.metadata_props.update(value.metadata_props)
            value.replace_all_uses_with(heir, replace_graph_outputs=True)
        graph.remove(old, safe=True)


def _convert(graph: ir.Graph, source: int, target: int) -> list[_Change]:
    """Return the change of every node of ``graph`` whose operator changed between two opsets."""
    changes: list[_Change] = []
    for node in graph:
        history = () if node.domain else _histories().get(node.op_type, ())
        change = _Change(node, f"{len(changes)}_", source, target, len(node.outputs))
        if not node.domain and not any(version <= source for version in history):
            change.fault = f"is no operator of opset {source}"
        elif not any(map(change.crosses, history)) or _means_the_same(change):
            continue
        else:
            if node.op_type == "BatchNormalization" and change.crosses(14):
                change.outputs = 1
            change.fault = _obstacle(change)
        changes.append(change)
    _run_converter([change for change in changes if not change.fault])
    for change in changes:
        if not change.fault:
            _correct(change)
    return changes


def _means_the_same(change: _Change) -> bool:
    """Tell whether only types were added; the bodies of control flow are converted node by node."""
    return change.node.op_type in ("Constant", "If", "Loop") or (
        change.node.op_type == "Scan" and not change.crosses(9)
    )


def _told(faults: list[_Change]) -> str:
    """Name each operator and reason once, with the nodes it is true of."""
    groups: dict[tuple[str, str], list[str]] = {}
    for change in faults:
        node = change.node
        name = node.name or next((value.name for value in node.outputs if value.name), "")
        groups.setdefault((node.op_type, change.fault), []).append(f"'{name}'")
    return "; ".join(
        f"{op} (opset {faults[0].source}, {'nodes' if len(names) > 1 else 'node'} {', '.join(names[:5])}"
        + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        + f") {fault}"
        for (op, fault), names in groups.items()
    )


def _obstacle(change: _Change) -> str:
    """Say why a node cannot be converted, where the converter would not notice."""
    node = change.node
    if node.op_type == "Scan":
        return "has the batches that opset 9 took away"
    if any(value.name for value in node.outputs[change.outputs :]):
        return "has the outputs that put it in training mode"
    if node.op_type == "Resize" and change.crosses(11) and not _nearest_of_opset_10(node):
        return "rounds in a way that depends on scales that are not constant"
    if node.op_type == "GroupNormalization" and change.crosses(21) and not _channels(node):
        return "has scales that are not constant, or data of unknown channels"
    return ""


def _run_converter(changes: list[_Change]) -> None:
    """Fill in the nodes of each change; if the converter fails, find out for which."""
    if not changes:
        return
    flat = onnx.ModelProto(ir_version=10)
    flat.opset_import.add(version=changes[0].source)
    for change in changes:
        for name, value in zip(change.names("i"), change.node.inputs, strict=True):
            if value is not None:
                info = flat.graph.input.add(name=name)
                if isinstance(value.type, ir.TensorType):
                    info.CopyFrom(ir.serde.serialize_value(value, name=name))
        for name in change.names("o"):
            flat.graph.output.add(name=name)
        flat.graph.node.append(change.proto())
    try:
        converted = onnx.GraphProto.FromString(_converted(flat.SerializeToString(), changes[0].target))
    except Exception as error:  # it raises RuntimeError, IndexError and its own
        if len(changes) == 1:
            reason = str(error).rsplit(" failed: ", 1)[-1].strip().rstrip(".")
            changes[0].fault = f"cannot be converted ({reason})"
        else:
            for change in changes:
                _run_converter([change])
        return
    owners = {name: change for change in changes for name in change.names("o")}
    for tensor in converted.initializer:
        node = onnx.NodeProto(op_type="Constant", output=[tensor.name])
        node.attribute.append(onnx.helper.make_attribute("value", tensor))
        converted.node.insert(0, node)
    for node in reversed(converted.node):
        owner = next(owners[name] for name in node.output if name in owners)
        owner.nodes.insert(0, node)
        owners |= dict.fromkeys(node.input, owner)


@lru_cache(16)
def _converted(flat: bytes, target: int) -> bytes:
    """Convert a flat model and return its graph; a search raises the same nodes again and again."""
    converted = onnx.version_converter.convert_version(onnx.ModelProto.FromString(flat), target)
    return bytes(converted.graph.SerializeToString())


def _correct(change: _Change) -> None:
    """Put right what the converter gets wrong, and refuse what it left in an operator that is no more."""
    node = change.node
    if node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and change.crosses(13) and _spans_one_axis(node):
        change.nodes = [change.proto()]  # no need to flatten
        if "axis" not in node.attributes:
            change.nodes[0].attribute.append(onnx.helper.make_attribute("axis", 1))
    for new in change.nodes:
        if new.op_type == "Resize" and node.op_type in ("Resize", "Upsample") and change.crosses(11):
            nearest = _nearest_of_opset_10(node) if node.op_type == "Resize" else "floor"
            new.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            new.attribute.append(onnx.helper.make_attribute("nearest_mode", nearest))
        elif new.op_type == "Softmax" and node.op_type == "Hardmax":
            new.op_type = "Hardmax"
        schema = onnx.defs.get_schema(new.op_type, change.target)
        if schema.deprecated:
            change.fault = f"is gone in opset {schema.since_version}"
    if len(change.nodes) != 1 and any(attribute.is_ref() for attribute in node.attributes.values()):
        change.fault = "takes an attribute from the function it is in"
    data = node.inputs[0] if node.inputs else None
    if node.op_type in ("Clip", "Pad") and change.crosses(11) and data is not None and data.dtype is not None:
        _retype_limits(change, data.dtype)


def _spans_one_axis(node: ir.Node) -> bool:
    """Tell whether all that Softmax below opset 13 flattens, from its axis on, is one axis and axes of size one."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axis = node.attributes.get_int("axis", 1)
    return shape is not None and 0 <= axis < len(shape) and all(size == 1 for size in shape[axis + 1 :])


def _retype_limits(change: _Change, dtype: ir.DataType) -> None:
    """Give the limits of Clip and the value of Pad the type of the data; the lowest float stands for no limit."""
    last = change.nodes[-1]
    for made in change.nodes[:-1]:
        tensor = made.attribute[0].t if made.op_type == "Constant" else onnx.TensorProto()
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        number = onnx.numpy_helper.to_array(tensor)
        if last.op_type == "Clip" and number == np.finfo(np.float32).min:
            last.input[list(last.input).index(made.output[0])] = ""
        else:
            tensor.CopyFrom(ir.to_proto(ir.tensor(number.astype(dtype.numpy()), dtype)))
    used = set(last.input)
    change.nodes[:-1] = [made for made in change.nodes[:-1] if used.intersection(made.output)]


def _nearest_of_opset_10(node: ir.Node) -> str:
    """Return how nearest rounds in opset 10, as runtimes have it: down if it enlarges, up if it shrinks."""
    mode = node.attributes.get_string("mode", "nearest")
    scales = constant(node.inputs[1])
    if mode != "nearest":
        return "floor"
    if scales is None:
        return ""
    smaller, larger = np.any(scales.numpy() < 1), np.any(scales.numpy() > 1)
    return "" if smaller and larger else "ceil" if smaller else "floor"


def _channels(node: ir.Node) -> int:
    """Return the channels of a GroupNormalization whose scales can be rewritten, else 0."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    channels = shape[1] if shape is not None and len(shape) > 1 else 0
    known = all(constant(value) is not None for value in node.inputs[1:3])
    return channels if known and isinstance(channels, int) else 0


def _scale_per_channel(node: ir.Node) -> None:
    graph, channels = node.graph, _channels(node)
    assert graph is not None
    for index in (1, 2):
        tensor = constant(node.inputs[index])
        assert tensor is not None
        array = np.repeat(tensor.numpy(), channels // tensor.shape.numpy()[0])
        made = ir.node("Constant", [], {"value": ir.tensor(array, tensor.dtype)}, name=f"{node.name}/scales_{index}")
        made.outputs[0].name = f"{node.outputs[0].name}/scales_{index}"
        graph.insert_before(node, made)
        node.replace_input_with(index, made.outputs[0])
