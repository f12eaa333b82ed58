"""The least and the largest value of every channel of some tensors, over samples: two arrays for each, whatever ran."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from onnxmpq.calibrate.run import Array
from onnxmpq.machine import run_ahead


def channel_bounds(
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    samples: Iterable[Mapping[str, Array]],
    tensors: Mapping[str, int],
) -> dict[str, tuple[Array, Array]]:
    """Run every sample once; ``tensors`` names the axis that counts channels, ``run`` gives values for one feed."""
    found: dict[str, tuple[Array, Array]] = {}
    for values in run_ahead(run, samples):
        for name, axis in tensors.items():
            rows = np.moveaxis(values[name], axis, -1).reshape(-1, values[name].shape[axis])
            if not len(rows):
                continue
            low, high = rows.min(0).astype(np.float64), rows.max(0).astype(np.float64)
            if name in found:
                low, high = np.minimum(low, found[name][0]), np.maximum(high, found[name][1])
            found[name] = low, high
    return found
