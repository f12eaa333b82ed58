"""``drop=1%``: how far the measured metric may fall."""

from typing import ClassVar

from onnxmpq.budgets.base import Budget, WholeFile


class Drop(Budget):
    """No sum over units: whole files are measured, and the smallest that keeps the metric is searched for."""

    name: ClassVar[str] = "drop"
    examples: ClassVar[str] = "drop=1%"
    numbers: ClassVar[bool] = False
    rows: ClassVar[bool] = False
    whole: ClassVar[bool] = True

    def actual(self, file: WholeFile) -> float:
        """Return by how much the metric falls at most, as far as its samples can tell: a gain is none.

        The smallest of several files that pass is likely to be one whose samples were kind to it.
        """
        fall, error = file.fall
        return max(fall, 0.0) + 2.0 * error

    def told(self, file: WholeFile) -> str:
        """Say how far the metric falls."""
        fall, error = file.fall
        return (
            f"The metric falls by {100 * fall:.2f} ± {100 * error:.2f} points on the data it was judged on; the budget "
            "counts two such errors."
        )
