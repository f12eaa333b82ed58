"""The order in which layers are fitted, and what their outputs are added to."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.cuts.cutting import cut
from onnxmpq.model.layers import find_layers
from onnxmpq.numerics.hessians import find_readings
from onnxmpq.refit.order import fits, steps
from onnxmpq.targets import target
from onnxmpq.targets.space import make_space
from tests.graphs import from_text, normal, rng


def weights(*names: str) -> dict[str, np.ndarray]:
    """Return square weights."""
    return {name: rng(place).normal(size=(8, 8)).astype(np.float32) for place, name in enumerate(names)}


def order_of(model: ir.Model, chain_cost: float) -> list[list[list[tuple[str, str | None]]]]:
    """Return the weights of a model as they are fitted, and what stands beside them."""
    layers = find_layers(model)
    readings, _ = find_readings(model, layers)
    cuts = cut(model, make_space(model, target("generic")), chain_cost=chain_cost)
    found = steps(model, cuts, fits(model, readings, layers))
    return [[[(fit.weight, fit.beside) for fit in step] for step in inside] for inside in found]


RESIDUAL = """g (float[n, 5, 8] x) => (float[n, 5, 8] y) {
    a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2) c = Add(b, bias) s = Add(x, c)
    q = MatMul(s, w3) k = MatMul(s, w4) z = Add(q, k) y = Add(z, s) }"""


def test_layers_behind_others_come_later_and_sums_are_seen() -> None:
    model = normal(from_text(RESIDUAL, weights("w1", "w2", "w3", "w4") | {"bias": np.ones(8, np.float32)}))
    (inside,) = order_of(model, float("inf"))
    assert inside[0] == [("w1", None)]
    assert inside[1] == [("w2", "x")]
    assert {weight for weight, _ in inside[2]} == {"w3", "w4"}
    assert all(beside is None for _, beside in inside[2]), "the other of two is not there yet"


def test_cut_or_not_the_order_is_the_same() -> None:
    model = normal(from_text(RESIDUAL, weights("w1", "w2", "w3", "w4") | {"bias": np.ones(8, np.float32)}))
    whole, parts = (order_of(model, cost) for cost in (float("inf"), 0))
    flat = [[fit for inside in found for step in inside for fit in step] for found in (whole, parts)]
    assert [weight for weight, _ in flat[0]] == [weight for weight, _ in flat[1]]
    assert dict(flat[1])["w2"] == "x"


@pytest.mark.parametrize(
    "text",
    [
        "g (float[n, 8] x) => (float[n, 8] y) { a = MatMul(x, w1) y = MatMul(a, w1) }",  # two layers read it
        "g (float[n, 8] x) => (float[n, 8] y) { a = MatMul(x, w1) b = Mul(w1, x) y = Add(a, b) }",  # and something else
        "g (float[n, 8] x) => (float[n, 8] y) { y = Gemm<alpha = 0.5>(x, w1) }",
    ],
)
def test_a_weight_with_other_readers_or_factors_is_left(text: str) -> None:
    model = normal(from_text(text, weights("w1")))
    assert [fit for inside in order_of(model, 0) for step in inside for fit in step] == []
