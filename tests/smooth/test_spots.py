"""Where outliers can be moved: what is found in front of and behind a tensor, and that outputs stay."""

import re
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.options import Smoothing
from onnxmpq.smooth.factors import CANDIDATES, Bounds, factors
from onnxmpq.smooth.fold import fold, weights_behind
from onnxmpq.smooth.spots import find_spots
from tests.graphs import Array, from_text, normal, rng
from tests.passes.proof import run

G = rng(3)
GRAPHS: dict[str, tuple[str, dict[str, tuple[int, ...]], list[tuple[str, int, int, bool]]]] = {
    "layer-norm": (
        "g (float[n, 5, 8] x) => (float[n, 5, 6] y) { t = LayerNormalization(x, s, b) p = MatMul(t, w) y = Add(p, c) }",
        {"s": (8,), "b": (8,), "w": (8, 6), "c": (6,)},
        [("t", 1, 0, True)],
    ),
    "layer-norm-without-biases": (
        "g (float[n, 5, 8] x) => (float[n, 5, 6] y) { t = LayerNormalization(x, s) y = MatMul(t, w) }",
        {"s": (8,), "w": (8, 6)},
        [("t", 1, 0, False)],
    ),
    "residual-behind-the-norm": (
        "g (float[n, 5, 8] x) => (float[n, 5, 8] y) { t = LayerNormalization(x, s, b) p = MatMul(t, w) q = Add(p, c) "
        "y = Add(q, t) }",
        {"s": (8,), "b": (8,), "w": (8, 8), "c": (8,)},
        [("t", 1, 1, True)],
    ),
    "mul-and-add": (
        "g (float[n, 5, 8] x) => (float[n, 5, 6] y, float[n, 5, 4] z) { m = Mul(x, s) t = Add(m, b) "
        "y = MatMul(t, w) p = MatMul(t, v) z = Add(c, p) }",
        {"s": (8,), "b": (8,), "w": (8, 6), "v": (8, 4), "c": (4,)},
        [("t", 2, 0, False)],
    ),
    "mean-and-picked-token": (
        "g (float[n, 5, 8] x) => (float[n, 6] y, float[n, 4] z) { t = LayerNormalization(x, s, b) "
        "m = ReduceMean<axes = [1], keepdims = 0>(t) y = Gemm<transB = 1>(m, w, c) "
        "k = Gather<axis = 1>(t, i) z = Gemm(k, v, d) }",
        {"s": (8,), "b": (8,), "w": (6, 8), "c": (6,), "v": (8, 4), "d": (4,)},
        [("t", 2, 0, True)],
    ),
    "layers": (
        "g (float[n, 8] x) => (float[n, 6] y) { h = Gemm(x, w, b) t = Relu(h) p = MatMul(t, v) q = Add(p, c) "
        "y = Gemm<transB = 1>(q, u) }",
        {"w": (8, 8), "b": (8,), "v": (8, 7), "c": (7,), "u": (6, 7)},
        [("t", 1, 0, False), ("q", 1, 0, False)],
    ),
    "convolutions": (
        "g (float[n, 4, 6, 6] x) => (float[n, 3, 6, 6] y) { h = Conv<pads = [1, 1, 1, 1]>(x, w, b) t = Relu(h) "
        "y = Conv(t, v) }",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (3, 8, 1, 1)},
        [("t", 1, 0, False)],
    ),
    "values-of-attention": (
        "g (float[n, 5, 8] x, float[n, 2, 5, 5] p) => (float[n, 5, 6] y) { m = MatMul(x, w) t = Add(m, b) "
        "h = Reshape(t, split) r = Transpose<perm = [0, 2, 1, 3]>(h) a = MatMul(p, r) "
        "k = Transpose<perm = [0, 2, 1, 3]>(a) j = Reshape(k, joined) q = MatMul(j, v) y = Add(q, c) }",
        {"w": (8, 8), "b": (8,), "v": (8, 6), "c": (6,)},
        [("t", 1, 0, False)],
    ),
    "shared-scale": (
        "g (float[n, 5, 8] x) => (float[n, 5, 6] y, float[n, 5, 8] z) { t = LayerNormalization(x, s, b) "
        "p = MatMul(t, w) y = Add(p, c) z = LayerNormalization(x, s, b) }",
        {"s": (8,), "b": (8,), "w": (8, 6), "c": (6,)},
        [("t", 1, 0, True)],
    ),
}
LEFT_ALONE = {
    "nobody multiplies it": "g (float[n, 8] x) => (float[n, 6] y) { t = Sigmoid(x) y = MatMul(t, w) }",
    "public": (
        "g (float[n, 8] x) => (float[n, 8] t, float[n, 6] y) { t = LayerNormalization(x, s, b) y = MatMul(t, w) }"
    ),
    "no layer reads it": "g (float[n, 8] x) => (float[n, 8] y) { t = LayerNormalization(x, s, b) y = Sigmoid(t) }",
    "a weight with two readers": (
        "g (float[n, 8] x) => (float[n, 6] y, float[n, 6] z) { t = LayerNormalization(x, s, b) y = MatMul(t, w) "
        "z = MatMul(x, w) }"
    ),
    "something else reads what a layer gives": (
        "g (float[n, 8] x) => (float[n, 6] y, float[n, 6] z) { t = MatMul(x, v) y = MatMul(t, u) z = Sigmoid(t) }"
    ),
    "the weight is the left factor": (
        "g (float[8, 8] x) => (float[6, 8] y) { t = LayerNormalization(x, s, b) y = MatMul(l, t) }"
    ),
    "heads stay where they are": (
        "g (float[n, 5, 8] x, float[n, 5, 2, 2] p) => (float[n, 5, 6] y) { t = LayerNormalization(x, s, b) "
        "h = Reshape(t, split) o = MatMul(p, h) j = Reshape(o, joined) y = MatMul(j, w) }"
    ),
    "the norm is over another axis": (
        "g (float[n, 8, 8] x) => (float[n, 8, 6] y) { t = LayerNormalization<axis = 1>(x, a, a) y = MatMul(t, w) }"
    ),
}


