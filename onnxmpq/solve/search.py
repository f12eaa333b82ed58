"""Good plans fast: descent by single flips and pair exchanges, kicked and annealed, on incrementally kept gradients.

    gradient = linear + 2 quadratic x      a flip from option a to u changes the value by gradient[u] - gradient[a]

A move costs one pass over the options. How long a search goes on is counted in its own steps, never in seconds, so
that a seed gives one answer on every machine; a deadline only cuts it short.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp

import numpy as np

from onnxmpq.solve.reduce import Floats, Integers, Reduced

EXCHANGED = 160  # options that pair exchanges choose from
KICKED = 20  # options, at least, that a kick chooses from
TEMPERATURE = 2e-3  # of the best value: how much worse the annealing walks
RESTART = 300  # kicks without a better plan before the walk returns to the best
TINY = 1e-10  # improvements below this share of the largest coefficient are rounding


@dataclass(slots=True)
class Walk:
    """One option per unit, its value, gradient and usage, kept up to date move by move."""

    reduced: Reduced
    picked: Integers
    value: float
    gradient: Floats
    usage: Floats

    @classmethod
    def start(cls, reduced: Reduced, picked: Integers) -> "Walk":
        """Begin at one option per unit."""
        return cls(
            reduced,
            picked.copy(),
            reduced.value(picked),
            reduced.linear + 2 * reduced.quadratic[picked].sum(0),
            reduced.rows[:, picked].sum(1),
        )

    def copy(self) -> "Walk":
        """Return a walk that goes on from here by itself."""
        return Walk(self.reduced, self.picked.copy(), self.value, self.gradient.copy(), self.usage.copy())

    def move(self, option: int, unit: int) -> None:
        """Give the unit the option."""
        current = self.picked[unit]
        if current != option:
            self.value += float(self.gradient[option] - self.gradient[current])
            self.gradient += 2 * (self.reduced.quadratic[option] - self.reduced.quadratic[current])
            self.usage = self.usage + self.reduced.rows[:, option] - self.reduced.rows[:, current]
            self.picked[unit] = option


class Search:
    """Searches plans of one problem; what it draws at random depends on its seed alone."""

    def __init__(self, reduced: Reduced, seed: int, expired: Callable[[], bool] = lambda: False) -> None:
        """Prepare what every walk needs."""
        self.reduced = reduced
        self.random = np.random.default_rng(seed)
        self.expired = expired
        self.starts, self.owner = reduced.starts, reduced.owner
        self.allowed = reduced.limits + reduced.tolerances
        largest = max(np.abs(reduced.linear).max(initial=0.0), np.abs(reduced.quadratic).max(initial=0.0))
        self.tiny = TINY * max(float(largest), 1e-300)
        self.prices = np.zeros(len(reduced.limits))

    def feasible(self, walk: Walk) -> bool:
        """Tell whether the walk stands at a plan that keeps every row."""
        return bool((walk.usage <= self.allowed).all())

    def changes(self, walk: Walk) -> tuple[Floats, Floats, Integers]:
        """Return how each option would change value and usage, and which option its unit has now."""
        current = walk.picked[self.owner]
        gradient, rows = walk.gradient, self.reduced.rows
        return gradient - gradient.take(current), rows - rows.take(current, 1), current

    def cheapest(self) -> Integers:
        """Return the option of every unit that uses the least of all rows together."""
        weight = (self.reduced.rows / self.reduced.row_scales[:, None]).sum(0)
        return _best(weight, self.starts, self.owner)

    def rounded(self, share: Floats, *, noisy: bool) -> Integers:
        """Pick options by their shares: the largest of every unit, or drawn with them as probabilities."""
        score = -share if not noisy else -(np.log(np.maximum(share, 1e-12)) + self.random.gumbel(size=len(share)))
        return _best(score, self.starts, self.owner)

    def repair(self, walk: Walk) -> bool:
        """Move until every row is kept: each time what costs least per violation it removes."""
        scales = self.reduced.row_scales
        for _ in range(6 * self.reduced.units):
            excess = np.maximum(walk.usage - self.allowed, 0)
            if not excess.any():
                return True
            gain, used, _ = self.changes(walk)
            after = np.maximum((walk.usage - self.allowed)[:, None] + used, 0)
            removed = (excess / scales).sum() - (after / scales[:, None]).sum(0)
            useful = removed > 1e-15
            if not useful.any():
                return False
            price = np.full(len(gain), np.inf)
            price[useful] = np.maximum(gain[useful], 0) / removed[useful] + np.minimum(gain[useful], 0)
            option = int(price.argmin())
            walk.move(option, int(self.owner[option]))
        return self.feasible(walk)

    def descend(self, walk: Walk) -> float:
        """Take the best flip, or where none helps the best exchange of two, until neither helps."""
        while True:
            gain, used, current = self.changes(walk)
            room = (self.allowed - walk.usage)[:, None]
            fits = np.asarray((used <= room).all(0))
            option = int(np.where(fits, gain, 0.0).argmin())
            if fits[option] and gain[option] < -self.tiny:
                walk.move(option, int(self.owner[option]))
            elif (pair := self._exchange(walk, gain, used, current)) is not None:
                for option in pair:
                    walk.move(option, int(self.owner[option]))
            else:
                return walk.value

    def _exchange(self, walk: Walk, gain: Floats, used: Floats, current: Integers) -> tuple[int, int] | None:
        """Return the two flips that together gain most, among the options that cost least at current prices."""
        count = min(EXCHANGED, self.reduced.options - self.reduced.units)
        if count < 2:
            return None
        priced = gain + self.prices @ used
        priced[walk.picked] = np.inf
        near = np.argpartition(priced, count - 1)[:count]
        now = current[near]
        both = gain[near][:, None] + gain[near] + 2 * self._crossed(near, now)
        both[now[:, None] == now] = 0.0
        for row in range(len(self.allowed)):
            cost = used[row][near]
            both[cost[:, None] + cost > self.allowed[row] - walk.usage[row]] = 0.0
        best = int(both.argmin())
        if both.flat[best] >= -self.tiny:
            return None
        return int(near[best // count]), int(near[best % count])

    def _crossed(self, near: Integers, now: Integers) -> Floats:
        """Return by how much two flips together differ from their sum, halved; ``take`` is faster than any index."""
        taken, left = (self.reduced.quadratic.take(options, 0) for options in (near, now))
        crossed: Floats = taken.take(near, 1)
        crossed -= taken.take(now, 1)
        crossed += left.take(now, 1) - left.take(near, 1)
        return crossed

    def reprice(self, walk: Walk) -> None:
        """Estimate what a unit of every tight row is worth here: between what flips pay for it and what they give."""
        gain, used, _ = self.changes(walk)
        prices = np.zeros_like(self.prices)
        for row, cost in enumerate(used):
            if self.allowed[row] - walk.usage[row] > 0.02 * self.reduced.row_scales[row]:
                continue
            least = 1e-12 * self.reduced.row_scales[row]
            frees, takes = cost < -least, cost > least
            high = (gain[frees] / -cost[frees]).min() if frees.any() else 0.0
            low = (-gain[takes] / cost[takes]).max() if takes.any() else 0.0
            prices[row] = 0.5 * (max(high, 0.0) + max(low, 0.0))
        self.prices = prices / max(int((prices > 0).sum()), 1)

    def from_shares(self, share: Floats, draws: int, best: Walk | None) -> Walk | None:
        """Round fractional picks many times, repair and descend; return the best plan met."""
        for draw in range(draws):
            if draw and self.expired():
                break
            walk = Walk.start(self.reduced, self.rounded(share, noisy=draw > 0))
            if not self.repair(walk):
                continue
            self.reprice(walk)
            self.descend(walk)
            if best is None or walk.value < best.value - self.tiny:
                best = walk.copy()
        return best

    def iterate(self, start: Walk, patience: int) -> Walk:
        """Kick, repair and descend from a plan until ``patience`` kicks brought nothing; return the best met."""
        walk = start.copy()
        self.reprice(walk)
        self.descend(walk)
        self.reprice(walk)
        best, stay, stalled = walk.copy(), walk.copy(), 0
        while stalled < patience and not self.expired():
            walk = stay.copy()
            self._kick(walk)
            if not self.feasible(walk) and not self.repair(walk):
                stalled += 1
                continue
            self.descend(walk)
            worse = max(walk.value - stay.value, 0.0) / max(TEMPERATURE * abs(best.value), 1e-300)
            if worse == 0.0 or self.random.random() < exp(-min(worse, 700.0)):
                stay = walk.copy()
            if walk.value < best.value - self.tiny:
                best, stalled = walk.copy(), 0
                self.reprice(walk)
            else:
                stalled += 1
                if stalled % RESTART == 0:
                    stay = best.copy()
        return best

    def _kick(self, walk: Walk) -> None:
        """Change two to five units: mostly to options that cost little, now and then to any."""
        count = int(self.random.integers(2, 6))
        if self.random.random() < 0.7:
            gain, used, _ = self.changes(walk)
            priced = gain + self.prices @ used
            priced[walk.picked] = np.inf
            near = np.argsort(priced)[: max(KICKED, self.reduced.units)]
            options = self.random.choice(near, min(count, len(near)), replace=False)
        else:
            options = self.random.integers(self.reduced.options, size=count)
        for option in options:
            walk.move(int(option), int(self.owner[option]))


def _best(score: Floats, starts: Integers, owner: Integers) -> Integers:
    """Return the option with the least score of every unit, the first of equals."""
    least = np.minimum.reduceat(score, starts)
    hits = np.flatnonzero(score == least[owner])
    return hits[np.unique(owner[hits], return_index=True)[1]]
