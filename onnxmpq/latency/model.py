"""The time of any plan, foreseen from few: seconds of units on their kernels, and of the borders between those.

    time = sum of units on their kernels + sum of borders between codes and floats + what belongs to no unit

A region is a unit with what was seen to belong to it. Its seconds depend on its own kernel, and on whether those beside
it compute on codes too: a unit in float behind one in codes has a DequantizeLinear in front, and other layouts. Each
region is fitted to what was seen of it, by least squares, drawn towards what borders cost in general. Steps that are
profiled take longer than others; what the profiler adds to each is found from runs of whole files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError
from onnxmpq.latency.design import Kernels
from onnxmpq.latency.regions import Border, Regions

Array = npt.NDArray[np.float64]
_DRAWN = 1.0, 0.3
"""How strongly borders, and a unit's own seconds, are drawn towards what is general; one observation counts 1."""
_KINDS = 4
"""Of borders: this unit in codes behind float or in front of it, this one in float behind codes or in front of them."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one plan: its kernels, its regions, and the seconds of the whole file where it was timed.

    ``float_s`` are those of the float model beside it, which tell how fast the machine was meanwhile.
    """

    kernels: Mapping[str, Option]
    regions: Regions
    whole_s: float | None = None
    float_s: float | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """One unit as it is fitted: its kernels, those beside it, and seconds for each of ``features``."""

    unit: str
    kernels: tuple[Option, ...]
    before: tuple[Border, ...]
    behind: tuple[Border, ...]
    seconds: tuple[float, ...] = ()

    def features(self, kernels: Mapping[str, Option]) -> list[float]:
        """Return what counts for this region in a plan: its kernel, then every border, in the order of ``kinds``."""
        own = kernels.get(self.unit, FLOAT)
        codes = bool(own.activation_bits)
        found = [float(own == each) for each in self.kernels]
        for border in self.before:
            other = bool(kernels.get(border.before, FLOAT).activation_bits)
            found += [float(codes and not other), float(other and not codes)]
        if self.behind:
            others = [bool(kernels.get(border.behind, FLOAT).activation_bits) for border in self.behind]
            found += [float(codes and not all(others)), float(any(others) and not codes)]
        return found

    @property
    def kinds(self) -> list[tuple[int, int]]:
        """Return the kind of every border feature, and the numbers that pass there."""
        found = [(kind, border.numbers) for border in self.before for kind in (0, 1)]
        if self.behind:
            found += [(kind, max(border.numbers for border in self.behind)) for kind in (2, 3)]
        return found

    def time(self, kernels: Mapping[str, Option]) -> float:
        """Return the seconds of this region in a plan."""
        return float(np.dot(self.features(kernels), self.seconds))


