"""``dq``: codes -> DequantizeLinear [-> Cast(half)]."""

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Option
from onnxmpq.carriers.base import Carried, Carrier, Pen


class Dq(Carrier):
    """The standard form: one DequantizeLinear for each layer that reads the weight, so that runtimes fuse it."""

    name: ClassVar[str] = "dq"
    blocks: ClassVar[bool] = True
    integers: ClassVar[bool] = True

    def write(self, pen: Pen, carried: Carried) -> ir.Value:
        """Write the DequantizeLinear."""
        value, quantised, option = carried.value, carried.quantised, carried.option
        inputs = [
            self.codes(pen, carried),
            pen.shared(f"{value.name}/scale", lambda: pen.initializer(value, "scale", quantised.scale)),
        ]
        if carried.zero_point:
            width, zeros = Option(self.zero_bits(option.weight_bits)), np.zeros(quantised.scale.shape, np.int8)
            key = f"{value.name}/zero/{width}"
            inputs.append(pen.shared(key, lambda: pen.initializer(value, "zero_point", zeros, width)))
        attributes: dict[str, int] = {}
        channels = carried.layer.channel_axes
        if option.block:
            axis = next(a for a in range(len(carried.layer.weight_shape)) if a not in channels)
            attributes = {"axis": axis, "block_size": option.block}
        elif quantised.scale.ndim:
            attributes = {"axis": channels[0]}
        found = pen.node("DequantizeLinear", inputs, f"{value.name}_dq", value, attributes, before=carried.node)
        return pen.narrowed(value, found, carried.node)

    def codes(self, pen: Pen, carried: Carried) -> ir.Value:
        """Return the codes that are turned back: those of the file."""
        return carried.codes

    def zero_bits(self, container: int) -> int:
        """Return the bits of a code: zero points are of its type."""
        return container
