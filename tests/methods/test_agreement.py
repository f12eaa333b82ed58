"""Whether samples agree with themselves: figures of halves, and what is told of those that do not."""

from collections.abc import Callable

import numpy as np
import pytest

from onnxmpq.methods.agreement import LEAST, Agreement, agreement

CLASSES = 10
Outputs = np.ndarray
Make = Callable[[np.random.Generator, int], np.ndarray]


def logits(draw: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Draw the outputs of a model that knows the labels."""
    found: np.ndarray = 8.0 * np.eye(CLASSES)[labels] + draw.normal(size=(len(labels), CLASSES))
    return found


def shuffled(draw: np.random.Generator, count: int) -> np.ndarray:
    """Draw samples of all classes, in any order."""
    return logits(draw, draw.integers(0, CLASSES, count))


def by_class(draw: np.random.Generator, count: int) -> np.ndarray:
    """Draw samples of all classes, one class after the other."""
    return logits(draw, np.sort(draw.integers(0, CLASSES, count)))


def one_class(draw: np.random.Generator, count: int) -> np.ndarray:
    """Draw samples of one class."""
    return logits(draw, np.full(count, 3))


def every_other(draw: np.random.Generator, count: int) -> np.ndarray:
    """Draw samples of which every other one is noise."""
    found = shuffled(draw, count)
    found[1::2] = draw.normal(size=found[1::2].shape)
    return found


def found_in(make: Make, seed: int, count: int = 64) -> Agreement:
    """Compare the halves of drawn samples; losses grow with outputs."""
    draw = np.random.default_rng(seed)
    outputs = make(draw, count)
    scale = (outputs**2).sum(1)
    losses = np.exp(draw.uniform(-12, 0, (30, 1))) * scale * draw.exponential(size=count)
    found = agreement(outputs, losses, CLASSES)
    assert found is not None
    return found


def test_samples_in_any_order_are_not_remarked_upon() -> None:
    told = [found_in(shuffled, seed).notes for seed in range(40)]
    assert sum(map(len, told)) <= 2


@pytest.mark.parametrize("count", [32, 64, 200])
def test_samples_sorted_by_class_are_told_by_their_first_and_second_half(count: int) -> None:
    found = found_in(by_class, 0, count)
    halves, others = found.splits
    assert halves.unlike == ("the float model's outputs",)
    assert others.unlike == ()
    assert len(found.notes) == 1
    assert "unlike themselves" in found.notes[0]
    assert "the first and the second half" in found.notes[0]


def test_kinds_that_take_turns_are_seen_and_are_no_reason_to_doubt() -> None:
    found = found_in(every_other, 1)
    halves, others = found.splits
    assert halves.unlike == ()
    assert "the losses of units" in others.unlike
    assert found.notes == ()


def test_samples_of_one_class_agree_with_themselves_and_are_told_all_the_same() -> None:
    found = found_in(one_class, 0)
    assert all(split.unlike == () for split in found.splits)
    assert (found.top_class, found.top_share) == (3, 1.0)
    assert "100% of the calibration samples in class 3" in " ".join(found.notes)


def test_the_shift_is_one_on_average_where_order_means_nothing() -> None:
    shifts = [split.outputs_shift for seed in range(60) for split in found_in(shuffled, seed).splits]
    assert np.mean(shifts) == pytest.approx(1.0, abs=0.15)


def test_few_samples_or_equal_ones_say_nothing() -> None:
    assert agreement(np.ones((LEAST - 1, 3)), np.ones((2, LEAST - 1))) is None
    found = agreement(np.ones((LEAST, 3)), np.ones((2, LEAST)))
    assert found is not None
    assert found.notes == ()
    assert [split.outputs_shift for split in found.splits] == [0.0, 0.0]


def test_figures_are_the_same_for_a_seed_and_plain_data() -> None:
    found = found_in(by_class, 5)
    assert found == found_in(by_class, 5)
    data = found.to_json()
    assert [split["name"] for split in data["splits"]] == ["the first and the second half", "even and odd samples"]
    assert all(-1 <= split["correlation"] <= 1 for split in data["splits"])
