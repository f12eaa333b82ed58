"""Damage is judged by what outputs mean: classes that stay, and every part of the others, small beside large."""

import numpy as np
import pytest

from onnxmpq.errors import InputError
from onnxmpq.guard.damage import Channels, Damage, Meter, Thresholds
from onnxmpq.metrics.losses import Head

SCORES = Head("scores", "kl")
BOXES = Head("boxes", "power")


def measured(head: Head, wanted: np.ndarray, got: np.ndarray) -> Damage:
    """Count samples one by one."""
    meter = Meter([head])
    for one, other in zip(wanted, got, strict=True):
        meter.add({head.name: one[None]}, {head.name: other[None]})
    return meter.damage()


def test_classes_that_change_are_counted_and_weighed() -> None:
    wanted = np.array([[4.0, 0, 0], [0, 4, 0], [0, 0, 4], [0.1, 0, 0]])
    got = wanted.copy()
    got[3] = [0, 0.1, 0]  # a tie, as good as none
    mild = measured(SCORES, wanted, got)
    assert mild.classes == 0.75
    assert mild.loss is not None
    assert mild.loss < 0.001
    got[0] = [0, 4, 0]
    hard = measured(SCORES, wanted, got)
    assert hard.classes == 0.5
    assert hard.loss is not None
    assert hard.loss > 0.9
    assert hard.sqnr is None


def test_probabilities_and_another_axis_are_read_as_such() -> None:
    head = Head("p", "kl", probabilities=True, axis=-3)
    wanted = np.random.default_rng(0).random((5, 4, 3, 3))
    wanted /= wanted.sum(1, keepdims=True)
    same = measured(head, wanted, wanted)
    assert (same.classes, same.loss) == (1.0, 0.0)
    turned = measured(head, wanted, wanted[:, ::-1])
    assert turned.classes is not None
    assert turned.classes < 0.5


def test_small_parts_count_beside_large_ones() -> None:
    g = np.random.default_rng(1)
    boxes, scores = g.uniform(0, 640, (20, 4, 50)), g.uniform(0, 1, (20, 3, 50))
    wanted = np.concatenate([boxes, scores], 1)
    fine = measured(BOXES, wanted, wanted + 0.01 * g.normal(size=wanted.shape))
    step = 640 / 255
    coarse = measured(BOXES, wanted, np.rint(wanted / step) * step)
    assert fine.sqnr is not None
    assert fine.sqnr > 25
    assert coarse.sqnr is not None
    assert coarse.sqnr < 0
    whole = 10 * np.log10((wanted**2).sum() / ((np.rint(wanted / step) * step - wanted) ** 2).sum())
    assert whole > 45, "the boxes alone would hide it"


def test_channels_that_are_as_good_as_dead_do_not_count() -> None:
    g = np.random.default_rng(2)
    wanted = g.normal(size=(20, 6, 10))
    wanted[:, 5] *= 1e-6
    got = wanted.copy()
    got[:, 5] = 0
    found = measured(BOXES, wanted, got).sqnr
    assert found is not None
    assert found > 100


def test_a_constant_shift_of_a_large_mean_is_seen() -> None:
    wanted = 100 + np.random.default_rng(3).normal(size=(50, 3))
    found = measured(BOXES, wanted, np.full_like(wanted, 100))
    assert found.sqnr is not None
    assert abs(found.sqnr) < 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("head", [SCORES, BOXES], ids=lambda head: head.kind)
def test_what_is_no_number_is_ruined(head: Head, bad: float) -> None:
    wanted = np.random.default_rng(4).normal(size=(4, 3))
    got = wanted.copy()
    got[1, 1] = bad
    found = measured(head, wanted, got)
    assert found.sqnr == -np.inf
    assert "sqnr" in Thresholds().broken(found)


def test_outputs_whose_length_varies_are_left_out() -> None:
    found = measured(BOXES, np.ones((3, 4)), np.ones((3, 5)))
    assert found == Damage(3)
    assert not Thresholds().broken(found)


def test_thresholds_are_read_and_held() -> None:
    thresholds = Thresholds.parse(["classes>=90%", "loss <= 0.5"])
    assert thresholds == Thresholds(0.9, 0.5, 10.0)
    assert thresholds.broken(Damage(8, classes=0.89, loss=0.5)) == ("classes",)
    assert thresholds.broken(Damage(8, classes=0.9, loss=0.51)) == ("loss",)
    assert thresholds.broken(Damage(8, sqnr=9.9)) == ("sqnr",)
    assert thresholds.broken(Damage(8, loss=float("nan"))) == ("loss",)


@pytest.mark.parametrize("text", ["clases>=90%", "classes<=90%", "loss<=1%", "sqnr>=x", "sqnr", "", "sqnr>=1.2.3"])
def test_what_is_no_threshold_is_told(text: str) -> None:
    with pytest.raises(InputError, match="is no threshold"):
        Thresholds.parse([text])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("classes>=90", "'classes' goes from 0 to 1"),
        ("classes>=101%", "'classes' goes from 0 to 1"),
        ("loss<=-0.1", "'loss' goes from 0 to 1e"),
        ("sqnr>=1001", "'sqnr' goes from -1000 to 1000"),
        pytest.param(f"loss<={'9' * 5000}", "is no threshold: 'loss' goes", id="many digits"),
        ("sqnr>=٤", "is no threshold. Expected"),
        ("sqnr>=nan", "is no threshold. Expected"),
    ],
)
def test_a_threshold_that_cannot_be_meant_is_told(text: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        Thresholds.parse([text])
    assert told in str(error.value)
    assert len(str(error.value)) < 200


def test_a_threshold_is_given_once() -> None:
    with pytest.raises(InputError, match="The threshold 'loss' is given twice"):
        Thresholds.parse(["loss<=0.5", "loss<=0.1"])


def test_channels_whose_range_is_no_number_are_ruined() -> None:
    channels = Channels()
    channels.add(np.full((1, 4, 3), np.nan), np.zeros((1, 4, 3)), 1)
    assert channels.worst() == -np.inf
    assert channels.ratio(parts=True) == np.inf
