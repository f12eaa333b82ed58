"""What one pass over the samples has counted of tensors: a histogram of each.

A histogram here depends only on the values it has seen, never on their order or grouping: counts are integers, and
the width of a bin is the power of two that the largest magnitude asks for, so growing it merges bins exactly.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxmpq.errors import InputError

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]

HALF = 1 << 12  # bins on each side of zero
HISTOGRAM_BYTES = 16 * HALF
_SMALLEST = math.frexp(2.0**-149)[1]  # exponent of the smallest float32


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often values fell into bins ``[k w, (k + 1) w)``, k from -4096 to 4095, with w = 2**exponent.

    w is the smallest power of two for which every value has a bin. Values count as float32.
    """

    exponent: int
    counts: npt.NDArray[np.int64]
    zeros: int  # exact zeros, which stand in bin 0 too
    min: float
    max: float

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @staticmethod
    def of(values: Array) -> "Histogram":
        """Count ``values`` of any shape; raise FloatingPointError, naming it, if one is NaN or infinite."""
        counting = Counting()
        counting.add(values)
        return counting.histogram()

    def __add__(self, other: "Histogram") -> "Histogram":
        """Count what either has counted: the same as one histogram of all values."""
        if not (self.count and other.count):
            return self if self.count else other
        low, high = min(self.min, other.min), max(self.max, other.max)
        exponent = _exponent(low, high)
        mine, others = (_merged(x.counts, exponent - x.exponent) for x in (self, other))
        return Histogram(exponent, mine + others, self.zeros + other.zeros, low, high)

    def __eq__(self, other: object) -> bool:
        """Compare everything, bit by bit."""
        if not isinstance(other, Histogram):
            return NotImplemented
        mine, others = ((x.exponent, x.zeros, x.min, x.max) for x in (self, other))
        return mine == others and np.array_equal(self.counts, other.counts)


class Counting:
    """A histogram that is not complete yet: values are added in place, where a sum of histograms makes new ones."""

    def __init__(self) -> None:
        self.size, self.zeros, self.min, self.max = 0, 0, 0.0, 0.0
        self.exponent = _exponent(0.0, 0.0)
        self.counts = np.zeros(2 * HALF, np.int64)

    def add(self, values: Array) -> None:
        """Count ``values`` of any shape; raise FloatingPointError, naming it, if one is NaN or infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            x = np.ravel(values).astype(np.float32, copy=False)
            low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
        if not math.isfinite(low + high):
            raise FloatingPointError("NaN" if math.isnan(low) else "infinite")
        if not x.size:
            return
        self._widen(*((min(self.min, low), max(self.max, high)) if self.size else (low, high)))
        self.size += x.size
        self.zeros += x.size - int(np.count_nonzero(x))
        for start in range(0, x.size, 1 << 15):  # stays in the cache
            np.add.at(self.counts, self._bins(x[start : start + (1 << 15)]), 1)

    def histogram(self) -> Histogram:
        """Return what is counted; nothing can be added then."""
        return Histogram(self.exponent, self.counts, self.zeros, self.min, self.max)

    def _widen(self, low: float, high: float) -> None:
        """Make the bins as wide as these bounds ask for."""
        self.min, self.max = low, high
        before, self.exponent = self.exponent, _exponent(low, high)
        if self.size and self.exponent > before:
            self.counts = _merged(self.counts, self.exponent - before)

    def _bins(self, x: Array) -> Array:
        """Number the bins of values, from 0."""
        # Dividing by a power of two is exact, except that float32 could under- or overflow.
        kind: type[np.floating[Any]] = np.float32 if -100 < self.exponent <= 0 else np.float64
        scaled = np.floor(x.astype(kind, copy=False) * kind(2.0**-self.exponent))
        bins: Array = (scaled + kind(HALF)).astype(np.intp)
        return bins


def _merged(counts: npt.NDArray[np.int64], doublings: int) -> npt.NDArray[np.int64]:
    """Make bins wider by so many powers of two: floor(floor(x / w) / 2**n) is floor(x / (2**n w))."""
    if not doublings:
        return counts
    merged = 1 << min(doublings, 12)  # beyond 12, all values stand beside zero
    wider = np.zeros(2 * HALF, np.int64)
    kept = HALF // merged
    wider[HALF - kept : HALF + kept] = counts.reshape(-1, merged).sum(axis=1)
    return wider


def _exponent(low: float, high: float) -> int:
    """Exponent of the bin width: the largest magnitude is below 4096 bins, and not below 2048 of them."""
    largest = max(-low, high)
    return (max(math.frexp(largest)[1], _SMALLEST) if largest else _SMALLEST) - 12


@dataclass(frozen=True, slots=True)
class Ranges:
    """What one pass over the samples has counted of each tensor.

    ``means`` holds the mean over the samples of some of them: of the whole
    tensor, or of each channel where shapes vary.
    """

    tensors: Mapping[str, Histogram]
    samples: int
    means: Mapping[str, Floats] = field(default_factory=dict)
    schema: ClassVar[int] = 2

    def __getitem__(self, name: str) -> Histogram:
        return self.tensors[name]

    def __add__(self, other: "Ranges") -> "Ranges":
        """Join passes over different samples."""
        tensors = {name: stats + other.tensors[name] for name, stats in self.tensors.items()}
        samples = self.samples + other.samples
        means = {
            name: (x * self.samples + other.means[name] * other.samples) / samples for name, x in self.means.items()
        }
        return Ranges(tensors, samples, means)

    def write(self, path: Path) -> None:
        """Write all of it as arrays into one file; names, and what else is no array, are JSON text in it."""
        tensors, counts, place = [], [], 0
        for name, stats in sorted(self.tensors.items()):
            used = np.flatnonzero(stats.counts)
            first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
            counts.append(stats.counts[first:last])
            tensors.append([name, stats.exponent, stats.zeros, stats.min, stats.max, first, place, last - first])
            place += last - first
        means, values, place = [], [], 0
        for name, mean in sorted(self.means.items()):
            means.append([name, list(mean.shape), place])
            values.append(mean.ravel())
            place += mean.size
        head = {"schema": self.schema, "samples": self.samples, "tensors": tensors, "means": means}
        np.savez(
            path,
            head=np.frombuffer(json.dumps(head).encode(), np.uint8),
            counts=np.concatenate([np.zeros(0, np.int64), *counts]),
            means=np.concatenate([np.zeros(0), *values]),
        )

    @staticmethod
    def read(path: Path) -> "Ranges":
        """Read what ``write`` wrote."""
        with np.load(path) as file:
            head, counts, values = json.loads(file["head"].tobytes()), file["counts"], file["means"]
        if head["schema"] != Ranges.schema:
            raise InputError(f"These ranges have schema {head['schema']}, expected {Ranges.schema}. Calibrate again.")
        tensors, means = {}, {}
        for name, exponent, zeros, low, high, first, place, size in head["tensors"]:
            dense = np.zeros(2 * HALF, np.int64)
            dense[first : first + size] = counts[place : place + size]
            tensors[name] = Histogram(exponent, dense, zeros, low, high)
        for name, shape, place in head["means"]:
            means[name] = values[place : place + math.prod(shape)].reshape(shape)
        return Ranges(tensors, head["samples"], means)
