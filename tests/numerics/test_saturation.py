"""Pairs of codes keep their sums within 16 bits, and what happens where they do not is what processors do."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.numerics.gptq import Metric, error, nearest, round_to_hessian
from onnxmpq.numerics.saturation import (
    LIMIT,
    Rule,
    behind,
    excess,
    hold,
    laid_back,
    laid_out,
    least_scale,
    lost,
    pairs,
    rule,
)
from onnxmpq.numerics.weights import QuantisedWeight, dequantise, held, quantise_weight

Array = np.ndarray
SHAPES = {  # shape and channel axes
    "conv": ((16, 8, 3, 3), (0,)),
    "conv of odd inputs": ((16, 3, 3, 3), (0,)),
    "conv of one input": ((16, 1, 5, 5), (0,)),
    "matmul": ((33, 24), (1,)),
    "gemm": ((24, 32), (0,)),
    "batched matmul": ((3, 10, 6), (0, 2)),
}


def weights(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Draw weights, some rows of them all of one sign: there every pair is close to the limit."""
    g = np.random.default_rng(seed)
    drawn = g.normal(size=shape) * np.exp(0.5 * g.normal(size=shape))
    return np.where(g.random(shape[:1] + (1,) * (len(shape) - 1)) < 0.3, np.abs(drawn), drawn).astype(np.float32)


def contraction(codes: Array, axes: tuple[int, ...]) -> Array:
    """Lay codes out as [channels, contraction]."""
    order = (*axes, *(axis for axis in range(codes.ndim) if axis not in axes))
    return codes.transpose(order).reshape(int(np.prod([codes.shape[axis] for axis in axes])), -1)


def is_kept(q: QuantisedWeight, paired: Rule) -> bool:
    """Tell whether stored codes keep a rule."""
    rows = contraction(q.codes, paired.axes)
    return not any(excess(rows, order).any() for order in paired.orders)


def both(name: str) -> tuple[Array, Rule]:
    """Return weights and the rule of both ways of pairing them."""
    shape, axes = SHAPES[name]
    found = rule(["flat", "positions"], shape, axes)
    assert found is not None
    return weights(shape), found


def test_even_inputs_are_paired_one_way() -> None:
    shape = (4, 6, 3, 3)
    found = [rule(["flat"], shape, (0,)), rule(["positions"], shape, (0,)), rule(["flat", "positions"], shape, (0,))]
    flat, positions, both = ([order.tolist() for order in each.orders] if each is not None else [] for each in found)
    assert flat == positions == both
    assert len(both) == 1


def test_odd_inputs_are_paired_across_positions_or_not() -> None:
    found = rule(["flat", "positions"], (4, 3, 1, 2), (0,))
    assert found is not None
    across, within = (list(zip(*(places.tolist() for places in pairs(order)), strict=True)) for order in found.orders)
    assert across == [(0, 2), (4, 1), (3, 5)]  # places run over inputs, then positions: 4 is input 2 of position 0
    assert within == [(0, 2), (1, 3)]


def test_what_has_no_neighbour_has_no_rule() -> None:
    assert rule([], (4, 8, 3, 3), (0,)) is None
    assert rule(["positions"], (4, 1, 3, 3), (0,)) is None
    assert rule(["flat"], (1, 9), (1,)) is None


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4))
def test_layouts_come_back(seed: int, inputs: int, positions: int) -> None:
    found = rule(["positions", "flat"], (2, inputs, positions), (0,))
    if found is None:
        return
    values = np.random.default_rng(seed).integers(-127, 128, (3, inputs * positions))
    first = found.orders[0]
    assert (laid_back(laid_out(values, first), first) == values).all()
    for other in found.orders[1:]:
        assert (excess(laid_out(values, first), behind(first, other)) == excess(values, other)).all()


@given(st.floats(-140, 140), st.floats(-140, 140), st.floats(0.01, 100))
def test_a_pair_is_held_at_the_least_distance(x: float, y: float, weight: float) -> None:
    wanted, importance = np.array([[x, y]]), np.array([[1.0, weight]])
    codes = np.clip(np.rint(wanted), -127, 127)
    before = codes.copy()
    hold(codes, wanted, None, importance)
    assert not excess(codes, np.arange(2)).any()
    if not excess(before, np.arange(2)).any():
        assert (codes == before).all()
        return
    grid = np.arange(-127, 128)
    a, b = np.meshgrid(grid, grid, indexing="ij")
    distance = (a - x) ** 2 + weight * (b - y) ** 2
    allowed = np.abs(a + b) <= LIMIT
    # within the codes that rounding gives: they only shrink
    allowed &= (np.abs(a) <= np.abs(before[0, 0])) & (np.abs(b) <= np.abs(before[0, 1]))
    best = distance[allowed].min()
    assert ((codes - wanted) ** 2 * importance).sum() <= best * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("method", ["mse", "minmax"])
