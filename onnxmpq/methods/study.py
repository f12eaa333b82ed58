"""What every method works with: units and their menus, budgets as rows, measuring, and solving."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np

from onnxmpq.artifacts import FLOAT, Estimate, Option, Space, Unit
from onnxmpq.budgets.rows import Row
from onnxmpq.errors import InfeasibleError
from onnxmpq.methods.agreement import Agreement, agreement
from onnxmpq.methods.protocol import Measurer
from onnxmpq.metrics.losses import SMALL, mean_and_error
from onnxmpq.sensitivity.table import Table, Variant
from onnxmpq.solve import Budget, Problem, Shortfall, Solution, solve

Choices = Mapping[str, Option]
BEATEN = 2.5  # standard errors by which a plan is worse than the best, which then no more samples are spent on
CONTENDERS = 4  # plans of one race that are measured on all samples at most


@dataclass(frozen=True, slots=True)
class Menu:
    """The units, what each may take, and which must take the same."""

    units: tuple[Unit, ...]
    options: tuple[tuple[Option, ...], ...]
    ties: tuple[tuple[int, ...], ...] = ()

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Return every unit at every option of its menu but float."""
        return tuple(
            Variant(unit.name, option)
            for unit, options in zip(self.units, self.options, strict=True)
            for option in options
            if option != FLOAT
        )

    @property
    def offered(self) -> tuple[Option, ...]:
        """Return all options of the menu, each once."""
        return tuple(dict.fromkeys(option for options in self.options for option in options))

    def held(self, choices: Choices) -> tuple[Option, ...]:
        """Return the option that every unit has in a plan."""
        return tuple(choices.get(unit.name, FLOAT) for unit in self.units)

    def index(self, choices: Choices) -> tuple[int, ...]:
        """Return the positions of choices in the menu."""
        return tuple(options.index(own) for own, options in zip(self.held(choices), self.options, strict=True))

    def entries(self, choices: Choices) -> np.ndarray:
        """Return the positions of choices among the options of all units, one unit after the other."""
        starts = np.cumsum([0, *(len(options) for options in self.options)])[:-1]
        return np.asarray(starts + np.array(self.index(choices)), np.int64)

    def choices(self, picked: Sequence[int]) -> dict[str, Option]:
        """Return the choices at positions of the menu; float ones are left out."""
        return {
            unit.name: options[place]
            for unit, options, place in zip(self.units, self.options, picked, strict=True)
            if options[place] != FLOAT
        }

    def contains(self, choices: Choices) -> bool:
        """Tell whether the menu and the ties allow the choices."""
        chosen = self.held(choices)
        allowed = all(option in options for option, options in zip(chosen, self.options, strict=True))
        return allowed and all(len({chosen[unit] for unit in tie}) == 1 for tie in self.ties)


