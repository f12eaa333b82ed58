"""GPTQ: the codes are those of the definition, and never worse than the nearest ones."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.numerics.gptq import Metric, error, inverse_root, nearest, round_to_hessian
from onnxmpq.numerics.weights import code_limits, grid, quantise_weight
from tests.graphs import rng

Array = npt.NDArray[Any]


def correlated(columns: int, groups: int = 1, seed: int = 0, rows: int = 500) -> Array:
    """Draw Hessians of inputs that have much in common."""
    g = rng(seed)
    mix = g.normal(size=(groups, columns, columns)) + 3 * g.normal(size=(groups, columns, 1))
    x = mix @ g.normal(size=(groups, columns, rows))
    return np.asarray(x @ x.swapaxes(1, 2) / rows)


def slow(weight: Array, hessian: Array, scale: Array, zero: Array, limits: tuple[int, int], damping: float) -> Array:
    """Round one group by the definition: after each column, the open ones take the best values for what is fixed."""
    open_, codes = weight.astype(np.float64).copy(), np.zeros(weight.shape)
    damped = hessian + damping * np.diag(hessian)[np.diag(hessian) > 0].mean() * np.eye(len(hessian))
    order = list(np.argsort(-np.diag(hessian), kind="stable"))
    for k, j in enumerate(order):
        codes[:, j] = np.clip(np.rint(open_[:, j] / scale[:, j]) + zero[:, j], *limits)
        lost = open_[:, j] - (codes[:, j] - zero[:, j]) * scale[:, j]
        rest = order[k + 1 :]
        if rest:  # least (d, lost) H (d, lost)ᵀ over moves d of the open columns
            open_[:, rest] += np.outer(lost, np.linalg.solve(damped[np.ix_(rest, rest)], damped[rest, j]))
    return codes


LAYOUTS: dict[str, dict[str, Any]] = {
    "tensor": {},
    "channel": {"axes": (0,)},
    "block": {"block": (1, 8)},
    "ragged": {"block": (1, 7)},
    "asymmetric": {"axes": (0,), "symmetric": False},
    "unsigned": {"axes": (0,), "symmetric": False, "signed": False},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_those_of_the_definition(layout: str, bits: int) -> None:
    weight, hessian = rng(1).normal(size=(6, 20)).astype(np.float32), correlated(20)
    options = LAYOUTS[layout]
    q = quantise_weight(weight, bits=bits, **options)
    scale, zero = (np.broadcast_to(each, weight.shape) for each in grid(q))
    limits = code_limits(bits, signed=options.get("signed", True), symmetric=options.get("symmetric", True))
    want = slow(weight, hessian[0], scale, zero, limits, 0.01)
    plain = nearest(weight, scale, zero, limits)
    np.testing.assert_array_equal(plain, q.codes)
    before, after = (error(weight, codes, scale, zero, hessian[0]) for codes in (plain, want))
    want = np.where((after < before)[:, None], want, plain)
    for block in (1, 3, 20, 128):
        got = round_to_hessian(weight[None], Metric.of(hessian), scale[None], zero[None], limits, block=block)
        np.testing.assert_array_equal(got[0], want)
    if bits < 8:
        assert after.sum() < 0.7 * before.sum()


def test_groups_are_rounded_by_themselves() -> None:
    weight, hessian = rng(2).normal(size=(5, 4, 9)), correlated(9, groups=5)
    scale = np.full((5, 4, 1), 0.3, np.float32)
    together = round_to_hessian(weight, Metric.of(hessian), scale, np.zeros(1), (-4, 3))
    for g in range(5):
        alone = round_to_hessian(weight[g : g + 1], Metric.of(hessian[g : g + 1]), scale[:1], np.zeros(1), (-4, 3))
        np.testing.assert_array_equal(together[g], alone[0])


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 20),
    st.sampled_from([2, 3, 4, 8]),
    st.floats(-6, 6),
    st.booleans(),
)
def test_no_row_is_ever_worse_than_nearest(
    seed: int, columns: int, rows: int, bits: int, magnitude: float, symmetric: bool
) -> None:
    g = rng(seed)
    x = 10**magnitude * g.normal(size=(columns, rows)) * (g.random((columns, 1)) > 0.2)
    hessian = (x @ x.T / rows)[None]
    weight = g.standard_t(2, size=(1, 3, columns)).astype(np.float32)
    q = quantise_weight(weight[0], bits=bits, symmetric=symmetric, axes=(0,))
    scale, zero = (each[None] for each in grid(q))
    limits = code_limits(bits, symmetric=symmetric)
    codes = round_to_hessian(weight, Metric.of(hessian), scale, zero, limits)
    assert limits[0] <= codes.min() <= codes.max() <= limits[1]
    np.testing.assert_array_equal(codes, np.rint(codes))
    plain = nearest(weight, scale, zero, limits)
    before, after = (error(weight, each, scale, zero, hessian) for each in (plain, codes))
    assert (after <= before).all()


def test_columns_that_meet_nothing_and_columns_that_have_nothing_in_common_are_rounded_to_nearest() -> None:
    weight = rng(3).normal(size=(1, 8, 12)).astype(np.float32)
    scale = np.full((1, 8, 1), 0.4, np.float32)
    plain = nearest(weight, scale, np.zeros(1), (-4, 3))
    dead = correlated(12)
    dead[:, [2, 5]] = dead[:, :, [2, 5]] = 0
    codes = round_to_hessian(weight, Metric.of(dead), scale, np.zeros(1), (-4, 3))
    np.testing.assert_array_equal(codes[..., [2, 5]], plain[..., [2, 5]])
    assert (codes != plain).any()
    for hessian in (np.zeros((1, 12, 12)), np.diag(np.arange(12.0))[None]):
        np.testing.assert_array_equal(round_to_hessian(weight, Metric.of(hessian), scale, np.zeros(1), (-4, 3)), plain)


@pytest.mark.parametrize("magnitude", [1e-20, 1.0, 1e20])
def test_the_root_is_that_of_the_damped_inverse(magnitude: float) -> None:
    hessian = correlated(15)[0] * magnitude
    root = inverse_root(hessian, 0.01)
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(15)
    np.testing.assert_array_equal(root, np.triu(root))
    np.testing.assert_allclose(root.T @ root @ damped, np.eye(15), atol=1e-9)


def test_damping_is_raised_until_the_hessian_can_be_factored() -> None:
    hessian = np.diag([1.0, 1.0, 1.0, -0.05])  # as rounding may leave one that has few samples
    root = inverse_root(hessian, 0.001)
    assert np.isfinite(root).all()
    np.testing.assert_allclose(root[0, 0], 1 / np.sqrt(1.1))
    for singular in (np.ones((5, 5)), np.zeros((5, 5))):
        assert np.isfinite(inverse_root(singular, 0.0)).all()
