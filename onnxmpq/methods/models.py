"""What is made of one table: models of the loss over a menu, and the plans that are best by them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.methods.softened import Softened
from onnxmpq.methods.study import Study
from onnxmpq.methods.superposition import Part, Superposition
from onnxmpq.sensitivity.table import Table, Variant
from onnxmpq.solve import Budget, Solution, relative_gap

EXACTLY = 1e-4  # the gap around float, which is what the proof is of
Near = tuple[tuple[Option, ...], ...]
"""The options of every unit that may be proposed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan, what a model predicts for it, and the proof where that model was solved."""

    choices: dict[str, Option]
    predicted: float | None
    proof: Solution | None


@dataclass(frozen=True, slots=True)
class Models:
    """What is made of one table, once: the quadratic model, losses alone, and two that need responses themselves.

    Over the menu; the centre's own options, and those that were not measured, have zeros. Of sketched outputs there is
    neither the softened model nor superposition.
    """

    table: Table
    near: Near
    linear: np.ndarray
    quadratic: np.ndarray
    alone: np.ndarray
    softened: tuple[np.ndarray, np.ndarray] | None
    superposition: Superposition | None

    @classmethod
    def of(cls, study: Study, table: Table, near: Near, *, superposed: bool = True) -> Self:
        """Make the models of a table; ``near`` are the options that may be proposed.

        Those that need the responses themselves are left out unless ``superposed``.
        """
        places = study.places(table)
        there = places >= 0

        def over_menu(rows: np.ndarray) -> np.ndarray:
            """Lay figures of the table's rows, or of pairs of them, out over the menu."""
            if rows.ndim == 1:
                return np.where(there, rows[places], 0.0)
            return np.where(there[:, None] & there, rows[np.ix_(places, places)], 0.0)

        softened: tuple[np.ndarray, np.ndarray] | None = None
        superposition: Superposition | None = None
        if superposed and not table.sketched:
            owner = np.repeat(np.arange(len(study.menu.units)), [len(options) for options in study.menu.options])
            sums = Softened(len(table.variants))
            parts = sums.watched(Part(*part) for part in study.engine.responses(table))
            superposition = Superposition(parts, places, owner)
            for _ in parts:
                pass  # superposition keeps the first batches alone
            if sums.samples:
                softened = over_menu(sums.linear), 0.5 * over_menu(sums.gram)
        return cls(
            table,
            near,
            linear=over_menu(table.linear),
            quadratic=0.5 * over_menu(table.gram),
            alone=over_menu(table.loss - table.centre_loss.value),
            softened=softened,
            superposition=superposition,
        )

    def value(self, study: Study, choices: Mapping[str, Option]) -> float:
        """Return what the quadratic model says of a plan."""
        picked = study.menu.entries(choices)
        rise = self.linear[picked].sum() + self.quadratic[np.ix_(picked, picked)].sum()
        return float(self.table.centre_loss.value + rise)

    def knows(self, study: Study, choices: Mapping[str, Option]) -> bool:
        """Tell whether a plan has only options that were measured, or are the centre's."""
        measured, centre = set(self.table.variants), self.table.centre
        held = zip(study.menu.units, study.menu.held(choices), strict=True)
        return all(
            option == centre.get(unit.name, FLOAT) or Variant(unit.name, option) in measured for unit, option in held
        )

    @property
    def own(self) -> np.ndarray:
        """Return the part of the quadratic model that every unit has by itself."""
        return np.diag(self.quadratic)


def plans_of(study: Study, models: Models, gap: float, extra: Sequence[Budget] = ()) -> list[Candidate]:
    """Return the best plans of the quadratic model, of the same with every unit's own part as measured, and softened.

    The second leaves the Gram matrix for interactions. The third has the proof of the first: what is best by the
    softened model is told by what the quadratic model says of it.
    """
    first = plan_of(study, models, models.linear, gap, extra)
    found = [first, plan_of(study, models, models.alone - models.own, gap, extra)]
    if models.softened is not None:
        linear, quadratic = models.softened
        problem = study.problem(linear, quadratic, near=models.near, extra=extra)
        solution = study.solve(problem, models.table.centre, gap=gap)
        choices = study.menu.choices(solution.choices)
        found.append(Candidate(choices, models.value(study, choices), proved(study, models, first, choices)))
    return found


def plan_of(study: Study, models: Models, linear: np.ndarray, gap: float, extra: Sequence[Budget] = ()) -> Candidate:
    """Return the best plan of the quadratic model with some linear part."""
    problem = study.problem(
        linear, models.quadratic, constant=models.table.centre_loss.value, near=models.near, extra=extra
    )
    solution = study.solve(problem, models.table.centre, gap=gap)
    return Candidate(study.menu.choices(solution.choices), solution.objective, solution)


def proved(study: Study, models: Models, best: Candidate, choices: Mapping[str, Option]) -> Solution | None:
    """Return what the proof of the quadratic model's best plan says of another one; None where it has other options."""
    known = zip(study.menu.held(choices), models.near, strict=True)
    if best.proof is None or any(own not in options for own, options in known):
        return None
    value = models.value(study, choices)
    return replace(
        best.proof,
        status="optimal" if relative_gap(value, best.proof.bound) <= EXACTLY else "gap",
        choices=study.menu.index(choices),
        objective=value,
        usage=study.usage(choices),
        certificate=None,
    )