def test_weights_of_8_bits_keep_the_rule_at_less_cost_than_7_bits(name: str, method: str) -> None:
    weight, paired = both(name)
    axes = SHAPES[name][1]

    def noise(bits: int, kept: Rule | None) -> float:
        found = quantise_weight(weight, bits=bits, axes=axes, method=method, rule=kept)  # type: ignore[arg-type]
        assert is_kept(found, paired) == (kept is not None or bits < 8)
        assert int(found.codes.min()) > -128
        return float(((dequantise(found) - weight).astype(np.float64) ** 2).sum())

    free, safe, narrow = noise(8, None), noise(8, paired), noise(7, None)
    assert free < safe < narrow


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_narrow_codes_are_free_of_the_rule(bits: int) -> None:
    weight, paired = both("conv of odd inputs")
    with_rule, without = (quantise_weight(weight, bits=bits, axes=(0,), rule=kept) for kept in (paired, None))
    assert (with_rule.codes == without.codes).all()
    assert (with_rule.scale == without.scale).all()
    assert is_kept(without, paired)


@pytest.mark.parametrize("size", [4, 5, 16])
@pytest.mark.parametrize("name", ["conv", "conv of odd inputs", "matmul"])
def test_blocks_keep_the_rule_within_and_across(name: str, size: int) -> None:
    weight, paired = both(name)
    axis = 1 if name.startswith("conv") else 0
    assert is_kept(quantise_weight(weight, bits=8, block=(axis, size), rule=paired), paired)
    assert not is_kept(quantise_weight(weight, bits=8, block=(axis, size)), paired)


def test_nothing_is_held_from_the_scale_that_pairs_ask_for() -> None:
    weight, paired = both("matmul")
    rows = contraction(weight, paired.axes)
    scale = least_scale(rows, paired.orders[0])
    scaled = rows / np.maximum(scale, np.abs(rows).max(1) / 127)[:, None]
    first, second = pairs(paired.orders[0])
    same = scaled[:, first] * scaled[:, second] > 0
    assert np.abs(scaled[:, first] + scaled[:, second])[same].max() == pytest.approx(LIMIT)


def test_wider_scales_hold_again() -> None:
    weight, paired = both("conv")
    found = quantise_weight(weight, bits=8, axes=(0,))
    broken = QuantisedWeight(found.codes, found.scale, None, 8, (0,), rule=paired)
    assert not is_kept(broken, paired)
    again = held(broken, weight)
    assert is_kept(again, paired)
    assert (np.abs(again.codes.astype(int)) <= np.abs(found.codes.astype(int))).all()


@pytest.mark.parametrize("name", ["conv", "conv of odd inputs", "matmul", "gemm"])
def test_gptq_keeps_the_rule_and_makes_up_for_it(name: str) -> None:
    weight, paired = both(name)
    rows = np.ascontiguousarray(contraction(weight, paired.axes))[None]
    g = np.random.default_rng(1)
    inputs = g.normal(size=(rows.shape[2], 4 * rows.shape[2])) + 1.0
    hessian = (inputs @ inputs.T / inputs.shape[1])[None]
    found = quantise_weight(weight, bits=8, axes=paired.axes, rule=paired)
    scale = found.scale.reshape(1, -1, 1)
    limits = (-127, 127)
    codes = round_to_hessian(rows, Metric.of(hessian), scale, np.zeros(1), limits, orders=paired.orders)
    assert not any(excess(codes, order).any() for order in paired.orders)
    plain = nearest(rows, scale, np.zeros(1), limits)
    for order in paired.orders:
        hold(plain, rows / scale, order)
    after, before = (error(rows, each, scale, np.zeros(1), hessian) for each in (codes, plain))
    assert (after <= before).all()
    assert after.sum() < 0.7 * before.sum()


def saturating(a: int, b: int, x: int, y: int) -> int:
    """Do what the instruction does with two weights and two activations."""
    return max(-(2**15), min(2**15 - 1, a * x + b * y))


def test_the_rule_is_exact() -> None:
    for a, b in combinations(range(-127, 128), 2):
        broken = any(saturating(a, b, x, y) != a * x + b * y for x, y in ((255, 255), (0, 255), (255, 0)))
        assert broken == bool(excess(np.array([[a, b]]), np.arange(2)).any())


@given(st.integers(0, 2**32 - 1))
def test_what_is_lost_is_what_the_instruction_loses(seed: int) -> None:
    g = np.random.default_rng(seed)
    codes, inputs = g.integers(-127, 128, (3, 6)), g.integers(0, 256, (6, 4))
    codes[1] = np.abs(codes[1])
    order = np.array([0, 3, 4, 1, 2, -1])
    taken = dict(lost(codes, inputs, order))
    for row in range(3):
        for column in range(4):
            x = inputs[:, column]
            exact = sum(int(codes[row, i]) * int(x[i]) for i in range(5))
            sums = sum(
                saturating(int(codes[row, i]), int(codes[row, j]), int(x[i]), int(x[j])) for i, j in ((0, 3), (4, 1))
            ) + int(codes[row, 2]) * int(x[2])
            assert (taken[row][column] if row in taken else 0) == sums - exact
