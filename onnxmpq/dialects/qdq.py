"""``qdq``: QuantizeLinear -> DequantizeLinear around float operators, as the ONNX standard has them.

Scales are float32: a tensor in half precision has a Cast in front of its Q, and one behind its DQ.
"""

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.carriers.base import Pen
from onnxmpq.dialects.base import Activation, Dialect, IntegerBias, IslandInput, Written


class Qdq(Dialect):
    """The standard form, in which runtimes look for what they can compute in integers."""

    name: ClassVar[str] = "qdq"

    def activation(self, pen: Pen, activation: Activation) -> Written:
        """Put Q and DQ behind a tensor; scale and zero point are scalars of rank 0."""
        value, affine = activation.value, activation.affine
        scale = pen.initializer(value, "scale", np.asarray(affine.scale, np.float32))
        zero = pen.initializer(value, "zero_point", np.asarray(affine.zero_point, activation.type.dtype))
        half = value.dtype not in (None, ir.DataType.FLOAT)
        before = [_cast(pen, value, ir.DataType.FLOAT, f"{activation.name}_single")] if half else []
        single = before[0].outputs[0] if before else value
        quantise = ir.node("QuantizeLinear", [single, scale, zero], name=pen.fresh(f"{activation.name}_q"))
        codes = quantise.outputs[0]
        codes.name, codes.type, codes.shape = quantise.name, ir.TensorType(activation.type.onnx), value.shape
        dequantise = ir.node("DequantizeLinear", [codes, scale, zero], name=pen.fresh(f"{activation.name}_dq"))
        result = dequantise.outputs[0]
        result.name, result.type, result.shape = dequantise.name, single.type, value.shape
        after = [_cast(pen, result, value.dtype, f"{activation.name}_narrow")] if half and value.dtype else []
        pen.behind(value, [*before, quantise, dequantise, *after])
        return Written(codes, after[0].outputs[0] if after else result)

    def island(self, pen: Pen, activation: Activation, codes: ir.Value, island: IslandInput) -> ir.Value:
        """Write a DQ with a vector of equal scales."""
        value, affine, channels = activation.value, activation.affine, island.channels
        scales = pen.initializer(value, "scales", np.full(channels, affine.scale, np.float32))
        zeros = np.full(channels, affine.zero_point, activation.type.dtype)
        inputs = [codes, scales, pen.initializer(value, "zero_points", zeros)]
        name = f"{activation.name}_for_{island.node.name}_dq"
        own = pen.node("DequantizeLinear", inputs, name, value, {"axis": island.axis}, before=island.node)
        return pen.narrowed(value, own, island.node)

    def bias(self, pen: Pen, bias: IntegerBias) -> ir.Value:
        """Write int32 codes and a DQ whose scale is that of the input times that of the weight."""
        value = bias.value
        inputs = [pen.initializer(value, "quantized", bias.codes), pen.initializer(value, "scale", bias.scale)]
        axis = {"axis": 0} if bias.scale.ndim else {}
        return pen.node("DequantizeLinear", inputs, f"{value.name}_dq", value, axis, before=bias.node)

    def constant(self, pen: Pen, activation: Activation, node: ir.Node, codes: np.ndarray) -> ir.Value:
        """Write the codes and a DQ, for one reader."""
        value, affine, dtype = activation.value, activation.affine, activation.type.dtype
        inputs = [
            pen.initializer(value, "quantized", codes.astype(dtype)),
            pen.initializer(value, "scale", np.asarray(affine.scale, np.float32)),
            pen.initializer(value, "zero_point", np.asarray(affine.zero_point, dtype)),
        ]
        return pen.node("DequantizeLinear", inputs, f"{activation.name}_dq", value, {}, before=node)


def _cast(pen: Pen, value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    """Make a Cast, which is not in a graph yet."""
    node = ir.node("Cast", [value], {"to": int(to)}, name=pen.fresh(name))
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = node.name, ir.TensorType(to), value.shape
    return node
