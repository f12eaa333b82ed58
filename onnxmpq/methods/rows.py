"""Budgets as rows over a menu: what each option of each unit takes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxmpq.artifacts import Option
from onnxmpq.budgets.base import Facts
from onnxmpq.budgets.limits import Limit
from onnxmpq.budgets.rows import Row
from onnxmpq.methods.study import Menu


def make_rows(
    limits: Sequence[Limit], menu: Menu, facts: Facts, beside: Mapping[Option, int] | None = None
) -> tuple[Row, ...]:
    """Return the rows of those budgets that are sums over units.

    ``beside`` is what an option adds to a file besides what a unit stores: rows of files count it, too.
    """
    rows = (Row.of(limit, facts, menu.units, menu.options) for limit in limits if limit.budget.rows)
    if beside is None:
        return tuple(rows)
    added = np.array([beside[option] for options in menu.options for option in options], dtype=np.int64)
    return tuple(replace(row, weights=row.weights + added) if row.limit.budget.of_file else row for row in rows)
