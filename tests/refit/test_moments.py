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


@pytest.mark.parametrize("places", [10, 20_000])
def test_of_few_places_second_moments_are_spread_more_evenly(places: int) -> None:
    g, size = rng(4), 40
    counting = Counting(View((2, size), 1, size, swapped=False), 2)
    met = (g.normal(size=(1, size, places)) * np.linspace(1, 2, size)[:, None]).astype(np.float32)
    counting.add(met, met, None)
    found = counting.moments()
    true = np.diag(np.linspace(1, 2, size) ** 2)
    errors = [((each[0] - true) ** 2).sum() for each in (found.second, found.sure)]
    assert np.trace(found.sure[0]) == pytest.approx(np.trace(found.second[0]))
    if places < size:
        assert errors[1] < 0.3 * errors[0]
        assert np.linalg.eigvalsh(found.sure[0]).min() > 0.1
    else:
        np.testing.assert_allclose(found.sure, found.second, rtol=0.02, atol=0.05)


def test_columns_that_are_all_zero_stay_so_where_nothing_is_known() -> None:
    counting = Counting(VIEW, ROWS)
    counting.add(np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 4), np.float32), None)
    assert np.isfinite(counting.moments().sure).all()
