"""What a budget is: what every unit adds to it at every option, and what it comes to for a whole file.

A budget of your own is a class that derives from ``Budget``, under an entry point of the group ``onnxmpq.budgets`` and
of the budget's name. Rows of the assignment problem are sums over units: ``weight`` is what one of them adds. What a
whole file takes is ``actual``: where a budget has it, plans are searched until that is within the limit.
"""

from abc import ABC
from collections.abc import Sequence
from pathlib import Path
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


class WholeFile(Protocol):
    """The file of a plan: every part of it is made when it is asked for, and once."""

    @property
    def size(self) -> int:
        """Its bytes; it need not be written for that."""
        ...

    @property
    def path(self) -> Path:
        """The file, written."""
        ...

    @property
    def fall(self) -> tuple[float, float]:
        """How far the metric falls with it, as a share, and the standard error of that."""
        ...


class Budget(ABC):
    """One kind of budget.

    ``shares`` and ``numbers`` tell how amounts are typed. ``rows``: it is a sum over units. ``whole``: what a plan
    takes is looked up in its whole file, with ``actual``; rows foresee it, and are corrected by what they were wrong
    by. Where there are no rows the smallest file within the limit is searched. ``of_file``: it counts the bytes of
    files, graph and names too. ``computed``: it counts what is computed, so that layers in float are dear.
    """

    name: ClassVar[str]
    examples: ClassVar[str]
    shares: ClassVar[bool] = True
    numbers: ClassVar[bool] = True
    rows: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    of_file: ClassVar[bool] = False
    computed: ClassVar[bool] = False

    def weight(self, unit: Unit, option: Option) -> int:
        """Return what one unit at one option adds to the row."""
        raise InternalError(f"The budget '{self.name}' is no sum over units.")

    def fixed(self, facts: Facts) -> int:
        """Return what no unit can change."""
        return 0

    def of_float(self, facts: Facts) -> int:
        """Return what the float model takes, of which amounts may be shares; 0 where they cannot be."""
        return sum(self.weight(unit, FLOAT) for unit in facts.space.units) + self.fixed(facts)

    def actual(self, file: WholeFile) -> float:
        """Return what the whole file of a plan takes: a whole number, where there are rows."""
        raise InternalError(f"The budget '{self.name}' is not looked up in files.")

    def told(self, file: WholeFile) -> str:
        """Say what a file takes in a sentence."""
        return f"It takes {self.written(self.actual(file))}."

    def divisor(self, units: Sequence[Unit]) -> int:
        """Return by what the sum is divided before people read it."""
        return 1

    def written(self, total: float) -> str:
        """Write an amount as people read it, rounded up: as much as that can be met."""
        return f"{total:,.0f}"
