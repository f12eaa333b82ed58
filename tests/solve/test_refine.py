"""Refinement under a loss that is not quadratic."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.solve import Implication
from onnxmpq.solve.refine import Move, refine
from tests.solve.brute import every_choice
from tests.solve.test_solver import chained


class Saturating:
    """A concave function of a quadratic one, computed from scratch."""

    def __init__(self, quadratic: np.ndarray, owner: np.ndarray) -> None:
        self.quadratic, self.owner = quadratic, owner
        self.picked = np.zeros(0, dtype=np.int64)

    def of(self, picked: np.ndarray) -> float:
        return float(np.log1p(self.quadratic[np.ix_(picked, picked)].sum()))

    def after(self, move: Move) -> np.ndarray:
        picked = self.picked.copy()
        for entry in move:
            picked[self.owner[entry]] = entry
        return picked

    def start(self, picked: np.ndarray) -> float:
        self.picked = np.asarray(picked)[np.argsort(self.owner[picked])]
        return self.of(self.picked)

    def losses(self, moves: Sequence[Move]) -> np.ndarray:
        return np.array([self.of(self.after(move)) for move in moves])

    def move(self, move: Move) -> None:
        self.picked = self.after(move)


@pytest.mark.parametrize("seed", range(4))
def test_refining_ends_near_the_best_and_keeps_the_rules(seed: int) -> None:
    problem = replace(chained(7, seed), groups=((1, 4),), implications=(Implication(0, 2, 3, (1, 2)),))
    assert problem.quadratic is not None
    loss = Saturating(problem.quadratic, np.repeat(np.arange(7), 3))
    begin = (0,) * 7
    choices, value = refine(problem, loss, begin)
    assert problem.feasible(choices)
    assert value == pytest.approx(loss.of(problem.positions(choices)))
    losses = sorted(loss.of(problem.positions(plan)) for plan in every_choice(problem) if problem.feasible(plan))
    assert value <= loss.of(problem.positions(begin))
    assert value <= losses[min(3, len(losses) - 1)] + 1e-12


def test_a_trust_region_keeps_units_near() -> None:
    problem = chained(8, 1)
    assert problem.quadratic is not None
    loss = Saturating(problem.quadratic, np.repeat(np.arange(8), 3))
    near = [(0, 1)] * 4 + [(0,)] * 4
    choices, _ = refine(problem, loss, (0,) * 8, near=near)
    assert choices != (0,) * 8
    assert all(option in kept for option, kept in zip(choices, near, strict=True))


def test_choices_that_break_a_group_are_refused() -> None:
    problem = replace(chained(4, 0), groups=((0, 1),))
    loss = Saturating(np.eye(12), np.repeat(np.arange(4), 3))
    with pytest.raises(ValueError, match="do not keep the groups"):
        refine(problem, loss, (0, 1, 0, 0))
