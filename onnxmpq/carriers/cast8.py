"""``cast8``: 4- or 2-bit codes -> Cast(int8) -> DequantizeLinear."""

from typing import ClassVar

import onnx_ir as ir

from onnxmpq.carriers.base import Carried, Pen
from onnxmpq.carriers.dq import Dq


class Cast8(Dq):
    """A small file for 8-bit kernels: the runtime widens the codes once, when it loads the file."""

    name: ClassVar[str] = "cast8"
    blocks: ClassVar[bool] = False

    def codes(self, pen: Pen, carried: Carried) -> ir.Value:
        """Widen the codes, once for all layers that read the weight."""
        value, kind = carried.value, ir.DataType.INT8

        def make() -> ir.Value:
            return pen.node("Cast", [carried.codes], f"{value.name}_cast", value, {"to": int(kind)}, kind)

        return pen.shared(f"{value.name}/cast8", make)

    def zero_bits(self, container: int) -> int:
        """Return the bits of a widened code."""
        return 8
