"""``memory=40MB``: what is held while the file runs."""

from typing import ClassVar

from onnxmpq.artifacts import Option, Unit
from onnxmpq.budgets.base import Budget, Facts


class Memory(Budget):
    """Weights, and the largest activations that are there at once."""

    name: ClassVar[str] = "memory"
    examples: ClassVar[str] = "memory=40MB, memory=50%"

    def weight(self, unit: Unit, option: Option) -> int:
        """Return the bytes that a unit stores."""
        return unit.cost(option).stored_bytes

    def fixed(self, facts: Facts) -> int:
        """Return the bytes of the largest activations."""
        return facts.live_bytes
