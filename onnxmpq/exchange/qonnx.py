"""Plans out of QONNX files: ours, and those of other tools that put Quant nodes around the layers of the same model.

    layer ◀── Quant(weight, ..., bitwidth)      weight bits
          ◀── Quant(activation, ..., bitwidth)  activation bits

Layers are found by the names of their nodes; where none of those is known, by their order, if there are as many of
the same kinds.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Layer, Option, Plan, Space
from onnxmpq.carriers.quant import OPERATOR
from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError
from onnxmpq.model.layers import all_nodes, constant
from onnxmpq.workspace.prepare import Model, prepare

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def plan_of_qonnx(model: Model, file: Path, target: str = "qonnx") -> Plan:
    """Read the plan that a QONNX file holds, for the float model that it was made of."""
    prepared = prepare(model, target)
    found = _found(file)
    if not any(map(any, found.values())):
        raise InputError(f"'{file}' has no layer behind a Quant: it is no QONNX file, or nothing of it is quantised.")
    layers = [layer for unit in prepared.space.units for layer in unit.layers]
    named = _by_name(layers, found) or _by_order(layers, found, file)
    choices = dict(_choices(prepared.space, named, file))
    return Plan(prepared.space.target, "qonnx", choices, model_sha256=prepared.source.sha256)


def _found(file: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the bits of weights and of activations of every layer, by its name and operator, in order."""
    try:
        model = ir.from_proto(onnx.load(str(file)))
    except Exception as error:  # protobuf's own errors, and those of the file system
        raise InputError(f"'{file}' cannot be read as ONNX: {brief(str(error), 200)}.") from error
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for node in all_nodes(model):
        if node.op_type in _LAYERS:
            bits = [_bits(value) for value in node.inputs[:2]]
            weight = next((b for b, value in zip(bits, node.inputs, strict=False) if b and _of_constant(value)), 0)
            data = next((b for b, value in zip(bits, node.inputs, strict=False) if b and not _of_constant(value)), 0)
            found[node.name or f"{len(found)}", node.op_type] = weight, data
    return found


def _quant(value: ir.Value | None) -> ir.Node | None:
    """Return the Quant that gives a value, through whatever only moves numbers."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in ("Transpose", "Reshape", "Flatten", "Identity"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node if node is not None and node.op_type == OPERATOR else None


def _bits(value: ir.Value | None) -> int:
    node = _quant(value)
    width = constant(node.inputs[3]) if node is not None else None
    return int(np.asarray(width.numpy()).reshape(-1)[0]) if width is not None else 0


def _of_constant(value: ir.Value | None) -> bool:
    node = _quant(value)
    return node is not None and constant(node.inputs[0]) is not None


def _by_name(layers: list[Layer], found: dict[tuple[str, str], tuple[int, int]]) -> dict[str, tuple[int, int]]:
    known = {name: bits for (name, _), bits in found.items()}
    return {layer.node: known[layer.node] for layer in layers if layer.node in known}


def _by_order(
    layers: list[Layer], found: dict[tuple[str, str], tuple[int, int]], file: Path
) -> dict[str, tuple[int, int]]:
    own, theirs = [layer.op for layer in layers if layer.op in _LAYERS], [op for _, op in found]
    if own != theirs:
        raise InputError(
            f"'{file}' has {len(theirs)} layers and the model {len(own)}, or they are of other kinds, and their names "
            "differ: it was made of another model. Give the float model that it came from."
        )
    places = [layer for layer in layers if layer.op in _LAYERS]
    return {layer.node: bits for layer, bits in zip(places, found.values(), strict=True)}


def _choices(space: Space, named: dict[str, tuple[int, int]], file: Path) -> Iterator[tuple[str, Option]]:
    for unit in space.units:
        bits = {named[layer.node] for layer in unit.layers if layer.node in named}
        if len(bits) > 1:
            raise InputError(f"'{file}' has layers of unit '{unit.name}', which share a weight, in different bits.")
        for weight, data in bits:
            option = Option(weight, data) if weight or not unit.parameters else FLOAT
            yield unit.name, unit.cost(option).option  # refuses what the unit does not have
