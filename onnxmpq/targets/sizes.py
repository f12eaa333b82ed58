"""The bytes that a plan's units store, foreseen: those of every tensor in the file that a placement leads to."""

import math
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnxmpq.artifacts import Layer, Option
from onnxmpq.carriers.base import carrier, stored_shape
from onnxmpq.dialects.base import Dialect, dialect
from onnxmpq.model.layers import all_graphs, all_nodes
from onnxmpq.numerics.formats import TYPES, weight_type
from onnxmpq.targets import Target
from onnxmpq.targets.placement import Constant, Form, Placement, form_of


def unit_bytes(layers: tuple[Layer, ...], option: Option, target: Target, values: Mapping[str | None, ir.Value]) -> int:
    """Return the bytes stored for a unit at ``option``; tensors that its layers share count once."""
    stored: dict[str, int] = {}
    for layer in layers:
        if option.is_float:
            stored |= {name: value_bytes(values[name]) for name in layer.weights}
        else:
            stored |= form_bytes(form_of(layer, option, target), values, dialect(target.dialect))
        if layer.bias in values and f"{layer.node}/bias" not in stored:
            stored[layer.bias] = value_bytes(values[layer.bias])
    return sum(stored.values())


def form_bytes(form: Form, values: Mapping[str | None, ir.Value], writes: Dialect) -> dict[str, int]:
    """Return the bytes of every new tensor that a layer's form stores, under keys that shared tensors share."""
    layer, option = form.layer, form.option
    stored: dict[str, int] = {}
    for name in layer.weights if option.weight_bits else ():
        shape = stored_shape(values[name])
        kept = [shape[axis] for axis in layer.channel_axes]
        axis = inner_axis(layer) if option.block else None
        scales = math.prod(kept) * (math.ceil(shape[axis] / option.block) if axis is not None else 1)
        held = carrier(form.carrier or "dq")
        stored |= held.codes_bytes(values[name], option)
        stored[f"{name}/scale/{held.name}"] = scales * held.scale_bytes(values[name].dtype)
        if form.zero_point and (bits := held.zero_bits(weight_type(option).bits)):
            stored[f"{name}/zero/{held.name}"] = math.ceil(scales * bits / 8)
        if form.bias:
            stored[f"{layer.node}/bias"] = writes.bias_bytes(math.prod(kept))
    return stored


def stored_bytes(model: ir.Model, placement: Placement) -> int:
    """Return the bytes of all tensors in the file that ``placement`` leads to, exactly."""
    values = {value.name: value for value in initializers(model)}
    replaced = {
        (form.layer.node, name) for form in placement.forms if form.option.weight_bits for name in form.layer.weights
    }
    replaced |= {(form.layer.bias_add or form.layer.node, form.layer.bias) for form in placement.forms if form.bias}
    replaced |= {(one.node, one.tensor) for one in placement.constants}
    read = {
        value.name
        for node in all_nodes(model)
        for value in node.inputs
        if value is not None and (node.name, value.name) not in replaced
    }
    read |= {value.name for value in model.graph.outputs}
    kept = sum(value_bytes(value) for name, value in values.items() if name in read)
    new: dict[str, int] = {}
    writes = dialect(placement.dialect)
    for form in placement.forms:
        new |= form_bytes(form, values, writes)
    pairs = sum(writes.activation_bytes(TYPES[pair.type]) for pair in placement.pairs)
    islands = sum(
        writes.island_bytes(TYPES[island.type], island.channels) for island in placement.islands if not island.half
    )
    constants = sum(constant_bytes(one, values, writes) for one in placement.constants)
    return kept + sum(new.values()) + pairs + islands + constants


def constant_bytes(one: Constant, values: Mapping[str | None, ir.Value], writes: Dialect) -> int:
    """Return the bytes of a constant operand in codes."""
    count = math.prod(stored_shape(values[one.tensor]))
    return 4 * count + 4 if one.scaled else writes.constant_bytes(TYPES[one.type], count)


def initializers(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the initialisers of all graphs."""
    for graph in all_graphs(model):
        yield from graph.initializers.values()


def value_bytes(value: ir.Value) -> int:
    """Return the bytes of an initialiser as it is stored."""
    return value.const_value.nbytes if value.const_value is not None else 0


def inner_axis(layer: Layer) -> int | None:
    """Return the axis that blocks divide: the one summed over; None where a malformed weight has none."""
    return next((axis for axis in range(len(layer.weight_shape)) if axis not in layer.channel_axes), None)
