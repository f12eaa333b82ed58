"""Losses: values, slopes and second-order parts against closed forms and finite differences."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from onnxmpq.errors import InputError
from onnxmpq.metrics.losses import Head, Loss, inner_products, log_softmax, mean_and_error
from tests.graphs import rng

Array = npt.NDArray[np.float64]
SAMPLES, CLASSES, POSITIONS = 3, 4, 2
HEADS = {
    "kl": (Head("a", "kl", CLASSES, CLASSES),),
    "kl, positions": (Head("a", "kl", POSITIONS * CLASSES, CLASSES),),
    "ce": (Head("a", "ce", CLASSES, CLASSES),),
    "ce, positions": (Head("a", "ce", POSITIONS * CLASSES, CLASSES),),
    "power": (Head("a", "power", 5, 5, power=2.5),),
    "several": (
        Head("a", "kl", POSITIONS * CLASSES, CLASSES),
        Head("b", "power", 3, 3, power=0.7),
        Head("c", "kl", CLASSES, CLASSES, probabilities=True),
    ),
}
each_loss = pytest.mark.parametrize("name", HEADS)


def made(name: str) -> tuple[Loss, Array]:
    """Return a loss and outputs that are not the float model's."""
    heads = HEADS[name]
    width = sum(head.width for head in heads)
    g = rng(1)
    labels = g.integers(0, CLASSES, (SAMPLES, heads[0].width // CLASSES)) if name.startswith("ce") else None
    return Loss(heads, g.normal(size=(SAMPLES, width)), labels), g.normal(size=(SAMPLES, width))


def differences(function: Callable[[Array], Array], at: Array, step: float = 1e-5) -> Array:
    """Return central differences of a function of every sample, [samples, width, ...]."""
    found = []
    for i in range(at.shape[1]):
        way = np.zeros_like(at)
        way[:, i] = step
        found.append((function(at + way) - function(at - way)) / (2 * step))
    return np.stack(found, axis=1)


@each_loss
def test_slope_is_the_derivative_of_the_values(name: str) -> None:
    loss, outputs = made(name)
    np.testing.assert_allclose(loss.around(outputs).slope, differences(loss.values, outputs), atol=1e-8)


@each_loss
def test_gram_of_the_root_is_the_hessian(name: str) -> None:
    loss, outputs = made(name)
    width = outputs.shape[1]
    roots = np.stack([loss.around(outputs).root(np.tile(unit, (SAMPLES, 1))) for unit in np.eye(width)])
    gram = np.einsum("isf,jsf->sij", roots, roots)
    np.testing.assert_allclose(gram, differences(lambda at: loss.around(at).slope, outputs), atol=1e-8)


@each_loss
def test_root_is_linear_in_the_responses(name: str) -> None:
    loss, outputs = made(name)
    a, b = rng(2).normal(size=(2, *outputs.shape))
    whole = loss.around(outputs).root(2 * a - b)
    np.testing.assert_allclose(whole, 2 * loss.around(outputs).root(a) - loss.around(outputs).root(b), atol=1e-12)


@pytest.mark.parametrize("name", [name for name in HEADS if not name.startswith("ce")])
def test_the_float_model_has_no_loss_and_no_slope(name: str) -> None:
    loss, outputs = made(name)
    np.testing.assert_allclose(loss.values(loss.reference), 0, atol=1e-12)
    np.testing.assert_allclose(loss.around(loss.reference).slope, 0, atol=1e-12)
    assert (loss.values(outputs) > 0.01).all()


def test_kl_is_its_definition_and_the_mean_over_positions() -> None:
    loss, outputs = made("kl, positions")
    p, q = (
        np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        for x in (loss.reference.reshape(SAMPLES, POSITIONS, CLASSES), outputs.reshape(SAMPLES, POSITIONS, CLASSES))
    )
    np.testing.assert_allclose(loss.values(outputs), (p * np.log(p / q)).sum(2).mean(1))


def test_cross_entropy_is_that_of_the_labels() -> None:
    loss, outputs = made("ce, positions")
    assert loss.labels is not None
    q = np.exp(outputs.reshape(SAMPLES, POSITIONS, CLASSES))
    q /= q.sum(-1, keepdims=True)
    want = [-np.mean([np.log(q[s, t, loss.labels[s, t]]) for t in range(POSITIONS)]) for s in range(SAMPLES)]
    np.testing.assert_allclose(loss.values(outputs), want)


def test_power_is_error_power_over_mean_signal_power() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 1.0]])
    loss = Loss((Head("a", "power", 2, 2, power=13.0),), reference)
    outputs = reference + np.array([[1.0, 0.0], [2.0, 3.0]])
    np.testing.assert_allclose(loss.values(outputs), [1 / 13, 1.0])
    np.testing.assert_array_equal(loss.noise(outputs), [[1.0], [13.0]])
    np.testing.assert_array_equal(loss.signal(), [[25.0], [1.0]])


