"""``bits=4``: the mean bits of a weight."""

from collections.abc import Sequence
from math import ceil
from typing import ClassVar

from onnxmpq.artifacts import Option, Unit
from onnxmpq.budgets.base import Budget, Facts

FLOAT_BITS = 32


class Bits(Budget):
    """The bits of all weights, divided by their number."""

    name: ClassVar[str] = "bits"
    examples: ClassVar[str] = "bits=4.5"
    shares: ClassVar[bool] = False

    def weight(self, unit: Unit, option: Option) -> int:
        """Return the bits of all weights of a unit."""
        return unit.parameters * (option.weight_bits or FLOAT_BITS)

    def of_float(self, facts: Facts) -> int:
        """Return nothing: no share of it can be asked for."""
        return 0

    def divisor(self, units: Sequence[Unit]) -> int:
        """Return the number of weights."""
        return max(sum(unit.parameters for unit in units), 1)

    def written(self, total: float) -> str:
        """Write a mean, which is no whole number."""
        return f"{ceil(total * 1e4) / 1e4:g}"
