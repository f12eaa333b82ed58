"""Factors of channels: arrays in, arrays out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.options import SMOOTHINGS, Smoothing
from onnxmpq.smooth.factors import CANDIDATES, Bounds, factors

ONES = np.ones(4)
MOST = 2.0**100
UNEVEN = Bounds(np.array([-1.0, -2.0, -1.0, -300.0]), np.array([3.0, 2.0, 1.0, 100.0]))


def test_candidates_are_what_can_be_asked_for() -> None:
    assert {*CANDIDATES, "auto", "off"} == set(SMOOTHINGS)


@pytest.mark.parametrize(("how", "power"), [("0.5", 0.5), ("0.75", 0.75)])
def test_a_power_of_the_outlier_goes_into_the_weights(how: Smoothing, power: float) -> None:
    found = factors(how, UNEVEN, np.array([1.0, 1.0, 16.0, 1.0]), shifts=True)
    assert not found.shift.any()
    assert found.scale[3] / found.scale[1] == pytest.approx(150**power, rel=1e-5)
    assert found.scale[1] / found.scale[2] == pytest.approx(2**power * 16 ** (1 - power), rel=1e-5)
    assert np.prod(found.scale) == pytest.approx(1, rel=1e-5)


def test_all_channels_get_one_range() -> None:
    found = factors("channels", UNEVEN, ONES, shifts=True)
    low, high = (UNEVEN.low - found.shift) / found.scale, (UNEVEN.high - found.shift) / found.scale
    np.testing.assert_allclose(high, high[0], rtol=1e-5)
    np.testing.assert_allclose(low, -high, rtol=1e-5)


def test_without_a_place_for_the_shift_the_largest_magnitudes_are_one() -> None:
    found = factors("channels", UNEVEN, ONES, shifts=False)
    most = UNEVEN.most / found.scale
    assert not found.shift.any()
    np.testing.assert_allclose(most, most[0], rtol=1e-5)


def test_how_uneven_channels_are() -> None:
    assert UNEVEN.unevenness == 300 / 2.5
    assert Bounds(-ONES, ONES).unevenness == 1
    assert Bounds(np.zeros(3), np.zeros(3)).unevenness == 1


@given(
    st.lists(st.tuples(*[st.floats(-MOST, MOST, width=32)] * 2, st.floats(0, MOST, width=32)), min_size=1, max_size=9),
    st.sampled_from(CANDIDATES),
    st.booleans(),
)
def test_factors_are_positive_and_finite_whatever_the_values(
    rows: list[tuple[float, float, float]], how: Smoothing, shifts: bool
) -> None:
    array = np.array(rows)
    bounds = Bounds(array[:, :2].min(1), array[:, :2].max(1))
    found = factors(how, bounds, array[:, 2], shifts=shifts)
    assert (found.scale >= 2.0**-17).all()
    assert (found.scale <= 2.0**17).all()
    assert np.isfinite(found.shift).all()
    assert (found.scale[array[:, 2] == 0] == 1).all()