@dataclass(slots=True)
class Study:
    """One model under one set of budgets: measures, makes problems, solves them, and counts what it took."""

    engine: Measurer
    menu: Menu
    rows: tuple[Row, ...]
    effort: str = "default"
    seed: int = 0
    solver_seconds: float = 20.0
    progress: Callable[[str, int, int], None] = lambda *_: None
    runs: float = 0.0
    settling: float = 0.0
    """Of these, what it took to measure plans on all samples that were measured on the first stage before."""
    measured: dict[tuple[Option, ...], Estimate] = field(default_factory=dict)
    begun: dict[tuple[Option, ...], np.ndarray] = field(default_factory=dict)
    """Losses on the samples of the first stage, one by one."""
    solutions: list[Solution] = field(default_factory=list)
    solved: dict[tuple[object, ...], Solution] = field(default_factory=dict)
    """Solutions of problems as they were asked, which studies of one search share."""
    asked: set[Variant] = field(default_factory=set)
    """What plans of this model asked for that was foreseen, which studies of one search share."""
    spared: tuple[Variant, ...] = ()
    """What was foreseen to be out of question, and not measured."""
    known: Table | None = None
    """Around float, what was measured and what was foreseen."""
    first: Table | None = None
    """The first table around the float model that a method asked for, with all that it asked for then."""
    _counted: set[tuple[object, ...]] = field(default_factory=set)

    @property
    def space(self) -> Space:
        """Return the space of the model."""
        return self.engine.space

    # ---- measuring -----------------------------------------------------------------------------------------------

    def table(
        self, centre: Choices | None = None, near: Sequence[Sequence[Option]] | None = None, *, staged: bool = False
    ) -> Table:
        """Measure the menu's variants around a centre; ``near`` limits every unit to some options.

        ``staged``: on the first stage of the samples alone.
        """
        held = {unit: option for unit, option in (centre or {}).items() if option != FLOAT}
        options = self.menu.options if near is None else near
        variants = [
            Variant(unit.name, option)
            for unit, allowed in zip(self.menu.units, options, strict=True)
            for option in allowed
            if option != held.get(unit.name, FLOAT)
        ]
        asked = {variant: (tuple(sorted(held.items())), variant, staged) for variant in variants}
        if new := [variant for variant in variants if asked[variant] not in self._counted]:
            self.runs += self.table_runs(new, staged=staged)
            self._counted.update(asked[variant] for variant in new)
        found = self.engine.table([], held, variants, self.batches(staged=staged))
        if not held and (self.first is None or set(self.first.variants) < set(variants)):
            self.first = found
        return found

    def agreement(self) -> Agreement | None:
        """Compare halves of the samples, by what was measured around the float model; None where nothing was."""
        if self.first is None:
            return None
        head, own = self.engine.heads[0], self.engine.own_samples(self.first)  # blends are of all kinds
        outputs, losses = self.engine.float_outputs(), self.engine.sample_losses(self.first)
        if self.first.sketched:
            return agreement(outputs[own], losses[:, own], 0, self.seed)
        classes = head.classes if head.kind != "power" else 0
        return agreement(outputs[own, : head.width], losses[:, own], classes, self.seed)

    def losses(self, plans: Sequence[Choices]) -> list[Estimate]:
        """Measure the true loss of plans, each once."""
        keys = [self.menu.held(plan) for plan in plans]
        new = [plan for plan, key in zip(plans, keys, strict=True) if key not in self.measured]
        unique = {self.menu.held(plan): plan for plan in new}
        if not unique:
            return [self.measured[key] for key in keys]
        known = sum(key in self.begun for key in unique)
        rest = known * (self.repeats(staged=False) - self.repeats(staged=True))
        self.runs += (len(unique) - known) * self.repeats(staged=False) + rest
        self.settling += rest
        for key, found in zip(unique, self.engine.losses(list(unique.values())), strict=True):
            self.measured[key] = found
        return [self.measured[key] for key in keys]

    def raced(self, plans: Sequence[Choices]) -> list[Estimate]:
        """Estimate the losses of plans; what may be the best of them is measured on all samples, others on some.

        All are measured on the first stage. Those that are not worse there than the best by ``BEATEN`` standard errors
        of the difference, sample by sample, go on, ``CONTENDERS`` at a time. What does not has the loss of the best
        and, on top, the difference there.
        """
        if self.engine.first == self.engine.batches:
            return self.losses(plans)
        keys = [self.menu.held(plan) for plan in plans]
        by_key = dict(zip(keys, plans, strict=True))
        new = [key for key in by_key if key not in self.begun]
        self.runs += sum(key not in self.measured for key in new) * self.repeats(staged=True)
        if new:
            first = self.engine.sample_losses_of([by_key[key] for key in new], self.engine.first)
            self.begun.update(zip(new, first, strict=True))
        ranked = sorted(by_key, key=lambda key: float(self.begun[key].mean()))
        contenders = [key for key in ranked if not self._beaten(key, ranked[0])]
        self.losses([by_key[key] for key in contenders[:CONTENDERS]])
        leader = min((key for key in by_key if key in self.measured), key=lambda key: self.measured[key].value)
        return [self._estimate(key, leader) for key in keys]

    def improves(self, plan: Choices, other: Choices) -> bool:
        """Tell whether a plan is better than another by more than one standard error of the difference."""
        whole = self.settled(plan) and self.settled(other)
        batches = self.engine.batches if whole else self.engine.first
        losses = self.engine.sample_losses_of([plan, other], batches)
        difference, error = mean_and_error(losses[1] - losses[0])
        return difference > error

    def small(self, loss: Estimate) -> bool:
        """Tell whether a loss is that of outputs near the float model's."""
        return loss.value - (self.first.centre_loss.value if self.first is not None else 0.0) <= SMALL

    def settled(self, plan: Choices) -> bool:
        """Tell whether a plan was measured on all samples."""
        return self.menu.held(plan) in self.measured

    def batches(self, *, staged: bool) -> int:
        """Return how many batches are the first stage, or all."""
        return self.engine.first if staged else self.engine.batches

    def table_runs(self, variants: Sequence[Variant], *, staged: bool) -> float:
        """Return how many runs of the model on all that was given it takes to measure variants."""
        return self.engine.cost(variants, self.batches(staged=staged)).full_runs * self.repeats(staged=staged)

    def repeats(self, *, staged: bool) -> float:
        """Return how many runs of the model on all that was given it takes to run a plan, on the first stage or all."""
        return self.engine.repeats * (self.engine.first_share if staged else 1.0)

    def _beaten(self, key: tuple[Option, ...], best: tuple[Option, ...]) -> bool:
        difference, error = mean_and_error(self.begun[key] - self.begun[best])
        return difference > BEATEN * error

    def _estimate(self, key: tuple[Option, ...], leader: tuple[Option, ...]) -> Estimate:
        """Return the loss of a plan, by its difference from another where it was not measured on all samples."""
        if key in self.measured:
            return self.measured[key]
        difference, error = mean_and_error(self.begun[key] - self.begun[leader])
        known = self.measured[leader]
        return Estimate(max(known.value + difference, 0.0), math.hypot(known.error, error))

    def tried(self) -> Iterator[tuple[Choices, Estimate]]:
        """Yield every plan that was measured, on all samples or on some, with its loss."""
        leader = min(self.measured, key=lambda key: self.measured[key].value, default=None)
        for key in dict.fromkeys((*self.measured, *self.begun)):
            if leader is None or (key not in self.measured and leader not in self.begun):
                continue
            chosen = zip(self.menu.units, key, strict=True)
            yield {unit.name: option for unit, option in chosen if option != FLOAT}, self._estimate(key, leader)

    # ---- deciding ------------------------------------------------------------------------------------------------

    def vector(self, values: Mapping[Variant, float]) -> np.ndarray:
        """Lay figures of variants out over the menu; options without one (the centre's) are 0."""
        return np.array(
            [
                values.get(Variant(unit.name, option), 0.0)
                for unit, options in zip(self.menu.units, self.menu.options, strict=True)
                for option in options
            ]
        )

    def places(self, table: Table) -> np.ndarray:
        """Return for every entry of the menu its row in the table, or -1."""
        known = {variant: number for number, variant in enumerate(table.variants)}
        return np.array(
            [
                known.get(Variant(unit.name, option), -1)
                for unit, options in zip(self.menu.units, self.menu.options, strict=True)
                for option in options
            ]
        )

    def problem(
        self,
        linear: np.ndarray,
        quadratic: np.ndarray | None = None,
        *,
        constant: float = 0.0,
        near: Sequence[Sequence[Option]] | None = None,
        extra: Sequence[Budget] = (),
    ) -> Problem:
        """Make the assignment problem of the menu under the budgets."""
        names = tuple(tuple(map(str, options)) for options in self.menu.options)
        barred: list[tuple[int, int]] = []
        if near is not None:
            barred = [
                (unit, place)
                for unit, (options, allowed) in enumerate(zip(self.menu.options, near, strict=True))
                for place, option in enumerate(options)
                if option not in allowed
            ]
        budgets = [Budget(known.limit.kind, known.weights, known.most) for known in self.rows]
        return Problem(
            units=tuple(unit.name for unit in self.menu.units),
            options=names,
            linear=linear,
            quadratic=quadratic,
            budgets=(*budgets, *extra),
            groups=self.menu.ties,
            forbidden=tuple(barred),
            constant=constant,
        )

    def solve(
        self, problem: Problem, start: Choices | None = None, gap: float = 1e-4, *, silent: bool = False
    ) -> Solution:
        """Solve a problem of this study; raise InfeasibleError when nothing meets the budgets."""
        begin = self.menu.index(start) if start is not None and self.menu.contains(start) else None
        if not silent:
            self.progress("solve", 0, 0)
        asked = (problem.identity, gap, begin)
        solution = self.solved.get(asked)
        if solution is None:
            solution = solve(problem, gap=gap, time_limit=self.solver_seconds, seed=self.seed, start=begin)
            self.solved[asked] = solution
        self.solutions.append(solution)
        if solution.shortfall is not None and len(solution.shortfall.budgets) == len(self.rows):
            raise InfeasibleError(f"No plan meets the budgets. {self._told(solution.shortfall)}")
        return solution.checked()

    def _told(self, shortfall: Shortfall) -> str:
        """Say of every budget that cannot be met what can."""
        several = len(self.rows) > 1
        lines = []
        for known, alone, together in zip(self.rows, shortfall.alone, shortfall.together, strict=True):
            if alone > known.most:
                lines.append(f"{known.limit} cannot be met: the least is {known.written(alone)}.")
            elif together > known.most:
                lines.append(f"{known.limit} cannot be met together with the others.")
            if several and together > known.most:
                lines.append(f"The nearest plan takes {known.written(together)}.")
        return " ".join(lines)

    def usage(self, choices: Choices) -> tuple[int, ...]:
        """Return what choices take in every row."""
        picked = self.menu.entries(choices)
        return tuple(int(known.weights[picked].sum()) for known in self.rows)

    def feasible(self, choices: Choices, but: Collection[str] = ()) -> bool:
        """Tell whether choices are on the menu and meet every row ``but`` those of some budgets."""
        if not self.menu.contains(choices):
            return False
        used = zip(self.usage(choices), self.rows, strict=True)
        return all(usage <= known.most for usage, known in used if known.limit.kind not in but)

    def nearest(self) -> Choices | None:
        """Return the choices nearest to budgets that the last problem could not meet."""
        last = self.solutions[-1] if self.solutions else None
        return self.menu.choices(last.choices) if last and last.status == "infeasible" and last.choices else None

    def spend(self, runs: float) -> None:
        """Count runs of the whole model that a method asked for by itself."""
        self.runs += runs

    def continue_from(self, other: "Study") -> None:
        """Go on from what another study of the same model has counted and measured first."""
        self.runs, self.first = other.runs, self.first or other.first

    def foreseen_bytes(self, choices: Choices) -> int:
        """Return the bytes of the file that the row of sizes foresees."""
        used = zip(self.usage(choices), self.rows, strict=True)
        return next(known.foreseen(usage) for usage, known in used if known.limit.budget.of_file)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a method proposes: plans to be measured, the best guess first, and what it says about them."""

    plans: tuple[Choices, ...]
    predicted: tuple[float | None, ...] = ()
    proofs: tuple[Solution | None, ...] = ()
    notes: tuple[str, ...] = ()


class Method(Protocol):
    """What to measure, how to make a problem of it, and what to do after solving."""

    name: ClassVar[str]

    def propose(self, study: Study) -> Draft:
        """Return plans within the study's budgets."""
        ...


