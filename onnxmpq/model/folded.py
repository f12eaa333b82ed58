"""What nodes come to that read nothing but constants: as runtimes compute it once, when they load a file.

codes = folded(weight)     stored ones, widened ones, those put together of planes; None where an input has a say
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxmpq.model.layers import constant, is_standard

Array = npt.NDArray[Any]


def folded(value: ir.Value | None) -> Array | None:
    """Return the numbers that a value always has; None where they depend on an input, or on nodes not known here."""
    tensor = constant(value)
    if tensor is not None:
        return np.asarray(tensor.numpy())
    node = value.producer() if value is not None else None
    if node is None or not is_standard(node) or node.op_type not in _COMPUTED:
        return None
    inputs = [folded(given) for given in node.inputs]
    known = [array for array in inputs if array is not None]
    return _COMPUTED[node.op_type](node, known) if len(known) == len(inputs) else None


def _cast(node: ir.Node, given: list[Array]) -> Array:
    return given[0].astype(ir.DataType(node.attributes.get_int("to", 1)).numpy())


def _shifted(node: ir.Node, given: list[Array]) -> Array:
    left = node.attributes.get_string("direction", "") == "LEFT"
    found: Array = (np.left_shift if left else np.right_shift)(*given)
    return found


def _sliced(_: ir.Node, given: list[Array]) -> Array | None:
    """Cut the first axes; where others are named, or steps, it is not known."""
    array, starts, ends, *more = given
    return None if more else array[tuple(map(slice, starts.tolist(), ends.tolist()))]


_COMPUTED: Mapping[str, Callable[[ir.Node, list[Array]], Array | None]] = {
    "Cast": _cast,
    "BitShift": _shifted,
    "BitwiseAnd": lambda _, given: np.bitwise_and(*given),
    "BitwiseOr": lambda _, given: np.bitwise_or(*given),
    "Reshape": lambda _, given: given[0].reshape(given[1].tolist()),
    "Slice": _sliced,
    "Sub": lambda _, given: np.subtract(*given),
}
