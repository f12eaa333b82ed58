"""Which kernels units can run on, and plans that show together what each takes beside the others.

What a unit stores is widened when a file is loaded: w8a8 and w4a8 run on the same kernel, and so do w8, w4 and float.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmpq.artifacts import FLOAT, Option, Unit
from onnxmpq.numerics.formats import kernel

GROUPS = 4
"""Groups of mixed plans: in each of them every unit runs once on every kernel."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels that units can run on, and the option that shows each: that of the most weight bits."""

    offered: Mapping[str, Mapping[Option, Option]]

    @classmethod
    def of(cls, units: Sequence[Unit], options: Mapping[str, Sequence[Option]]) -> "Kernels":
        """Find those of units with a choice, of the options that they may take."""
        offered: dict[str, dict[Option, Option]] = {}
        for unit in units:
            found: dict[Option, Option] = {}
            for option in sorted(options[unit.name], key=lambda o: o.weight_bits or 32):
                found[kernel(option)] = option
            if len(found) > 1:
                offered[unit.name] = found
        return cls(offered)

    @property
    def every(self) -> tuple[Option, ...]:
        """Return all kernels, float first."""
        found = dict.fromkeys(each for kernels in self.offered.values() for each in kernels)
        return tuple(sorted(found, key=lambda each: (each != FLOAT, str(each))))

    def uniform(self, wanted: Option) -> dict[str, Option]:
        """Return that kernel for every unit that has it, and the first that it has for others."""
        return {unit: wanted if wanted in found else _first(found) for unit, found in self.offered.items()}

    def shown(self, kernels: Mapping[str, Option]) -> dict[str, Option]:
        """Return the options that show units on kernels."""
        return {unit: found[kernels[unit]] for unit, found in self.offered.items()}

    def design(self, seed: int = 0) -> Iterator[dict[str, Option]]:
        """Yield plans by their kernels: every uniform one, then mixed ones that complete each other."""
        every = self.every
        for each in every:
            yield self.uniform(each)
        random = np.random.default_rng(seed)
        for _ in range(GROUPS):
            turns = {unit: random.permutation(len(found)) for unit, found in self.offered.items()}
            for shift in range(len(every)):
                yield {unit: tuple(found)[turns[unit][shift % len(found)]] for unit, found in self.offered.items()}


def _first(found: Mapping[Option, Option]) -> Option:
    return FLOAT if FLOAT in found else next(iter(found))