Drawn = tuple[Choices, int, float | None, float | None, str]
"""A plan of a front before it is measured: choices, limit, predicted loss, bound and status."""


def drawn(study: Study, method: Method, budget: str, limits: Sequence[int]) -> list[Drawn]:
    """Return plans over the limits of one budget: by a method's own ``front``, or from what it proposes for each."""
    own = getattr(method, "front", None)
    if own is not None:
        return list(own(study, budget, limits))
    found: list[Drawn] = []
    for limit in limits:
        rows = tuple(replace(known, most=limit) if known.limit.kind == budget else known for known in study.rows)
        closer = replace(study, rows=rows)
        try:
            draft = method.propose(closer)
        except InfeasibleError:
            continue
        finally:
            study.continue_from(closer)
        predicted = (*draft.predicted, *[None] * len(draft.plans))
        found += [(plan, limit, value, None, "proposed") for plan, value in zip(draft.plans, predicted, strict=False)]
    return found


def blending(method: Method) -> bool:
    """Tell whether a method wants to measure on blends of samples, too: where it has a true ``blends``."""
    return bool(getattr(method, "blends", False))


def staged(method: Method) -> bool:
    """Tell whether a method measures what it might do on the first stage alone: where it has a true ``staged``."""
    return bool(getattr(method, "staged", False))
