"""The plans of a report: all that were measured, each once.

    decision   the plan that was chosen, the method's first, uniform ones  ─┐
    front      its points                                                  ─┼▶ by size, the chosen one first
    others     what other methods or tools gave                            ─┘

Plans with the same choices are one; of a file that was written the size is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from onnxmpq.api import Result
from onnxmpq.artifacts import FLOAT, Estimate, Option
from onnxmpq.errors import InputError
from onnxmpq.report.figures import PlanFigures, UnitFigures
from onnxmpq.report.units import Choices, options_of
from onnxmpq.search.decide import Decision
from onnxmpq.search.front import Front


@dataclass(frozen=True, slots=True)
class Measured:
    """Another plan that was measured: one that a search tried, another method's, or another tool's.

    Where its size is not known it follows from its choices; one of the two must be given.
    """

    name: str
    loss: Estimate
    file_bytes: int | None = None
    choices: Choices | None = None


def plan_figures(
    result: Result | None, front: Front | None, others: Sequence[Measured], units: Sequence[UnitFigures]
) -> tuple[PlanFigures, ...]:
    """Return all plans with a measured loss, each once: the chosen one first, then by size."""
    found: list[PlanFigures] = []
    if result is not None and (decision := result.decision) is not None:
        found += _decided(result, decision, units)
    if front is not None:
        for point in front.points:
            kind = "uniform" if point.source.startswith("uniform") else "searched"
            found.append(
                PlanFigures(
                    *(point.source, kind, point.file_bytes, True, point.loss),
                    *(point.predicted, point.bound, point.gap, options_of(point.choices, units)),
                )
            )
    for other in others:
        options = options_of(other.choices, units) if other.choices is not None else ()
        size, exact = other.file_bytes, True
        if size is None:
            if result is None or other.choices is None:
                raise InputError(f"The plan '{other.name}' needs its size, or its choices and a result beside it.")
            size, exact = _size(result, other.choices)
        found.append(PlanFigures(other.name, "other", size, exact, other.loss, None, None, None, options))
    kept: dict[tuple[str, ...], PlanFigures] = {}
    for number, plan in enumerate(found):
        key = plan.options or (str(number),)
        if key not in kept or (plan.size_is_exact and not kept[key].size_is_exact):
            kept[key] = plan
    return tuple(sorted(kept.values(), key=lambda plan: (plan.kind != "chosen", plan.file_bytes)))


def is_as_searched(result: Result) -> bool:
    """Tell whether the file holds the plan that was measured: its kernels may have been made float."""
    return result.decision is not None and _taken(result.plan.choices) == _taken(result.decision.choices)


def _decided(result: Result, decision: Decision, units: Sequence[UnitFigures]) -> list[PlanFigures]:
    """Return the plans that a decision names."""

    def plan(name: str, kind: str, choices: Choices, loss: Estimate, predicted: float | None = None) -> PlanFigures:
        proof = decision.proof if choices is decision.choices else None
        bound, gap = (proof.bound, proof.gap) if proof else (None, None)
        return PlanFigures(name, kind, *_size(result, choices), loss, predicted, bound, gap, options_of(choices, units))

    kind = "chosen" if is_as_searched(result) else "searched"
    found = [plan(decision.chosen, kind, decision.choices, decision.loss, decision.predicted)]
    found.append(plan("the method's first", "searched", decision.proposed, decision.proposed_loss))
    found += [plan(f"uniform {name}", "uniform", *measured) for name, measured in decision.uniforms.items()]
    return found


def _size(result: Result, choices: Choices) -> tuple[int, bool]:
    """Return the bytes of the file that choices lead to, and whether they are exact: only one file was written.

    Of others it is known what their units store; graph and names are taken to be the same.
    """
    plan = result.plan.choices
    if _taken(choices) == _taken(plan):
        return result.file_bytes, True
    change = sum(
        unit.cost(choices.get(unit.name, FLOAT)).stored_bytes - unit.cost(plan.get(unit.name, FLOAT)).stored_bytes
        for unit in result.space.units
    )
    return result.file_bytes + change, False


def _taken(choices: Choices) -> dict[str, Option]:
    return {unit: option for unit, option in choices.items() if option != FLOAT}
