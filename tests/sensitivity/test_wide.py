"""Losses of wide outputs in single precision: what plain formulas give in double precision, however small."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxmpq.errors import InputError
from onnxmpq.metrics.losses import Head, Loss, inner_products
from onnxmpq.metrics.wide import Sweep
from tests.graphs import rng

Array = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]
POSITIONS, CLASSES = 5, 9000


def outputs(sharp: float, noise: float, moved: float, seed: int = 0, *, probabilities: bool) -> list[Single]:
    """Return what a float model, a centre and a variant give for one sample; the centre may be the float model."""
    g = rng(seed)
    logits = g.standard_normal((POSITIONS, CLASSES)) * sharp
    logits[:, 3] += 8 * sharp
    centre = logits + moved * g.standard_normal(logits.shape)
    found = []
    for values in (logits, centre, centre + noise * g.standard_normal(logits.shape)):
        if probabilities:
            values = np.exp(values - values.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
        found.append(values.astype(np.float32).reshape(1, -1))
    return [found[0], found[1] if moved else found[0], found[2]]


def head_of(kind: str, *, probabilities: bool = False, power: float = 1.0) -> Head:
    width = POSITIONS * CLASSES
    return Head("y", kind, width, CLASSES, probabilities, power)  # type: ignore[arg-type]


def plain(head: Head, given: Sequence[Single], labels: Any = None) -> tuple[float, Array, float, Array]:
    """Return loss, noise, linear part and root in double precision, of a float model, a centre and an output."""
    floats, centre, output = (head.logits(one, np.float64) for one in given)
    loss, z = Loss((head,), floats, labels), output - centre
    around = loss.around(centre)
    linear = float(inner_products(z, around.slope)[0])
    return float(loss.values(output)[0]), loss.noise(output)[0], linear, around.root(z)[0]


@pytest.mark.parametrize("moved", [0.0, 0.1])
@pytest.mark.parametrize("noise", [1e-3, 1e-2, 0.1, 1.0, 20.0])
@pytest.mark.parametrize("sharp", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(("kind", "probabilities"), [("kl", False), ("kl", True), ("ce", False), ("power", False)])
def test_a_sweep_gives_what_plain_formulas_give(
    kind: str, probabilities: bool, sharp: float, noise: float, moved: float
) -> None:
    head = head_of(kind, probabilities=probabilities, power=float(CLASSES))
    floats, centre, output = outputs(sharp, noise, moved, probabilities=probabilities)
    labels = rng(1).integers(0, CLASSES, (1, POSITIONS)) if kind == "ce" else None
    loss, noises, linear, root = plain(head, (floats, centre, output), labels)
    sweep = Sweep([head], [floats], [centre], labels)
    found = sweep.response([output])
    assert found.root is not None
    assert found.loss == sweep.losses([output]).loss
    # Single precision holds differences of outputs to 1e-7 of these, and of their logarithms to no more.
    assert found.loss == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(found.noise, noises, rtol=1e-4)
    length = float(np.linalg.norm(root))
    assert np.linalg.norm(found.root[0] - root) < 2e-3 * length
    assert found.linear == pytest.approx(linear, abs=1e-4 * length + 1e-6)


@pytest.mark.parametrize("sharp", [0.1, 1.0, 6.0])
@pytest.mark.parametrize("shift", [0.0, 5.0, -60.0])
def test_what_all_classes_are_shifted_by_is_not_lost(sharp: float, shift: float) -> None:
    floats, _, output = outputs(sharp, 1e-2, 0.0, probabilities=False)
    head = head_of("kl")
    exact, *_ = plain(head, (floats, floats, output))
    found = Sweep([head], [floats], [floats], None).losses([output + np.float32(shift)])
    assert found.loss == pytest.approx(exact, rel=2e-2)


def test_a_float_model_loses_nothing() -> None:
    floats, *_ = outputs(1.0, 0.0, 0.0, probabilities=True)
    head = head_of("kl", probabilities=True)
    found = Sweep([head], [floats], [floats], None).response([floats.copy()])
    assert (found.loss, found.linear, found.noise.tolist()) == (0.0, 0.0, [0.0])
    assert found.root is not None
    assert not found.root.any()


def test_heads_stand_side_by_side_and_their_losses_add_up() -> None:
    heads = [head_of("kl"), head_of("power", power=3.0)]
    made = [outputs(1.0, 1e-2, 0.1, seed, probabilities=False) for seed in range(2)]
    floats, centre, output = zip(*made, strict=True)
    sweep = Sweep(heads, floats, centre, None)
    found = sweep.response(output)
    each = zip(heads, *zip(*made, strict=True), strict=True)
    parts = [Sweep([head], [a], [b], None).response([c]) for head, a, b, c in each]
    assert found.loss == sum(part.loss for part in parts)
    assert found.linear == sum(part.linear for part in parts)
    np.testing.assert_array_equal(found.noise, np.concatenate([part.noise for part in parts]))
    roots = [part.root for part in parts if part.root is not None]
    np.testing.assert_array_equal(found.root, np.concatenate(roots, axis=1))
    wanted = np.concatenate(floats, axis=1)
    np.testing.assert_array_equal(sweep.reference, wanted)
    np.testing.assert_allclose(sweep.signal(), [(a.astype(np.float64) ** 2).sum() for a in floats])


def test_labels_that_are_no_classes_are_refused() -> None:
    floats, *_ = outputs(1.0, 0.0, 0.0, probabilities=False)
    with pytest.raises(InputError, match=f"the classes 0 to {CLASSES - 1}"):
        Sweep([head_of("ce")], [floats], [floats], np.full((1, POSITIONS), CLASSES))
    with pytest.raises(InputError, match=f"needs {POSITIONS} labels"):
        Sweep([head_of("ce")], [floats], [floats], np.zeros((1, 1), np.int64))
    with pytest.raises(InputError, match="needs labels"):
        Sweep([head_of("ce")], [floats], [floats], None)
