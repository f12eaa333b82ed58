"""``quant``: numbers of a weight as they are after rounding -> Quant, which says in how many bits they fit.

Nothing is smaller in the file: the width is for hardware that is generated from it.
"""

import math
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from onnxmpq.artifacts import Option
from onnxmpq.carriers.base import Carried, Carrier, Pen, stored_shape
from onnxmpq.numerics.layout import Layout
from onnxmpq.numerics.weights import QuantisedWeight

DOMAIN, OPERATOR, VERSION = "qonnx.custom_op.general", "Quant", 1
ROUND = "ROUND"


class QuantWeight(Carrier):
    """A float initialiser with a Quant behind it, as QONNX has weights."""

    name: ClassVar[str] = "quant"
    integers: ClassVar[bool] = True
    stored: ClassVar[str] = "floats"

    def codes_bytes(self, value: ir.Value, option: Option) -> dict[str, int]:
        """Return the bytes of the floats, and of the zero point and the width beside them."""
        return {f"{value.name}/{self.stored}": 4 * math.prod(stored_shape(value)) + 8}

    def write_codes(self, pen: Pen, value: ir.Value, quantised: QuantisedWeight, option: Option) -> ir.Value:
        """Write the numbers that the codes stand for."""
        numbers = quantised.codes.astype(np.float32) * _broadcast(quantised)
        return pen.initializer(value, "rounded", numbers.astype(np.float32))

    def write(self, pen: Pen, carried: Carried) -> ir.Value:
        """Write the Quant, once for all layers that read the weight."""
        value, quantised, bits = carried.value, carried.quantised, carried.option.weight_bits

        def make() -> ir.Value:
            scale = pen.initializer(value, "scale", _broadcast(quantised))
            zero, width = (
                pen.initializer(value, name, np.asarray(number, np.float32))
                for name, number in (("zero_point", 0), ("bits", bits))
            )
            narrow = int(quantised.codes.min(initial=0)) > -(1 << (bits - 1))
            made = pen.node(
                *(OPERATOR, [carried.codes, scale, zero, width], f"{value.name}_quant", value),
                quant_attributes(signed=True, narrow=narrow),
                domain=DOMAIN,
            )
            pen.define(DOMAIN, OPERATOR, VERSION, quant_function)
            return pen.narrowed(value, made)

        return pen.shared(f"{value.name}/quant", make)

    def opset(self, option: Option) -> int:
        """Return the lowest opset of the function."""
        return 13


def _broadcast(quantised: QuantisedWeight) -> np.ndarray:
    """Return the scales in a shape that stands against the weight."""
    return Layout.of(quantised.codes.shape, quantised.axes, quantised.block).spread(quantised.scale)


def quant_attributes(*, signed: bool, narrow: bool) -> dict[str, int | str]:
    """Return the attributes of a Quant; ``narrow`` leaves out the code that has no opposite."""
    return {"signed": int(signed), "narrow": int(narrow), "rounding_mode": ROUND}


def quant_function(opset: int) -> ir.Function:
    """Write what a Quant does in operators of the standard: divide, round within the codes of its width, turn back."""
    steps = [
        *(step for name in ("signed", "narrow") for step in _given(name)),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        *_steps(
            ("Sub", "bitwidth", "signed_f", "exponent"),
            ("Pow", "two", "exponent", "power"),
            ("Sub", "one", "signed_f", "unsigned"),
            ("Mul", "narrow_f", "unsigned", "left_out"),
            ("Sub", "power", "one", "top"),
            ("Sub", "top", "left_out", "most"),
            ("Sub", "narrow_f", "power", "bottom"),
            ("Mul", "bottom", "signed_f", "least"),
            ("Div", "x", "scale", "steps"),
            ("Add", "steps", "zeropt", "moved"),
            ("Max", "moved", "least", "above"),
            ("Min", "above", "most", "within"),
        ),
        helper.make_node("Round", ["within"], ["codes"]),
        *_steps(("Sub", "codes", "zeropt", "centred"), ("Mul", "centred", "scale", "y")),
    ]
    inputs, imports = ["x", "scale", "zeropt", "bitwidth"], [helper.make_opsetid("", opset)]
    names = ["signed", "narrow", "rounding_mode"]
    return ir.serde.deserialize_function(
        helper.make_function(DOMAIN, OPERATOR, inputs, ["y"], steps, imports, attributes=names)
    )


def _given(name: str) -> list[onnx.NodeProto]:
    """Write, as a float, what the node that calls the function has for an attribute."""
    node = helper.make_node("Constant", [], [name])
    node.attribute.append(onnx.AttributeProto(name="value_int", ref_attr_name=name, type=onnx.AttributeProto.INT))
    return [node, helper.make_node("Cast", [name], [f"{name}_f"], to=onnx.TensorProto.FLOAT)]


def _steps(*told: tuple[str, str, str, str]) -> list[onnx.NodeProto]:
    return [helper.make_node(op, [one, other], [result]) for op, one, other, result in told]
