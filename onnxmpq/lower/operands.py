"""Constant operands in codes, beside activations in codes; and layers in half precision among layers in codes.

Add(x, c)                       c -> codes -> DequantizeLinear, of the type of x
LayerNormalization(x, g, b)     g -> codes in 8 bits; b -> codes in int32, whose scale is that of x times that of g
MatMul(x, w), in float          Cast(half) -> MatMul -> Cast(float)
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxmpq.carriers.base import Pen
from onnxmpq.dialects.base import Activation, Dialect, IntegerBias
from onnxmpq.errors import InternalError
from onnxmpq.lower.bias import least_scale
from onnxmpq.model.layers import constant
from onnxmpq.numerics.formats import TYPES
from onnxmpq.numerics.ranges import QuantisedType, Range, quantiser
from onnxmpq.targets.placement import Constant


class Operands:
    """Writes constant operands of nodes; ``scales`` are those of the activations that nodes read."""

    def __init__(self, pen: Pen, dialect: Dialect, scales: Mapping[tuple[str, int], float]) -> None:
        self.pen, self.dialect, self.scales = pen, dialect, scales
        self.steps: dict[tuple[str, int], np.float32] = {}

    def write(self, operand: Constant, node: ir.Node, value: ir.Value) -> None:
        """Give a node the codes of an operand in its place."""
        tensor = constant(value)
        if tensor is None:
            raise InternalError(f"The operand '{operand.tensor}' is not a constant.")
        array = np.asarray(tensor.numpy(), np.float32)
        new = self.scaled(operand, node, value, array) if operand.scaled else self.own(operand, node, value, array)
        node.replace_input_with(operand.index, new)

    def scaled(self, operand: Constant, node: ir.Node, value: ir.Value, array: np.ndarray) -> ir.Value:
        """Write a bias: in the scale of what it is added to, or in the least that holds it."""
        step = self.scales[operand.node, 0] * float(self.steps[operand.node, operand.index - 1])
        least = float(np.max(np.append(least_scale(array, 1.0), 0.0)))
        scale = np.float32(max(step, least))
        codes = np.rint(array / np.float64(scale)).astype(np.int32)
        return self.dialect.bias(self.pen, IntegerBias(node, value, codes, np.asarray(scale)))

    def own(self, operand: Constant, node: ir.Node, value: ir.Value, array: np.ndarray) -> ir.Value:
        """Write an operand in a scale of its own, over all that it holds."""
        kind = TYPES[operand.type]
        affine = quantiser(Range(float(array.min()), float(array.max())), QuantisedType(kind.bits))
        self.steps[operand.node, operand.index] = affine.scale
        codes = np.clip(np.rint(array / affine.scale) + affine.zero_point, affine.low_code, affine.high_code)
        return self.dialect.constant(self.pen, Activation(operand.tensor, value, kind, affine), node, codes)


def halve(pen: Pen, node: ir.Node) -> None:
    """Let a node compute in half precision, between Casts."""
    half, single = ir.DataType.FLOAT16, ir.DataType.FLOAT
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype == single:
            cast = pen.node("Cast", [value], f"{value.name}_half", value, {"to": int(half)}, half, before=node)
            node.replace_input_with(index, cast)

    def back(output: ir.Value) -> list[ir.Node]:
        cast = ir.node("Cast", [output], {"to": int(single)}, name=pen.fresh(f"{node.name}_single"))
        cast.outputs[0].type = ir.TensorType(single)
        return [cast]

    pen.replace_output(node, half, back)