@dataclass(frozen=True, slots=True)
class Latency:
    """What is foreseen of the time of plans; ``rest`` belongs to no unit, ``error`` is that of what was seen."""

    schema: ClassVar[int] = 1
    regions: Mapping[str, Region]
    rest: float
    float_s: float
    error: float
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def fitted(
        cls,
        kernels: Kernels,
        borders: Iterable[Border],
        seen: Sequence[Observation],
        about: Mapping[str, str] = {},
    ) -> Self:
        """Fit regions to what was seen; the first plan that was seen is the one all in float."""
        known = [border for border in borders if border.before in kernels.offered and border.behind in kernels.offered]
        plain = [
            Region(
                unit,
                tuple(found),
                tuple(border for border in known if border.behind == unit),
                tuple(border for border in known if border.before == unit),
            )
            for unit, found in kernels.offered.items()
        ]
        float_s = float(np.median([one.float_s for one in seen if one.float_s is not None] or [0.0]))
        seen = [_at_one_speed(one, float_s) for one in seen]
        factor, each = _profiler(seen)
        times = [_corrected(one.regions, factor, each) for one in seen]
        own = {region.unit: _own(region, seen, times) for region in plain}
        general = _general(plain, seen, times, own)
        regions = {region.unit: _fit(region, seen, times, own[region.unit], general) for region in plain}
        rest = float(np.mean([sum(time.values()) - sum(time.get(unit, 0.0) for unit in regions) for time in times]))
        found = cls(regions, rest, 0.0, 0.0, about)
        whole = [(one.whole_s, found.seconds(one.kernels)) for one in seen if one.whole_s is not None]
        scale = float(np.median([true / foreseen for true, foreseen in whole])) if whole else 1.0
        scaled = {
            unit: Region(unit, one.kernels, one.before, one.behind, tuple(scale * s for s in one.seconds))
            for unit, one in regions.items()
        }
        error = float(np.median([abs(scale * foreseen / true - 1) for true, foreseen in whole])) if whole else 0.0
        return cls(scaled, scale * rest, float_s, error, about)

    def seconds(self, kernels: Mapping[str, Option]) -> float:
        """Return the time of a plan by its kernels."""
        return self.rest + sum(region.time(kernels) for region in self.regions.values())

    def ratio(self, kernels: Mapping[str, Option]) -> float:
        """Return how many times faster than float a plan is foreseen to be."""
        return self.float_s / max(self.seconds(kernels), 1e-12)

    def beside(self, unit: str) -> tuple[str, ...]:
        """Return the units whose regions depend on the kernel of one, itself first."""
        region = self.regions[unit]
        others = [border.before for border in region.before] + [border.behind for border in region.behind]
        return tuple(dict.fromkeys((unit, *others)))

    def change(self, kernels: dict[str, Option], unit: str, other: Option) -> float:
        """Return by how many seconds a plan takes longer with one unit on another kernel."""
        near = [self.regions[name] for name in self.beside(unit)]
        before = sum(region.time(kernels) for region in near)
        return sum(region.time(kernels | {unit: other}) for region in near) - before

    @classmethod
    def from_json(cls, data: Any, where: str) -> Self:
        """Read a table; refuse what is none."""
        if not isinstance(data, dict) or data.get("schema") != cls.schema or not isinstance(data.get("units"), dict):
            raise InputError(f"'{where}' is not a table of latencies: expected what `onnxmpq latency -o` writes.")
        try:
            regions = {unit: _region(unit, one) for unit, one in data["units"].items()}
            rest, float_s, error_seen = (float(data[name]) for name in ("rest_s", "float_s", "error"))
            about = {str(name): str(value) for name, value in data["about"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            told = f"{type(error).__name__}: {brief(str(error))}"
            raise InputError(f"'{where}' cannot be used as a table of latencies ({told}). Measure it again.") from error
        seconds = (rest, float_s, error_seen, *(each for one in regions.values() for each in one.seconds))
        if not all(map(isfinite, seconds)):
            raise InputError(f"'{where}' has seconds that are no numbers. Measure it again.")
        return cls(regions, rest, float_s, error_seen, about)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "schema": self.schema,
            "about": dict(self.about),
            "float_s": self.float_s,
            "rest_s": self.rest,
            "error": self.error,
            "units": {
                unit: {
                    "kernels": {str(each): s for each, s in zip(one.kernels, one.seconds, strict=False)},
                    "before": [[border.before, border.numbers] for border in one.before],
                    "behind": [[border.behind, border.numbers] for border in one.behind],
                    "borders": list(one.seconds[len(one.kernels) :]),
                }
                for unit, one in self.regions.items()
            },
        }


def _region(unit: str, data: Any) -> Region:
    """Read one region of a table."""
    kernels = {Option.parse(name): float(seconds) for name, seconds in data["kernels"].items()}
    before = tuple(Border(str(other), unit, int(numbers)) for other, numbers in data["before"])
    behind = tuple(Border(unit, str(other), int(numbers)) for other, numbers in data["behind"])
    found = Region(unit, tuple(kernels), before, behind, (*kernels.values(), *map(float, data["borders"])))
    if len(found.seconds) != len(kernels) + len(found.kinds):
        raise ValueError(f"{unit} has {len(data['borders'])} borders, not {len(found.kinds)}")
    return found


def _at_one_speed(seen: Observation, float_s: float) -> Observation:
    """Return an observation as if the machine had been as fast as it usually was."""
    if seen.whole_s is None or not seen.float_s:
        return seen
    return replace(seen, whole_s=seen.whole_s * float_s / seen.float_s)


def _profiler(seen: Sequence[Observation]) -> tuple[float, float]:
    """Return by what profiled seconds are to be multiplied, and what is to be taken off for every step."""
    timed = [one for one in seen if one.whole_s is not None]
    if len(timed) < 2:
        return 1.0, 0.0
    sums = np.array([sum(one.regions.seconds.values()) for one in timed])
    steps = np.array([float(sum(one.regions.steps.values())) for one in timed])
    whole = np.array([one.whole_s or 0.0 for one in timed])
    weight = 1.0 / whole
    (factor, each), _ = nnls(np.stack([sums * weight, -steps * weight], axis=1), np.ones(len(timed)))
    return (float(factor), float(each)) if factor > 0 else (float(np.median(whole / sums)), 0.0)


def _corrected(regions: Regions, factor: float, each: float) -> dict[str, float]:
    return {unit: max(factor * seconds - each * regions.steps[unit], 0.0) for unit, seconds in regions.seconds.items()}


def _own(region: Region, seen: Sequence[Observation], times: Sequence[Mapping[str, float]]) -> list[float]:
    """Return the seconds of a unit on each kernel where those beside it were most alike: the least that was seen."""
    return [
        min(
            (
                time.get(region.unit, 0.0)
                for one, time in zip(seen, times, strict=True)
                if one.kernels[region.unit] == each
            ),
            default=0.0,
        )
        for each in region.kernels
    ]


def _general(
    regions: Sequence[Region],
    seen: Sequence[Observation],
    times: Sequence[Mapping[str, float]],
    own: Mapping[str, Sequence[float]],
) -> Array:
    """Return what borders of each kind cost in general: seconds for each, and for each number that passes."""
    rows, more = [], []
    for region in regions:
        count = len(region.kernels)
        for one, time in zip(seen, times, strict=True):
            features = region.features(one.kernels)
            row = np.zeros(2 * _KINDS)
            for (kind, numbers), there in zip(region.kinds, features[count:], strict=True):
                row[kind] += there
                row[_KINDS + kind] += there * numbers
            rows.append(row)
            more.append(time.get(region.unit, 0.0) - float(np.dot(features[:count], own[region.unit])))
    found: Array = nnls(np.array(rows), np.array(more))[0]
    return found


def _fit(
    region: Region,
    seen: Sequence[Observation],
    times: Sequence[Mapping[str, float]],
    own: Sequence[float],
    general: Array,
) -> Region:
    """Fit one region, drawn towards its least seconds and the general cost of its borders."""
    expected = np.array([*own, *(general[kind] + numbers * general[_KINDS + kind] for kind, numbers in region.kinds)])
    drawn = np.diag([_DRAWN[1]] * len(own) + [_DRAWN[0]] * len(region.kinds))
    rows = np.array([region.features(one.kernels) for one in seen])
    goals = np.array([time.get(region.unit, 0.0) for time in times])
    found = np.linalg.lstsq(np.concatenate([rows, drawn]), np.concatenate([goals, drawn @ expected]), rcond=None)[0]
    return Region(region.unit, region.kernels, region.before, region.behind, tuple(map(float, found)))
