"""The assignment problem: arrays and names, no graph.

    minimise    constant + linear . x + x' quadratic x
    where       x is binary and picks exactly one option of every unit
    subject to  weights . x <= limit                     for every budget
                units of a group pick options of one name
                forbidden options are not picked
                an implication: unit i at option a needs unit j at one of some options

The options of all units stand one after another, so that ``linear`` has one entry for each and ``quadratic`` one row
and column. A quadratic matrix need not be symmetric, nor positive semidefinite.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmpq.errors import InputError

LARGEST_INTEGER = 2**53  # sums of integers below this are exact in float64
RELATIVE = 1e-9  # what a sum of real weights may exceed a limit by


@dataclass(frozen=True, slots=True)
class Budget:
    """What the options may cost together; integer weights and an integer limit are counted exactly."""

    name: str
    weights: np.ndarray
    limit: float

    @property
    def exact(self) -> bool:
        """Tell whether every sum of weights is an integer that float64 holds."""
        weights = np.asarray(self.weights)
        return bool(np.issubdtype(weights.dtype, np.integer)) and bool(
            np.abs(weights).sum(dtype=np.float64) < LARGEST_INTEGER
        )

    @property
    def tolerance(self) -> float:
        """Return what a sum may exceed the limit by: nothing where it is exact."""
        if self.exact:
            return 0.0
        return RELATIVE * max(abs(float(self.limit)), float(np.abs(self.weights).max(initial=0.0)))


@dataclass(frozen=True, slots=True)
class Implication:
    """Unit ``unit`` at ``option`` needs unit ``other`` at one of ``allowed``; all are positions."""

    unit: int
    option: int
    other: int
    allowed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """What to decide; ``options`` holds the names of every unit's options."""

    units: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    linear: np.ndarray
    quadratic: np.ndarray | None = None
    budgets: tuple[Budget, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    forbidden: tuple[tuple[int, int], ...] = ()
    implications: tuple[Implication, ...] = ()
    constant: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be solved; every fault is told at once."""
        if faults := list(_faults(self)):
            raise InputError("The assignment problem cannot be used. " + " ".join(faults))

    @property
    def identity(self) -> str:
        """Return what tells it from every other problem."""
        found = hashlib.sha256(repr((self.units, self.options, self.groups, self.forbidden, self.constant)).encode())
        found.update(repr((self.implications, [(known.name, known.limit) for known in self.budgets])).encode())
        for array in (self.linear, self.quadratic, *(known.weights for known in self.budgets)):
            found.update(b"none" if array is None else f"{array.dtype}{array.shape}".encode() + array.tobytes())
        return found.hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        """Return how many options every unit has."""
        return np.array([len(names) for names in self.options], dtype=np.int64)

    @property
    def starts(self) -> np.ndarray:
        """Return where the options of every unit begin."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64) if self.units else np.zeros(0, int)

    def positions(self, choices: Sequence[int]) -> np.ndarray:
        """Return which entries the choices pick."""
        return self.starts + np.asarray(choices, dtype=np.int64)

    def value(self, choices: Sequence[int]) -> float:
        """Return the objective of the choices, from the matrices."""
        picked = self.positions(choices)
        quadratic = 0.0 if self.quadratic is None else float(self.quadratic[np.ix_(picked, picked)].sum())
        return float(self.constant) + float(np.asarray(self.linear)[picked].sum()) + quadratic

    def usage(self, choices: Sequence[int]) -> tuple[float, ...]:
        """Return what the choices cost in every budget; integers stay integers."""
        picked = self.positions(choices)
        return tuple(budget.weights[picked].sum().item() for budget in self.budgets)

    def feasible(self, choices: Sequence[int]) -> bool:
        """Tell whether the choices keep every rule."""
        groups = all(len({self.options[unit][choices[unit]] for unit in group}) == 1 for group in self.groups)
        allowed = all(choices[unit] != option for unit, option in self.forbidden)
        implied = all(
            choices[rule.unit] != rule.option or choices[rule.other] in rule.allowed for rule in self.implications
        )
        usage = self.usage(choices)
        within = all(used <= budget.limit + budget.tolerance for used, budget in zip(usage, self.budgets, strict=True))
        return groups and allowed and implied and within


def _faults(problem: Problem) -> Iterator[str]:
    if len(problem.units) != len(problem.options):
        yield f"There are {len(problem.units)} units and {len(problem.options)} lists of options."
        return
    for unit, names in zip(problem.units, problem.options, strict=True):
        if not names:
            yield f"Unit '{unit}' has no options."
        if len(set(names)) != len(names):
            yield f"Unit '{unit}' has two options of one name."
    yield from _faults_of_numbers(problem)
    yield from _faults_of_rules(problem)


def _faults_of_numbers(problem: Problem) -> Iterator[str]:
    count = int(problem.sizes.sum())
    labels = [
        f"'{unit}' at '{name}'" for unit, names in zip(problem.units, problem.options, strict=True) for name in names
    ]
    arrays: list[tuple[str, np.ndarray, tuple[int, ...]]] = [("linear", np.asarray(problem.linear), (count,))]
    if problem.quadratic is not None:
        arrays.append(("quadratic", np.asarray(problem.quadratic), (count, count)))
    arrays += [(f"budget '{budget.name}'", np.asarray(budget.weights), (count,)) for budget in problem.budgets]
    for name, array, shape in arrays:
        if array.shape != shape:
            yield f"{name.capitalize()} has shape {array.shape}, expected {shape}."
        elif not np.isfinite(array).all():
            first = int(np.argwhere(~np.isfinite(array))[0][0])
            yield f"{name.capitalize()} has a value that is not a finite number for {labels[first]}."
    for budget in problem.budgets:
        if not np.isfinite(budget.limit):
            yield f"The limit of budget '{budget.name}' is {budget.limit}, expected a finite number."
    if not np.isfinite(problem.constant):
        yield f"The constant is {problem.constant}, expected a finite number."


def _faults_of_rules(problem: Problem) -> Iterator[str]:
    sizes, count = problem.sizes, len(problem.units)
    for group in problem.groups:
        if outside := [unit for unit in group if not 0 <= unit < count]:
            yield f"A group names unit {outside[0]}, expected 0 to {count - 1}."
    for unit, option in problem.forbidden:
        if not (0 <= unit < count and 0 <= option < sizes[unit]):
            yield f"Option {option} of unit {unit} is forbidden, and there is none."
    for rule in problem.implications:
        ends = [(rule.unit, rule.option), *((rule.other, option) for option in rule.allowed)]
        if not (0 <= rule.other < count and all(0 <= u < count and 0 <= o < sizes[u] for u, o in ends)):
            yield f"{rule} names a unit or option that there is none of."
