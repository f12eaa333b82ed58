"""Plans to and from ``TensorQuantOverrides``, the JSON in which onnxruntime's own quantiser takes decisions per tensor.

    {"conv.weight": [{"quant_type": "QInt8", "axis": 0, "scale": 0.01, "zero_point": 0}, ... one for each channel],
     "relu_out":    [{"quant_type": "QUInt8", "scale": 0.02, "zero_point": 0}]}

Scales and zero points are those of the lowered model; names are those of the normalised model, which is the one to give
to the quantiser. The key ``onnxmpq`` in the first object of a tensor names the units that decided about it, so that the
plan can be read back; the quantiser passes over keys that it does not know.

    from onnxruntime.quantization import QuantType, quantize_static
    options = {"TensorQuantOverrides": arguments(data, QuantType)}
    quantize_static(normalised, written, reader, extra_options=options)

Which nodes it quantises, the quantiser decides by itself: name them with ``nodes_to_quantize``, and give
``OpTypesToExcludeOutputQuantization`` the layers whose outputs a plan leaves float; what it quantises besides takes its
own ranges. Where it follows, codes and outputs are the same to the last bit. Where it cannot:

- weights of 2 and 3 bits take codes of four, those of 5 to 7 bits codes of eight, with the scales of the plan: the same
  where no weight is clipped, closer to float elsewhere; of 8 bits, -128 is used, which a plan leaves out
- blocks, scales along several axes and tables that rows are looked up in have no form here: such weights are written
  without scales
- it quantises the inputs of every layer, also where a plan has weights in few bits and float around them
- codes of 8 bits are not kept from saturating on processors without VNNI: it does so as a plan for VNNI would
- biases become int32 as they are: bias correction does not reach them, nor does a rounding of weights other than to the
  nearest code
- a Relu or Clip in front of unsigned codes is taken out: what the codes can hold stands for its bounds
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Option, Plan, Space, Unit
from onnxmpq.carriers.base import carrier
from onnxmpq.disk.reading import brief, refuse, shown
from onnxmpq.errors import InputError, InternalError
from onnxmpq.lower.write import Quantised
from onnxmpq.methods.uniform import nearest
from onnxmpq.model.layers import all_nodes, constant, shape_of
from onnxmpq.numerics.formats import TYPES
from onnxmpq.targets.placement import Form, Pair

Overrides = dict[str, list[dict[str, Any]]]

OWN = "onnxmpq"
USUAL = Option(8, 8)
_TYPES = {f"Q{'' if known.signed else 'U'}Int{known.bits}": known for known in TYPES.values() if known.bits > 2}


def _called(name: str) -> str:
    """Return what onnxruntime's quantiser calls a type of codes."""
    return next(called for called, known in _TYPES.items() if known.name == name)


def to_overrides(quantised: Quantised, space: Space) -> Overrides:
    """Write every weight and activation that a lowered model holds in codes, as JSON data.

    A tensor that is wanted in two types becomes one that is converted for some of its readers; more are refused.
    """
    nodes = {node.name or "": node for node in all_nodes(quantised.model)}
    deciders = {layer.node: unit.name for unit in space.units for layer in unit.layers}
    data: Overrides = {}
    for form in quantised.placement.forms:
        for name in form.layer.weights if form.option.weight_bits else ():
            data[name] = _weight(form, name, nodes)
            data[name][0][OWN] = {deciders[form.layer.node]: str(form.option)}
    pairs: dict[str, list[Pair]] = {}
    for pair in quantised.placement.pairs:
        pairs.setdefault(pair.tensor, []).append(pair)
    faults = [f"'{name}' is quantised in {len(kinds)} types" for name, kinds in pairs.items() if len(kinds) > 2]
    if faults:
        raise InputError(f"TensorQuantOverrides have two types for a tensor at most: {'; '.join(faults)}.")
    options = {form.layer.node: str(form.option) for form in quantised.placement.forms if form.option.activation_bits}
    for name, kinds in pairs.items():
        first, *more = sorted(kinds, key=lambda pair: not pair.public)
        entry = _activation(first, quantised.model, nodes)
        if more:
            readers = sorted({reader for reader, _ in more[0].readers})
            entry["convert"] = _activation(more[0], quantised.model, nodes) | {"recv_nodes": readers}
        told = {deciders[reader]: options[reader] for pair in kinds for reader, _ in pair.readers if reader in options}
        data[name] = [entry | {OWN: told}]
    return dict(sorted(data.items(), key=_is_common))


