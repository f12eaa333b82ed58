"""``drop=1%``: how far the measured metric may fall."""

from typing import ClassVar

from onnxmpq.budgets.base import Budget


class Drop(Budget):
    """No sum over units: whole files are measured, and the smallest that keeps the metric is searched for."""

    name: ClassVar[str] = "drop"
    examples: ClassVar[str] = "drop=1%"
    numbers: ClassVar[bool] = False
    rows: ClassVar[bool] = False
    bisected: ClassVar[bool] = True
