"""The calibrate stage: one pass over the samples, in bounded memory, the same numbers at any batch size.

Samples come one by one, whatever batches they were given in; counts are integers and means are summed in float64 in
the order of the samples. ``ranges.py`` holds what is counted and what follows from it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxmpq.errors import InputError
from onnxmpq.machine import run_ahead
from onnxmpq.numerics.histograms import Counting, Ranges

Array: TypeAlias = npt.NDArray[Any]


def calibrate(
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    samples: Iterable[Mapping[str, Array]],
    tensors: Sequence[str],
    channels: Mapping[str, int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Ranges:
    """Run every sample once and count the values of ``tensors``; ``run`` gives them for one feed.

    ``channels`` names tensors whose mean over the samples is wanted, with the axis that counts channels. Memory: three
    samples' values, of which two are run while one is counted, 64 KiB per tensor, one array per mean. ``progress`` gets
    the number of samples done.
    """
    counted = {name: Counting() for name in tensors}
    means = {name: Mean(axis) for name, axis in (channels or {}).items()}
    number = 0
    for number, values in enumerate(run_ahead(run, samples), 1):
        for name in tensors:
            try:
                counted[name].add(values[name])
            except FloatingPointError as error:
                raise InputError(
                    f"Tensor '{name}' has a value that is {error} for sample {number - 1}. "
                    "Check that sample's scaling, or that the float model runs it without overflow."
                ) from error
        for name, mean in means.items():
            mean.add(values[name])
        if progress:
            progress(number)
    histograms = {name: counting.histogram() for name, counting in counted.items()}
    return Ranges(histograms, number, {name: mean.value() for name, mean in means.items()})


class Mean:
    """The mean over samples: of the whole tensor while samples have one shape, else of each channel."""

    def __init__(self, axis: int) -> None:
        self.axis, self.total, self.weight = axis, np.zeros(0), 0.0

    def add(self, value: Array) -> None:
        """Take in one sample, whose first axis is the batch."""
        rows = value.sum(axis=0, dtype=np.float64) if self.axis != 0 and value.ndim > 1 else value.astype(np.float64)
        weight = float(value.shape[0]) if value.ndim > 1 else 1.0
        if self.weight and rows.shape != self.total.shape:
            self.total, self.weight = self._by_channel(self.total, self.weight)
            rows, weight = self._by_channel(rows, weight)
        self.total = self.total + rows if self.weight else rows
        self.weight += weight

    def _by_channel(self, total: Array, weight: float) -> tuple[Array, float]:
        """Sum over everything but channels; the batch axis is gone already."""
        axis = self.axis - 1 if self.axis > 0 else self.axis
        others = tuple(i for i in range(total.ndim) if i != axis % total.ndim)
        return total.sum(axis=others), weight * total.size / max(total.shape[axis], 1)

    def value(self) -> Array:
        """Return the mean."""
        return self.total / max(self.weight, 1.0)
