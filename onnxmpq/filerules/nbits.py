"""What MatMulNBits and GatherBlockQuantized must be to be computed alike everywhere."""

from collections.abc import Iterator
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.carriers.nbits import BLOCKS
from onnxmpq.filerules.base import Broken, FileRules, Rule
from onnxmpq.model.layers import all_nodes, constant
from onnxmpq.numerics.formats import CONTRIBUTED

_CONTRIB = "onnxruntime, docs/ContribOperators.md"
SYMMETRIC = Rule(
    "symmetric", "There are no zero points: codes have their middle at 2^(bits - 1).", "onnxruntime issue 29853"
)
BITS = Rule("bits", "Codes have 2, 4 or 8 bits.", f"{_CONTRIB}, MatMulNBits and GatherBlockQuantized, 'bits'")
BLOCK = Rule("block", "Blocks have 16, 32, 64 or 128 numbers.", f"{_CONTRIB}, 'block_size'; larger ones were not tried")
SHAPE = Rule(
    "shape", "Packed codes are uint8 of N x K / block x block * bits / 8.", f"{_CONTRIB}, MatMulNBits, input B"
)
SCALES = Rule("scales", "There is a scale for every block, of the type of the activations.", f"{_CONTRIB}, T1")
WHOLE = Rule("whole", "Blocks divide what is summed over: nothing is padded.", "kernels read padding differently")
LEVEL = Rule("level", "The level of accuracy is 1 (float32) or 4 (8-bit integers).", f"{_CONTRIB}, 'accuracy_level'")
_OPERATORS = ("MatMulNBits", "GatherBlockQuantized")


class NBitsRules(FileRules):
    """Rules of the two operators."""

    name: ClassVar[str] = "nbits"
    rules: ClassVar[tuple[Rule, ...]] = (SYMMETRIC, BITS, BLOCK, SHAPE, SCALES, WHOLE, LEVEL)

    def check(self, model: ir.Model) -> Iterator[Broken]:
        """Look at every node of the two."""
        for node in all_nodes(model):
            if node.domain == CONTRIBUTED and node.op_type in _OPERATORS:
                yield from _common(node)
                yield from _product(node) if node.op_type == "MatMulNBits" else ()


def _common(node: ir.Node) -> Iterator[Broken]:
    where = node.name or ""
    bits, block = node.attributes.get_int("bits", 4), node.attributes.get_int("block_size", 128)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        yield Broken(SYMMETRIC, where, f"zero points '{node.inputs[3].name}'")
    if bits not in (2, 4, 8):
        yield Broken(BITS, where, f"{bits} bits")
    if block not in BLOCKS:
        yield Broken(BLOCK, where, f"blocks of {block}")


def _product(node: ir.Node) -> Iterator[Broken]:
    where = node.name or ""
    rows, inner = node.attributes.get_int("N", 0), node.attributes.get_int("K", 0)
    bits, block = node.attributes.get_int("bits", 4), node.attributes.get_int("block_size", 128)
    level = node.attributes.get_int("accuracy_level", 0)
    if level not in (1, 4):
        yield Broken(LEVEL, where, f"level {level}")
    if inner % block:
        yield Broken(WHOLE, where, f"{inner} numbers in blocks of {block}")
    codes, scales = constant(node.inputs[1]), constant(node.inputs[2])
    wanted = (rows, -(-inner // block), block * bits // 8)
    if codes is not None and (codes.dtype != ir.DataType.UINT8 or tuple(codes.shape.numpy()) != wanted):
        yield Broken(SHAPE, where, f"{codes.dtype.name.lower()} of {list(codes.shape.numpy())}, not {list(wanted)}")
    data = node.inputs[0]
    if scales is not None and scales.size != wanted[0] * wanted[1]:
        yield Broken(SCALES, where, f"{scales.size} scales, not {wanted[0] * wanted[1]}")
    elif scales is not None and data is not None and data.dtype not in (None, scales.dtype):
        yield Broken(SCALES, where, f"scales are {scales.dtype.name.lower()}, activations are not")
