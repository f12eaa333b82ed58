"""From a method to a plan: what it proposes is measured beside uniform plans of the same budgets; the best is taken.

Samples do not tell plans apart whose losses differ by less than two standard errors of the difference, and the least of
many losses is a lucky one, most of all where a few samples make up most of it. Among those plans the one is taken whose
outputs are nearest to float's, which every sample has a say in; where losses are large, that says little, and the least
decides. No plan is handed out that is worse than a uniform one: where calibration misled a method, uniform wins here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from onnxmpq.artifacts import FLOAT, Estimate
from onnxmpq.methods.agreement import Agreement
from onnxmpq.methods.study import Choices, Method, Study
from onnxmpq.methods.uniform import uniform_choices
from onnxmpq.metrics.losses import TOLD_APART, mean_and_error
from onnxmpq.sensitivity.table import Table
from onnxmpq.solve import Solution

MOST = 1.5  # times the least loss: of few samples errors are not known well either


@dataclass(frozen=True, slots=True)
class Decision:
    """The plan, its measured and predicted loss, the proof of the model behind it, and what it took.

    ``least`` is the least loss of a plan that fits, from which that of the plan is not told apart.
    ``proposed`` is what the method itself put first, ``uniforms`` the uniform plans within the budgets by their option,
    ``table`` the responses around float, ``tried`` every plan that was measured. ``about`` is what the method says of
    its work, ``notes`` what is to be said of the plan.
    """

    choices: Choices
    loss: Estimate
    least: Estimate
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
    """Let a method propose, measure its plans and the uniform ones within the budgets, and take one that fits.

    It is the best, or one that is not told apart from it. ``fits`` is asked from the best on; where none of the
    method's plans does, the best is returned all the same.
    """
    began = perf_counter()
    draft = method.propose(study)
    best, losses = _best(study, draft.plans, fits)
    least = losses[best]
    method_runs = study.runs
    menu = study.menu
    every = dict.fromkeys(option for options in menu.options for option in options if option != FLOAT)
    uniforms: dict[str, tuple[Choices, Estimate]] = {}
    for option in every:
        even = uniform_choices(menu.units, menu.options, option)
        if study.feasible(even) and even not in [known for known, _ in uniforms.values()]:
            uniforms[str(option)] = (even, study.raced([draft.plans[best], even])[1])
    below = min((measured.value for _, measured in uniforms.values()), default=np.inf)
    below = min(below, MOST * least.value)
    alike = [place for place in _alike(study, draft.plans, best) if place == best or losses[place].value <= below]
    taken = _nearest(study, draft.plans, alike, best, fits)
    choices: Choices = draft.plans[taken]
    loss, chosen = losses[taken], method.name
    predicted = draft.predicted[taken] if taken < len(draft.predicted) else None
    proof = draft.proofs[taken] if taken < len(draft.proofs) else None
    notes: list[str] = []
    if taken != best:
        most = max(losses[place].value for place in alike)
        notes.append(
            f"{len(alike)} plans lose {least.value:.4g} to {most:.4g}, which the samples do not tell apart. "
            f"The one with {loss.value:.4g} was taken: its outputs are nearest to the float model's."
        )
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
        min(loss, least, key=lambda estimate: estimate.value),
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


def _alike(study: Study, plans: Sequence[Choices], best: int) -> list[int]:
    """Return the plans measured on all samples that are not told apart from the best, which is one of them."""
    if not study.small(study.losses([plans[best]])[0]):
        return [best]
    settled = [place for place, plan in enumerate(plans) if study.settled(plan)]
    losses = study.engine.sample_losses_of([plans[place] for place in settled], study.engine.batches)
    differences = [mean_and_error(own) for own in losses - losses[settled.index(best)]]
    return [place for place, (more, error) in zip(settled, differences, strict=True) if more <= TOLD_APART * error]


def _nearest(
    study: Study, plans: Sequence[Choices], alike: Sequence[int], best: int, fits: Callable[[Choices], bool]
) -> int:
    """Return the plan whose outputs are nearest to float's, among some; the best by its loss fits."""
    powers = study.engine.error_powers([plans[place] for place in alike])
    ranked = [alike[int(number)] for number in np.argsort(powers, kind="stable")]
    return next(place for place in ranked if place == best or fits(plans[place]))


def to_json(decision: Decision) -> dict[str, Any]:
    """Return a decision as plain JSON data."""
    proof = decision.proof
    return {
        "chosen": decision.chosen,
        "loss": decision.loss.value,
        "loss_error": decision.loss.error,
        "least_loss": decision.least.value,
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
