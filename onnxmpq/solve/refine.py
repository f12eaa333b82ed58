"""Refinement of a plan under any loss that can tell quickly what single changes do.

The quadratic model is where a search starts; a closer model of the loss (superposed responses, for one) need not be
quadratic. Flips and exchanges of two go on under the same rules until neither helps.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from onnxmpq.solve.problem import Problem
from onnxmpq.solve.reduce import Integers, Reduced, merged

FIRST = 24  # flips that an exchange may begin with: those that cost least for the room they make
SECOND = 12  # flips that may follow it: those that are best by themselves
TINY = 1e-12  # of the loss: smaller improvements are rounding

Move = tuple[int, ...]
"""Entries of the problem that are picked together: one, or one of every unit of a group."""


class Loss(Protocol):
    """A loss of whole plans. Entries are positions among all options; a plan picks one of each unit."""

    def start(self, picked: Integers) -> float:
        """Go to a plan, and return its loss."""
        ...

    def losses(self, moves: Sequence[Move]) -> np.ndarray:
        """Return the loss after each of the moves alone, without making them."""
        ...

    def move(self, move: Move) -> None:
        """Make a move."""
        ...


def refine(
    problem: Problem,
    loss: Loss,
    choices: Sequence[int],
    *,
    near: Sequence[Sequence[int]] | None = None,
    expired: Callable[[], bool] = lambda: False,
) -> tuple[tuple[int, ...], float]:
    """Descend from choices that keep the rules; return where it ends and the loss there.

    ``near`` limits every unit to some of its options, as a trust region does.
    """
    whole = merged(problem)
    picked = whole.picked(tuple(choices))
    if picked is None:
        raise ValueError("The choices to refine do not keep the groups, or pick what is forbidden.")
    return _Descent(whole.reduced, whole.members, loss, problem, near).run(picked, expired, whole.choices)


def neighbours(
    problem: Problem,
    loss: Loss,
    choices: Sequence[int],
    count: int,
    *,
    near: Sequence[Sequence[int]] | None = None,
) -> list[tuple[tuple[int, ...], float]]:
    """Return the plans one flip or one exchange away that keep the rules, those of the least loss, the best first."""
    whole = merged(problem)
    picked = whole.picked(tuple(choices))
    if picked is None:
        raise ValueError("The choices do not keep the groups, or pick what is forbidden.")
    descent = _Descent(whole.reduced, whole.members, loss, problem, near)
    found = descent.neighbours(picked, count)
    return [(whole.choices(plan), value) for plan, value in found]


class _Descent:
    """One descent: the merged problem, the loss, and where it stands."""

    def __init__(
        self,
        reduced: Reduced,
        members: tuple[Move, ...],
        loss: Loss,
        problem: Problem,
        near: Sequence[Sequence[int]] | None,
    ) -> None:
        self.reduced, self.members, self.loss = reduced, members, loss
        self.owner, self.allowed = reduced.owner, reduced.limits + reduced.tolerances
        self.open = np.ones(reduced.options, dtype=bool)
        if near is not None:
            wanted = {int(problem.starts[unit]) + option for unit, kept in enumerate(near) for option in kept}
            self.open = np.array([wanted.issuperset(entries) for entries in members], dtype=bool)
        self.picked = np.zeros(0, dtype=np.int64)
        self.value = 0.0

    def run(
        self, picked: Integers, expired: Callable[[], bool], choices: Callable[[Integers], tuple[int, ...]]
    ) -> tuple[tuple[int, ...], float]:
        """Flip and exchange until neither helps."""
        self.picked = picked.copy()
        self.value = self.loss.start(self._entries(picked))
        while not expired() and (self._flip() or self._exchange()):
            pass
        return choices(self.picked), self.value

    def neighbours(self, picked: Integers, count: int) -> list[tuple[Integers, float]]:
        """Return the best plans one or two moves away."""
        self.picked = picked.copy()
        self.value = self.loss.start(self._entries(picked))
        options = self._candidates()
        if not len(options):
            return []
        found: dict[tuple[int, ...], float] = {}
        losses, fits = self._losses(options), self._fits(options)
        for option, value in zip(options[fits], losses[fits], strict=True):
            found[self._with((int(option),))] = float(value)
        for first in self._firsts(options, losses):
            back = int(self.picked[self.owner[first]])
            self._make(first)
            seconds = self._seconds(first, options, losses)
            for second, value in zip(seconds, self._losses(seconds), strict=True):
                found[self._with((int(second),))] = float(value)
            self._make(back)
        ranked = sorted(found.items(), key=lambda item: (item[1], item[0]))[:count]
        return [(np.array(plan, dtype=np.int64), value) for plan, value in ranked]

    def _with(self, moves: Sequence[int]) -> tuple[int, ...]:
        changed = self.picked.copy()
        for option in moves:
            changed[self.owner[option]] = option
        return tuple(changed.tolist())

    def _entries(self, picked: Integers) -> Integers:
        return np.array(sorted(entry for option in picked for entry in self.members[option]), dtype=np.int64)

    def _candidates(self) -> Integers:
        free = self.open.copy()
        free[self.picked] = False
        return np.flatnonzero(free)

    def _fits(self, options: Integers) -> np.ndarray:
        """Tell which of the options could replace their units' without breaking a row."""
        rows = self.reduced.rows
        usage = rows[:, self.picked].sum(1)[:, None] + rows[:, options] - rows[:, self.picked[self.owner[options]]]
        return np.asarray((usage <= self.allowed[:, None]).all(0))

    def _losses(self, options: Integers) -> np.ndarray:
        return self.loss.losses([self.members[option] for option in options])

    def _make(self, option: int) -> None:
        self.loss.move(self.members[option])
        self.picked[self.owner[option]] = option

    def _flip(self) -> bool:
        options = self._candidates()
        options = options[self._fits(options)]
        if not len(options):
            return False
        losses = self._losses(options)
        best = int(losses.argmin())
        if losses[best] >= self.value - TINY * abs(self.value):
            return False
        self._make(int(options[best]))
        self.value = float(losses[best])
        return True

    def _exchange(self) -> bool:
        """Try the flips that make most room for what they cost, each with the best flip that fits after it."""
        options = self._candidates()
        if not len(options):
            return False
        losses = self._losses(options)
        return any(self._completed(first, options, losses) for first in self._firsts(options, losses))

    def _firsts(self, options: Integers, losses: np.ndarray) -> list[int]:
        """Return the flips that make room, those that cost least for it first."""
        rows, scales = self.reduced.rows, self.reduced.row_scales[:, None]
        freed = -((rows[:, options] - rows[:, self.picked[self.owner[options]]]) / scales).sum(0)
        makes_room = freed > 0
        price = np.where(makes_room, (losses - self.value) / np.where(makes_room, freed, 1.0), np.inf)
        order = np.argsort(price, kind="stable")[: min(FIRST, int(makes_room.sum()))]
        return [int(option) for option in options[order]]

    def _seconds(self, first: int, options: Integers, losses: np.ndarray) -> Integers:
        """Return what fits behind a flip that was made, those of the least loss by themselves, as it was before."""
        others = self.owner[options] != self.owner[first]
        seconds, alone = options[others], losses[others]
        fits = self._fits(seconds)
        return np.asarray(seconds[fits][np.argsort(alone[fits], kind="stable")[:SECOND]])

    def _completed(self, first: int, options: Integers, alone: np.ndarray) -> bool:
        """Make a flip, and the best that follows it if both together help; else undo it."""
        back = int(self.picked[self.owner[first]])
        self._make(first)
        seconds = self._seconds(first, options, alone)
        if len(seconds):
            losses = self._losses(seconds)
            best = int(losses.argmin())
            if losses[best] < self.value - TINY * abs(self.value):
                self._make(int(seconds[best]))
                self.value = float(losses[best])
                return True
        self._make(back)
        return False
