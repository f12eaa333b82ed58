"""Progress on standard error: a bar that never stands still on a terminal, plain lines elsewhere.

    with progress(quiet=False, verbose=True) as report:
        report("responses", 12, 480)       what is done, how much of it, how much there is (0: not known)

What is before a colon is the stage. The function is a clock (``onnxmpq.workspace.clock``): once a search has told it
what there is to do, what is left of the whole is shown. Where nothing is foreseen it is what is left of the stage, by
how fast that went since it began here; what a store had already is not counted.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from onnxmpq.cli.console import SafeConsole
from onnxmpq.workspace.clock import Clock

LINE_EVERY_S = 10.0
"""How often a line is written where there is no terminal, besides one for every stage."""

_SURE_S = 1.0  # what ran before the time left is told

Report = Callable[[str, int, int], None]


@dataclass(slots=True)
class Stage:
    """A stage that runs, and how much of how much is done.

    Its speed counts from ``since``, when ``before`` was done: the end of its first step, which sets things up as well.
    """

    name: str
    began: float
    done: int
    of: int
    since: float
    before: int
    steps: int = 0
    changed: float = 0.0

    @property
    def finished(self) -> bool:
        """Tell whether all of it is done."""
        return self.of > 0 and self.done >= self.of

    def left_s(self, now: float) -> float | None:
        """Return the seconds that are left, at the speed so far; None where nothing is known yet."""
        fresh = self.done - self.before
        if self.finished or self.steps < 2 or fresh <= 0 or now - self.began < _SURE_S:
            return None
        each = (self.changed - self.since) / fresh
        return max(each * (self.of - self.done) - (now - self.changed), 0.0)

    def went_on(self, done: int, of: int, moment: float) -> None:
        """Take how much is done by now."""
        if done > self.done:
            self.steps += 1
            if self.steps == 2:
                self.since, self.before = self.changed, self.done
            self.changed = moment
        self.done, self.of = done, of


def duration(seconds: float) -> str:
    """Write seconds for people.

    >>> duration(7.4), duration(75), duration(7330)
    ('7 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def minutes(seconds: float) -> str:
    """Write seconds that are foreseen, no finer than they are known.

    >>> minutes(7.4), minutes(75), minutes(1000), minutes(9000)
    ('less than 1 min', 'about 1 min', 'about 17 min', 'about 2 h 30 min')
    """
    whole = round(seconds / 60)
    if whole < 1:
        return "less than 1 min"
    return f"about {whole} min" if whole < 90 else f"about {whole // 60} h {whole % 60} min"


class Stages:
    """Follow reports from stage to stage; ``ended`` is told of each stage when the next begins, or all is over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin now."""
        self.clock, self.began = clock, clock()
        self.now = Stage("", self.began, 0, 0, self.began, 0)

    def report(self, what: str, done: int, of: int) -> Stage | None:
        """Take a report; return the stage that ended with it, if one did."""
        name, moment = what.partition(":")[0], self.clock()
        ended = None
        if name != self.now.name or done < self.now.done:
            ended = self.now if self.now.name else None
            self.now = Stage(name, moment, done, of, moment, done)
        self.now.went_on(done, of, moment)
        return ended


@contextmanager
def progress(quiet: bool, verbose: bool = False) -> Iterator[Report]:
    """Give a function that shows progress: a bar on a terminal, lines elsewhere, nothing if quiet.

    With ``verbose`` every stage leaves a line with its seconds, and runtimes say what they warn of.
    """
    console = SafeConsole(stderr=True, highlight=False)
    with _loud() if verbose else nullcontext():
        if quiet:
            yield lambda *_: None
            return
        stages = Stages()
        clock = Clock(clock=stages.clock)
        shown = _bar if console.is_terminal and not console.is_dumb_terminal else _lines
        with shown(console, verbose, stages, clock) as report:
            clock.show = report
            yield clock


@contextmanager
def _loud() -> Iterator[None]:
    """Let runtimes say what they warn of, in this process and in workers that it starts."""
    before = os.environ.get("ONNXMPQ_LOG", "")
    os.environ["ONNXMPQ_LOG"] = "1"
    try:
        yield
    finally:
        os.environ["ONNXMPQ_LOG"] = before


def _stamp(since: float, text: str) -> str:
    return f"{since:6.1f} s  {text}"


@contextmanager
def _lines(console: Console, verbose: bool, stages: Stages, clock: Clock) -> Iterator[Report]:
    """Write a line when a stage begins, and one now and then while it goes on."""
    known: set[str] = set()
    last = -LINE_EVERY_S

    def write(text: str) -> None:
        console.print(_stamp(stages.clock() - stages.began, text), markup=False, soft_wrap=True)

    def line(what: str, done: int, of: int) -> None:
        nonlocal last
        ended = stages.report(what, done, of)
        stage, moment = stages.now, stages.clock()
        if ended and verbose:
            write(_ended(ended, moment))
        first, due = stage.name not in known, moment - last >= LINE_EVERY_S
        if first or due:
            text = stage.name if first else f"{stage.name}{_share(stage)}"
            write(text + _left(stages, clock))
            known.add(stage.name)
            last = moment

    yield line
    if verbose and stages.now.name:
        write(_ended(stages.now, stages.clock()))


def _left(stages: Stages, clock: Clock) -> str:
    """Say what is left: of the whole where that is foreseen, else of the stage; nothing where nothing is known."""
    whole, stage = clock.left_s(), stages.now.left_s(stages.clock())
    if whole is not None:
        return f", {minutes(whole)} left"
    return f", about {duration(stage)} left in this stage" if stage is not None else ""


def _ended(stage: Stage, moment: float) -> str:
    return f"{stage.name} took {moment - stage.began:.1f} s"


def _share(stage: Stage) -> str:
    return f" {stage.done / stage.of:.0%}" if stage.of else ""


@contextmanager
def _bar(console: Console, verbose: bool, stages: Stages, clock: Clock) -> Iterator[Report]:
    """Show a bar that turns and counts seconds, whatever the stage does."""
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
    from rich.text import Text

    class Elapsed(ProgressColumn):
        """Seconds so far, and those that are left."""

        max_refresh = 0.2

        def render(self, task: Task) -> Text:
            """Read the clock."""
            return Text(duration(stages.clock() - stages.began) + _left(stages, clock))

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        TextColumn("{task.fields[share]}"),
    )
    with Progress(*columns, Elapsed(), console=console, transient=True, refresh_per_second=5) as bars:
        task = bars.add_task("starting", total=None, share="")

        def bar(what: str, done: int, of: int) -> None:
            ended = stages.report(what, done, of)
            if ended and verbose:
                console.print(_stamp(stages.clock() - stages.began, escape(_ended(ended, stages.clock()))))
            stage = stages.now
            if stage.finished:  # what follows may take long, too, and says nothing until it is done
                bars.update(task, description=what if ":" in what else f"{what} done, going on", total=None, share="")
                return
            if ended:
                bars.reset(task, total=of or None, completed=done)
            share = f"{done / of:4.0%}" if of else ""
            bars.update(task, description=what, total=of or None, completed=done, share=share)

        yield bar
        if verbose and stages.now.name:
            console.print(_stamp(stages.clock() - stages.began, escape(_ended(stages.now, stages.clock()))))
