"""Fold an affine map per channel into the layer before it.

    y = BatchNormalization(Conv(x, w, b), scale, bias, mean, var)   ->   y = Conv(x, w', b')
    y = Mul(Conv(x, w), c)    y = Add(Conv(x, w, b), c)             ->   the same, c constant per channel

Layers are Conv, ConvTranspose and Gemm with constant weights. Kept: a layer whose result somebody else reads too or is
public, weights that another node reads, BatchNormalization in training mode, constants that would make the weights
overflow. The sums are made in float64 and rounded once.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxmpq.model.layers import FLOAT_TYPES, all_graphs, constant, is_standard, sole_use
from onnxmpq.model.passkit import Pass, bypass

_Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold BatchNormalization, and Mul and Add with a constant per channel."""

    name: ClassVar[str] = "fold-batch-norm"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Let each layer take in what follows it, as long as it can."""
        folded = 0
        for graph in all_graphs(model):
            for node in graph:
                if node.op_type in ("Conv", "ConvTranspose", "Gemm") and is_standard(node):
                    while _fold_next(node):
                        folded += 1
        return ir.passes.PassResult(model, modified=folded > 0)


def _fold_next(layer: ir.Node) -> bool:
    """Fold the one node that reads ``layer`` into it, if that can be done."""
    follower, weight = sole_use(layer.outputs[0]), layer.inputs[1]
    tensor = constant(weight)
    if follower is None or follower.graph is not layer.graph or not is_standard(follower):
        return False
    if weight is None or tensor is None or len(weight.uses()) != 1 or tensor.dtype not in FLOAT_TYPES:
        return False
    shape = tuple(tensor.shape.numpy())
    channels = _channels(layer, shape)
    affine = _affine(follower, layer.outputs[0], channels, len(shape))
    bias = _bias(layer, channels)
    if affine is None or bias is None:
        return False
    factor, shift = affine
    with np.errstate(all="ignore"):
        new_weight = (tensor.numpy() * _laid_out(layer, factor, shape)).astype(tensor.dtype.numpy())
        new_bias = (bias * factor + shift).astype(tensor.dtype.numpy())
    if not np.isfinite(new_weight.astype(np.float64)).all() or not np.isfinite(new_bias.astype(np.float64)).all():
        return False
    weight.const_value = ir.tensor(new_weight, tensor.dtype, name=weight.name)
    _set_bias(layer, ir.tensor(new_bias, tensor.dtype))
    return bypass(follower, follower.inputs.index(layer.outputs[0]))


def _channels(layer: ir.Node, shape: tuple[int, ...]) -> int:
    if layer.op_type == "ConvTranspose":
        return shape[1] * layer.attributes.get_int("group", 1)
    return shape[0 if layer.op_type == "Conv" or layer.attributes.get_int("transB", 0) == 1 else 1]


def _laid_out(layer: ir.Node, factor: _Array, shape: tuple[int, ...]) -> _Array:
    """Shape one factor per channel so that it multiplies the weight."""
    if layer.op_type == "ConvTranspose":  # (inputs, outputs of a group, kernel); inputs are ordered by group
        groups = layer.attributes.get_int("group", 1)
        rows = np.repeat(factor.reshape(groups, shape[1]), shape[0] // groups, axis=0)
        return rows.reshape(shape[:2] + (1,) * (len(shape) - 2))
    if layer.op_type == "Conv" or layer.attributes.get_int("transB", 0) == 1:
        return factor.reshape(-1, *(1,) * (len(shape) - 1))
    return factor


def _affine(node: ir.Node, data: ir.Value, channels: int, rank: int) -> tuple[_Array, _Array] | None:
    """Return factor and shift per channel if ``node`` is an affine map of ``data``, else None."""
    if node.op_type == "BatchNormalization":
        tensors = [constant(value) for value in node.inputs[1:]]
        given = [tensor.numpy().astype(np.float64) for tensor in tensors if tensor is not None]
        trains = node.attributes.get_int("training_mode", 0) or "spatial" in node.attributes
        if trains or len(node.outputs) > 1 or len(given) != 4 or any(array.shape != (channels,) for array in given):
            return None
        scale, bias, mean, variance = given
        with np.errstate(all="ignore"):
            factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return factor, bias - mean * factor
    if node.op_type not in ("Mul", "Add"):
        return None
    tensor = constant(node.inputs[1 if node.inputs[0] is data else 0])
    vector = None if tensor is None else _per_channel(tensor.numpy().astype(np.float64), channels, rank)
    if vector is None:
        return None
    return (vector, np.zeros(channels)) if node.op_type == "Mul" else (np.ones(channels), vector)


def _per_channel(array: _Array, channels: int, rank: int) -> _Array | None:
    """Return one number per channel if ``array`` broadcasts like that against data of ``rank`` dimensions."""
    shape = (1,) * (rank - array.ndim) + array.shape
    if len(shape) != rank or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)) if shape[1] in (1, channels) else None


def _bias(layer: ir.Node, channels: int) -> _Array | None:
    """Return what the layer adds to each channel, or None if that is not known or not per channel."""
    value = layer.inputs[2] if len(layer.inputs) > 2 else None
    if value is None:
        return np.zeros(channels)
    tensor = constant(value)
    if tensor is None:
        return None
    array = tensor.numpy().astype(np.float64)
    if layer.op_type == "Gemm":
        array = array * layer.attributes.get_float("beta", 1.0)
        return _per_channel(array, channels, 2)
    return array


def _set_bias(layer: ir.Node, tensor: ir.TensorProtocol) -> None:
    if "beta" in layer.attributes:
        del layer.attributes["beta"]
    layer.resize_inputs(3)
    value, graph = layer.inputs[2], layer.graph
    assert graph is not None
    if value is not None and len(value.uses()) == 1:
        value.const_value, value.shape = tensor, ir.Shape(tensor.shape.numpy())
        return
    name = f"{layer.outputs[0].name}_bias"
    while name in graph.initializers:
        name += "_"
    made = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    graph.register_initializer(made)
    layer.replace_input_with(2, made)
