"""``Quant`` of QONNX: one operator that rounds a tensor to codes of any width and turns them back.

    x ── Quant(x, scale, zeropt, bitwidth) ──▶ x in few bits          domain qonnx.custom_op.general

Files carry what the operator does as a function of the standard, so that a runtime that does not know it computes the
same: onnxruntime puts the function in its place.
"""

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.carriers.base import Pen
from onnxmpq.carriers.quant import DOMAIN, OPERATOR, VERSION, quant_attributes, quant_function
from onnxmpq.dialects.base import Activation, Dialect, IntegerBias, IslandInput, Written
from onnxmpq.errors import InternalError
from onnxmpq.numerics.formats import CodeType


class Quant(Dialect):
    """The dialect of FINN, Brevitas and hls4ml."""

    name: ClassVar[str] = "quant"
    any_width: ClassVar[bool] = True

    def activation(self, pen: Pen, activation: Activation) -> Written:
        """Put a Quant behind a tensor; scale, zero point and width are scalars."""
        value, affine = activation.value, activation.affine
        bits = int(affine.high_code - affine.low_code).bit_length()
        numbers = {"scale": affine.scale, "zero_point": affine.zero_point, "bits": bits}
        inputs = [pen.initializer(value, name, np.asarray(number, np.float32)) for name, number in numbers.items()]
        signed = affine.low_code < 0
        attributes = quant_attributes(signed=signed, narrow=signed and affine.low_code == -affine.high_code)
        made = ir.node(
            OPERATOR, [value, *inputs], attributes, domain=DOMAIN, name=pen.fresh(f"{activation.name}_quant")
        )
        result = made.outputs[0]
        result.name, result.type, result.shape = made.name, value.type, value.shape
        pen.behind(value, [made])
        pen.define(DOMAIN, OPERATOR, VERSION, quant_function)
        return Written(result, result)

    def island(self, pen: Pen, activation: Activation, codes: ir.Value, island: IslandInput) -> ir.Value:
        """Refuse: no layer needs protection from a runtime that computes as the file says."""
        raise InternalError("A layer in float needs no numbers of its own behind a Quant.")

    def bias(self, pen: Pen, bias: IntegerBias) -> ir.Value:
        """Refuse: biases are floats."""
        raise InternalError("Biases are floats beside a Quant.")

    def activation_bytes(self, kind: CodeType) -> int:
        """Return the bytes of a scale, a zero point and a width."""
        return 12
