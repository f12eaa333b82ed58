"""Which units ruin a plan, found by local errors and a few runs, and the plan that keeps those finer.

1. every unit has steps, from what was asked to float: w4a8, w8a8, w8, float
2. one run gives the local error of every unit at every step (see ``onnxmpq.guard.boundaries``)
3. a plan takes for every unit the first step whose local error is within a bound; a few bounds are tried by measuring
   what whole plans do to the outputs
4. where that does not help, a part of the network is looked for that makes the outputs usable when it is float: some
   errors show only further down, those in front of a logarithm, say
5. the bound is bisected within that part, or within the whole network where there is none
6. units are put back to what was asked, the least suspicious first, as long as the outputs stay usable

All of it runs on a few samples, and within a tenth of what measuring every unit on all of them would take (see
``onnxmpq.guard.probe``).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from onnxmpq.artifacts import FLOAT, Option, Plan, Space, plain
from onnxmpq.guard.damage import Damage, Thresholds, decibels
from onnxmpq.guard.probe import Probe
from onnxmpq.methods.uniform import no_coarser
from onnxmpq.metrics.losses import Head
from onnxmpq.options import Constraints
from onnxmpq.search.constraints import matching
from onnxmpq.workspace.workspace import Workspace

Places = dict[str, int]
"""On which of its steps every unit stands."""

_FINEST = 9  # a step that no ladder reaches: its last one is taken
_STRICTER = 1 / 3  # of a threshold: what a plan has to keep on few samples, to keep it on all
_STEPS = (Option(8, 8), Option(8))
"""What a unit may take instead of what was asked, before float."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """A unit that is kept finer: its options, its local error in dB, and what the file is when it alone is put back."""

    unit: str
    asked: Option
    kept: Option
    local_db: float
    alone: Damage | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "unit": self.unit,
            "asked": str(self.asked),
            "kept": str(self.kept),
            "local_db": plain(self.local_db),
            "alone": self.alone.to_json() if self.alone else None,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found: the plan that keeps culprits finer, what it does on the samples looked at, and the cost.

    ``runs`` are of the whole model on one sample; ``share`` is theirs of what measuring every unit on all takes.
    """

    plan: Plan
    culprits: tuple[Culprit, ...]
    after: Damage
    runs: int
    share: float


def find(
    workspace: Workspace,
    plan: Plan,
    heads: Sequence[Head],
    thresholds: Thresholds,
    constraints: Constraints,
) -> Finding | None:
    """Find the units that ruin a plan; None where it is usable on the samples that are looked at."""
    return Hunt.of(workspace, plan, heads, thresholds, constraints).finding()


