"""``bops=25%``: bit operations, those of a product being the bits of one factor times those of the other."""

from typing import ClassVar

from onnxmpq.artifacts import Option, Unit
from onnxmpq.budgets.base import Budget


class Bops(Budget):
    """The bit operations of all units."""

    name: ClassVar[str] = "bops"
    examples: ClassVar[str] = "bops=25%, bops=1.5G"
    computed: ClassVar[bool] = True

    def weight(self, unit: Unit, option: Option) -> int:
        """Return the bit operations of a unit."""
        return unit.cost(option).bops
