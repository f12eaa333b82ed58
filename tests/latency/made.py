"""A machine that is made up: its kernels take the time that a formula says, and nothing else changes it."""

from collections.abc import Mapping
from dataclasses import dataclass

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.latency.design import Kernels
from onnxmpq.latency.model import Observation
from onnxmpq.latency.regions import Border, Regions

CODES = Option(0, 8)
W8A8, W8 = Option(8, 8), Option(8)


@dataclass(frozen=True, slots=True)
class Machine:
    """A chain of units: ``float_s`` and ``codes_s`` of each, and what a border between two of other kinds takes."""

    float_s: tuple[float, ...]
    codes_s: tuple[float, ...]
    border_s: float
    profiler_s: float = 0.0

    @property
    def units(self) -> list[str]:
        return [f"u{number}" for number in range(len(self.float_s))]

    @property
    def kernels(self) -> Kernels:
        return Kernels({unit: {FLOAT: W8, CODES: W8A8} for unit in self.units})

    @property
    def borders(self) -> list[Border]:
        return [Border(one, other, 1000) for one, other in zip(self.units, self.units[1:], strict=False)]

    def seconds(self, kernels: Mapping[str, Option]) -> dict[str, float]:
        """The DequantizeLinear or QuantizeLinear between two units stands with the first of them."""
        found = {}
        for place, unit in enumerate(self.units):
            codes = bool(kernels[unit].activation_bits)
            found[unit] = self.codes_s[place] if codes else self.float_s[place]
            if place + 1 < len(self.units) and codes != bool(kernels[self.units[place + 1]].activation_bits):
                found[unit] += self.border_s
        return found

    def whole(self, kernels: Mapping[str, Option]) -> float:
        return sum(self.seconds(kernels).values())

    def observe(self, kernels: Mapping[str, Option], *, whole: bool) -> Observation:
        seconds = self.seconds(kernels)
        profiled = {unit: time + self.profiler_s for unit, time in seconds.items()}
        plain = dict.fromkeys(self.units, FLOAT)
        times = (self.whole(kernels), self.whole(plain)) if whole else (None, None)
        return Observation(kernels, Regions(profiled, dict.fromkeys(self.units, 1)), *times)


MACHINE = Machine(
    float_s=(4e-3, 1e-3, 1e-3, 3e-3, 2e-3, 5e-4),
    codes_s=(1e-3, 2e-3, 9e-4, 1e-3, 5e-4, 1e-3),
    border_s=3e-4,
)
