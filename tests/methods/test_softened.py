"""The softened model: the second order of a loss at a temperature, whatever batches it is summed up from."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.methods.softened import TEMPERATURE, Softened
from onnxmpq.methods.superposition import Part
from onnxmpq.metrics.losses import Head, Loss

Array = npt.NDArray[np.float64]
CLASSES, POSITIONS, ROWS = 5, 2, 4
HEADS = {
    "kl": (Head("a", "kl", CLASSES, CLASSES),),
    "kl, positions": (Head("a", "kl", POSITIONS * CLASSES, CLASSES),),
    "ce": (Head("a", "ce", CLASSES, CLASSES),),
    "several": (Head("a", "kl", CLASSES, CLASSES), Head("b", "power", 3, 3, power=0.7)),
}


def batch(heads: tuple[Head, ...], samples: int, seed: int, moved: float = 0.5) -> Part:
    """Draw the float outputs, those of a centre, and responses of some rows."""
    g = np.random.default_rng(seed)
    width = sum(head.width for head in heads)
    labels = g.integers(0, CLASSES, (samples, 1)) if heads[0].kind == "ce" else None
    loss = Loss(heads, 2.0 * g.normal(size=(samples, width)), labels)
    centre = loss.reference + moved * g.normal(size=(samples, width))
    return Part(loss, centre, g.normal(size=(ROWS, samples, width)).astype(np.float32))


def softened_loss(part: Part, outputs: Array) -> float:
    """Return the loss of outputs and float outputs that are divided by the temperature, in the units of the loss."""
    loss = Loss(part.loss.heads, part.loss.reference / TEMPERATURE, part.loss.labels)
    return TEMPERATURE**2 * float(loss.values(outputs / TEMPERATURE).mean())


@pytest.mark.parametrize("name", HEADS)
def test_sums_are_the_second_order_of_the_loss_at_a_temperature(name: str) -> None:
    part = batch(HEADS[name], 6, 1)
    sums = Softened(ROWS)
    sums.add(part)
    at = softened_loss(part, part.centre)
    for picked in ([0], [1, 3], [0, 1, 2, 3]):
        x = np.zeros(ROWS)
        x[picked] = 1.0
        errors = []
        for step in (0.08, 0.04):
            moved = softened_loss(part, part.centre + step * part.responses[picked].sum(0, dtype=np.float64))
            foreseen = step * sums.linear @ x + 0.5 * step**2 * x @ sums.gram @ x
            errors.append(abs(moved - at - foreseen))
        assert errors[1] < errors[0] / 5 or errors[0] < 1e-9, "what is left is of third order"


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from(sorted(HEADS)))
def test_batches_add_up(sizes: list[int], name: str) -> None:
    heads = HEADS[name]
    whole = batch(heads, sum(sizes), 2)
    once, parted = Softened(ROWS), Softened(ROWS)
    once.add(whole)
    starts = np.cumsum([0, *sizes])
    parts = [
        Part(
            Loss(heads, whole.loss.reference[a:b], None if whole.loss.labels is None else whole.loss.labels[a:b]),
            whole.centre[a:b],
            whole.responses[:, a:b],
        )
        for a, b in pairwise(starts)
    ]
    assert list(parted.watched(parts)) == parts
    assert parted.samples == once.samples == sum(sizes)
    np.testing.assert_allclose(parted.linear, once.linear, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(parted.gram, once.gram, rtol=1e-9, atol=1e-12)


def test_large_batches_are_looked_at_in_parts_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    part = batch(HEADS["several"], 9, 3)
    whole, parted = Softened(ROWS), Softened(ROWS)
    whole.add(part)
    monkeypatch.setattr("onnxmpq.methods.softened._TOGETHER", 2 * ROWS * part.centre.shape[1])
    parted.add(part)
    np.testing.assert_allclose(parted.gram, whole.gram, rtol=1e-9)
    np.testing.assert_allclose(parted.linear, whole.linear, rtol=1e-9)


def test_a_sure_sample_has_more_of_a_say_than_in_the_loss() -> None:
    heads, z = HEADS["kl"], np.zeros((1, 2, CLASSES), np.float32)
    z[0, :, 0] = 1.0
    sure_and_not = np.zeros((2, CLASSES))
    sure_and_not[0, 0] = 8.0
    loss = Loss(heads, sure_and_not)
    shares = []
    for at, known in ((1.0, loss), (TEMPERATURE, Loss(heads, sure_and_not / TEMPERATURE))):
        powers = (known.around(sure_and_not / at).root(z[0].astype(np.float64)) ** 2).sum(1)
        shares.append(powers[0] / powers.sum())
    assert shares[1] > 5 * shares[0]
    sums = Softened(1)
    sums.add(Part(loss, sure_and_not, z))
    softer = Loss(heads, sure_and_not / TEMPERATURE).around(sure_and_not / TEMPERATURE)
    assert sums.gram[0, 0] == pytest.approx((softer.root(z[0].astype(np.float64)) ** 2).sum() / 2)


def of_squares(outputs: Mapping[str, Array], wanted: Mapping[str, Array]) -> Array:
    """Return a loss of a user's own."""
    return np.asarray(((outputs["a"] - wanted["a"]) ** 2).sum(1), np.float64)


def test_a_loss_without_classes_or_of_the_users_own_has_no_temperature() -> None:
    power = batch((Head("a", "power", 3, 3, power=0.7),), 4, 4)
    given_loss = batch(HEADS["kl"], 4, 4)
    own = Part(Loss(HEADS["kl"], given_loss.loss.reference, None, of_squares), given_loss.centre, given_loss.responses)
    for part in (power, own):
        sums = Softened(ROWS)
        sums.add(part)
        assert sums.samples == 0
