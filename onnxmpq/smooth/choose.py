"""Whether outliers are moved into weights, and how: by the loss of the quantised model with and without.

    spots with uneven channels?  no ──▶ the model as it is
            │ yes
            ▼
    for each candidate: fold ──▶ lower ──▶ loss beside the float model, on samples that nothing was counted on
            │
            ▼
    the last one that beat those before it by more than chance; none: the model as it is

Only tensors with uneven channels are touched, so that models without them stay as they are, bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxmpq.calibrate.channels import channel_bounds
from onnxmpq.metrics.losses import TOLD_APART, mean_and_error
from onnxmpq.options import Smoothing
from onnxmpq.refit.accept import gained
from onnxmpq.smooth.factors import CANDIDATES, UNEVEN, Bounds, factors
from onnxmpq.smooth.fold import fold, weights_behind
from onnxmpq.smooth.spots import Spot, find_spots

MOST_SEEN = 64
"""Samples that channels are counted on, from all over the samples; of a choice three of four, and the fourth judges."""
FEWEST_SEEN = 16
"""So many at least for a choice: of fewer nothing can be told."""

Feed = Mapping[str, np.ndarray]
Run = Callable[[Feed], Feed]
Figures = Callable[[ir.Model], tuple[np.ndarray, float]]
"""From a model to the loss of its quantised form on every sample, and the power of its errors over the signal's."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a model is to be smoothed, and what is to be said of it."""

    how: Smoothing
    note: str = ""


def uneven(model: ir.Model, runner: Callable[[set[str]], Run], feeds: Sequence[Feed]) -> dict[str, Bounds]:
    """Return the bounds of channels where they are uneven, by the tensor that can be divided."""
    spots = find_spots(model)
    axes = {reader.tensor: spot.axis for spot in spots for reader in spot.readers}
    if not axes or not feeds:
        return {}
    found = channel_bounds(runner(set(axes)), feeds, axes)
    known = {spot.tensor.name or "": _bounds(spot, found) for spot in spots}
    return {name: bounds for name, bounds in known.items() if bounds is not None and bounds.unevenness >= UNEVEN}


def _bounds(spot: Spot, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Bounds | None:
    """Return the bounds of what the layers behind a tensor read; None where values are no numbers."""
    joined: Bounds | None = None
    for reader in spot.readers:
        if reader.tensor not in found:
            return None
        seen = Bounds(*found[reader.tensor])
        joined = seen if joined is None else joined.joined(seen)
    return joined if joined is not None and np.isfinite(joined.most).all() else None


def smooth(model: ir.Model, how: Smoothing, known: Mapping[str, Bounds]) -> ir.Model:
    """Return a copy of a model in which the tensors that are known have other channels."""
    copy = model.clone()
    for spot in find_spots(copy):
        bounds = known.get(spot.tensor.name or "")
        if bounds is not None:
            fold(spot, factors(how, bounds, weights_behind(spot), shifts=spot.shifts))
    return copy


def choose(
    model: ir.Model, known: Mapping[str, Bounds], figures: Figures, progress: Callable[[int, int], None]
) -> Choice:
    """Measure a model as it is and each candidate: one is taken if it beats what stood before by more than chance."""
    losses, noise = figures(model)
    best: Smoothing = "off"
    after, less = losses, noise
    for number, how in enumerate(CANDIDATES, 1):
        progress(number, len(CANDIDATES) + 1)
        found, error_left = figures(smooth(model, how, known))
        more, error = mean_and_error(found - after)
        if gained(after, found, less, error_left) > 0 and more < -TOLD_APART * error:
            best, after, less = how, found, error_left
    counted = f"{len(known)} tensors whose channels are uneven"
    if best == "off":
        return Choice("off", f"Smoothing {counted} is no better, and was not done.")
    told = f"loss {losses.mean():.4g} to {after.mean():.4g}, error {noise:.3g} to {less:.3g} on {len(losses)} samples"
    return Choice(best, f"Of {counted} outliers were moved into weights ({best}): {told} that nothing was counted on.")