def built(text: str, shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """Return a normalised model with drawn weights."""
    weights: dict[str, Array] = {name: G.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    whole = {"i": np.array(0), "split": np.array([0, 0, 2, 4]), "joined": np.array([0, 0, 8])}
    weights |= {name: array for name, array in whole.items() if f", {name})" in text}
    return normal(from_text(text, weights))


@pytest.mark.parametrize("name", GRAPHS)
def test_places_are_found(name: str) -> None:
    text, shapes, wanted = GRAPHS[name]
    found = find_spots(built(text, shapes))
    assert [(s.tensor.name, len(s.readers), len(s.others), s.shifts) for s in found] == wanted


@pytest.mark.parametrize("how", CANDIDATES)
@pytest.mark.parametrize("name", GRAPHS)
def test_outputs_stay_and_channels_become_even(name: str, how: Smoothing) -> None:
    text, shapes, _ = GRAPHS[name]
    model = built(text, shapes)
    feeds, before = run(model)
    for spot in find_spots(model):
        values = Bounds(-np.geomspace(0.5, 100, spot.channels), np.geomspace(1, 300, spot.channels))
        by = factors(how, values, weights_behind(spot), shifts=spot.shifts)
        assert by.shift.any() == (spot.shifts and how == "channels")
        assert by.scale.max() > 3 * by.scale.min()
        fold(spot, by)
    for a, b in zip(before, run(model, feeds)[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(a).max())  # sums cancel in another order


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_what_cannot_be_divided_is_left_alone(why: str) -> None:
    shapes = {"s": (8,), "b": (8,), "a": (8, 8), "w": (8, 6), "v": (8, 6), "u": (6, 6), "l": (6, 8)}
    read = set(re.findall(r"\b[a-z]\b(?=[,)])", LEFT_ALONE[why]))
    assert find_spots(built(LEFT_ALONE[why], {name: shapes[name] for name in shapes if name in read})) == ()


def test_a_scale_that_others_read_stays_for_them() -> None:
    text, shapes, _ = GRAPHS["shared-scale"]
    model = built(text, shapes)
    (spot,) = find_spots(model)
    before = model.graph.initializers["s"].const_value
    fold(spot, factors("0.5", Bounds(-np.arange(1.0, 9), np.arange(1.0, 9)), weights_behind(spot), shifts=True))
    assert model.graph.initializers["s"].const_value is before
    assert spot.front[0].value.name == "s_smoothed"


def test_no_node_is_added_where_layers_alone_read() -> None:
    for name, (text, shapes, _) in GRAPHS.items():
        model = built(text, shapes)
        count = len(list(model.graph))
        for spot in find_spots(model):
            even = Bounds(-np.arange(1.0, 1 + spot.channels), np.arange(2.0, 2 + spot.channels))
            fold(spot, factors("channels", even, weights_behind(spot), shifts=spot.shifts))
        assert len(list(model.graph)) - count == (2 if name == "residual-behind-the-norm" else 0)
