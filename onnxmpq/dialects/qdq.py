"""``qdq``: QuantizeLinear -> DequantizeLinear around float operators, as the ONNX standard has them."""

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
        quantise = ir.node("QuantizeLinear", [value, scale, zero], name=pen.fresh(f"{activation.name}_q"))
        codes = quantise.outputs[0]
        codes.name, codes.type, codes.shape = quantise.name, ir.TensorType(activation.type.onnx), value.shape
        dequantise = ir.node("DequantizeLinear", [codes, scale, zero], name=pen.fresh(f"{activation.name}_dq"))
        result = dequantise.outputs[0]
        result.name, result.type, result.shape = dequantise.name, value.type, value.shape
        pen.behind(value, [quantise, dequantise])
        return Written(codes, result)

    def island(self, pen: Pen, activation: Activation, codes: ir.Value, island: IslandInput) -> ir.Value:
        """Write a DQ with a vector of equal scales."""
        value, affine, channels = activation.value, activation.affine, island.channels
        scales = pen.initializer(value, "scales", np.full(channels, affine.scale, np.float32))
        zeros = np.full(channels, affine.zero_point, activation.type.dtype)
        inputs = [codes, scales, pen.initializer(value, "zero_points", zeros)]
        name = f"{activation.name}_for_{island.node.name}_dq"
        return pen.node("DequantizeLinear", inputs, name, value, {"axis": island.axis}, before=island.node)

    def bias(self, pen: Pen, bias: IntegerBias) -> ir.Value:
        """Write int32 codes and a DQ whose scale is that of the input times that of the weight."""
        value = bias.value
        inputs = [pen.initializer(value, "quantized", bias.codes), pen.initializer(value, "scale", bias.scale)]
        axis = {"axis": 0} if bias.scale.ndim else {}
        return pen.node("DequantizeLinear", inputs, f"{value.name}_dq", value, axis, before=bias.node)
