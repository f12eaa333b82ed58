"""``planes``, ``planesmul``, ``planesgather``: codes of widths for which ONNX has no type, in planes that fill bytes.

    code + 2^(bits-1)  =  a plane of 4 bits | one of 2 | one of 1          6 = 4 | 2     3 = 2 | 1     7 = 4 | 2 | 1

    bytes -> BitShift(right, to each of the codes in a byte) -> BitwiseAnd(mask) -> BitShift(left, to its place) ─┐
    bytes -> BitShift(right)                                 -> BitwiseAnd(mask) ────────────────────────── BitwiseOr

    -> Reshape -> Cast(int32) -> Sub(2^(bits-1)) -> Cast(int8): the codes; then as the carriers do that they derive from

Nothing of it depends on an input: runtimes compute it once, when they load the file, and their kernels find codes of 8
bits. Codes are laid out [2, 2, 2, rest], so that planes of any width lie in bytes along some of these axes.
"""

import math
import zlib
from collections.abc import Sequence
from itertools import product
from string import ascii_lowercase
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxmpq.artifacts import Option
from onnxmpq.carriers.base import Carrier, Pen, stored_shape
from onnxmpq.carriers.castmul import CastMul
from onnxmpq.carriers.dq import Dq
from onnxmpq.carriers.gather import Gather
from onnxmpq.numerics.formats import activation_opset
from onnxmpq.numerics.weights import QuantisedWeight

WIDTHS = (4, 2, 1)
OPSET = 18
"""The opset that has BitwiseAnd and BitwiseOr."""
_CODES = (2, 2, 2)
"""Eight codes fill as many bytes as they have bits."""

Bytes = npt.NDArray[np.uint8]


class _Packed(Carrier):
    """Stores planes in the place of codes."""

    stored: ClassVar[str] = "planes"

    def codes_bytes(self, value: ir.Value, option: Option) -> dict[str, int]:
        """Return the bytes of the planes, and of the constants that all planes of a graph share."""
        shape = stored_shape(value)
        count, bits, graph = math.prod(shape), option.weight_bits, id(value.graph)
        constants = {key: array.nbytes for key, array in _constants(shape, bits).items()}
        held = {f"{value.name}/{self.stored}": bits * _rest(count)}
        return held | {f"{self.stored}/{graph}/{key}": size for key, size in constants.items()}

    def write_codes(self, pen: Pen, value: ir.Value, quantised: QuantisedWeight, option: Option) -> ir.Value:
        """Write planes, and the nodes that put them together."""
        codes = quantised.codes.astype(np.int8, copy=False)
        shape, bits, graph = codes.shape, option.weight_bits, id(value.graph)
        constants = _constants(shape, bits)
        whole, byte = (*_CODES, _rest(codes.size)), ir.DataType.UINT8

        names = map("".join, product((_short(value.name or ""),), ascii_lowercase))

        def known(key: str) -> ir.Value:
            name = f"p_{key.replace(':', '')}"
            return pen.shared(f"{self.stored}/{graph}/{key}", lambda: pen.constant(value, name, constants[key]))

        def node(
            op: str, inputs: list[ir.Value], shape: Sequence[int], kind: ir.DataType, **more: int | str
        ) -> ir.Value:
            return pen.node(op, inputs, next(names), value, more, kind, shape=shape)

        together: ir.Value | None = None
        for width, place in planes(bits):
            part = pen.initializer(value, f"plane{width}", pack(codes, bits, width, place))
            part = node("BitShift", [part, known(f"lanes:{width}")], whole, byte, direction="RIGHT")
            part = node("BitwiseAnd", [part, known(f"byte:{_mask(width)}")], whole, byte)
            if place:
                part = node("BitShift", [part, known(f"byte:{place}")], whole, byte, direction="LEFT")
            together = part if together is None else node("BitwiseOr", [together, part], whole, byte)
        assert together is not None
        if math.prod(whole) != codes.size:
            together = node("Reshape", [together, known("shape:-1")], (math.prod(whole),), byte)
            together = node("Slice", [together, known("shape:0"), known(f"shape:{codes.size}")], (codes.size,), byte)
        raised = node("Reshape", [together, known(_named(shape))], shape, byte)
        wide = node("Cast", [raised], shape, ir.DataType.INT32, to=int(ir.DataType.INT32))
        centred = node("Sub", [wide, known(f"middle:{bits}")], shape, ir.DataType.INT32)
        return node("Cast", [centred], shape, ir.DataType.INT8, to=int(ir.DataType.INT8))

    def opset(self, option: Option) -> int:
        """Return the lowest opset that has the nodes."""
        return max(OPSET, activation_opset(option))


