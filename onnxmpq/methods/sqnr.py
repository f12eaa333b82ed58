"""``sqnr``: a list sorted by signal-to-noise ratio, walked from the top until the budgets are met.

Pandey, Nagel, van Baalen, Huang, Patel and Blankevoort, "A Practical Mixed Precision Algorithm for Post-Training
Quantization". Phase 1 measures the SQNR of the model's output with one unit at one option at a time (of several outputs
the least counts), without labels. Phase 2 starts from the finest plan and walks down the list; every entry that is
cheaper than what its unit has by then is taken. The walk stops where the budgets are met, or at the last plan that
still holds a target: a measured figure, for which fewer plans than all on the way are looked at.

Quantizer groups are units, and units that must agree are one: their noise powers add up. Candidates, pairs of weight
and activation bits, are the options of the menu.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite
from typing import ClassVar, Literal

import numpy as np

from onnxmpq.errors import InputError, nearest
from onnxmpq.methods.greedy import Bundles, Picked, bundles_of, finish
from onnxmpq.methods.study import Choices, Draft, Study
from onnxmpq.sensitivity.table import Table, Variant

SearchName = Literal["sequential", "binary", "interpolation"]
SEARCHES: tuple[SearchName, ...] = ("sequential", "binary", "interpolation")
_NO_SIGNAL_DB = -300.0  # what noise counts as on an output that has no signal
Figure = Callable[[Choices], float]


@dataclass(frozen=True, slots=True)
class Sqnr:
    """Two phases: sort by SQNR, then walk down.

    ``most`` is what a figure of the plan may come to, where a target and not a budget is the end: the measured loss, or
    that of ``figure`` (the lower the better, such as an error rate). Where there are budgets too, they go first.
    ``search`` says which plans on the way are looked at.
    """

    name: ClassVar[str] = "sqnr"
    search: SearchName = "binary"
    most: float | None = None
    figure: Figure | None = None

    def __post_init__(self) -> None:
        """Refuse options that do not fit together."""
        if self.search not in SEARCHES:
            raise InputError(
                f"There is no search '{self.search}'. Known: {', '.join(SEARCHES)}.{nearest(self.search, SEARCHES)}"
            )
        if self.figure is not None and self.most is None:
            raise InputError("A figure needs the most that it may come to: set 'most'.")

    def propose(self, study: Study) -> Draft:
        """Measure every variant alone, sort, and walk."""
        bundles = bundles_of(study)
        noise = noise_shares(study.table())
        path, met = _walk(bundles, noise, beyond=self.most is not None)
        plans = [bundles.choices(picked) for picked in path]
        powers = {variant: float(shares.max(initial=0.0)) for variant, shares in noise.items()}
        first, notes = finish(study, plans[met], powers)
        if self.most is None or notes:
            return Draft((first,), (None,), notes=notes)
        figure = self.figure or (lambda choices: study.losses([choices])[0].value)
        target = Target(lambda place: figure(plans[met + place]), len(plans) - met, self.most)
        last = find_last(target, self.search)
        return Draft((plans[met + last],), (None,), notes=_told(target, last))


def noise_shares(table: Table) -> dict[Variant, np.ndarray]:
    """Return noise over signal of every output, for every variant."""
    decibels = np.nan_to_num(np.asarray(table.sqnr_db, float), nan=inf, posinf=inf, neginf=_NO_SIGNAL_DB)
    return dict(zip(table.variants, 10 ** (-decibels / 10), strict=True))


@dataclass(slots=True)
class Target:
    """The plans of a walk, by their place, with the figures that were looked at."""

    look: Callable[[int], float]
    count: int
    most: float
    seen: dict[int, float] = field(default_factory=dict)

    def __getitem__(self, place: int) -> float:
        """Return the figure of a plan, looked at once."""
        if place not in self.seen:
            self.seen[place] = self.look(place)
        return self.seen[place]

    def holds(self, place: int) -> bool:
        """Tell whether a plan holds the target."""
        return self[place] <= self.most


def find_last(target: Target, search: SearchName) -> int:
    """Return the last plan before the first that breaks the target, or the first plan if that one breaks it.

    Binary and interpolation search find what a sequential one finds where figures rise along the walk, and look at the
    plans on both sides of what they found to see whether they do.
    """
    if search == "sequential":
        return max(next((place for place in range(target.count) if not target.holds(place)), target.count) - 1, 0)
    low, high = 0, target.count - 1
    if not target.holds(low):
        return low
    if target.holds(high):
        return high
    halve = search == "binary"
    while high - low > 1:
        middle = (low + high) // 2
        place = middle if halve else _interpolated(target, low, high)
        if target.holds(place):
            low = place
        else:
            high = place
        # Figures that bend, as losses do, hold one end fast; every other step halves what is left.
        halve = search == "binary" or not halve
    for near in (low - 1, high + 1):
        if 0 <= near < target.count:
            _ = target[near]
    return low


def _interpolated(target: Target, low: int, high: int) -> int:
    """Return the place between two plans where a straight line meets the target."""
    rise = target[high] - target[low]
    if not (isfinite(rise) and rise > 0):
        return (low + high) // 2
    place = low + int((target.most - target[low]) / rise * (high - low))
    return min(max(place, low + 1), high - 1)


def _told(target: Target, last: int) -> tuple[str, ...]:
    looked = f"{len(target.seen)} of {target.count} plans were looked at; the figure came to {target[last]:.6g}."
    notes = [looked]
    if not target.holds(last):
        notes.append(f"Even the finest plan within the budgets exceeds {target.most:.6g}.")
    places = sorted(target.seen)
    if falls := [b for a, b in pairwise(places) if target[b] < target[a]]:
        at = ", ".join(map(str, falls))
        notes.append(
            f"The figure does not rise all along the walk: it falls at step {at}. "
            "A sequential search could stop elsewhere, and later plans may hold the target too."
        )
    return tuple(notes)


def _walk(bundles: Bundles, noise: Mapping[Variant, np.ndarray], *, beyond: bool) -> tuple[list[Picked], int]:
    """Return the plans from the finest down the list, and the place of the first that meets the budgets.

    Without ``beyond`` the walk ends there, otherwise at the end of the list. A plan that nothing on the list brings
    nearer to the budgets ends it too, and is the place returned.
    """
    order = _sorted(bundles, noise)
    path = [bundles.finest()]
    usage = bundles.usage(path[-1])
    met: int | None = None
    while True:
        steps = len(path)
        for i, place in order:
            over = bundles.overrun(usage)
            if met is None and over == 0:
                met = len(path) - 1
                if not beyond:
                    return path, met
            picked = (*path[-1][:i], place, *path[-1][i + 1 :])
            then = bundles.usage(picked)
            cheaper = bundles.overrun(then) < over if over > 0 else then.sum() < usage.sum()
            if cheaper and bundles.overrun(then) <= over:
                path.append(picked)
                usage = then
        if len(path) == steps or bundles.overrun(usage) == 0:
            break
    return path, met if met is not None else len(path) - 1


def _sorted(bundles: Bundles, noise: Mapping[Variant, np.ndarray]) -> list[tuple[int, int]]:
    """Return every bundle and option but the finest, the highest SQNR first: the least noise of the worst output."""
    entries = []
    for i, (bundle, finest) in enumerate(zip(bundles.bundles, bundles.finest(), strict=True)):
        for place, option in enumerate(bundle.options):
            if place == finest:
                continue
            names = [bundles.menu.units[unit].name for unit in bundle.units]
            shares = [noise[variant] for name in names if (variant := Variant(name, option)) in noise]
            worst = float(np.sum(shares, axis=0).max()) if shares else 0.0
            entries.append((worst, i, place))
    return [(i, place) for _, i, place in sorted(entries)]
