"""The quadratic problem: a plan by search, a bound by relaxation, and branch and bound between the two.

Every box (a set of options per unit) runs in one loop: drop options that no completion affords, bound what is left,
drop options that the bound rules out, and again while that shrinks the box. A box that stays open is split
on one option of one unit. Children go on from the multipliers of their parent, so that they begin at its bound.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf

import numpy as np

from onnxmpq.solve.bound import Bounded, Multipliers, Relaxation, State, bounded, minorant
from onnxmpq.solve.certificate import Step
from onnxmpq.solve.highs import Knapsack, contradiction, relaxed
from onnxmpq.solve.reduce import Floats, Integers, Mask, Reduced
from onnxmpq.solve.search import Search, Walk

ENUMERATED = 64  # plans in a box that are simply tried
LARGE = 250  # options from which bounds are computed less often
RELAXED = 700  # options up to which the convex relaxation starts the search
ROOT_STEPS, STAGE_STEPS, NODE_STEPS = 200, 100, 90
LEAST_STEPS = 45  # of a node, before its progress is judged
PROGRESS = 0.15  # share of what is open that steps between two bounds must close to go on in a node
STAGE_PROGRESS = 0.06  # the same for the root, which everything else starts from
SHRUNK = 0.08  # share of options whose loss makes another round worth while
SMALLEST_GAP = 1e-9  # of the largest coefficient, which is about one


@dataclass(frozen=True, slots=True)
class Found:
    """The best plan (entries of the merged problem), a proved bound, and the steps of the proof."""

    picked: Integers | None
    value: float
    bound: float
    nodes: int
    root: Step | None
    state: State | None
    root_bound: float = -inf

    @classmethod
    def only(cls, reduced: Reduced) -> "Found":
        """Return the one plan that presolving left."""
        return cls(
            reduced.fixed,
            reduced.constant,
            reduced.constant,
            0,
            Step(np.ones(0, dtype=bool)),
            None,
            reduced.constant,
        )


@dataclass(order=True, slots=True)
class _Box:
    """An open box: a problem, the options it keeps, and where its relaxation stands."""

    bound: float
    order: int
    reduced: Reduced = field(compare=False)
    keep: Mask = field(compare=False)
    state: State | None = field(compare=False)
    step: Step = field(compare=False)


class Tree:
    """Branch and bound over one problem."""

    def __init__(self, reduced: Reduced, gap: float, seed: int, expired: Callable[[], bool], *, proof: bool) -> None:
        """Take the problem; the best plan is searched by ``prepare``."""
        self.root, self.gap, self.seed, self.expired, self.proof = reduced, gap, seed, expired, proof
        self.value = inf
        self.picked: Integers | None = None
        self.nodes, self.order = 0, itertools.count()
        self.first_state: State | None = None
        self.first_bound = -inf
        self.known = False

    @property
    def target(self) -> float:
        """Return the bound at which a box is settled."""
        return self.value - max(0.999 * self.gap * abs(self.value), SMALLEST_GAP) if self.value < inf else inf

    def offer(self, value: float, picked: Integers) -> None:
        """Keep a plan that is better than the best."""
        if value < self.value:
            self.value, self.picked = value, np.sort(picked)

    def improve(self, reduced: Reduced, shares: Floats, draws: int, patience: int) -> None:
        """Round shares into plans, and search on from the best."""
        search = Search(reduced, self.seed + self.nodes, self.expired)
        walk = search.from_shares(shares, draws, None)
        if walk is not None and patience:
            walk = search.iterate(walk, patience)
        if walk is not None:
            self.offer(reduced.value(walk.picked), np.concatenate([reduced.fixed, reduced.identity[walk.picked]]))

    def run(self, state: State | None) -> Found:
        """Bound, fix and branch until the gap is closed or the time is up."""
        step = Step(np.ones(self.root.options, dtype=bool))
        first = _Box(-inf, next(self.order), self.root, step.mask, state, step)
        open_boxes = [first]
        while open_boxes:
            box = heapq.heappop(open_boxes)
            if box.bound >= self.target or (self.expired() and self.nodes):
                heapq.heappush(open_boxes, box)
                break
            for child in self._process(box):
                heapq.heappush(open_boxes, child)
            self.nodes += 1
        closed = self.target if self.picked is not None else inf
        bound = min([closed, *(box.bound for box in open_boxes)])
        return Found(self.picked, self.value, bound, self.nodes, step, self.first_state, self.first_bound)

    def _process(self, box: _Box) -> Iterator[_Box]:
        """Bound and shrink a box; yield what it splits into, nothing when it is settled."""
        reduced, keep, state, step, bound = box.reduced, box.keep, box.state, box.step, box.bound
        root = self.nodes == 0
        shares = np.zeros(0)
        for stage in itertools.count():
            possible = reduced.completable(keep)
            if possible is None:
                return
            if state is not None and not possible.all():
                state = state.restricted(reduced, possible)
            reduced = reduced.restrict(possible)
            if np.prod(reduced.sizes.astype(float)) <= ENUMERATED:
                self._enumerate(reduced)
                return
            first = root and stage == 0 and not self.known
            steps = (ROOT_STEPS if first else STAGE_STEPS) if root else NODE_STEPS
            relaxation = Relaxation(reduced)
            result, shares, state = self._bound(relaxation, state or relaxation.start(), steps, bound, patient=root)
            if result is None:  # the linear program over the rows has no solution
                self._refute(reduced, step)
                return
            previous, bound = bound, max(bound, result.value)
            step.multipliers, step.prices = result.multipliers, result.prices
            if root and stage == 0:
                # A state of fewer options does not fit where the next problem of a front begins.
                self.first_state = state if reduced.options == self.root.options else None
                self.first_bound = result.value
                self.improve(reduced, shares, *((10, 60) if self.known else (60, 300 + 3 * reduced.units)))
            else:
                self.improve(reduced, shares, 2, 0)
            if bound >= self.target:
                return
            keep = result.value + result.added < self.target
            lost = 1 - keep.sum() / len(keep)
            stalled = bound - previous < STAGE_PROGRESS * (self.value - bound)
            if self.expired() or (lost < SHRUNK and (stalled or not root)):
                break
            step = self._child(step, reduced, keep)
        possible = reduced.completable(keep)
        if possible is None:
            return
        for side in self._split(reduced, possible, shares):
            yield _Box(bound, next(self.order), reduced, side, state, self._child(step, reduced, side))

    def _child(self, step: Step, reduced: Reduced, keep: Mask) -> Step:
        """Note that a step goes on with fewer options."""
        if not self.proof:
            return Step(step.mask)
        mask = np.zeros(self.root.options, dtype=bool)
        place = {int(entry): number for number, entry in enumerate(self.root.identity)}
        for entry in (*reduced.fixed, *reduced.identity[keep]):
            if int(entry) in place:  # options fixed before the root are not options of it
                mask[place[int(entry)]] = True
        child = Step(mask)
        step.children.append(child)
        return child

    def _bound(
        self, relaxation: Relaxation, state: State, steps: int, before: float, *, patient: bool
    ) -> tuple[Bounded | None, Floats, State]:
        """Iterate, and return the best proved bound, the last shares, and where the iteration stands."""
        reduced, knapsack = relaxation.reduced, Knapsack(relaxation.reduced)
        best: Bounded | None = None
        infeasible = False
        shares, seen = np.zeros(reduced.options), 0
        large = reduced.options >= LARGE
        every = (50 if large else 25) if patient else (30 if large else 15)

        def stop(current: State, picked: Floats) -> bool:
            nonlocal best, shares, infeasible, seen
            shares, seen = picked, seen + every
            multipliers = relaxation.multipliers(current)
            line = minorant(reduced, multipliers)
            solved = knapsack.solve(line[1])
            if solved is None:
                infeasible = True
                return True
            result = bounded(reduced, multipliers, solved[0], line)
            gained = result.value - max(before, best.value if best is not None else -inf)
            if best is None or result.value > best.value:
                best = result
            if result.value >= self.target or self.expired():
                return True
            return not patient and seen > LEAST_STEPS and gained < PROGRESS * (self.value - best.value)

        state = relaxation.iterate(state, steps, stop, every)
        return (None if infeasible else best), shares, state

    def _refute(self, reduced: Reduced, step: Step) -> None:
        """Note prices so high that any plan in the box would be above the best one."""
        nothing = Multipliers(
            np.zeros((reduced.options + 1,) * 2), np.zeros((reduced.options + 1 + reduced.budgets, reduced.budgets))
        )
        constant, costs = minorant(reduced, nothing)
        prices = contradiction(reduced)
        exceeded = np.minimum.reduceat(prices @ reduced.rows, reduced.starts).sum() - prices @ (
            reduced.limits + reduced.tolerances
        )
        least = constant + np.minimum.reduceat(costs, reduced.starts).sum()
        if exceeded > 0:
            step.multipliers, step.prices = nothing, prices * (2 * max(self.value - least, 0.0) + 1.0) / exceeded

    def _enumerate(self, reduced: Reduced) -> None:
        """Try every plan of a small box."""
        for picked in reduced.plans():
            if reduced.feasible(picked):
                self.offer(reduced.value(picked), np.concatenate([reduced.fixed, reduced.identity[picked]]))

    def _split(self, reduced: Reduced, keep: Mask, shares: Floats) -> Iterator[Mask]:
        """Yield the box with and the box without the likeliest option of an undecided unit that matters."""
        kept = np.where(keep, shares, -1.0)
        undecided = 1 - np.maximum.reduceat(kept, reduced.starts)
        matters = np.sqrt(np.maximum.reduceat(np.abs(reduced.linear), reduced.starts)) + 1e-12
        choosable = np.add.reduceat(keep.astype(np.int64), reduced.starts) > 1
        unit = int(np.where(choosable, (undecided + 1e-9) * matters, -1.0).argmax())
        mine = np.arange(reduced.starts[unit], reduced.starts[unit] + reduced.sizes[unit])
        option = int(mine[kept[mine].argmax()])
        with_it, without = keep.copy(), keep.copy()
        with_it[mine] = False
        with_it[option], without[option] = True, False
        yield with_it
        yield without


def first_plan(reduced: Reduced, search: Search, start: Integers | None) -> Walk | None:
    """Return a plan that keeps every row, by repairing a start or the cheapest options."""
    for picked in (start, search.cheapest()):
        if picked is not None:
            walk = Walk.start(reduced, picked)
            if search.repair(walk):
                return walk
    return None


def prepare(tree: Tree, start: Walk, patience: int, *, known: bool) -> None:
    """Search a good plan before anything is bounded; a start that is ``known`` to be good saves the relaxation."""
    reduced = tree.root
    search = Search(reduced, tree.seed, tree.expired)
    best = start.copy()
    search.descend(best)
    tree.known = known
    shares = relaxed(reduced, 10.0) if reduced.options <= RELAXED and not known and not tree.expired() else None
    if shares is not None:
        best = search.from_shares(shares, 40, best) or best
    best = search.iterate(best, patience)
    tree.offer(reduced.value(best.picked), np.concatenate([reduced.fixed, reduced.identity[best.picked]]))
