"""Heads: what the outputs of a model are taken for."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.errors import InputError
from onnxmpq.metrics.heads import find_heads
from onnxmpq.metrics.losses import Head
from tests.graphs import from_text, normal, rng

SHAPES = {"w": (6, 5), "b": (5,), "k": (5, 6, 1, 1)}
X, Y = "float[n, 6] x", "float[n, 5] y"
KL, SOFT, POWER = Head("y", "kl"), Head("y", "kl", probabilities=True), Head("y", "power")


def model(signature: str, body: str) -> ir.Model:
    """Build a small model, normalised; weights that it names are added."""
    used = {
        name: shape
        for name, shape in SHAPES.items()
        if f"{name})" in body or f" {name}," in body or f"({name}," in body
    }
    g = rng()
    weights = {name: g.normal(size=shape).astype(np.float32) for name, shape in used.items()}
    return normal(from_text(f"g {signature} {{ {body} }}", weights))


@pytest.mark.parametrize(
    ("signature", "body", "head"),
    [
        (f"({X}) => ({Y})", "h = MatMul(x, w) y = Softmax(h)", SOFT),
        (f"({X}) => ({Y})", "h = MatMul(x, w) y = LogSoftmax(h)", KL),
        (f"({X}) => ({Y})", "h = MatMul(x, w) s = Softmax(h) y = Identity(s)", SOFT),
        (f"({X}) => ({Y})", "y = Gemm(x, w, b)", KL),
        (f"({X}) => ({Y})", "m = MatMul(x, w) y = Add(m, b)", KL),
        (f"({X}) => ({Y})", "m = MatMul(x, w) y = Add(b, m)", KL),
        (f"({X}) => ({Y})", "y = MatMul(x, w)", KL),
        (f"({X}) => ({Y})", "h = MatMul(x, w) s = Flatten(h) y = Identity(s)", KL),
        (f"({X}) => ({Y})", "h = MatMul(x, w) n = ReduceL2<axes = [1]>(h) y = Div(h, n)", POWER),
        (f"({X}) => ({Y})", "h = MatMul(x, w) y = Tanh(h)", POWER),
        (f"({X}) => (float[n, 1] y)", "h = MatMul(x, w) y = ReduceMean<axes = [1]>(h)", POWER),
        ("(float[n, 7, 6] x) => (float[n, 7, 5] y)", "y = MatMul(x, w)", POWER),
        ("(float[n, 7, 6] x) => (float[n, 7, 5] y)", "h = MatMul(x, w) y = Softmax<axis = -1>(h)", SOFT),
        (
            "(float[n, 6, 3, 3] x) => (float[n, 5, 3, 3] y)",
            "h = Conv(x, k) y = Softmax<axis = 1>(h)",
            Head("y", "kl", probabilities=True, axis=-3),
        ),
        ("(float[n, 6, 3, 3] x) => (float[n, 5, 3, 3] y)", "y = Conv(x, k)", POWER),
        (
            "(float[n, 6, 1, 1] x) => (float[n, 5] y)",
            "h = Conv(x, k) s = Softmax<axis = 1>(h) y = Flatten(s)",
            SOFT,
        ),
    ],
)
def test_an_output_is_taken_for(signature: str, body: str, head: Head) -> None:
    assert find_heads(model(signature, body)) == (head,)


def test_scores_beside_other_float_outputs_are_no_scores() -> None:
    found = find_heads(model(f"({X}) => ({Y}, float[n, 5] z)", "y = MatMul(x, w) z = Tanh(y)"))
    assert [(head.name, head.kind) for head in found] == [("y", "power"), ("z", "power")]


def test_softmax_beside_other_outputs_is_softmax_and_integers_do_not_count() -> None:
    body = "h = MatMul(x, w) y = Softmax(h) z = Tanh(h) i = ArgMax<axis = 1>(h)"
    made = model(f"({X}) => (int64[n, 1] i, {Y}, float[n, 5] z)", body)
    assert find_heads(made) == (SOFT, Head("z", "power"))


def test_scores_beside_integers_are_scores() -> None:
    made = model(f"({X}) => ({Y}, int64[n, 1] i)", "y = MatMul(x, w) i = ArgMax<axis = 1>(y)")
    assert find_heads(made) == (KL,)


def test_outputs_that_are_named_alone_count() -> None:
    made = model(f"({X}) => ({Y}, float[n, 5] z)", "y = MatMul(x, w) z = Tanh(y)")
    assert find_heads(made, outputs=("y",)) == (KL,)
    assert find_heads(made, outputs=("z",)) == (Head("z", "power"),)


def test_a_named_loss_holds_for_all_that_count() -> None:
    made = model(f"({X}) => ({Y}, float[n, 5] z)", "h = MatMul(x, w) y = Softmax(h) z = Tanh(h)")
    assert [head.kind for head in find_heads(made, "kl")] == ["kl", "kl"]
    assert find_heads(made, "power", ("y",)) == (POWER,)
    assert find_heads(made, "ce", ("y",)) == (Head("y", "ce", probabilities=True),)


def test_classes_of_named_scores_in_an_image_are_channels() -> None:
    made = model("(float[n, 6, 3, 3] x) => (float[n, 5, 3, 3] y)", "y = Conv(x, k)")
    assert find_heads(made, "kl") == (Head("y", "kl", axis=-3),)


@pytest.mark.parametrize(
    ("loss", "outputs", "message"),
    [
        ("mse", (), r"no loss 'mse'\. Known: auto, kl, ce, power"),
        ("powr", (), r"no loss 'powr'\. Did you mean 'power'\?"),
        ("auto", ("logit",), r"no output 'logit'\. Did you mean 'logits'\? It has: logits, i"),
        ("auto", ("i",), "No float output counts"),
    ],
)
def test_what_there_is_not_is_refused(loss: str, outputs: tuple[str, ...], message: str) -> None:
    made = model(f"({X}) => (float[n, 5] logits, int64[n, 1] i)", "logits = MatMul(x, w) i = ArgMax<axis = 1>(logits)")
    with pytest.raises(InputError, match=message):
        find_heads(made, loss, outputs)
