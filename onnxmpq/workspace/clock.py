"""How long a run will still take, as a whole: what was foreseen of it, at the pace of what is done.

    clock = Clock(show)                 takes reports of progress, and hands them on
    clock.foresee(parts)                what is left from now on, part by part, in the order in which they begin
    clock.left_s()                      seconds left of all of it; None where nothing was foreseen yet

A part is foreseen in seconds of work. What its reports say is done, and how long that took, is its pace; a part that
did not begin goes as much slower than foreseen as the others did: a machine may have other work. A part is over,
whatever was foreseen, once a stage is reported that comes after it; one that takes more than was foreseen has left what
its reports say.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Counted = Literal["work", "share", "time"]
_SURE = 0.1  # of a part: so much of it counts as done at the pace that was foreseen
_LEAST_S = 0.3  # the same where a part is short: what its first step sets up


@dataclass(frozen=True, slots=True)
class Part:
    """Some of what a run will do: the stages that report it, ``seconds`` of work, and at what ``pace`` these pass.

    Reports count milliseconds of the ``work``, the ``share`` of the part that is done, or nothing but ``time`` passes.
    It is over once one of the stages in ``until`` is reported. A pace below 1 is that of several processes.
    """

    stages: tuple[str, ...]
    seconds: float
    counted: Counted = "time"
    until: tuple[str, ...] = ()
    pace: float = 1.0


@dataclass(slots=True)
class _Known:
    """How far a part is: seconds of work that are done, those that a store had, and the time that they took."""

    done: float = 0.0
    stored: float = 0.0
    spent: float = 0.0
    over: bool = False


class Clock:
    """Takes reports of progress, hands them on to ``show``, and tells what is left of the whole."""

    def __init__(
        self, show: Callable[[str, int, int], None] = lambda *_: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin now, with nothing foreseen."""
        self.show, self.clock = show, clock
        self._parts: tuple[Part, ...] = ()
        self._known: list[_Known] = []
        self._before = 0.0, 0.0
        self._stage, self._done, self._of, self._last = "", 0, 0, clock()

    def __call__(self, what: str, done: int, of: int) -> None:
        """Take a report: ``done`` of ``of``, of the stage that stands before a colon."""
        self._pass_time()
        stage = what.partition(":")[0]
        again = stage != self._stage or done < self._done or of != self._of
        for part, known in zip(self._parts, self._known, strict=True):
            known.over = known.over or stage in part.until
        if (place := self._place(stage)) is not None:
            self._count(self._parts[place], self._known[place], 0 if again else self._done, done, of, again=again)
        self._stage, self._done, self._of = stage, done, of
        self.show(what, done, of)

    def foresee(self, parts: Sequence[Part]) -> None:
        """Take what is left from now on; the pace of what is done stays known."""
        self._pass_time()
        for part, known in zip(self._parts, self._known, strict=True):
            if part.counted != "time":
                foreseen, spent = self._before
                self._before = foreseen + known.done * part.pace, spent + known.spent
        self._parts, self._known = tuple(parts), [_Known() for _ in parts]
        self._stage = ""

    def left_s(self) -> float | None:
        """Return the seconds that are left of all that was foreseen, None where nothing was."""
        if not self._parts:
            return None
        place, idle = self._place(self._stage), self.clock() - self._last
        left = 0.0
        for number, (part, known) in enumerate(zip(self._parts, self._known, strict=True)):
            if not known.over:
                each = self._left_of(part, known, pending=number == place)
                left += max(each - idle, 0.0) if number == place else each
        return left

    def _pass_time(self) -> None:
        """Count the time since the last report for the stage that ran."""
        moment = self.clock()
        if (place := self._place(self._stage)) is not None:
            self._known[place].spent += moment - self._last
        self._last = moment

    def _place(self, stage: str) -> int | None:
        """Return the part that a stage is of: the first one that is not over."""
        for number, (part, known) in enumerate(zip(self._parts, self._known, strict=True)):
            if stage in part.stages and not known.over:
                return number
        return None

    @staticmethod
    def _count(part: Part, known: _Known, before: int, done: int, of: int, *, again: bool) -> None:
        """Add what a report says; what is done already where a stage begins was in a store."""
        if part.counted == "work" and again:
            known.stored += done / 1000
        elif part.counted == "work":
            known.done += (done - before) / 1000
        elif part.counted == "share" and of:
            known.done = part.seconds * done / of

    def _left_of(self, part: Part, known: _Known, *, pending: bool) -> float:
        """Return the seconds left of one part; where its stage runs, not less than that says."""
        if part.counted == "time":
            return max(part.seconds * self._slower(known) - known.spent, 0.0)
        left = part.seconds - known.done - known.stored
        if pending and part.counted == "work":
            left = max(left, (self._of - self._done) / 1000)
        return max(left, 0.0) * self._pace(part, known)

    def _pace(self, part: Part, known: _Known) -> float:
        """Return how many seconds pass for each second of work, by what passed, and by what was foreseen at first."""
        weight = max(_SURE * part.seconds, min(_LEAST_S, part.seconds), 1e-9)
        return (part.pace * self._slower(known) * weight + known.spent) / (weight + known.done)

    def _slower(self, known: _Known) -> float:
        """Return by how much all but one of the parts took longer than was foreseen."""
        others = [
            (other.done * part.pace, other.spent)
            for part, other in zip(self._parts, self._known, strict=True)
            if part.counted != "time" and other is not known
        ]
        foreseen = self._before[0] + sum(done for done, _ in others)
        spent = self._before[1] + sum(passed for _, passed in others)
        weight = _SURE * sum(part.seconds * part.pace for part in self._parts) + _LEAST_S
        return (weight + spent) / (weight + foreseen)
