"""Blends: samples between samples, so that what is chosen on few of them holds for fresh ones.

    blend = 0.65 x + 0.35 x'        x, x' two samples far from one another in the order they came in

A model is surer of samples like those it was trained on than of fresh ones, and a divergence hardly sees what changes
where the model is sure. Between two samples it is less sure, without any further data. (Zhang, Cisse, Dauphin and
Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", trains on such samples; here they are only measured on, against
the float model's own outputs.) As many blends are measured as samples; of many samples every second one stays as it is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy.typing as npt

Feed = Mapping[str, npt.NDArray[Any]]

FIRST = 0.65  # of a blend is its first sample
FEW = 64  # samples, up to which all of them stay as they are


@dataclass(frozen=True, slots=True)
class Blended:
    """Which of ``count`` samples stay as they are, and which two make every blend."""

    count: int
    few: int = FEW

    @property
    def plain(self) -> list[int]:
        """Return the places of samples that stay, evenly spread."""
        kept = max(min(self.count, self.few), self.count // 2)
        return [number * self.count // kept for number in range(kept)]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Return the places of the two samples of every blend: first those that do not stay, then the others."""
        plain = self.plain
        rest = sorted(set(range(self.count)) - set(plain))
        firsts = [*rest, *plain][: len(plain)]
        turn = len(plain) // 2
        if turn + len(rest) == len(plain):  # samples that stay would be blended with themselves
            turn += 1
        return list(zip(firsts, [*plain[turn:], *plain[:turn]], strict=True))

    def feeds(self, samples: Iterable[Feed], places: Sequence[int] | None = None) -> Iterator[Feed]:
        """Yield the samples that stay, and the blends behind them, or some of them by their places in that order.

        ``samples`` is read several times.
        """
        plain, pairs = self.plain, self.pairs
        wanted = range(len(plain) + len(pairs)) if places is None else places
        for blended, group in groupby(wanted, lambda place: place >= len(plain)):
            if not blended:
                yield from at(samples, (plain[place] for place in group))
                continue
            firsts, seconds = zip(*(pairs[place - len(plain)] for place in group), strict=True)
            for first, second in zip(at(samples, firsts), at(samples, seconds), strict=True):
                yield blend(first, second)


def may_blend(feeds: Iterable[Feed]) -> bool:
    """Tell whether samples can be blended: every input of the first two is a float, and of one shape."""
    found = list(islice(feeds, 2))
    return len(found) == 2 and all(
        array.dtype.kind == "f" and array.ndim > 0 and array.shape == found[1][name].shape
        for name, array in found[0].items()
    )


def blend(first: Feed, second: Feed) -> Feed:
    """Return the blend of two samples; the first where their shapes differ."""
    if any(array.shape != second[name].shape for name, array in first.items()):
        return first
    return {name: (FIRST * array + (1 - FIRST) * second[name]).astype(array.dtype) for name, array in first.items()}


def at(samples: Iterable[Feed], places: Iterable[int]) -> Iterator[Feed]:
    """Yield the samples at places; those in ascending order are read in one go."""
    reader, last = enumerate(samples), -1
    for place in places:
        if place <= last:
            reader = enumerate(samples)
        last = place
        yield next(feed for number, feed in reader if number == place)