class Planes(_Packed, Dq):
    """A small file for 8-bit kernels."""

    name: ClassVar[str] = "planes"
    blocks: ClassVar[bool] = False

    def zero_bits(self, container: int) -> int:
        """Return the bits of a code that was put together."""
        return 8


class PlanesMul(_Packed, CastMul):
    """Weights alone, turned to float when the file is loaded."""

    name: ClassVar[str] = "planesmul"


class PlanesGather(_Packed, Gather):
    """Tables that rows are looked up in."""

    name: ClassVar[str] = "planesgather"


def planes(bits: int) -> list[tuple[int, int]]:
    """Return the widths of the planes of a code, from its highest bits on, and how far each is from the lowest.

    >>> planes(7), planes(6), planes(5), planes(3)
    ([(4, 3), (2, 1), (1, 0)], [(4, 2), (2, 0)], [(4, 1), (1, 0)], [(2, 1), (1, 0)])
    """
    found, left = [], bits
    for width in WIDTHS:
        while left >= width:
            left -= width
            found.append((width, left))
    return found


def lanes_of(width: int) -> Bytes:
    """Return by how much a byte is shifted for each of its codes; as many axes as it takes have two of them.

    >>> lanes_of(2).shape, lanes_of(2).ravel().tolist()
    ((2, 2, 1, 1), [0, 2, 4, 6])
    """
    axes = (8 // width).bit_length() - 1
    shape = (*_CODES[:axes], *[1] * (len(_CODES) + 1 - axes))
    return (width * np.arange(8 // width, dtype=np.uint8)).reshape(shape)


def pack(codes: npt.NDArray[np.int8], bits: int, width: int, place: int) -> Bytes:
    """Return one plane of codes: so many bits from ``place`` on, in bytes of [1 or 2, 1 or 2, 1 or 2, rest]."""
    raised = np.zeros((*_CODES, _rest(codes.size)), np.uint8)
    raised.reshape(-1)[: codes.size] = codes.reshape(-1).astype(np.int16) + (1 << (bits - 1))
    part, lanes = (raised >> place) & _mask(width), lanes_of(width)
    axes = tuple(axis for axis, count in enumerate(lanes.shape) if count > 1)
    found: Bytes = np.bitwise_or.reduce(part << lanes, axis=axes, keepdims=True)
    return found


def _constants(shape: Sequence[int], bits: int) -> dict[str, npt.NDArray[Any]]:
    """Return what the nodes of one weight read besides its planes, by a name that equal ones share."""
    count = math.prod(shape)
    found: dict[str, npt.NDArray[Any]] = {f"middle:{bits}": np.asarray(1 << (bits - 1), np.int32)}
    for width, place in planes(bits):
        found[f"lanes:{width}"] = lanes_of(width)
        found |= {f"byte:{number}": np.asarray(number, np.uint8) for number in (_mask(width), place) if number}
    padded = [(-1,), (0,), (count,)] if 8 * _rest(count) != count else []
    return found | {_named(numbers): np.array(numbers, np.int64) for numbers in (*padded, tuple(shape))}


def _named(shape: Sequence[int]) -> str:
    return f"shape:{'x'.join(map(str, shape))}"


def _short(name: str) -> str:
    """Return a short name that a weight's nodes share, whatever stands beside it: names take bytes in a file."""
    return f"p{zlib.crc32(name.encode()) % (1 << 20):05x}"


def _rest(count: int) -> int:
    """Return the length of the last axis where so many codes are laid out [2, 2, 2, rest]."""
    return -(-count // math.prod(_CODES))


def _mask(width: int) -> int:
    return (1 << width) - 1
