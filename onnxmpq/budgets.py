"""Budgets as users write them, and as rows of the assignment problem.

size=30%      of the float file, or bytes: 5MB, 300kB, 123456
bits=4        mean bits of a weight
bops=25%      of the float model's bit operations, or a number: 1.5G
memory=40MB   weights and the largest activations together, or a share of what float takes
drop=1%       how far the measured metric may fall; no row: the smallest file that keeps it is searched for
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Literal

import numpy as np

from onnxmpq.artifacts import FLOAT, Option, Space, Unit
from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, nearest

Kind = Literal["size", "bits", "bops", "memory", "drop"]
KINDS: tuple[Kind, ...] = ("size", "bits", "bops", "memory", "drop")
ROWS: tuple[Kind, ...] = ("size", "bits", "bops", "memory")
_FACTORS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:E[+-]?[0-9]+)?)\s*(%|(?:[KMGT]I?)?B?)")
_LARGEST = 10**300
FLOAT_BITS = 32


@dataclass(frozen=True, slots=True)
class Limit:
    """One budget: its kind and an amount, a share of what float takes where ``share`` is set."""

    kind: Kind
    amount: float
    share: bool

    examples: ClassVar[Mapping[str, str]] = {
        "size": "size=30%, size=5MB",
        "bits": "bits=4.5",
        "bops": "bops=25%, bops=1.5G",
        "memory": "memory=40MB, memory=50%",
        "drop": "drop=1%",
    }

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
        kind = checked_kind(name)
        match = _AMOUNT.fullmatch(amount.upper())
        if not equals or not match:
            raise InputError(f"'{brief(text)}' is no budget. Expected an amount: {cls.examples[kind]}.")
        value, unit = float(match[1]), match[2].removesuffix("B")
        if not isfinite(value * _FACTORS.get(unit, 1)):
            raise InputError(f"'{brief(text)}' is no budget: it is beyond all numbers. Expected {cls.examples[kind]}.")
        if unit == "%":
            if kind == "bits":
                raise InputError(f"'{text}' is no budget: bits are a number, for example {cls.examples[kind]}.")
            return cls(kind, value / 100, share=True)
        if kind == "drop":
            raise InputError(f"'{text}' is no budget: a drop is a share, for example {cls.examples[kind]}.")
        return cls(kind, value * _FACTORS[unit], share=False)


def checked_kind(name: str) -> Kind:
    """Read the name of a kind of budget."""
    if name not in KINDS:
        raise InputError(f"There is no budget '{brief(name)}'. Known: {', '.join(KINDS)}.{nearest(name, KINDS)}")
    return name


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
    if isinstance(value, int | float) and kind != "bits" and 0 < value < 1:
        return f"{value * 100!r}%"
    if isinstance(value, int) and abs(value) > _LARGEST:  # Python does not write numbers of many digits
        raise InputError(f"The budget '{kind}' is beyond all numbers. Expected {Limit.examples[checked_kind(kind)]}.")
    return str(value)


def weights(kind: Kind, unit: Unit, option: Option) -> int:
    """Return what one unit at one option adds to a row; bits are counted in bits of all its weights."""
    if kind == "bops":
        return unit.cost(option).bops
    if kind == "bits":
        return unit.parameters * (option.weight_bits or FLOAT_BITS)
    return unit.cost(option).stored_bytes


def float_total(kind: Kind, space: Space) -> int:
    """Return what the units take in a row when all are float."""
    return sum(weights(kind, unit, FLOAT) for unit in space.units)


def row(kind: Kind, units: Sequence[Unit], menu: Sequence[Sequence[Option]]) -> np.ndarray:
    """Return the weights of a row over the options of all units, as integers."""
    return np.array(
        [weights(kind, unit, option) for unit, options in zip(units, menu, strict=True) for option in options],
        dtype=np.int64,
    )