def test_losses_of_several_heads_add_up() -> None:
    loss, outputs = made("several")
    parts, position = np.zeros(SAMPLES), 0
    for head in loss.heads:
        span = slice(position, position + head.width)
        parts += Loss((head,), loss.reference[:, span]).values(outputs[:, span])
        position += head.width
    np.testing.assert_allclose(loss.values(outputs), parts)
    assert loss.noise(outputs).shape == (SAMPLES, 3)


def test_probabilities_and_logits_have_the_same_loss_slope_and_gram() -> None:
    g = rng(3)
    float_logits, logits = g.normal(size=(2, SAMPLES, CLASSES))
    plain = Head("a", "kl", CLASSES, CLASSES)
    soft = Head("a", "kl", CLASSES, CLASSES, probabilities=True)
    for_logits = Loss((plain,), plain.features(float_logits, SAMPLES))
    for_probabilities = Loss((soft,), soft.features(np.exp(log_softmax(float_logits)), SAMPLES))
    changed = soft.features(np.exp(log_softmax(logits)), SAMPLES)
    np.testing.assert_allclose(for_probabilities.values(changed), for_logits.values(logits))
    np.testing.assert_allclose(for_probabilities.around(changed).slope, for_logits.around(logits).slope, atol=1e-12)
    np.testing.assert_allclose(
        for_probabilities.around(for_probabilities.reference).root(changed - for_probabilities.reference),
        for_logits.around(float_logits).root(logits - float_logits),
        atol=1e-12,
    )


def test_a_probability_of_zero_has_a_finite_logit() -> None:
    head = Head("a", "kl", 2, 2, probabilities=True)
    assert np.isfinite(head.features(np.array([[1.0, 0.0]], np.float32), 1)).all()


def test_features_have_classes_last() -> None:
    output = rng(4).normal(size=(2, 5, 3, 3)).astype(np.float32)
    head = Head("a", "kl", 45, 5, axis=-3)
    found = head.features(output, 2)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found.reshape(2, 9, 5)[1, 4], output[1, :, 1, 1])
    np.testing.assert_array_equal(Head("a", "power").features(output, 2), output.reshape(2, -1))


def test_huge_logits_overflow_nowhere() -> None:
    loss = Loss((Head("a", "kl", 2, 2),), np.array([[1e4, -1e4]]))
    assert loss.values(np.array([[-1e4, 1e4]])) == pytest.approx(2e4)
    assert np.isfinite(loss.around(loss.reference).root(np.ones((1, 2)))).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "needs labels"),
        (np.array([0, 1]), "needs 2 labels for each sample"),
        (np.array([[0, 1], [4, 1]]), "from 0 to 4; the output has the classes 0 to 3"),
        (np.array([[0, 1], [-1, 1]]), "from -1 to 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: npt.NDArray[np.int64] | None, message: str) -> None:
    loss = Loss((Head("a", "ce", 2 * CLASSES, CLASSES),), np.zeros((2, 2 * CLASSES)), labels)
    with pytest.raises(InputError, match=message):
        loss.values(loss.reference)
    with pytest.raises(InputError, match=message):
        loss.around(loss.reference)


def test_mean_and_standard_error() -> None:
    assert mean_and_error(np.array([1.0, 2.0, 6.0])) == pytest.approx((3.0, np.sqrt(7 / 3)))
    assert mean_and_error(np.array([2.0])) == (2.0, 0.0)


def test_wide_outputs_are_looked_at_in_parts_and_give_the_same() -> None:
    g, positions, classes = rng(8), 3, 40_000
    shape = (5, positions, classes)
    wanted, given, z = (g.normal(size=shape) for _ in range(3))
    flat = [array.reshape(5, -1) for array in (wanted, given, z)]
    loss = Loss((Head("a", "kl", positions * classes, classes),), flat[0])
    p, q = (np.exp(values) / np.exp(values).sum(-1, keepdims=True) for values in (wanted, given))
    np.testing.assert_allclose(loss.values(flat[1]), (p * np.log(p / q)).sum(-1).mean(-1), rtol=1e-10)
    np.testing.assert_allclose(loss.noise(flat[1])[:, 0], ((given - wanted) ** 2).sum((1, 2)), rtol=1e-12)
    around = loss.around(flat[1])
    root = np.sqrt(q / positions) * (z - (q * z).sum(-1, keepdims=True))
    np.testing.assert_allclose(around.root(flat[2]), root.reshape(5, -1), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(around.slope, ((q - p) / positions).reshape(5, -1), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(inner_products(flat[1], flat[2]), (given * z).sum((1, 2)), rtol=1e-9)
