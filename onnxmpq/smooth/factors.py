"""By what channels are divided, and what is taken from them first: arrays only.

    0.5, 0.75     s = max|x| ** alpha / max|W| ** (1 - alpha)              outliers go into weights in part
    channels      s = (high - low) / 2, z = (high + low) / 2               one range serves all channels

x are the values of a channel, W the weights that read it. Factors are divided by their geometric mean: a scale for all
channels changes nothing. Where z has no place to go it is 0, and s is max|x|.

Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
Language Models", 2023, equation 4. Li, Xiao, Yang and Gu, "RepQ-ViT: Scale Reparameterization for Post-Training
Quantization of Vision Transformers", 2023, section 3.3.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxmpq.options import Smoothing

Array: TypeAlias = npt.NDArray[Any]

CANDIDATES: tuple[Smoothing, ...] = ("0.5", "0.75", "channels")
UNEVEN = 4.0
"""How many times the range of the middle channel the widest one has where a tensor is worth a try: two bits' worth."""
_FURTHEST = 2.0**16  # factors beyond this, either way, could leave the normal numbers


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the largest value of every channel."""

    low: Array
    high: Array

    @property
    def most(self) -> Array:
        """The largest magnitude of every channel."""
        most: Array = np.maximum(np.abs(self.low), np.abs(self.high))
        return most

    def joined(self, other: "Bounds") -> "Bounds":
        """Return bounds that hold the values of both."""
        return Bounds(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    @property
    def unevenness(self) -> float:
        """How many times the middle one of the channels' ranges, of those that have one, the widest is."""
        most = self.most[self.most > 0]
        return float(most.max() / np.median(most)) if most.size else 1.0


@dataclass(frozen=True, slots=True)
class Factors:
    """What channels are divided by, and what is taken from them first."""

    scale: Array
    shift: Array


def factors(how: Smoothing, values: Bounds, weights: Array, *, shifts: bool) -> Factors:
    """Return the factors of one tensor; ``weights`` holds the largest magnitude of every channel behind it."""
    none = np.zeros(len(weights))
    if how != "channels":
        alpha = float(how)
        return Factors(_centred(values.most**alpha / np.maximum(weights, 1e-30) ** (1 - alpha), values, weights), none)
    if not shifts:
        return Factors(_centred(values.most, values, weights), none)
    spread = (values.high - values.low) / 2
    shift = np.where(spread > 0, (values.high + values.low) / 2, 0.0)
    return Factors(_centred(spread, values, weights), shift)


def _centred(scale: Array, values: Bounds, weights: Array) -> Array:
    """Return factors around one; 1 for channels that are zero, or that nothing reads."""
    alive = (values.most > 0) & (weights > 0) & (scale > 0) & np.isfinite(scale)
    if not alive.any():
        return np.ones(len(scale))
    logs = np.log(np.where(alive, scale, 1.0))
    middle = logs[alive].mean()
    found: Array = np.where(alive, np.exp(np.clip(logs - middle, -np.log(_FURTHEST), np.log(_FURTHEST))), 1.0)
    return found.astype(np.float32).astype(np.float64)
