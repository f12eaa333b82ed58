"""Boxes that no fractional choice fits are refuted with prices that verify."""

import numpy as np

from onnxmpq.solve import Budget, Problem
from onnxmpq.solve.branch import Tree
from onnxmpq.solve.certificate import Step, _shown
from onnxmpq.solve.highs import contradiction, knapsack
from onnxmpq.solve.reduce import merged


def test_rows_that_only_together_cannot_be_kept_are_refuted() -> None:
    rng = np.random.default_rng(0)
    cost = rng.integers(1, 1000, 16)
    problem = Problem(
        tuple("abcdefgh"),
        (("4", "8"),) * 8,
        rng.normal(size=16),
        rng.normal(size=(16, 16)),
        (Budget("one", cost, int(cost.sum() // 2) - 3), Budget("other", -cost, -int(cost.sum() // 2) - 3)),
    )
    reduced = merged(problem).reduced
    everything = np.ones(16, dtype=bool)
    assert reduced.completable(everything) is not None
    assert knapsack(reduced, reduced.linear) is None
    prices = contradiction(reduced)
    assert (prices >= 0).all()
    tree = Tree(reduced, 0.0, 0, lambda: False, proof=True)
    tree.value = 1e3
    step = Step(everything)
    tree._refute(reduced, step)
    assert _shown(reduced, step, 1e3)
