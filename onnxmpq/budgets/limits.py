"""Budgets as they are typed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from onnxmpq.budgets.base import Budget
from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError
from onnxmpq.registry import BUDGETS

_FACTORS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:E[+-]?[0-9]+)?)\s*(%|(?:[KMGT]I?)?B?)")
_LARGEST = 10**300


@dataclass(frozen=True, slots=True)
class Limit:
    """One budget: its kind and an amount, a share of what float takes where ``share`` is set."""

    kind: str
    amount: float
    share: bool

    @property
    def budget(self) -> Budget:
        """The budget that it limits."""
        return budget(self.kind)

    def __str__(self) -> str:
        """Write it as it is typed."""
        return f"{self.kind}={self.amount * 100:.10g}%" if self.share else f"{self.kind}={self.amount:.10g}"

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Read ``size=30%``.

        >>> Limit.parse("size=5MB"), str(Limit.parse("bops = 25 %"))
        (Limit(kind='size', amount=5000000.0, share=False), 'bops=25%')
        """
        name, equals, amount = (part.strip() for part in text.partition("="))
        known = budget(name)
        match = _AMOUNT.fullmatch(amount.upper())
        if not equals or not match:
            raise InputError(f"'{brief(text)}' is not a budget. Expected an amount: {known.examples}.")
        value, unit = float(match[1]), match[2].removesuffix("B")
        if not isfinite(value * _FACTORS.get(unit, 1)):
            raise InputError(f"'{brief(text)}' is not a budget: it is too large a number. Expected {known.examples}.")
        if unit == "%":
            if not known.shares:
                raise InputError(f"'{text}' is not a budget: expected a number, for example {known.examples}.")
            return cls(name, value / 100, share=True)
        if not known.numbers:
            raise InputError(f"'{text}' is not a budget: expected a share, for example {known.examples}.")
        return cls(name, value * _FACTORS[unit], share=False)


def budget(name: str) -> Budget:
    """Return the budget of that name."""
    found: Budget = BUDGETS.load(name)()
    return found


def parse_limits(texts: Sequence[str] | Mapping[str, object]) -> tuple[Limit, ...]:
    """Read budgets, each kind once; a mapping may give numbers, of which those below 1 are shares (but for bits)."""
    if isinstance(texts, Mapping):
        texts = [f"{kind}={_amount(kind, value)}" for kind, value in texts.items()]
    limits = tuple(Limit.parse(text) for text in texts)
    kinds = [limit.kind for limit in limits]
    if twice := [kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > 1]:
        raise InputError(f"The budget '{twice[0]}' is given twice.")
    return limits


def _amount(kind: str, value: object) -> str:
    if isinstance(value, int | float) and 0 < value < 1 and budget(kind).shares:
        return f"{value * 100!r}%"
    if isinstance(value, int) and abs(value) > _LARGEST:  # Python does not write numbers of many digits
        raise InputError(f"The budget '{kind}' is too large a number. Expected {budget(kind).examples}.")
    return str(value)
