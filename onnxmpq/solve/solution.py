"""The answer to an assignment problem: choices, the proof of how good they are, and what is missing where none do."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal, Self

from onnxmpq.errors import InfeasibleError
from onnxmpq.solve.certificate import Certificate

Status = Literal["optimal", "gap", "time", "infeasible"]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """How far budgets are from being met: the least each can be alone, and all together.

    ``together`` is the usage of the plan that overruns its limits by the smallest common share of them; its choices
    are those of the solution.
    """

    budgets: tuple[str, ...]
    limits: tuple[float, ...]
    alone: tuple[float, ...]
    together: tuple[float, ...]

    def __str__(self) -> str:
        """Say it in one sentence per budget."""
        lines = []
        for name, limit, alone, together in zip(self.budgets, self.limits, self.alone, self.together, strict=True):
            alone_too = f"at least {alone:,.10g} by itself" if alone > limit else f"{alone:,.10g} would do by itself"
            lines.append(f"'{name}' allows {limit:,.10g}: {alone_too}, {together:,.10g} together with the others.")
        return " ".join(lines)


@dataclass(frozen=True, slots=True)
class Solution:
    """What was decided, and the proof of how good it is.

    ``bound`` is proved: no choices that keep the rules are below it. ``status`` is ``optimal`` when the bound meets
    the objective within the tolerance of a proof, ``gap`` when it meets the gap that was asked for, ``time`` when the
    time was up before, ``infeasible`` when nothing keeps the rules: then ``choices`` reach the tightest budgets that
    can be reached, as ``shortfall`` says, and are empty where the rules without the budgets contradict one another.
    """

    status: Status
    choices: tuple[int, ...]
    objective: float
    bound: float
    usage: tuple[float, ...]
    seed: int
    seconds: float
    nodes: int
    solver: str
    certificate: Certificate | None = field(default=None, repr=False)
    shortfall: Shortfall | None = None

    @property
    def gap(self) -> float:
        """Return how much of the objective the bound leaves open."""
        return relative_gap(self.objective, self.bound)

    def checked(self) -> Self:
        """Return the solution, or raise what a user must read when there is none."""
        if self.status == "infeasible":
            why = "The groups, implications and forbidden options contradict one another."
            raise InfeasibleError(f"No plan meets the budgets. {self.shortfall or why}")
        if not self.choices and self.objective == inf:
            raise InfeasibleError("No plan that meets the budgets was found in time. Allow more time, or loosen them.")
        return self


def relative_gap(objective: float, bound: float) -> float:
    """Return the distance of bound and objective as a share of the objective.

    >>> relative_gap(2.0, 1.5), relative_gap(0.0, 0.0), relative_gap(0.0, -1.0)
    (0.25, 0.0, inf)
    """
    distance = max(objective - bound, 0.0)
    if distance == 0.0:
        return 0.0
    return distance / abs(objective) if objective else inf
