"""The integer types that hold codes: how wide they are, their sign, and the opset whose Q and DQ know them.

    container_bits(3)            4: the narrowest type that holds codes of 3 bits
    weight_type(option)          int4 for w3, w4 and w4b32
    TYPES["uint16"]              what holds the activations of w8a16 where they are never negative
    opset_of(option)             the lowest opset that has all types of an option

Whoever asks for a container, a dtype or an opset asks here. Help and completion do: what is heavy is loaded later.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxmpq.artifacts import Option

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

CONTRIBUTED = "com.microsoft"
"""The domain of operators that onnxruntime has beside the standard."""
BLOCKED_OPSET = 21
"""The opset whose DequantizeLinear takes a scale for each block."""


@dataclass(frozen=True, slots=True)
class CodeType:
    """An integer type of ONNX, as tensors store it."""

    name: str
    bits: int
    opset: int

    @property
    def signed(self) -> bool:
        """Tell whether it has negative codes."""
        return not self.name.startswith("u")

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The type of arrays that hold its codes."""
        import ml_dtypes
        import numpy as np

        found: np.dtype[Any] = np.dtype(getattr(np if self.bits >= 8 else ml_dtypes, self.name))
        return found

    @property
    def onnx(self) -> "ir.DataType":
        """The type as ONNX numbers it."""
        import onnx_ir as ir

        return ir.DataType[self.name.upper()]


TYPES = {
    known.name: known
    for known in (
        CodeType("int2", 2, 25),
        CodeType("uint2", 2, 25),
        CodeType("int4", 4, 21),
        CodeType("uint4", 4, 21),
        CodeType("int8", 8, 13),
        CodeType("uint8", 8, 13),
        CodeType("int16", 16, 21),
        CodeType("uint16", 16, 21),
    )
}
_WIDTHS = sorted({known.bits for known in TYPES.values()})


def container_bits(bits: int) -> int:
    """Return the width of the narrowest type that holds ``bits``-bit codes.

    >>> [container_bits(bits) for bits in (2, 3, 4, 5, 8, 9)]
    [2, 4, 4, 8, 8, 16]
    """
    return next(width for width in _WIDTHS if bits <= width)


def weight_type(option: Option) -> CodeType:
    """Return the type that holds the codes of weights; they are signed.

    >>> weight_type(Option.parse("w3a8")).name
    'int4'
    """
    return TYPES[f"int{container_bits(option.weight_bits)}"]


def activation_type(option: Option, *, signed: bool) -> CodeType:
    """Return the type that holds the codes of activations.

    >>> activation_type(Option.parse("w8a16"), signed=False).name
    'uint16'
    """
    return TYPES[f"{'' if signed else 'u'}int{max(container_bits(option.activation_bits), 4)}"]


def opset_of(option: Option) -> int:
    """Return the lowest opset that has the types of ``option``; 0 for float."""
    weights = weight_type(option).opset if option.weight_bits else 0
    return max(weights, activation_opset(option), BLOCKED_OPSET if option.block else 0)


def activation_opset(option: Option) -> int:
    """Return the lowest opset that has the type of activations of ``option``."""
    return activation_type(option, signed=False).opset if option.activation_bits else 0


def kernel(option: Option) -> Option:
    """Return what an option is for the kernel that runs it: weights of few bits are widened when a file is loaded.

    >>> [str(kernel(Option.parse(text))) for text in ("w4a8", "w4", "float", "w4b32")]
    ['a8', 'float', 'float', 'w4b32']
    """
    return Option(option.weight_bits if option.block else 0, option.activation_bits, option.block)
