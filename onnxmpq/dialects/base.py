"""What a dialect is: the nodes that it writes for activations and biases, and the bytes of the tensors beside them.

    quantised activation   x -> [codes] -> [numbers] -> readers
    island                      [codes] -> [numbers] -> one float layer, by nodes of its own
    integer bias                int32 codes -> [numbers] -> layer

A dialect of your own is a class that derives from ``Dialect``, under an entry point of the group ``onnxmpq.dialects``
and of the dialect's name. It writes with a pen, which the lowering lends to it, and the lowering gives what it returns
to the readers. Weights are written by carriers.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.carriers.base import Pen
from onnxmpq.numerics.formats import CodeType
from onnxmpq.numerics.ranges import Affine
from onnxmpq.registry import DIALECTS


@dataclass(frozen=True, slots=True)
class Activation:
    """A tensor that is to be quantised: what the plan calls it, and the type and the numbers of its codes."""

    name: str
    value: ir.Value
    type: CodeType
    affine: Affine


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for an activation: its codes, and what is read in its place."""

    codes: ir.Value
    result: ir.Value


@dataclass(frozen=True, slots=True)
class IslandInput:
    """An input of a float layer that stands between quantised ones, with the channels that it has along an axis."""

    node: ir.Node
    axis: int
    channels: int


@dataclass(frozen=True, slots=True)
class IntegerBias:
    """A bias in int32 codes, with one scale or one for each of them, and the node that adds it."""

    node: ir.Node
    value: ir.Value
    codes: np.ndarray
    scale: np.ndarray


class Dialect(ABC):
    """One way to write a quantised graph.

    The methods that count bytes foresee the constants that the others write; the size of a file is checked by them.
    """

    name: ClassVar[str]
    any_width: ClassVar[bool] = False
    """Whether activations may have any number of bits, not just those of a type."""

    @abstractmethod
    def activation(self, pen: Pen, activation: Activation) -> Written:
        """Write, right behind a tensor, its codes and the numbers that they stand for."""

    @abstractmethod
    def island(self, pen: Pen, activation: Activation, codes: ir.Value, island: IslandInput) -> ir.Value:
        """Turn codes into numbers for one float layer, so that no integer kernel takes it over."""

    @abstractmethod
    def bias(self, pen: Pen, bias: IntegerBias) -> ir.Value:
        """Write a bias; return what is added in its place."""

    def constant(self, pen: Pen, activation: Activation, node: ir.Node, codes: np.ndarray) -> ir.Value:
        """Write a constant that a node reads in codes as an activation; return what is read in its place."""
        raise NotImplementedError(f"The dialect '{self.name}' has no constants in codes.")

    def activation_bytes(self, kind: CodeType) -> int:
        """Return the bytes of constants for one activation: a scale and a zero point."""
        return 4 + -(-kind.bits // 8)

    def island_bytes(self, kind: CodeType, channels: int) -> int:
        """Return the bytes of constants for the input of an island: a scale and a zero point for each channel."""
        return 4 * channels + -(-kind.bits * channels // 8)

    def bias_bytes(self, channels: int) -> int:
        """Return the bytes of a bias: a code and a scale for each channel."""
        return 8 * channels

    def constant_bytes(self, kind: CodeType, count: int) -> int:
        """Return the bytes of a constant in codes: they, a scale and a zero point."""
        return -(-kind.bits * count // 8) + self.activation_bytes(kind)


@cache
def dialect(name: str) -> Dialect:
    """Return the dialect of that name."""
    found: Dialect = DIALECTS.load(name)()
    return found
