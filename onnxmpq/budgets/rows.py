"""Budgets as rows of the assignment problem."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from onnxmpq.artifacts import Option, Unit
from onnxmpq.budgets.base import Budget, Facts
from onnxmpq.budgets.limits import Limit

_MOST = 2.0**60  # more than anything takes, and still exact where it is added to


@dataclass(frozen=True, slots=True)
class Row:
    """One budget over a menu: integer weights per option, and the most they may add up to.

    ``fixed`` is what no unit can change, ``of_float`` what the float model takes, and ``divisor`` by what the sum is
    divided before people read it.
    """

    limit: Limit
    weights: np.ndarray
    most: int
    fixed: int = 0
    of_float: int = 0
    divisor: int = 1

    @classmethod
    def of(cls, limit: Limit, facts: Facts, units: Sequence[Unit], menu: Sequence[Sequence[Option]]) -> "Row":
        """Make the row of a limit over the options of all units."""
        known = limit.budget
        fixed, of_float, divisor = known.fixed(facts), known.of_float(facts), known.divisor(units)
        amount = limit.amount * of_float if limit.share else limit.amount * divisor
        return cls(limit, weights_of(known, units, menu), int(min(amount, _MOST)) - fixed, fixed, of_float, divisor)

    def shifted(self, by: int) -> "Row":
        """Return the row where every plan takes so much more than was foreseen."""
        return replace(self, most=self.most - by, fixed=self.fixed + by)

    def foreseen(self, used: int) -> int:
        """Return what a plan takes as a whole, as far as the row knows."""
        return used + self.fixed

    def total(self, used: float) -> float:
        """Return what people read: with what no unit can change, and bits as a mean."""
        return (used + self.fixed) / self.divisor

    def written(self, used: float) -> str:
        """Write what a plan takes as people read it."""
        total = self.total(used)
        share = f" ({ceil(total / self.of_float * 1e4) / 100:g}% of float)" if self.of_float else ""
        return self.limit.budget.written(total) + share


def weights_of(known: Budget, units: Sequence[Unit], menu: Sequence[Sequence[Option]]) -> np.ndarray:
    """Return what every option of every unit adds to a budget, as integers."""
    return np.array(
        [known.weight(unit, option) for unit, options in zip(units, menu, strict=True) for option in options],
        dtype=np.int64,
    )