def arguments(data: Mapping[str, Any], quant_type: Any) -> Overrides:
    """Turn JSON data into what the quantiser takes: members of its ``QuantType``, numpy numbers, sets of names."""

    def entry(given: Mapping[str, Any]) -> dict[str, Any]:
        made = {key: value for key, value in given.items() if key != OWN}
        if "quant_type" in made:
            made["quant_type"] = quant_type[made["quant_type"]]
        if "scale" in made:
            made["scale"], made["zero_point"] = np.asarray(made["scale"], np.float32), np.asarray(made["zero_point"])
        if "convert" in made:
            made["convert"] = entry(made["convert"])
        if "recv_nodes" in made:
            made["recv_nodes"] = set(made["recv_nodes"])
        return made

    return {name: [entry(given) for given in entries] for name, entries in data.items()}


def from_overrides(data: Any, model: ir.Model, space: Space, default: Option = USUAL, where: str = "") -> Plan:
    """Read a plan from overrides for a normalised model; scales and zero points are chosen anew when it is built.

    What ``to_overrides`` wrote gives the options it was written from. In files of others, and in an empty one, a layer
    takes the bits of its weight and of its input, or those of ``default`` where they are not written, and then the
    nearest option it has.
    """
    named = f" '{where}'" if where else ""
    refuse(list(_faults(data, model, space)), f"The overrides{named} cannot be used.")
    told = {unit: Option.parse(text) for unit, text in _told(data)}
    if any(OWN in entries[0] for entries in data.values() if entries):
        choices = {unit.name: told.get(unit.name, FLOAT) for unit in space.units}
    else:
        nodes = {node.name or "": node for node in all_nodes(model)}
        choices = {unit.name: _read(data, unit, nodes, default) for unit in space.units}
    return Plan(target=space.target, method="overrides", choices=choices)


def _is_common(item: tuple[str, list[dict[str, Any]]]) -> bool:
    """Sort types of 4 and 16 bits to the front: for its operators, the quantiser looks at the first tensor alone."""
    return item[1][0]["quant_type"] in ("QInt8", "QUInt8")


# ---- writing -------------------------------------------------------------------------------------


def _weight(form: Form, name: str, nodes: Mapping[str, ir.Node]) -> list[dict[str, Any]]:
    """Describe one weight of a layer: an object for each channel, or one without scales where they have no form."""
    layer, bits = form.layer, form.option.weight_bits
    kind = {"quant_type": "QInt4" if bits <= 4 else "QInt8"}
    if form.option.block or len(layer.channel_axes) != 1 or not carrier(form.carrier or "dq").whole:
        return [dict(kind)]
    index = layer.weights.index(name) + (layer.inputs == (0,))
    scales = _scales(nodes[layer.node].inputs[index])
    where = {"axis": layer.channel_axes[0]}
    return [{**kind, **where, "scale": float(scale), "zero_point": 0} for scale in scales.reshape(-1)]


def _scales(value: ir.Value | None) -> np.ndarray:
    """Find the scales behind a weight that is written as DequantizeLinear, or as Mul, with a Cast to half behind it."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Cast":
        return _scales(node.inputs[0])
    tensor = constant(node.inputs[1]) if node is not None and node.op_type in ("DequantizeLinear", "Mul") else None
    if tensor is None:
        raise InternalError(f"No scales are found behind '{value.name if value is not None else ''}'.")
    return np.asarray(tensor.numpy())


def _activation(pair: Pair, model: ir.Model, nodes: Mapping[str, ir.Node]) -> dict[str, Any]:
    """Describe the codes of an activation, as its readers, or those of the output, dequantise them."""
    if pair.readers:
        reader, index = pair.readers[0]
        value = nodes[reader].inputs[index]
    else:
        value = next(value for value in model.graph.outputs if value.name == pair.tensor)
    node = value.producer() if value is not None else None
    numbers = [constant(operand) for operand in node.inputs[1:3]] if node is not None else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        raise InternalError(f"No scale is found behind '{pair.tensor}'.")
    scale, zero_point = (tensor.numpy().reshape(-1)[0] for tensor in numbers if tensor is not None)
    return {"quant_type": _called(pair.type), "scale": float(scale), "zero_point": int(zero_point)}


# ---- reading -------------------------------------------------------------------------------------


def _told(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the units and options that the file names itself."""
    for entries in data.values():
        own = entries[0].get(OWN) if entries and isinstance(entries[0], Mapping) else None
        yield from own.items() if isinstance(own, Mapping) else ()


