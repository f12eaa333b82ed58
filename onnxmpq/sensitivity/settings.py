"""How to measure."""

import re
from dataclasses import dataclass
from math import inf, isfinite

from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError
from onnxmpq.metrics.losses import LossFunction

_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure. ``memory`` is a ceiling in bytes for one process; ``batch`` follows from it where it is 0.

    ``function`` is a loss of the user's own, a function of a module (workers must be able to import it). The Gram of
    interactions stays that of the built-in loss; what a variant adds alone is the function's. ``blends`` measures on
    blends of samples, too; where it is None, a search does as its method asks.
    """

    loss: str = "auto"
    outputs: tuple[str, ...] = ()
    samples: int = 0
    batch: int = 0
    memory: int = 4_000_000_000
    threads: int = 1
    seed: int = 0
    function: LossFunction | None = None
    blends: bool | None = None


def parse_bytes(text: str) -> int:
    """Read an amount of memory.

    >>> parse_bytes("4GB"), parse_bytes("512 MiB"), parse_bytes("1000")
    (4000000000, 536870912, 1000)
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMG]?I?)B?\s*", text.upper())
    amount = float(match[1]) * _UNITS.get(match[2], inf) if match else inf
    if not isfinite(amount) or amount < 1:
        raise InputError(f"'{brief(text)}' is no amount of memory. Expected a number and a unit: 4GB, 512MB, 2GiB.")
    return int(amount)
