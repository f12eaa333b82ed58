"""The clock of a run: one time left for the whole, at the pace of what is done, corrected as parts end or go on."""

from pathlib import Path

import numpy as np
import pytest

from onnxmpq.api import quantize
from onnxmpq.options import MeasureOptions, SearchOptions, VerifyOptions
from onnxmpq.workspace.clock import Clock, Part
from tests.small import MODELS, small_model


class Time:
    """A time that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


HESSIANS = Part(("count Hessians",), 20.0, "share", ("responses",))
TABLE = Part(("centre", "responses"), 100.0, "work", ("solve",))
PLANS = Part(("plans",), 50.0, "work", ("lower",))
SOLVING = Part(("solve",), 10.0, "time", ("lower",))
END = Part(("lower", "verify"), 5.0)


@pytest.fixture(name="time")
def time_of_hand() -> Time:
    return Time()


@pytest.fixture(name="clock")
def clock_of_all(time: Time) -> Clock:
    made = Clock(clock=time)
    made.foresee([HESSIANS, TABLE, PLANS, SOLVING, END])
    return made


def go(clock: Clock, time: Time, what: str, steps: int, each_s: float, each: int, of: int) -> None:
    """Report a stage step by step, each of which takes some seconds."""
    clock(what, 0, of)
    for number in range(1, steps + 1):
        time.now += each_s
        clock(what, number * each, of)


def test_nothing_is_told_before_anything_is_foreseen(time: Time) -> None:
    clock = Clock(clock=time)
    clock("calibrate", 3, 10)
    assert clock.left_s() is None


def test_what_is_foreseen_is_told_at_once_and_passes(clock: Clock, time: Time) -> None:
    assert clock.left_s() == pytest.approx(185)
    clock("count Hessians", 0, 100)
    time.now += 4
    assert clock.left_s() == pytest.approx(181)


def test_reports_are_handed_on() -> None:
    seen: list[tuple[str, int, int]] = []
    Clock(lambda *step: seen.append(step))("responses", 1, 2)
    assert seen == [("responses", 1, 2)]


def test_the_pace_of_what_is_done_is_that_of_what_is_left(clock: Clock, time: Time) -> None:
    go(clock, time, "responses", 50, 2.0, 1000, 100_000)  # half of the table, at half the speed that was foreseen
    left = clock.left_s()
    assert left is not None
    assert left == pytest.approx(
        2 * (50 + 50) + 10 + 5, rel=0.1
    )  # plans go at the pace of responses; nothing else does


def test_what_is_slower_than_foreseen_is_a_slower_machine(clock: Clock, time: Time) -> None:
    go(clock, time, "count Hessians", 50, 0.8, 1, 100)  # 40 seconds for half of it, not 10
    left = clock.left_s()
    assert left is not None
    assert 40 + 1.5 * 165 < left < 4 * (10 + 165)


def test_a_part_that_ends_early_leaves_nothing(clock: Clock, time: Time) -> None:
    go(clock, time, "responses", 10, 1.0, 1000, 10_000)  # a tenth of what was foreseen
    clock("solve", 0, 0)
    assert clock.left_s() == pytest.approx(50 + 10 + 5)
    clock("lower", 0, 0)
    assert clock.left_s() == pytest.approx(5)
    time.now += 7
    assert clock.left_s() == 0


def test_a_part_that_goes_on_has_left_what_its_reports_say(clock: Clock, time: Time) -> None:
    go(clock, time, "responses", 100, 1.0, 1000, 100_000)
    clock("solve", 0, 0)
    go(clock, time, "plans", 50, 1.0, 1000, 50_000)
    go(clock, time, "plans", 1, 1.0, 1000, 20_000)  # more plans than were foreseen
    assert clock.left_s() == pytest.approx(19 + 10 + 5)


def test_what_a_store_has_takes_no_time(clock: Clock) -> None:
    clock("responses", 60_000, 100_000)
    assert clock.left_s() == pytest.approx(40 + 50 + 10 + 5)  # and Hessians are counted before responses


def test_what_is_foreseen_anew_keeps_the_pace(clock: Clock, time: Time) -> None:
    go(clock, time, "responses", 100, 3.0, 1000, 100_000)
    clock.foresee([PLANS, END])
    left = clock.left_s()
    assert left is not None
    assert left == pytest.approx(3 * 50 + 5, rel=0.1)


def test_several_processes_are_foreseen_by_their_pace(time: Time) -> None:
    clock = Clock(clock=time)
    clock.foresee([Part(("responses",), 100.0, "work", pace=0.25)])
    assert clock.left_s() == pytest.approx(25)


@pytest.mark.parametrize("options", [SearchOptions(effort="quick"), SearchOptions("clado"), SearchOptions("local")])
def test_a_search_tells_what_it_will_do_and_nothing_is_left_at_its_end(options: SearchOptions, tmp_path: Path) -> None:
    told: list[tuple[str, float | None]] = []
    clock = Clock(lambda what, *_: told.append((what, clock.left_s())))
    with np.load(MODELS / "digits_calibration.npz") as data:
        images = {"image": data["image"][:12]}
    quantize(
        small_model(),
        images,
        output=tmp_path / "q.onnx",
        budget=["size=30%"],
        search=options,
        measure=MeasureOptions(executor="inline"),
        verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
        progress=clock,
    )
    known = [left for what, left in told if what not in ("load", "calibrate", "float model")]
    assert known[-1] is not None
    begun = next(place for place, (what, _) in enumerate(told) if what == "responses")
    lefts = [left for _, left in told[begun:]]
    assert all(left is not None and left >= 0 for left in lefts)
    parts = {part.stages[0]: known for part, known in zip(clock._parts, clock._known, strict=True)}
    assert [stage for stage, known in parts.items() if not known.over] == ["lower"]
