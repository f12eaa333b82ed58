"""From a method to a plan: what it proposes is measured beside uniform plans of the same budgets; the best is taken.

No plan is handed out that is worse than a uniform one: where calibration misled a method, uniform wins here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from onnxmpq.artifacts import FLOAT, Estimate
from onnxmpq.methods.agreement import Agreement
from onnxmpq.methods.study import Choices, Method, Study
from onnxmpq.methods.uniform import uniform_choices
from onnxmpq.sensitivity.table import Table
from onnxmpq.solve import Solution


@dataclass(frozen=True, slots=True)
class Decision:
    """The plan, its measured and predicted loss, the proof of the model behind it, and what it took.

    ``proposed`` is what the method itself put first, ``uniforms`` the uniform plans within the budgets by their option,
    ``table`` the responses around float, ``tried`` every plan that was measured. ``about`` is what the method says of
    its work, ``notes`` what is to be said of the plan.
    """

    choices: Choices
    loss: Estimate
    predicted: float | None
    proof: Solution | None
    proposed: Choices
    proposed_loss: Estimate
    uniforms: Mapping[str, tuple[Choices, Estimate]]
    chosen: str
    runs: float
    seconds: float
    notes: tuple[str, ...]
    about: tuple[str, ...] = ()
    agreement: Agreement | None = None
    table: Table | None = field(default=None, compare=False, repr=False)
    tried: tuple[tuple[Choices, Estimate], ...] = ()


def decide(study: Study, method: Method, fits: Callable[[Choices], bool] = lambda _: True) -> Decision:
    """Let a method propose, measure its plans and the uniform ones within the budgets, and take the best that fits.

    ``fits`` is asked from the best on; where none of the method's plans does, the best is returned all the same.
    """
    began = perf_counter()
    draft = method.propose(study)
    best, losses = _best(study, draft.plans, fits)
    method_runs = study.runs
    menu = study.menu
    every = dict.fromkeys(option for options in menu.options for option in options if option != FLOAT)
    uniforms: dict[str, tuple[Choices, Estimate]] = {}
    for option in every:
        even = uniform_choices(menu.units, menu.options, option)
        if study.feasible(even) and even not in [known for known, _ in uniforms.values()]:
            uniforms[str(option)] = (even, study.raced([draft.plans[best], even])[1])
    choices: Choices = draft.plans[best]
    loss, chosen = losses[best], method.name
    predicted = draft.predicted[best] if best < len(draft.predicted) else None
    proof = draft.proof if best == 0 else None
    notes: list[str] = []
    for name, (other, measured) in uniforms.items():
        if measured.value < loss.value and fits(other):
            choices, loss, chosen, predicted, proof = other, measured, f"uniform {name}", None, None
    if chosen != method.name:
        notes.append(
            f"The plan of '{method.name}' measured worse than {chosen} of the same budgets, which was taken instead."
        )
    return Decision(
        choices,
        loss,
        predicted,
        proof,
        draft.plans[0],
        losses[0],
        uniforms,
        chosen,
        method_runs,
        perf_counter() - began,
        tuple(notes),
        draft.notes,
        table=study.first,
        tried=tuple(study.tried()),
    )


def _best(study: Study, plans: Sequence[Choices], fits: Callable[[Choices], bool]) -> tuple[int, Sequence[Estimate]]:
    """Return the best plan that fits, measured on all samples, and the losses of all; the best where none fits."""
    while True:
        losses = study.raced(plans)
        order = sorted(range(len(losses)), key=lambda place: losses[place].value)
        best = next((place for place in order if fits(plans[place])), order[0])
        if study.settled(plans[best]):
            return best, losses
        study.losses([plans[best]])


def to_json(decision: Decision) -> dict[str, Any]:
    """Return a decision as plain JSON data."""
    proof = decision.proof
    return {
        "chosen": decision.chosen,
        "loss": decision.loss.value,
        "loss_error": decision.loss.error,
        "predicted": decision.predicted,
        "measured_to_predicted": decision.loss.value / decision.predicted if decision.predicted else None,
        "proof": proof_json(proof) if proof else None,
        "proposed_loss": decision.proposed_loss.value,
        "uniforms": {name: measured.value for name, (_, measured) in decision.uniforms.items()},
        "agreement": decision.agreement.to_json() if decision.agreement else None,
        "full_runs": decision.runs,
        "seconds": decision.seconds,
    }


def proof_json(proof: Solution) -> dict[str, Any]:
    """Return what was proved as plain JSON data."""
    return {
        "objective": proof.objective,
        "bound": proof.bound,
        "gap": proof.gap,
        "status": proof.status,
        "seed": proof.seed,
        "seconds": proof.seconds,
        "solver": proof.solver,
    }