def _read(data: Overrides, unit: Unit, nodes: Mapping[str, ir.Node], default: Option) -> Option:
    """Compose what is written about the tensors of a unit, and return the nearest option."""
    weights = [_bits(data, name, "", default.weight_bits) for layer in unit.layers for name in layer.weights]
    inputs = [
        _bits(data, value.name or "", layer.node, default.activation_bits)
        for layer in unit.layers
        for index in layer.inputs
        if (value := nodes[layer.node].inputs[index]) is not None
    ]
    wanted = Option(max(weights, default=0), max(inputs, default=0))
    if unit.parameters:
        return nearest(unit, wanted)
    return wanted if wanted in unit.options else FLOAT


def _bits(data: Overrides, tensor: str, reader: str, default: int) -> int:
    """Return the bits in which ``reader`` sees a tensor."""
    entry = next(iter(data.get(tensor, ())), {})
    converted = entry.get("convert", {})
    if converted and reader in converted.get("recv_nodes", (reader,)):
        entry = converted
    return _TYPES[str(entry["quant_type"])].bits if "quant_type" in entry else default


def _faults(data: Any, model: ir.Model, space: Space) -> Iterator[str]:
    """Say everything that keeps data from being read."""
    if not isinstance(data, Mapping):
        yield "Expected a JSON object with a list for each tensor."
        return
    values = {
        value.name: value for node in all_nodes(model) for value in (*node.inputs, *node.outputs) if value is not None
    }
    for name, entries in data.items():
        if name not in values:
            yield f"There is no tensor '{brief(name)}' in the normalised model."
        elif not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            yield f"Tensor '{name}': expected a list of objects."
        elif entries:
            yield from (f"Tensor '{name}': {fault}." for fault in _tensor_faults(entries, constant(values[name])))
            yield from (f"Tensor '{name}': {fault}." for fault in _own_faults(entries[0].get(OWN, {}), space))
    readable = {name: entries for name, entries in data.items() if isinstance(entries, list)}
    seen: dict[str, str] = {}
    for unit, option in _told(readable):
        if seen.setdefault(unit, option) != option:
            yield f"Unit '{unit}' has two options: {shown(seen[unit])} and {shown(option)}."


def _tensor_faults(entries: list[Mapping[str, Any]], tensor: ir.TensorProtocol | None) -> Iterator[str]:
    """Say what is wrong with the objects of one tensor."""
    converted = [entry["convert"] for entry in entries if "convert" in entry]
    if not all(
        isinstance(entry, Mapping) and isinstance(entry.get("recv_nodes", []), list | set | tuple)
        for entry in converted
    ):
        yield "'convert' must be an object, and its 'recv_nodes' a list"
        return
    for entry in (*entries, *converted):
        kind = entry.get("quant_type", "QInt8")
        if not isinstance(kind, str) or kind not in _TYPES:
            yield f"quant_type {shown(kind)} is not one of {', '.join(_TYPES)}"
        if ("scale" in entry) != ("zero_point" in entry):
            yield "'scale' and 'zero_point' go together"
    if len({shown(entry["quant_type"]) for entry in entries if "quant_type" in entry}) > 1:
        yield "its channels have different types"
    axis = entries[0].get("axis")
    if axis is None and len(entries) == 1:
        return
    if tensor is None:
        yield "it is no constant, and has scales for each channel"
    elif type(axis) is not int or not -len(tensor.shape) <= axis < len(tensor.shape):
        yield f"'axis' is {shown(axis)}, and it has {len(tensor.shape)} axes"
    elif len(entries) not in (1, shape_of(tensor)[axis]):
        yield f"it has {shape_of(tensor)[axis]} channels, and {len(entries)} objects"


def _own_faults(told: Any, space: Space) -> Iterator[str]:
    """Say which units and options of ours are not known."""
    units = {unit.name: unit for unit in space.units}
    if not isinstance(told, Mapping):
        yield f"'{OWN}' must be an object"
        return
    for name, text in told.items():
        if name not in units:
            yield f"there is no unit '{brief(name)}'"
        elif text not in map(str, units[name].options):
            allowed = ", ".join(map(str, units[name].options))
            yield f"unit '{name}' has no option {shown(text)} (allowed: {allowed})"
