"""What a weight should be behind layers that err: nearer to what is wanted wherever it was not fitted, or as it is."""

import numpy as np
import pytest

from onnxmpq.numerics.hessians import View
from onnxmpq.refit.fitting import fitted, moved
from onnxmpq.refit.moments import Array, Counting, Moments
from tests.graphs import rng

COLUMNS, ROWS = 6, 5


def counted(met: Array, plain: Array, beside: Array | None = None) -> Moments:
    """Return the moments of columns of one group."""
    counting = Counting(View((ROWS, COLUMNS), 1, COLUMNS, swapped=False), ROWS)
    counting.add(met, plain, beside)
    return counting.moments()


def columns(seed: int, places: int) -> Array:
    """Return what a layer meets in the float network: correlated, around 1."""
    g = rng(seed)
    mix = rng(0).normal(size=(COLUMNS, COLUMNS))
    return (1 + mix @ g.normal(size=(COLUMNS, places)))[None].astype(np.float32)


def test_what_is_turned_in_front_is_turned_back() -> None:
    weight = rng(1).normal(size=(1, ROWS, COLUMNS)).astype(np.float32)
    turn = np.eye(COLUMNS) + 0.2 * rng(2).normal(size=(COLUMNS, COLUMNS))
    fit, judge, new = (columns(seed, 400) for seed in (3, 4, 5))
    met = [(turn @ each).astype(np.float32) for each in (fit, judge, new)]
    target = fitted(weight, counted(met[0], fit), counted(met[1], judge))
    assert target is not None
    wanted = weight @ new
    errors = [((wanted - each @ met[2]) ** 2).mean() for each in (weight, target)]
    assert errors[1] < 0.1 * errors[0]


def test_what_an_output_is_added_to_is_made_up_for() -> None:
    weight = rng(1).normal(size=(1, ROWS, COLUMNS)).astype(np.float32)
    lost = 0.3 * rng(2).normal(size=(ROWS, COLUMNS))
    fit, judge, new = (columns(seed, 400) for seed in (3, 4, 5))
    lacking = [(lost @ each).astype(np.float32) for each in (fit, judge, new)]
    target = fitted(weight, counted(fit, fit, lacking[0]), counted(judge, judge, lacking[1]))
    assert target is not None
    errors = [((weight @ new + lacking[2] - each @ new) ** 2).mean() for each in (weight, target)]
    assert errors[1] < 0.1 * errors[0]


def test_what_only_few_samples_say_is_not_taken() -> None:
    weight = rng(1).normal(size=(1, ROWS, COLUMNS)).astype(np.float32)
    fit, judge = columns(3, 8), columns(4, 400)
    noise = rng(5).normal(size=fit.shape).astype(np.float32)
    assert fitted(weight, counted(fit + 3 * noise, fit), counted(judge, judge)) is None


def test_where_nothing_errs_a_weight_stays() -> None:
    weight = rng(1).normal(size=(1, ROWS, COLUMNS)).astype(np.float32)
    met = columns(3, 400)
    target = fitted(weight, counted(met, met), counted(met, met))
    assert target is None or np.allclose(target, weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beside", [False, True])
def test_a_bias_takes_up_what_means_lack(beside: bool) -> None:
    weight = rng(1).normal(size=(1, ROWS, COLUMNS)).astype(np.float32)
    target = weight + 0.1 * rng(2).normal(size=weight.shape)
    plain, met = columns(3, 50), columns(4, 50)
    lacking = rng(6).normal(size=(1, ROWS, 50)).astype(np.float32) if beside else None
    shift = moved(weight, target, counted(met, plain, lacking))
    wanted = (weight @ plain + (0 if lacking is None else lacking)).mean(2)
    np.testing.assert_allclose((target @ met).mean(2) + shift, wanted, rtol=1e-4, atol=1e-4)
