"""``gather``: Gather(codes) -> Cast(float) -> Mul(Gather(scale))."""

from typing import ClassVar

import onnx_ir as ir

from onnxmpq.carriers.base import Carried, Carrier, Pen


class Gather(Carrier):
    """Tables that rows are looked up in: only those rows are turned to float."""

    name: ClassVar[str] = "gather"
    whole: ClassVar[bool] = False
    ops: ClassVar[tuple[str, ...]] = ("Gather",)

    def write(self, pen: Pen, carried: Carried) -> None:
        """Let the layer look up codes, and multiply them by the scales of the same rows."""
        node, value = carried.node, carried.value
        dtype = value.dtype or ir.DataType.FLOAT
        column = carried.quantised.scale.reshape(-1, *([1] * (len(value.shape or ()) - 1))).astype(dtype.numpy())
        scale = pen.shared(f"{value.name}/rows", lambda: pen.initializer(value, "scale", column))
        name, indices = node.outputs[0].name or "", node.inputs[1]
        node.replace_input_with(0, carried.codes)

        def make(codes: ir.Value) -> list[ir.Node]:
            rows = ir.node("Gather", [scale, indices], name=pen.fresh(f"{name}_rows"))
            cast = ir.node("Cast", [codes], {"to": int(dtype)}, name=pen.fresh(f"{name}_cast"))
            rows.outputs[0].name, cast.outputs[0].name = rows.name, cast.name
            product = ir.node("Mul", [cast.outputs[0], rows.outputs[0]], name=pen.fresh(f"{name}_mul"))
            product.outputs[0].type = ir.TensorType(dtype)
            return [rows, cast, product]

        pen.replace_output(node, carried.codes.dtype or ir.DataType.INT8, make)

    def scale_bytes(self, dtype: ir.DataType | None) -> int:
        """Return the bytes of the table's own type: scales are multiplied by in that."""
        return dtype.bitwidth // 8 if dtype is not None else 4
