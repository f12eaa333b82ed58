"""Write factors into the constants around a tensor: what a model gives stays, but for the rounding of floats."""

import numpy as np
import onnx_ir as ir

from onnxmpq.model.layers import constant, sole_use
from onnxmpq.model.passkit import add_initializer
from onnxmpq.smooth.factors import Array, Factors
from onnxmpq.smooth.spots import Operand, Spot


def weights_behind(spot: Spot) -> Array:
    """Return the largest magnitude, over all layers, of the weights that read each channel."""
    found = [np.abs(_by_channel(reader.weight, numbers(reader.weight))).max(1, initial=0.0) for reader in spot.readers]
    most: Array = np.max(found, axis=0).astype(np.float64)
    return most


def numbers(operand: Operand) -> Array:
    """Return a constant in float64."""
    tensor = constant(operand.value)
    assert tensor is not None
    found: Array = tensor.numpy().astype(np.float64)
    return found


def fold(spot: Spot, by: Factors) -> None:
    """Divide the channels of a tensor, in place, and let what reads it make up for it."""
    for operand in spot.front:
        moved = numbers(operand) - (by.shift if operand.role == "shifted" else 0.0)
        _write(operand, moved / _along(operand, by.scale, moved.ndim))
    for reader in spot.readers:
        weight = numbers(reader.weight)
        if reader.bias is not None and by.shift.any():
            columns = _by_channel(reader.weight, weight)
            _write(reader.bias, numbers(reader.bias) + by.shift @ columns)
        _write(reader.weight, weight * _along(reader.weight, by.scale, weight.ndim))
    if spot.others:
        _restore(spot, by)


def _by_channel(operand: Operand, array: Array) -> Array:
    """Return an array as [channels, rest]."""
    return np.moveaxis(array, operand.axis, 0).reshape(array.shape[operand.axis], -1)


def _along(operand: Operand, scale: Array, rank: int) -> Array:
    return scale.reshape([-1 if axis == operand.axis else 1 for axis in range(rank)])


def _write(operand: Operand, array: Array) -> None:
    """Give an operand other numbers; a constant that others read, too, stays for them."""
    value = operand.value
    single = array.astype(np.float32)
    if sole_use(value) is operand.node:
        value.const_value = ir.tensor(single, name=value.name)
        return
    graph = operand.node.graph
    assert isinstance(graph, ir.Graph)
    own = add_initializer(graph, _fresh(graph, f"{value.name}_smoothed"), single)
    operand.node.replace_input_with(operand.index, own)


def _restore(spot: Spot, by: Factors) -> None:
    """Give what reads a tensor besides layers the values that it had."""
    graph, name = spot.others[0][0].graph, spot.tensor.name or ""
    assert isinstance(graph, ir.Graph)
    source, last = spot.tensor, spot.tensor.producer()
    assert last is not None
    for op, numbers_of, wanted in (("Mul", by.scale, True), ("Add", by.shift, bool(by.shift.any()))):
        if wanted:
            called = _fresh(graph, f"{name}_{op.lower()}_back")
            vector = add_initializer(graph, called, numbers_of.astype(np.float32))
            new = ir.node(op, [source, vector], name=_fresh(graph, f"{name}_{op}_back"))
            output = new.outputs[0]
            output.name, output.type, output.shape = new.name, spot.tensor.type, spot.tensor.shape
            graph.insert_after(last, new)
            source, last = output, new
    for node, index in spot.others:
        node.replace_input_with(index, source)


def _fresh(graph: ir.Graph, name: str) -> str:
    """Return a name, with a number behind it if a node or a value has it."""
    taken = set(graph.initializers) | {node.name for node in graph}
    taken |= {value.name for node in graph for value in (*node.inputs, *node.outputs) if value is not None}
    return next(each for count in range(len(taken) + 1) if (each := f"{name}_{count}" if count else name) not in taken)
