"""The space stage: which units a model has on a target, their options, and the exact cost of each.

Stored bytes count everything in the file that belongs to the unit: packed codes, scales, zero points, biases. What
belongs to no unit (scales of activations, other constants) is added for a whole plan by ``stored_bytes``.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import numpy as np
import onnx
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Cost, Layer, Leftover, Option, Space, Unit
from onnxmpq.carriers.base import carrier, stored_shape
from onnxmpq.model.layers import all_nodes, constant, find_layers, is_standard
from onnxmpq.targets import LayerRule, Target
from onnxmpq.targets.schema import FLOATS, PLAIN
from onnxmpq.targets.sizes import initializers, inner_axis, unit_bytes, value_bytes

_WORTH_NAMING_BYTES = 4096
_WORDS = {
    ("alpha", 1.0): "its alpha or beta is not 1",
    ("beta", 1.0): "its alpha or beta is not 1",
    ("transA", 0): "it transposes its input",
}
"""How some conditions on attributes are told."""


def make_space(model: ir.Model, target: Target) -> Space:
    """Find the units of a normalised model, their options on ``target`` and what must stay float."""
    layers = [layer for layer in find_layers(model) if layer.weights or target.rule(layer)]
    by_node = {layer.node: layer for layer in layers}
    users: defaultdict[str, list[str]] = defaultdict(list)
    for node in all_nodes(model):
        for index, value in enumerate(node.inputs):
            if value is not None and constant(value) is not None:
                layer = by_node.get(node.name or "")
                is_weight = layer is not None and (value.name or "") in layer.weights and index not in layer.inputs
                users[value.name or ""].append((node.name or "") if is_weight else "")
    units = []
    for members in _sharing(layers):
        units.append(_unit(model, members, target, users))
    return Space(
        target=target.name,
        units=tuple(units),
        leftovers=tuple(_leftovers(model, set(by_node))),
        float_bytes=sum(value_bytes(value) for value in initializers(model)),
        notes=target.notes,
        together=_together(model, units),
    )


def _together(model: ir.Model, units: Iterable[Unit]) -> tuple[tuple[str, ...], ...]:
    """Return the units, several each time, that read the same activations."""
    nodes = {node.name or "": node for node in all_nodes(model)}
    readers: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for unit in units:
        for layer in unit.layers:
            for index in layer.inputs:
                value = nodes[layer.node].inputs[index]
                readers[(value.name or "") if value is not None else ""][unit.name] = None
    return tuple(tuple(names) for tensor, names in readers.items() if tensor and len(names) > 1)


def _sharing(layers: list[Layer]) -> Iterator[tuple[Layer, ...]]:
    """Group layers that read the same weight."""
    owner: dict[str, list[Layer]] = {}
    groups: list[list[Layer]] = []
    for layer in layers:
        joined = [group for group in groups if any(owner.get(name) is group for name in layer.weights)]
        group = [*(member for other in joined for member in other), layer]
        groups = [other for other in groups if other not in joined] + [group]
        owner.update({name: group for member in group for name in member.weights})
    yield from sorted((tuple(group) for group in groups), key=lambda group: layers.index(group[0]))


def _unit(model: ir.Model, layers: tuple[Layer, ...], target: Target, users: Mapping[str, list[str]]) -> Unit:
    graph_values = {value.name: value for value in initializers(model)}
    weights = list(dict.fromkeys(chain.from_iterable(layer.weights for layer in layers)))
    parameters = sum(math.prod(stored_shape(graph_values[name])) for name in weights)
    reasons: list[str] = []
    allowed: list[Option] | None = None
    names = {layer.node for layer in layers}
    for name in weights:
        if set(users[name]) - names or graph_values[name].is_graph_output():
            reasons.append(f"its weight '{name}' is also read as something else than a weight")
            allowed = []
    if len({layer.channel_axes for layer in layers}) > 1:
        reasons.append("its weight is shared by layers that want scales along different axes")
        allowed = []
    for layer in layers:
        options, why = layer_options(model, layer, target)
        reasons += why
        allowed = [option for option in (options if allowed is None else allowed) if option in options]
    macs = sum(layer.macs for layer in layers)
    costs = [
        Cost(option, unit_bytes(layers, option, target, graph_values), _bops(macs, option))
        for option in (FLOAT, *(allowed or ()))
    ]
    return Unit(layers[0].node, layers, parameters, macs, tuple(costs), "; ".join(dict.fromkeys(reasons)))


def layer_options(model: ir.Model, layer: Layer, target: Target) -> tuple[list[Option], list[str]]:
    """Return what a layer may take besides float, and the reasons for what it may not."""
    rule = target.rule(layer)
    if rule is None:
        return [], [f"target '{target.name}' has no rule for {layer.op}"]
    options, reasons = list(rule.options), [rule.why] if rule.why else []
    if any(option.activation_bits for option in options) and (why := _integer_fault(model, layer, rule)):
        reasons.append(why)
        options = [option for option in options if not option.activation_bits]
    axis = inner_axis(layer)
    if layer.weight_shape and axis is None:
        return [], ["its weight has no axis that is summed over"]
    inner = 0 if axis is None else layer.weight_shape[axis]
    options = [option for option in options if not option.block or inner % option.block == 0]
    options, faults = _carried(model, layer, rule, options)
    reasons += faults
    if any(option.block for option in options) and (reader := _forbidden_reader(model, layer, rule)):
        reasons.append(f"blocked weights have no fast kernel in front of {reader}")
        options = [option for option in options if not option.block]
    return options, reasons


def _carried(model: ir.Model, layer: Layer, rule: LayerRule, options: list[Option]) -> tuple[list[Option], list[str]]:
    """Return the options whose carriers can hold the weight of a layer, and what stands against the others."""
    node = next(node for node in all_nodes(model) if node.name == layer.node)
    faults = {option: carrier(rule.carrier(option) or "dq").fault(node, layer, option) for option in options}
    return [option for option in options if not faults[option]], list(dict.fromkeys(filter(None, faults.values())))


def _forbidden_reader(model: ir.Model, layer: Layer, rule: LayerRule) -> str:
    """Return the operator behind a layer that keeps the runtime from computing on blocked weights, if there is one."""
    readers = (
        node for node in all_nodes(model) for value in node.inputs if value is not None and value.name == layer.output
    )
    return next((node.op_type for node in readers if node.op_type in rule.blocks_not_before), "")


def _integer_fault(model: ir.Model, layer: Layer, rule: LayerRule) -> str:
    """Say what keeps a layer from the integer kernels of its rule, nothing where they can be had."""
    if layer.weight_type not in [FLOATS[name] for name in rule.floats]:
        known = " or ".join(ir.DataType[FLOATS[name]].numpy().name for name in rule.floats)
        return f"it computes in {layer.weight_type.lower()}: integer kernels here need {known} around them"
    if layer.in_body:
        return "it stands in the body of an If, Loop or Scan, whose activations are not calibrated"
    if layer.weights and layer.inputs == (1,) and rule.weight_on == "right":
        return "its weight is the left factor: integer kernels want it on the right"
    return _attribute_fault(model, layer, rule) or _bias_fault(model, layer, rule)


def _attribute_fault(model: ir.Model, layer: Layer, rule: LayerRule) -> str:
    """Say which attribute of a layer is not as its integer kernel needs it; a factor on no bias does not matter."""
    node = next(node for node in model.graph if node.name == layer.node)
    for name, wanted in rule.attributes.items():
        if name == "beta" and not layer.bias:
            continue
        found = _attribute(node, name)
        if found is None or np.float32(found) != np.float32(wanted):
            told = f"its {name} is {'not given' if found is None else f'{found:g}'}: integer kernels want {wanted:g}"
            return _WORDS.get((name, wanted), told)
    return ""


def _attribute(node: ir.Node, name: str) -> float | None:
    """Return a number among the attributes of a node, or what it is by default; None where there is neither."""
    attribute = node.attributes.get(name)
    if attribute is not None:
        return float(attribute.value)
    known = onnx.defs.get_schema(node.op_type).attributes.get(name)
    if known is None:  # what is said of all layers counts for those that have it
        return PLAIN.get(name)
    given = known.default_value
    return {"FLOAT": given.f, "INT": float(given.i)}.get(onnx.AttributeProto.AttributeType.Name(given.type))


def _bias_fault(model: ir.Model, layer: Layer, rule: LayerRule) -> str:
    """Say why the bias of a layer cannot be written the way its integer kernel needs it."""
    if rule.bias != "int32" or not layer.bias:
        return ""
    value = next((v for n in model.graph for v in n.inputs if v is not None and v.name == layer.bias), None)
    tensor = constant(value)
    if tensor is None:
        return "its bias is not a constant"
    channels = math.prod(layer.weight_shape[axis] for axis in layer.channel_axes)
    if tensor.size != channels or tensor.dtype != ir.DataType.FLOAT:
        return f"its bias is not one float32 for each of its {channels} channels"
    return ""


def _bops(macs: int, option: Option) -> int:
    return macs * (option.weight_bits or option.activation_bits or 32) * (option.activation_bits or 32)


def _leftovers(model: ir.Model, layers: set[str]) -> Iterator[Leftover]:
    """Yield nodes outside all units that hold a sizeable constant."""
    for node in all_nodes(model):
        if node.name in layers:
            continue
        size = sum(value_bytes(value) for value in node.inputs if value is not None and constant(value) is not None)
        if size >= _WORTH_NAMING_BYTES:
            where = "" if is_standard(node) else f" of domain '{node.domain}'"
            yield Leftover(
                node.name or "", node.op_type, size, f"operator {node.op_type}{where} is not one that onnxmpq quantises"
            )
