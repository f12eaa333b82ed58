"""What a budget is: what every unit adds to it at every option, and what it comes to for a whole file.

A budget of your own is a class that derives from ``Budget``, under an entry point of the group ``onnxmpq.budgets`` and
of the budget's name. Rows of the assignment problem are sums over units: ``weight`` is what one of them adds.
"""

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar, Protocol

from onnxmpq.artifacts import FLOAT, Option, Space, Unit
from onnxmpq.errors import InternalError


class Facts(Protocol):
    """What budgets are counted from, beside the options of units."""

    @property
    def space(self) -> Space:
        """The units of the model."""
        ...

    @property
    def source_bytes(self) -> int:
        """The bytes of the float file."""
        ...

    @property
    def overhead(self) -> int:
        """The bytes of a quantised file that belong to no unit."""
        ...

    @property
    def live_bytes(self) -> int:
        """The bytes of the largest activations that are there at once."""
        ...


class Budget(ABC):
    """One kind of budget.

    ``shares`` and ``numbers`` tell how amounts are typed. ``rows``: it is a sum over units. ``of_file``: rows foresee
    it, and the file that a plan leads to tells what it is, to the byte. ``computed``: it counts what is computed, so
    that layers in float are dear. ``bisected``: it is measured on whole files, and the smallest within it is searched.
    """

    name: ClassVar[str]
    examples: ClassVar[str]
    shares: ClassVar[bool] = True
    numbers: ClassVar[bool] = True
    rows: ClassVar[bool] = True
    of_file: ClassVar[bool] = False
    computed: ClassVar[bool] = False
    bisected: ClassVar[bool] = False

    def weight(self, unit: Unit, option: Option) -> int:
        """Return what one unit at one option adds to the row."""
        raise InternalError(f"The budget '{self.name}' is no sum over units.")

    def fixed(self, facts: Facts) -> int:
        """Return what no unit can change."""
        return 0

    def of_float(self, facts: Facts) -> int:
        """Return what the float model takes, of which amounts may be shares; 0 where they cannot be."""
        return sum(self.weight(unit, FLOAT) for unit in facts.space.units) + self.fixed(facts)

    def divisor(self, units: Sequence[Unit]) -> int:
        """Return by what the sum is divided before people read it."""
        return 1

    def written(self, total: float) -> str:
        """Write an amount as people read it, rounded up: as much as that can be met."""
        return f"{total:,.0f}"
