"""Presolve: the same problem with fewer units and options, as the solver works on it.

Groups are merged, options that nothing can complete or that another option dominates are dropped, the diagonal is
folded into the linear part (x * x = x), entries between two options of one unit are zeroed (they never meet), and
implications become budget rows and pairs of options that never meet. Values are scaled by a power of two.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import InputError
from onnxmpq.solve.problem import Problem

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Reduced:
    """A problem with flat options: unit i owns ``starts[i]`` to ``starts[i] + sizes[i]``.

    ``rows @ x <= limits + tolerances``; the first ``budgets`` rows are budgets, the others implications.
    ``row_scales`` bring rows to about one. ``never`` marks pairs of options that do not meet, within a unit or by an
    implication. ``identity`` names the options in the problem that this one was restricted from, ``fixed`` those that
    were picked on the way. Without a quadratic part, ``quadratic`` and ``never`` are views of a single zero: a dense
    matrix over the options of thousands of units would not fit.
    """

    linear: Floats
    quadratic: Floats
    sizes: Integers
    rows: Floats
    limits: Floats
    tolerances: Floats
    row_scales: Floats
    budgets: int
    never: Mask
    constant: float
    identity: Integers
    fixed: Integers

    @property
    def units(self) -> int:
        """Return how many units are left to decide."""
        return len(self.sizes)

    @property
    def options(self) -> int:
        """Return how many options they have together."""
        return len(self.linear)

    @property
    def starts(self) -> Integers:
        """Return where the options of every unit begin."""
        return np.cumsum(self.sizes) - self.sizes

    @property
    def owner(self) -> Integers:
        """Return the unit of every option."""
        return np.repeat(np.arange(self.units), self.sizes)

    @property
    def is_linear(self) -> bool:
        """Tell whether there is no quadratic part."""
        return _is_nothing(self.quadratic) or not self.quadratic.any()

    def without_quadratic(self) -> "Reduced":
        """Return the problem without its quadratic part."""
        quadratic, never = _nothing(np.float64, self.options), _nothing(np.bool_, self.options)
        return replace(self, quadratic=quadratic, never=never)

    def value(self, picked: Integers) -> float:
        """Return the objective of one option per unit."""
        return float(
            self.constant + self.linear[picked].sum() + _block(self.quadratic, picked, picked).sum(dtype=np.float64)
        )

    def feasible(self, picked: Integers) -> bool:
        """Tell whether the options keep every row."""
        return bool((self.rows[:, picked].sum(1) <= self.limits + self.tolerances).all())

    def plans(self) -> Iterator[Integers]:
        """Yield every plan, whether it keeps the rows or not."""
        ranges = [range(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True)]
        for plan in itertools.product(*ranges):
            yield np.array(plan, dtype=np.int64)

    def settled(self, keep: Mask) -> Mask:
        """Mark the options of units that have one option left."""
        counts = np.add.reduceat(keep.astype(np.int64), self.starts) if self.units else np.zeros(0, np.int64)
        return np.asarray((counts == 1)[self.owner], dtype=bool)

    def restrict(self, keep: Mask) -> "Reduced":
        """Return the problem on the kept options; units with one option left are substituted."""
        counts = np.add.reduceat(keep.astype(np.int64), self.starts) if self.units else np.zeros(0, np.int64)
        alone = self.settled(keep)
        fixed, free = np.flatnonzero(keep & alone), np.flatnonzero(keep & ~alone)
        return Reduced(
            linear=self.linear[free] + 2 * _block(self.quadratic, free, fixed).sum(1),
            quadratic=_block(self.quadratic, free, free),
            sizes=counts[counts > 1],
            rows=self.rows[:, free],
            limits=self.limits - self.rows[:, fixed].sum(1),
            tolerances=self.tolerances,
            row_scales=self.row_scales,
            budgets=self.budgets,
            never=_block(self.never, free, free),
            constant=float(self.constant + self.linear[fixed].sum() + _block(self.quadratic, fixed, fixed).sum()),
            identity=self.identity[free],
            fixed=np.concatenate([self.fixed, self.identity[fixed]]),
        )

    def completable(self, keep: Mask) -> Mask | None:
        """Return the kept options that some completion can afford, row by row; None when there is none for a unit."""
        allowed = self.limits + self.tolerances
        while True:
            if self.units and not np.logical_or.reduceat(keep, self.starts).all():
                return None
            least = np.minimum.reduceat(np.where(keep, self.rows, np.inf), self.starts, axis=1)
            total = least.sum(1)
            room = total[:, None] - least[:, self.owner] + self.rows
            slack = 1e-12 * np.maximum(np.abs(total), self.row_scales)  # sums in another order must not cut options
            if (total > allowed + slack).any():
                return None
            kept = keep & (room <= (allowed + slack)[:, None]).all(0)
            if (kept == keep).all():
                return keep
            keep = kept


@dataclass(frozen=True, slots=True)
class Presolved:
    """A reduced problem and the way back: entry (i, o) of ``members`` lists the entries of the original.

    ``feasible`` is False when the rules already leave a unit without options.
    """

    problem: Problem
    reduced: Reduced
    members: tuple[tuple[int, ...], ...]
    scale: float
    feasible: bool

    def tightened(self, limits: Sequence[float]) -> "Presolved":
        """Return the same with budgets no looser than those that presolving saw: what it dropped stays dropped."""
        problem = limited(self.problem, limits)
        change = [new.limit - old.limit for new, old in zip(problem.budgets, self.problem.budgets, strict=True)]
        moved = self.reduced.limits.copy()
        moved[: len(change)] += change
        tolerances = self.reduced.tolerances.copy()
        tolerances[: len(change)] = [budget.tolerance for budget in problem.budgets]
        reduced = replace(self.reduced, limits=moved, tolerances=tolerances)
        return replace(self, problem=problem, reduced=reduced)

    def choices(self, picked: Integers) -> tuple[int, ...]:
        """Return the options of the original units for options of the reduced ones, the fixed ones included."""
        starts = self.problem.starts
        owner = np.repeat(np.arange(len(starts)), self.problem.sizes)
        choices = [0] * len(starts)
        for entry in picked:
            for member in self.members[entry]:
                choices[owner[member]] = int(member - starts[owner[member]])
        return tuple(choices)

    def picked(self, choices: tuple[int, ...]) -> Integers | None:
        """Return the reduced options that choices mean, or None where a choice was dropped or a group disagrees."""
        wanted = set(self.problem.positions(choices).tolist())
        found = [entry for entry, members in enumerate(self.members) if wanted.issuperset(members)]
        covered = sum(len(self.members[entry]) for entry in found)
        return np.array(found, dtype=np.int64) if covered == len(wanted) else None


def limited(problem: Problem, limits: Sequence[float]) -> Problem:
    """Return the problem with other limits of its budgets."""
    budgets = tuple(replace(budget, limit=limit) for budget, limit in zip(problem.budgets, limits, strict=True))
    return replace(problem, budgets=budgets)


def presolve(problem: Problem) -> Presolved:
    """Merge, fold, drop and scale; refuse groups without a common option."""
    whole = merged(problem)
    keep = whole.reduced.completable(np.ones(whole.reduced.options, dtype=bool))
    if keep is None:
        return replace(whole, feasible=False)
    return replace(whole, reduced=whole.reduced.restrict(undominated(whole.reduced, keep)))


def merged(problem: Problem) -> Presolved:
    """Merge, fold and scale, and keep all options that are allowed in themselves."""
    members, sizes = _merged(problem)
    total = len(members)
    count = int(problem.sizes.sum())
    entry_of = np.full(count, -1)
    for entry, originals in enumerate(members):
        entry_of[list(originals)] = entry
    owner = np.repeat(np.arange(len(sizes)), sizes)
    linear = _summed(np.asarray(problem.linear, dtype=np.float64), members)
    quadratic, never = _nothing(np.float64, total), _nothing(np.bool_, total)
    largest = float(np.abs(linear).max(initial=0.0))
    if problem.quadratic is not None:
        full = np.asarray(problem.quadratic, dtype=np.float64)
        quadratic = _summed(_summed((full + full.T) / 2, members).T, members)
        linear = linear + np.diag(quadratic)
        never = owner[:, None] == owner[None, :]
        quadratic[never] = 0.0
        largest = max(float(np.abs(linear).max(initial=0.0)), float(np.abs(quadratic).max(initial=0.0)))
    scale = float(2.0 ** np.round(np.log2(largest))) if largest > 0 else 1.0
    rows, limits, tolerances, pairs = _rows(problem, members, entry_of, owner)
    if problem.quadratic is not None:
        quadratic /= scale
        for entry, barred in pairs:
            never[entry, barred] = never[barred, entry] = True
    reduced = Reduced(
        linear=linear / scale,
        quadratic=quadratic,
        sizes=sizes,
        rows=rows,
        limits=limits,
        tolerances=tolerances,
        row_scales=np.maximum(np.maximum(np.abs(limits), np.abs(rows).max(1, initial=0.0)), 1e-300),
        budgets=len(problem.budgets),
        never=never,
        constant=float(problem.constant) / scale,
        identity=np.arange(total),
        fixed=np.zeros(0, np.int64),
    )
    return Presolved(problem, reduced, tuple(members), scale, feasible=True)


def undominated(reduced: Reduced, keep: Mask) -> Mask:
    """Drop options that another of their unit beats whatever the rest does: in every row and in the objective."""
    keep = keep.copy()
    starts, owner, is_linear = reduced.starts, reduced.owner, reduced.is_linear
    rows = np.ascontiguousarray(reduced.rows.T)
    for unit in range(reduced.units):
        options = [o for o in range(starts[unit], starts[unit] + reduced.sizes[unit]) if keep[o]]
        for loser in options:
            for winner in options:
                if winner == loser or not (keep[winner] and keep[loser]):
                    continue
                if (rows[winner] > rows[loser]).any():
                    continue
                if is_linear:
                    keep[loser] = reduced.linear[winner] > reduced.linear[loser]
                    continue
                change = 2 * (reduced.quadratic[winner] - reduced.quadratic[loser])
                worst = np.maximum.reduceat(np.where(keep, change, -np.inf), starts)
                worst[owner[loser]] = 0.0
                if reduced.linear[winner] - reduced.linear[loser] + worst.sum() <= 0.0:
                    keep[loser] = False
    return keep


def _merged(problem: Problem) -> tuple[list[tuple[int, ...]], Integers]:
    """Return the original entries of every merged option, and how many options every merged unit has."""
    leader = list(range(len(problem.units)))
    for group in problem.groups:
        old = {leader[unit] for unit in group}
        leader = [min(old) if known in old else known for known in leader]
    starts, forbidden = problem.starts, set(problem.forbidden)
    members: list[tuple[int, ...]] = []
    sizes, faults = [], []
    for first in sorted(set(leader)):
        units = [unit for unit, known in enumerate(leader) if known == first]
        common = [
            tuple(int(starts[unit] + problem.options[unit].index(name)) for unit in units)
            for name in problem.options[first]
            if all(
                name in problem.options[unit] and (unit, problem.options[unit].index(name)) not in forbidden
                for unit in units
            )
        ]
        if not common:
            names = ", ".join(f"'{problem.units[unit]}'" for unit in units)
            faults.append(
                f"{names} {'have no allowed option in common' if len(units) > 1 else 'has no allowed option'}."
            )
        members += common
        sizes.append(len(common))
    if faults:
        raise InputError("Groups and forbidden options contradict one another: " + " ".join(faults))
    return members, np.array(sizes, dtype=np.int64)


def _rows(
    problem: Problem, members: list[tuple[int, ...]], entry_of: Integers, owner: Integers
) -> tuple[Floats, Floats, Floats, list[tuple[int, Integers]]]:
    """Return rows, limits and tolerances, and the options that implications bar for one."""
    rows = [_summed(np.asarray(budget.weights, dtype=np.float64), members) for budget in problem.budgets]
    limits = [float(budget.limit) for budget in problem.budgets]
    tolerances = [budget.tolerance for budget in problem.budgets]
    total = len(owner)
    pairs: list[tuple[int, Integers]] = []
    starts, sizes = problem.starts, problem.sizes
    for rule in problem.implications:
        entry = int(entry_of[starts[rule.unit] + rule.option])
        if entry < 0:  # the option was dropped: nothing follows from it
            continue
        others = entry_of[starts[rule.other] : starts[rule.other] + sizes[rule.other]]
        allowed = {int(others[option]) for option in rule.allowed} - {-1}
        unit = owner[others.max()]
        row = np.zeros(total)
        if owner[entry] == unit:  # both ends were merged: the option itself must be allowed
            row[entry] = float(entry not in allowed)
        else:
            options = np.flatnonzero(owner == unit)
            pairs.append((entry, options[~np.isin(options, sorted(allowed))]))
            row[entry] = 1.0
            row[sorted(allowed)] = -1.0
        rows.append(row)
        limits.append(0.0)
        tolerances.append(0.0)
    shaped = np.array(rows).reshape(len(rows), total)
    return shaped, np.array(limits), np.array(tolerances), pairs


def _summed(array: Floats, members: list[tuple[int, ...]]) -> Floats:
    """Return sums along the first axis, one for the entries that each merged option stands for."""
    if not members:
        return array[:0]
    sizes = np.array([len(originals) for originals in members])
    order = np.array([entry for originals in members for entry in originals])
    summed: Floats = np.add.reduceat(array[order], np.cumsum(sizes) - sizes, axis=0)
    return summed


def _nothing(kind: type[np.generic], size: int) -> np.ndarray:
    """Return a square of zeros that takes the memory of one; it cannot be written."""
    return np.broadcast_to(np.zeros((), dtype=kind), (size, size))


def _is_nothing(matrix: np.ndarray) -> bool:
    return matrix.strides == (0, 0)


def _block(matrix: np.ndarray, rows: Integers, columns: Integers) -> np.ndarray:
    """Return part of a matrix; a view of a single zero stays one."""
    if _is_nothing(matrix):
        return np.broadcast_to(np.zeros((), dtype=matrix.dtype), (len(rows), len(columns)))
    return matrix[np.ix_(rows, columns)]
