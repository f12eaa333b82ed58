"""``nbits``: a product becomes MatMulNBits, which multiplies by packed codes; ``gatherblocks``: a look-up likewise.

Codes are stored as onnxruntime's contributed operators want them: unsigned, with their middle at 2^(bits - 1), so that
no zero points are needed, several to a byte with the lowest bits first, one row for every output.
"""

import math
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Layer, Option
from onnxmpq.carriers.base import Carried, Carrier, Pen, stored_shape
from onnxmpq.numerics.formats import CONTRIBUTED, container_bits
from onnxmpq.numerics.weights import QuantisedWeight

BLOCKS = (16, 32, 64, 128)
"""Numbers that may share a scale."""


class _Blocked(Carrier):
    """Codes in bytes, and scales of blocks in the float type of the weight."""

    blocks: ClassVar[bool] = True

    def codes_bytes(self, value: ir.Value, option: Option) -> dict[str, int]:
        """Return the bytes of packed codes."""
        count = math.prod(stored_shape(value))
        return {f"{value.name}/{self.stored}": count * container_bits(option.weight_bits) // 8}

    def write_codes(self, pen: Pen, value: ir.Value, quantised: QuantisedWeight, option: Option) -> ir.Value:
        """Write packed codes, one row for every output."""
        bits = container_bits(option.weight_bits)
        return pen.initializer(value, "packed", self.shaped(packed(_rows(quantised.codes, quantised), bits), quantised))

    def shaped(self, rows: np.ndarray, quantised: QuantisedWeight) -> np.ndarray:
        """Return packed rows in the shape that the operator wants."""
        return rows

    def scales(self, pen: Pen, carried: Carried) -> ir.Value:
        """Write the scales of all blocks of every row, once for all layers that read the weight."""
        value, dtype = carried.value, carried.value.dtype or ir.DataType.FLOAT
        rows = _rows(carried.quantised.scale, carried.quantised).astype(dtype.numpy())
        return pen.shared(f"{value.name}/rows", lambda: pen.initializer(value, "scale", rows))

    def opset(self, option: Option) -> int:
        """Return no opset of the standard: the operators are not of it."""
        return 0

    def scale_bytes(self, dtype: ir.DataType | None) -> int:
        """Return the bytes of the weight's own type."""
        return dtype.bitwidth // 8 if dtype is not None else 4

    def fault(self, node: ir.Node, layer: Layer, option: Option) -> str:
        """Say what the operator does not take."""
        if option.block not in BLOCKS:
            return f"blocks of {option.block} are not among those of the operator: {', '.join(map(str, BLOCKS))}"
        if layer.weight_type not in ("FLOAT", "FLOAT16"):
            return f"its weight is {layer.weight_type.lower()}, and the operator takes float32 and float16"
        return ""


class NBits(_Blocked):
    """Products of few rows are memory-bound: weights of 4 bits are read in an eighth of the bytes, and so in less time.

    ``level`` is in what the operator may compute: 1 in float32, 4 in 8-bit integers, activations rounded by block.
    """

    name: ClassVar[str] = "nbits"
    stored: ClassVar[str] = "nbits"
    ops: ClassVar[tuple[str, ...]] = ("MatMul", "Gemm")
    level: ClassVar[int] = 1

    def write(self, pen: Pen, carried: Carried) -> None:
        """Turn the layer into a MatMulNBits."""
        node, shape = carried.node, stored_shape(carried.value)
        axis = _axis(carried.quantised)
        inputs = [node.inputs[0], carried.codes, self.scales(pen, carried)]
        if len(node.inputs) > 2 and node.inputs[2] is not None:  # of a Gemm; zero points and an order stand before it
            inputs += [None, None, node.inputs[2]]
        node.op_type, node.domain = "MatMulNBits", CONTRIBUTED
        node.attributes.clear()
        for key, number in {
            "K": shape[axis],
            "N": shape[1 - axis],
            "bits": container_bits(carried.option.weight_bits),
            "block_size": carried.option.block,
            "accuracy_level": self.level,
        }.items():
            node.attributes[key] = ir.AttrInt64(key, number)
        node.resize_inputs(len(inputs))
        for index, value in enumerate(inputs):
            node.replace_input_with(index, value)
        pen.use(CONTRIBUTED, 1)

    def shaped(self, rows: np.ndarray, quantised: QuantisedWeight) -> np.ndarray:
        """Return rows cut into blocks."""
        assert quantised.block is not None
        count = quantised.codes.shape[quantised.block[0]] // quantised.block[1]
        return rows.reshape(len(rows), count, -1)

    def fault(self, node: ir.Node, layer: Layer, option: Option) -> str:
        """Say what keeps a product from being a MatMulNBits."""
        if len(layer.weight_shape) != 2 or layer.inputs != (0,):
            return "its weight is not a matrix on the right"
        if layer.op == "Gemm":
            alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
            if alpha != 1.0 or beta != 1.0 or node.attributes.get_int("transA", 0) != 0:
                return "its alpha or beta is not 1, or it transposes its input"
            if layer.bias == "" and len(node.inputs) > 2 and node.inputs[2] is not None:
                return "what it adds is not one number for each output"
        return super().fault(node, layer, option)


class NBits4(NBits):
    """The same in integers: faster where there are fast ones, and activations lose bits."""

    name: ClassVar[str] = "nbits4"
    level: ClassVar[int] = 4


class GatherBlocks(_Blocked):
    """Tables that rows are looked up in: a Gather becomes a GatherBlockQuantized."""

    name: ClassVar[str] = "gatherblocks"
    stored: ClassVar[str] = "gatherblocks"
    whole: ClassVar[bool] = False
    ops: ClassVar[tuple[str, ...]] = ("Gather",)

    def write(self, pen: Pen, carried: Carried) -> None:
        """Turn the layer into a GatherBlockQuantized."""
        node = carried.node
        inputs = [carried.codes, node.inputs[1], self.scales(pen, carried)]
        node.op_type, node.domain = "GatherBlockQuantized", CONTRIBUTED
        node.attributes.clear()
        for key, number in {
            "bits": container_bits(carried.option.weight_bits),
            "block_size": carried.option.block,
            "gather_axis": 0,
            "quantize_axis": 1,
        }.items():
            node.attributes[key] = ir.AttrInt64(key, number)
        node.resize_inputs(len(inputs))
        for index, value in enumerate(inputs):
            node.replace_input_with(index, value)
        pen.use(CONTRIBUTED, 1)

    def fault(self, node: ir.Node, layer: Layer, option: Option) -> str:
        """Say what keeps a look-up from being a GatherBlockQuantized."""
        if len(layer.weight_shape) != 2 or node.attributes.get_int("axis", 0) != 0:
            return "its table is not a matrix whose rows are looked up"
        return super().fault(node, layer, option)


def packed(rows: np.ndarray, bits: int) -> np.ndarray:
    """Pack rows of signed codes, several to a byte, the first in the lowest bits.

    >>> packed(np.array([[-8, 7, 0, 1]]), 4).tolist()
    [[240, 152]]
    """
    middle, each = 1 << (bits - 1), 8 // bits
    codes = (rows.astype(np.int16) + middle).astype(np.uint8)
    found = np.zeros((len(rows), rows.shape[1] // each), np.uint8)
    for place in range(each):
        found |= codes[:, place::each] << np.uint8(bits * place)
    return found


def _axis(quantised: QuantisedWeight) -> int:
    assert quantised.block is not None
    return quantised.block[0]


def _rows(array: np.ndarray, quantised: QuantisedWeight) -> np.ndarray:
    """Return codes or scales of a weight with one row for every output."""
    return np.ascontiguousarray(array.T if _axis(quantised) == 0 else array)
