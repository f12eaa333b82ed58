"""Paired timing: order, warm-up, ratios, noise."""

import itertools

import numpy as np
import onnx
import pytest

from onnxmpq.errors import InputError
from onnxmpq.runtimes import PairedTiming, get_runtime, paired, runner


class Clock:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log = ""

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float) -> "Work":
        """Make work that takes these times in turn."""
        return Work(self, name, itertools.cycle(seconds))


class Work:
    """Work that only moves its clock."""

    def __init__(self, clock: Clock, name: str, seconds: "itertools.cycle[float]") -> None:
        self.clock, self.name, self.seconds = clock, name, seconds

    def __call__(self) -> None:
        self.clock.now += next(self.seconds)
        self.clock.log += self.name


def test_ratio_is_how_many_times_faster_the_second_is() -> None:
    clock = Clock()
    timing = paired(clock.work("a", 0.3), clock.work("b", 0.1), budget_s=0, clock=clock)
    assert timing.ratio == pytest.approx(3)
    assert timing.quartiles == pytest.approx((3, 3))
    assert (timing.a_median_s, timing.b_median_s) == pytest.approx((0.3, 0.1))
    assert not timing.noisy


def test_order_alternates_after_a_warm_up() -> None:
    clock = Clock()
    paired(clock.work("a", 1), clock.work("b", 1), budget_s=0, min_pairs=4, clock=clock)
    assert clock.log == "ab" + "ab" + "ab" + "ba" + "ab" + "ba"


def test_number_of_pairs_has_both_limits() -> None:
    clock = Clock()
    assert len(paired(clock.work("a", 1), clock.work("b", 1), budget_s=0, min_pairs=9, clock=clock).a_s) == 9
    assert len(paired(clock.work("a", 1), clock.work("b", 1), budget_s=60, max_pairs=11, clock=clock).b_s) == 11


def test_short_work_is_repeated_within_a_sample() -> None:
    clock = Clock()
    timing = paired(
        clock.work("a", 2e-5), clock.work("b", 1e-5), budget_s=0, min_pairs=1, min_sample_s=1e-3, clock=clock
    )
    assert clock.log.count("b") == 2 + 100
    assert timing.b_median_s == pytest.approx(1e-5)


def test_scatter_is_called_noisy() -> None:
    assert PairedTiming((1.0, 1.3, 1.0, 1.3), (1.0, 1.0, 1.0, 1.0)).noisy
    assert not PairedTiming((1.0, 1.01, 1.0, 1.01), (1.0, 1.0, 1.0, 1.0)).noisy


def test_senseless_numbers_of_pairs_are_refused() -> None:
    with pytest.raises(InputError, match="min_pairs"):
        paired(lambda: None, lambda: None, min_pairs=5, max_pairs=3)


def test_a_session_against_itself_is_even() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[64, 64] x) => (float[64, 64] y) { y = MatMul (x, x) }'
    )
    session = get_runtime("onnxruntime").session(proto.SerializeToString(), mode="deployed")
    run = runner(session, {"x": np.ones((64, 64), np.float32)})
    timing = paired(run, run, budget_s=0.3)
    assert 0.5 < timing.ratio < 2  # CPU time; a wide gate, since the machine is shared
