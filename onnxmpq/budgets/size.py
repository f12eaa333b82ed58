"""``size=30%``: the bytes of the file."""

from typing import ClassVar

from onnxmpq.artifacts import Option, Unit
from onnxmpq.budgets.base import Budget, Facts, WholeFile


class Size(Budget):
    """What is stored, and what belongs to no unit: graph, names, scales of activations."""

    name: ClassVar[str] = "size"
    examples: ClassVar[str] = "size=30%, size=5MB"
    whole: ClassVar[bool] = True
    of_file: ClassVar[bool] = True

    def weight(self, unit: Unit, option: Option) -> int:
        """Return the bytes that a unit stores."""
        return unit.cost(option).stored_bytes

    def fixed(self, facts: Facts) -> int:
        """Return the bytes that belong to no unit."""
        return facts.overhead

    def of_float(self, facts: Facts) -> int:
        """Return the bytes of the float file."""
        return facts.source_bytes

    def actual(self, file: WholeFile) -> int:
        """Return the bytes of a file."""
        return file.size
