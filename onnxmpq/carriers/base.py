"""What a carrier is: what it can hold, the bytes that it takes beside the codes, and the nodes that it writes.

A carrier of your own is a class that derives from ``Carrier``, under an entry point of the group ``onnxmpq.carriers``
and of the carrier's name. It writes with a pen, which the lowering lends to it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Protocol

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Layer, Option
from onnxmpq.numerics.formats import opset_of, weight_type
from onnxmpq.numerics.weights import QuantisedWeight
from onnxmpq.registry import CARRIERS


class Pen(Protocol):
    """What writes into a graph; all names are made new."""

    def initializer(self, like: ir.Value, suffix: str, array: np.ndarray, option: Option | None = None) -> ir.Value:
        """Add a constant named after ``like`` to the graph that holds it; of an option: codes, stored as narrow."""
        ...

    def constant(self, like: ir.Value, name: str, array: np.ndarray) -> ir.Value:
        """Add a constant that several weights read to the graph that holds ``like``."""
        ...

    def node(
        self,
        op: str,
        inputs: list[ir.Value],
        name: str,
        like: ir.Value,
        attributes: Mapping[str, int | str],
        dtype: ir.DataType = ir.DataType.FLOAT,
        before: ir.Node | None = None,
        shape: Sequence[int] | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Add a node in front of ``before``, or at the head of the graph that holds ``like``; return its output.

        That has the shape of ``like``, or the one told.
        """
        ...

    def shared(self, key: str, make: Callable[[], ir.Value]) -> ir.Value:
        """Make a value once for all layers that read a weight."""
        ...

    def narrowed(self, value: ir.Value, single: ir.Value, before: ir.Node | None = None) -> ir.Value:
        """Return what is computed in float32 in the float type of ``value``."""
        ...

    def replace_output(self, node: ir.Node, codes: ir.DataType, make: Callable[[ir.Value], list[ir.Node]]) -> None:
        """Let a node give codes, and the last of the nodes made from them what it gave before."""
        ...

    def behind(self, value: ir.Value, nodes: list[ir.Node]) -> None:
        """Insert nodes right behind the one that gives ``value``, or at the head of its graph."""
        ...

    def fresh(self, name: str) -> str:
        """Return a name that nobody has."""
        ...

    def use(self, domain: str, version: int) -> None:
        """Let the model have the operators of a domain."""
        ...

    def define(self, domain: str, name: str, version: int, make: Callable[[int], ir.Function]) -> None:
        """Let the model say once what an operator of a domain does, in operators of the model's opset."""
        ...


@dataclass(frozen=True, slots=True)
class Carried:
    """A weight that is to be carried: where it is read, its codes in the graph, and the numbers behind them."""

    node: ir.Node
    value: ir.Value
    codes: ir.Value
    quantised: QuantisedWeight
    option: Option
    layer: Layer
    zero_point: bool


class Carrier(ABC):
    """One way to carry codes.

    ``blocks``: it holds scales of blocks. ``integers``: kernels can compute on the codes. ``whole``: what it gives is
    the whole weight. ``stored`` is what lies in the file; carriers that say the same share it. ``ops`` names the
    operators that it is for, all where it is empty.
    """

    name: ClassVar[str]
    blocks: ClassVar[bool] = False
    integers: ClassVar[bool] = False
    whole: ClassVar[bool] = True
    stored: ClassVar[str] = "codes"
    ops: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def write(self, pen: Pen, carried: Carried) -> ir.Value | None:
        """Write the nodes; return what the layer reads in the place of its weight, or None where it reads codes."""

    def codes_bytes(self, value: ir.Value, option: Option) -> dict[str, int]:
        """Return the bytes of every tensor that holds codes of a weight, under keys that shared tensors share."""
        shape = stored_shape(value)
        return {f"{value.name}/{self.stored}": math.ceil(math.prod(shape) * weight_type(option).bits / 8)}

    def write_codes(self, pen: Pen, value: ir.Value, quantised: QuantisedWeight, option: Option) -> ir.Value:
        """Write the codes of a weight; return what gives them."""
        return pen.initializer(value, "quantized", quantised.codes, option)

    def fault(self, node: ir.Node, layer: Layer, option: Option) -> str:
        """Say what keeps the weight of a layer from being carried so; nothing where it can be."""
        return ""

    def opset(self, option: Option) -> int:
        """Return the lowest opset in which codes of an option can be carried."""
        return opset_of(option)

    def scale_bytes(self, dtype: ir.DataType | None) -> int:
        """Return the bytes of one scale for a weight of a float type."""
        return 4

    def zero_bits(self, container: int) -> int:
        """Return the bits of one zero point beside codes of so many; 0 where none is written."""
        return 0


def stored_shape(weight: ir.Value) -> tuple[int, ...]:
    """Return the shape of an initialiser."""
    return tuple(weight.const_value.shape.numpy()) if weight.const_value is not None else ()


@cache
def carrier(name: str) -> Carrier:
    """Return the carrier of that name."""
    found: Carrier = CARRIERS.load(name)()
    return found
