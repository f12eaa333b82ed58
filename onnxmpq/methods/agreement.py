"""Whether samples agree with themselves: figures of one half of them against those of the other.

Samples are split into first and second half, and into every other one. For the float outputs and for the losses of
single units, the distance of the halves' means is compared with what chance explains:

    shift = |mean of one half - mean of the other|² / expected square of it, were samples in any order

It is 1 on average where order means nothing, and how often a random split shifts as much is counted. Data that are one
kind after another, or change on the way, stand out; data that are wrong all through agree with themselves. Of those
one sort is told: where the float model puts nearly all samples in one class.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

HALVES = "the first and the second half"
LEAST = 8  # samples, below which halves say nothing
DRAWS = 1999  # random splits
UNLIKELY = 0.005  # the share of random splits that shift as much, below which order is taken to mean something
ONE_SIDED = 0.9  # the share of samples in one class above which it is told
MATTERS = 2.0  # the shift below which it is not told, however unlikely


@dataclass(frozen=True, slots=True)
class Split:
    """Two halves: the shift of float outputs and of losses, how likely each is, and how alike the losses rank units.

    ``correlation`` is that of the logarithms of the variants' mean losses on the halves.
    """

    name: str
    outputs_shift: float
    outputs_chance: float
    losses_shift: float
    losses_chance: float
    correlation: float

    @property
    def unlike(self) -> tuple[str, ...]:
        """Return what differs by more than chance explains."""
        found = {
            "the float model's outputs": (self.outputs_shift, self.outputs_chance),
            "the losses of units": (self.losses_shift, self.losses_chance),
        }
        return tuple(what for what, (shift, chance) in found.items() if shift > MATTERS and chance < UNLIKELY)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The splits of a set of samples, and the class that the float model sees most, with its share of them."""

    splits: tuple[Split, ...]
    top_class: int | None = None
    top_share: float = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what is to be doubted of a plan that was chosen on these samples."""
        told = []
        for split in self.splits:
            if split.unlike and split.name == HALVES:  # kinds that take turns are all there, however many are used
                shift = max(split.outputs_shift, split.losses_shift)
                told.append(
                    f"The calibration samples look unlike themselves: {' and '.join(split.unlike)} differ between "
                    f"{split.name} ({shift:.1f} times what chance explains). If they are sorted or of several kinds, "
                    "make sure that every kind is there as often as in use, and that --samples leaves none out."
                )
        if self.top_class is not None and self.top_share >= ONE_SIDED:
            told.append(
                f"The float model puts {self.top_share:.0%} of the calibration samples in class {self.top_class}: "
                "plans that are chosen on them may not hold for other classes."
            )
        return tuple(told)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "splits": [asdict(split) for split in self.splits],
            "top_class": self.top_class,
            "top_share": self.top_share,
        }


def agreement(outputs: Array, losses: Array, classes: int = 0, seed: int = 0) -> Agreement | None:
    """Compare halves of samples: float outputs [samples, features] and losses [variants, samples]; None if too few.

    ``classes`` is the width of a first output that is a softmax head's, 0 where there is none.
    """
    count = len(outputs)
    if count < LEAST:
        return None
    splits = tuple(_split(name, first, outputs, losses, seed) for name, first in _halves(count))
    if not classes:
        return Agreement(splits)
    seen = outputs[:, : outputs.shape[1] // classes * classes].reshape(-1, classes).argmax(1)
    counts = np.bincount(seen, minlength=classes)
    return Agreement(splits, int(counts.argmax()), float(counts.max() / len(seen)))


def _halves(count: int) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    place = np.arange(count)
    yield HALVES, place < count // 2
    yield "even and odd samples", place % 2 == 0


def _split(name: str, first: npt.NDArray[np.bool_], outputs: Array, losses: Array, seed: int) -> Split:
    means = np.log(np.maximum([losses[:, first].mean(1), losses[:, ~first].mean(1)], 1e-30))
    varied = bool((means.std(1) > 0).all())
    correlation = float(np.corrcoef(means)[0, 1]) if varied else 1.0
    return Split(name, *_shift(outputs, first, seed), *_shift(losses.T, first, seed), correlation)


def _shift(values: Array, first: npt.NDArray[np.bool_], seed: int) -> tuple[float, float]:
    """Return the shift between a half and the rest, and the share of random splits that shift as much."""
    count = len(values)
    centred = values - values.mean(0)
    products = centred @ centred.T
    spread = float(np.trace(products)) / (count - 1)
    if not spread > 0:
        return 0.0, 1.0
    weights = np.where(first, 1 / first.sum(), -1 / (~first).sum())
    expected = spread * (1 / first.sum() + 1 / (~first).sum())
    drawn = np.random.default_rng(seed).permuted(np.tile(weights, (DRAWS, 1)), axis=1)
    found = float(weights @ products @ weights)
    others = np.einsum("ij,jk,ik->i", drawn, products, drawn, optimize=True)
    as_much = int((others >= found * (1 - 1e-9)).sum())
    return found / expected, (as_much + 1) / (DRAWS + 1)
