"""``castmul``: codes -> Cast(float) -> Mul(scale) [-> Cast(half)]."""

from typing import ClassVar

import onnx_ir as ir

from onnxmpq.carriers.base import Carried, Carrier, Pen


class CastMul(Carrier):
    """Weights alone, turned to float when the file is loaded: at float speed.

    Computed in float32 even for half weights: runtimes without half kernels could not fold it otherwise.
    """

    name: ClassVar[str] = "castmul"

    def write(self, pen: Pen, carried: Carried) -> ir.Value:
        """Write the product, once for all layers that read the weight."""
        value, quantised = carried.value, carried.quantised

        def make() -> ir.Value:
            channels = carried.layer.channel_axes
            shape = [n if axis in channels else 1 for axis, n in enumerate(quantised.codes.shape)]
            scale = pen.initializer(value, "scale", quantised.scale.reshape(shape))
            cast = pen.node("Cast", [carried.codes], f"{value.name}_cast", value, {"to": int(ir.DataType.FLOAT)})
            return pen.narrowed(value, pen.node("Mul", [cast, scale], f"{value.name}_mul", value, {}))

        return pen.shared(f"{value.name}/castmul", make)
