"""Moments of what layers meet: means over places, apart for samples that judge."""

from itertools import groupby

import numpy as np
import pytest

from onnxmpq.numerics.hessians import View
from onnxmpq.refit.moments import Counting, judges
from tests.graphs import rng

VIEW = View((8, 3, 1, 1), 2, 3, swapped=False)
ROWS = 4


@pytest.mark.parametrize("count", [4, 8, 30, 128, 500])
def test_about_a_quarter_of_the_samples_judge_in_blocks(count: int) -> None:
    found = [judges(number, count) for number in range(count)]
    assert 0.15 * count <= sum(found) <= 0.26 * count
    if count >= 128:  # in blocks of eight: neighbours are often alike
        assert all(len(list(block)) == 8 for judge, block in groupby(found[: count // 32 * 32]) if judge)


def test_fewer_than_four_samples_have_no_judge() -> None:
    assert not any(judges(number, 3) for number in range(3))


@pytest.mark.parametrize("beside", [False, True])
def test_they_are_means_over_all_places(beside: bool) -> None:
    g, counting = rng(3), Counting(VIEW, ROWS)
    parts = [
        (
            g.normal(size=(2, 3, places)).astype(np.float32),
            g.normal(size=(2, 3, places)).astype(np.float32),
            g.normal(size=(2, ROWS, places)).astype(np.float32) if beside else None,
        )
        for places in (5, 1, 40)
    ]
    for part in parts:
        counting.add(*part)
    found = counting.moments()
    q = np.concatenate([part[0] for part in parts], axis=2).astype(np.float64)
    f = np.concatenate([part[1] for part in parts], axis=2).astype(np.float64)
    np.testing.assert_allclose(found.second, np.einsum("gkn,gln->gkl", q, q) / 46, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.cross, np.einsum("gkn,gln->gkl", f, q) / 46, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean, q.mean(2), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.float_mean, f.mean(2), rtol=1e-5, atol=1e-6)
    lacking = np.concatenate([part[2] for part in parts if part[2] is not None], axis=2) if beside else np.zeros(1)
    wanted = np.einsum("grn,gln->grl", lacking, q) / 46 if beside else np.zeros((2, ROWS, 3))
    np.testing.assert_allclose(found.beside, wanted, rtol=1e-5, atol=1e-6)
    assert found.known


@pytest.mark.parametrize("value", [0.0, 1e30, np.nan])
def test_inputs_that_tell_nothing_are_told(value: float) -> None:
    counting = Counting(VIEW, ROWS)
    met = np.full((2, 3, 4), value, np.float32)
    counting.add(met, met, None)
    assert not counting.moments().known