class Hunt:
    """The search for culprits: every unit stands on a step of its ladder, and what that does is measured."""

    def __init__(
        self, probe: Probe, plan: Plan, ladder: Mapping[str, tuple[Option, ...]], thresholds: Thresholds
    ) -> None:
        """Run once for the local errors of all units at all steps but float."""
        self.probe, self.plan, self.ladder, self.thresholds = probe, plan, ladder, thresholds
        self.alone: dict[str, Damage] = {}
        self._known: dict[tuple[int, ...], Damage] = {}
        height = max(len(steps) for steps in ladder.values())
        levels = [self.at(self.stepped(ladder, step)) for step in range(height)]
        self.levels = [level for level in levels if not all(option.is_float for option in level.choices.values())]
        self.errors = probe.local_errors(self.levels)

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        plan: Plan,
        heads: Sequence[Head],
        thresholds: Thresholds,
        constraints: Constraints,
    ) -> Self:
        """Begin with a plan; thresholds are those that the plan that is found has to keep on all samples."""
        ladder = _ladder(workspace.prepared.space, plan, constraints)
        return cls(Probe(workspace, heads), plan, ladder, _stricter(thresholds))

    def finding(self) -> Finding | None:
        """Return who is to blame, with the plan that keeps them finer; None where the plan is usable as it is."""
        places = self.coarsened(self.put_back(self.found()))
        errors = self.errors[0]
        changed = sorted((unit for unit, place in places.items() if place), key=lambda unit: -errors.get(unit, 0.0))
        if not changed:
            return None
        culprits = []
        for unit in changed:
            asked, kept = self.ladder[unit][0], self.ladder[unit][places[unit]]
            culprits.append(Culprit(unit, asked, kept, decibels(1.0, errors.get(unit, 0.0)), self.alone.get(unit)))
        after, probe = self.damage(places), self.probe
        return Finding(self.at(places), tuple(culprits), after, probe.runs, probe.runs / probe.everything)

    def stepped(self, units: Collection[str], step: int) -> Places:
        """Return some units at a step, or at their last one, and all others as they were asked for."""
        return {unit: min(step, len(steps) - 1) if unit in units else 0 for unit, steps in self.ladder.items()}

    def at(self, places: Places) -> Plan:
        """Return the plan with every unit at a step."""
        return replace(self.plan, choices={unit: steps[places[unit]] for unit, steps in self.ladder.items()})

    def damage(self, places: Places) -> Damage:
        """Measure a plan, once."""
        key = tuple(places.values())
        if key not in self._known:
            self._known[key] = self.probe.damage(self.at(places))
        return self._known[key]

    def usable(self, places: Places) -> bool:
        """Tell whether the outputs of a plan are usable."""
        return not self.thresholds.broken(self.damage(places))

    def found(self) -> Places:
        """Return steps with which the outputs are usable, as far as could be found."""
        asked = self.stepped((), 0)
        if self.usable(asked):
            return asked
        bounded, before = self.bounded(), -1
        for number in (0, 1, 3):
            if number >= len(bounded):
                break
            if self.usable(bounded[number]):
                return bounded[self.bisected(before, number, lambda place: self.usable(bounded[place]))]
            before = number
        part = self.region()
        within = [{unit: place if unit in part else 0 for unit, place in places.items()} for places in bounded]
        plans = [places for number, places in enumerate(within) if not number or places != within[number - 1]]
        broken = -1 if len(plans) < len(bounded) else before
        chosen = self.bisected(broken, len(plans) - 1, lambda place: self.usable(plans[place]))
        return plans[chosen] if chosen < len(plans) - 1 else self.worst_float(part) or plans[chosen]

    def worst_float(self, part: set[str]) -> Places | None:
        """Return a plan with all of a part one step finer and the worst of it float; None where none is usable.

        Where local errors say too little of finer steps, no bound on them tells those from float.
        """
        worst = sorted(part, key=lambda unit: -self.errors[0].get(unit, 0.0))
        for count in (2, 4, 8):
            finest = self.stepped(worst[:count], _FINEST)
            places = {unit: max(place, finest[unit]) for unit, place in self.stepped(part, 1).items()}
            if not self.probe.spent and self.usable(places):
                return places
        return None

    def bounded(self) -> list[Places]:
        """Return plans from coarse to fine: each unit takes its first step with a local error within a bound."""

        def within(bound: float) -> Places:
            places = {}
            for unit, steps in self.ladder.items():
                fitting = (
                    step
                    for step in range(len(steps))
                    if step >= len(self.errors) or self.errors[step].get(unit, 0.0) <= bound
                )
                places[unit] = next(fitting, len(steps) - 1)
            return places

        bounds = sorted({found.get(unit, 0.0) for unit in self.ladder for found in self.errors}, reverse=True)
        plans: list[Places] = []
        for bound in [*bounds[1:], -1.0]:  # the largest bound is the plan itself
            places = within(bound)
            if not plans or places != plans[-1]:
                plans.append(places)
        return [plans[place] for place in thinned(len(plans))]

    def bisected(self, broken: int, good: int, usable: Callable[[int], bool]) -> int:
        """Return the usable place next to one that is not, between two of which one is and the other is not.

        Where the budget is spent the nearest that is known to be usable is taken.
        """
        while abs(good - broken) > 1 and not self.probe.spent:
            middle = (broken + good) // 2
            if usable(middle):
                good = middle
            else:
                broken = middle
        return good

    def region(self) -> set[str]:
        """Return a part of the network, in the order of its units, that fixes the outputs when it is float, or all."""
        units = [unit for unit, steps in self.ladder.items() if len(steps) > 1]
        middle, count = len(units) // 2, len(units)

        def fixes(start: int, end: int) -> bool:
            return self.usable(self.stepped(units[start:end], _FINEST))

        if fixes(0, middle):
            start, end = 0, middle
        elif fixes(middle, count):
            start, end = middle, count
        else:
            return set(units)
        end = self.bisected(start, end, lambda place: fixes(start, place))
        return set(units[self.bisected(end, start, lambda place: fixes(place, end)) : end])

    def coarsened(self, places: Places) -> Places:
        """Take finer units to coarser steps while the outputs stay usable, all or one by one: w8 rather than float."""
        height = max(places.values(), default=0)
        for step in range(1, height):
            tried = {unit: min(place, step) for unit, place in places.items()}
            if not self.probe.spent and self.usable(tried):
                return tried
        for unit in [unit for unit, place in places.items() if place > 1]:
            tried = places | {unit: 1}
            if not self.probe.spent and self.usable(tried):
                places = tried
        return places

    def put_back(self, places: Places) -> Places:
        """Put units back to what was asked while the outputs stay usable, many at once and then one by one.

        What the file would be with one of them put back is kept where it would not be usable.
        """
        errors = self.errors[0]
        left = sorted((unit for unit, place in places.items() if place), key=lambda unit: errors.get(unit, 0.0))
        size = max(len(left) // 2, 1)
        while left and not self.probe.spent:
            for start in range(0, len(left), size):
                group = left[start : start + size]
                tried = places | dict.fromkeys(group, 0)
                if self.probe.spent:
                    break
                if self.usable(tried):
                    places = tried
                elif size == 1:
                    self.alone[group[0]] = self.damage(tried)
            left = [unit for unit in left if places[unit]]
            if size == 1:
                break
            size //= 2
        return places


def _ladder(space: Space, plan: Plan, constraints: Constraints) -> dict[str, tuple[Option, ...]]:
    """Return the steps of every unit from what the plan gives it to float; what was decided by hand stays there."""
    patterns = [*constraints.exclude, *(text.rpartition("=")[0] for text in constraints.keep)]
    patterns += [part.strip() for text in constraints.ties for part in text.split(",")]
    by_hand = {unit.name for pattern in patterns for unit in matching(space, pattern)}
    ladder = {}
    for unit in space.units:
        asked = plan.choices.get(unit.name, FLOAT)
        finer = no_coarser(unit, asked) if not asked.is_float and unit.name not in by_hand else ()
        ladder[unit.name] = (asked, *(option for option in (*_STEPS, FLOAT) if option in finer and option != asked))
    return ladder


def _stricter(thresholds: Thresholds) -> Thresholds:
    """Return thresholds that a plan has to keep on few samples, to keep the given ones on all.

    Of classes the share stays: on few samples a tie more or less would decide.
    """
    margin = 10 * np.log10(1 / _STRICTER)
    return Thresholds(thresholds.classes, _STRICTER * thresholds.loss, thresholds.sqnr + float(margin))


def thinned(count: int) -> list[int]:
    """Return the places of some of ``count`` plans: all of the first ones, and fewer and fewer behind them.

    >>> thinned(20)
    [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19]
    """
    places = [0]
    while places[-1] < count - 1:
        places.append(min(max(places[-1] + 1, round(places[-1] * 1.25)), count - 1))
    return places
