"""Superposition: the loss of a plan as if the responses of its units added up, before the loss saturates them.

    loss(float outputs, centre outputs + sum of responses)

Nothing is run for it: the responses are what the linear and quadratic parts were made from.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxmpq.metrics.losses import Loss

KEPT = 10_000_000  # numbers of responses that are looked at: of larger outputs fewer samples count


@dataclass(frozen=True, slots=True)
class Part:
    """One batch: its loss, the centre's outputs [samples, features] and the responses [rows, samples, features]."""

    loss: Loss
    centre: npt.NDArray[np.float64]
    responses: npt.NDArray[np.float32]


class Superposition:
    """The superposed loss of plans over a menu; ``places`` gives the row of every entry, -1 where nothing changes."""

    def __init__(self, parts: Iterable[Part], places: npt.NDArray[np.int64], owner: npt.NDArray[np.int64]) -> None:
        """Keep as many batches as fit."""
        self.parts = list(_fitting(parts))
        self.places, self.owner = places, owner
        self.picked = np.zeros(0, dtype=np.int64)
        self.totals: list[npt.NDArray[np.float64]] = []

    def start(self, picked: npt.NDArray[np.int64]) -> float:
        """Go to a plan, and return its loss."""
        self.picked = np.asarray(picked)[np.argsort(self.owner[picked], kind="stable")]
        rows = self.places[self.picked]
        rows = rows[rows >= 0]
        self.totals = [part.centre + part.responses[rows].sum(0, dtype=np.float64) for part in self.parts]
        return self._mean(self.totals)

    def losses(self, moves: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
        """Return the loss after each of the moves alone."""
        return np.array([self._mean(self._after(move)) for move in moves])

    def move(self, move: Sequence[int]) -> None:
        """Make a move."""
        self.totals = list(self._after(move))
        for entry in move:
            self.picked[self.owner[entry]] = entry

    def _after(self, move: Sequence[int]) -> Iterator[npt.NDArray[np.float64]]:
        new = self.places[np.asarray(move)]
        old = self.places[self.picked[self.owner[np.asarray(move)]]]
        for part, total in zip(self.parts, self.totals, strict=True):
            changed = total.copy()
            for row in new[new >= 0]:
                changed += part.responses[row]
            for row in old[old >= 0]:
                changed -= part.responses[row]
            yield changed

    def _mean(self, totals: Iterable[npt.NDArray[np.float64]]) -> float:
        values = [part.loss.values(total) for part, total in zip(self.parts, totals, strict=True)]
        return float(np.concatenate(values).mean())


def _fitting(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield batches while they fit, at least one."""
    size = 0
    for part in parts:
        if size and size + part.responses.size > KEPT:
            return
        size += part.responses.size
        yield part
