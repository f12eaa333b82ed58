"""What is made of one table: models of the loss over a menu, and the plans that are best by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from onnxmpq.artifacts import Option
from onnxmpq.methods.study import Study
from onnxmpq.methods.superposition import Part, Superposition
from onnxmpq.sensitivity.table import Table
from onnxmpq.solve import Budget, Solution

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
    """What is made of one table, once: the quadratic model, losses alone, and superposition but for sketched outputs.

    Over the menu; the centre's own options, and those that were not measured, have zeros.
    """

    table: Table
    near: Near
    linear: np.ndarray
    quadratic: np.ndarray
    alone: np.ndarray
    superposition: Superposition | None

    @classmethod
    def of(cls, study: Study, table: Table, near: Near, *, superposed: bool = True) -> Self:
        """Make the models of a table; ``near`` are the options that may be proposed.

        Superposition needs the responses themselves, the other models the table alone.
        """
        places = study.places(table)
        there = places >= 0
        gram = np.where(there[:, None] & there, table.gram[np.ix_(places, places)], 0.0)
        superposition: Superposition | None = None
        if superposed and not table.sketched:
            owner = np.repeat(np.arange(len(study.menu.units)), [len(options) for options in study.menu.options])
            parts = (Part(*part) for part in study.engine.responses(table))
            superposition = Superposition(parts, places, owner)
        return cls(
            table,
            near,
            linear=np.where(there, table.linear[places], 0.0),
            quadratic=0.5 * gram,
            alone=np.where(there, table.loss[places] - table.centre_loss.value, 0.0),
            superposition=superposition,
        )

    @property
    def own(self) -> np.ndarray:
        """Return the part of the quadratic model that every unit has by itself."""
        return np.diag(self.quadratic)


def plans_of(study: Study, models: Models, gap: float, extra: Sequence[Budget] = ()) -> list[Candidate]:
    """Return the best plans of the quadratic model, and of the same with every unit's own part as it was measured.

    The second leaves the Gram matrix for interactions.
    """
    return [plan_of(study, models, linear, gap, extra) for linear in (models.linear, models.alone - models.own)]


def plan_of(study: Study, models: Models, linear: np.ndarray, gap: float, extra: Sequence[Budget] = ()) -> Candidate:
    """Return the best plan of the quadratic model with some linear part."""
    problem = study.problem(
        linear, models.quadratic, constant=models.table.centre_loss.value, near=models.near, extra=extra
    )
    solution = study.solve(problem, models.table.centre, gap=gap)
    return Candidate(study.menu.choices(solution.choices), solution.objective, solution)
