"""Whether fitting helped: a plan with and without it, on samples that nothing was fitted to.

Of a network that is sure of itself few samples make up most of a small loss: the errors of its outputs tell more. What
a fitted plan is compared with has not seen these samples either: GPTQ on few may lose twice as much on others.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Plan
from onnxmpq.lower.calibrated import Calibrated
from onnxmpq.metrics.compared import Feed, Model, head_losses
from onnxmpq.metrics.losses import SMALL, TOLD_APART, Head, mean_and_error
from onnxmpq.refit.walk import Walk

LITTLE = 0.01  # nats, or error over signal power: of a smaller loss a few samples make up most
_LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class Refit:
    """What lowers a plan best, and what is to be said of it."""

    calibrated: Calibrated
    note: str


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares plans with the float model on a few samples; ``opened`` loads a lowered model."""

    before: Model
    opened: Callable[[ir.Model], Model]
    feeds: Sequence[Feed]
    heads: tuple[Head, ...]
    batch: int

    def figures(self, model: ir.Model) -> tuple[np.ndarray, float]:
        """Return the loss of a model on every sample, and the power of its errors over that of the signal."""
        count, powers = len(self.heads), [replace(head, kind="power") for head in self.heads]
        losses = head_losses(self.before, self.opened(model), self.feeds, [*self.heads, *powers], self.batch)
        return losses[:, :count].sum(1), float(losses[:, count:].mean())


def gained(before: np.ndarray, after: np.ndarray, noise: float, less: float) -> float:
    """Return by how much a fit is better than none, by loss and by the error of outputs, as a sum of logarithms.

    A weight that is fitted to what errs becomes smaller, and the error of outputs falls faster than their divergence:
    one may not be bought with the other. Losses below ``LITTLE`` count for nothing.
    """
    losses = (float(before.mean()) + LITTLE) / (float(after.mean()) + LITTLE)
    return math.log(losses) + math.log(max(noise, _LEAST) / max(less, _LEAST))


def refit(known: Calibrated, plan: Plan, walk: Walk, judge: Judge, progress: Callable[[int, int], None]) -> Refit:
    """Fit the weights of a plan in the order of the network, and take them unless the plan is the worse for it.

    ``walk`` is through the same model at any opset.
    """
    constants = walk.run(progress)
    if not constants:
        return Refit(known, "")
    alone, fitted = (known.apart(walk.fitted.known) for _ in range(2))  # neither has seen the samples that judge
    fitted.replace(constants)
    (before, noise), (after, less) = (judge.figures(each.lower(plan).model) for each in (alone, fitted))
    told = f"loss {before.mean():.4g} to {after.mean():.4g}, error {noise:.3g} to {less:.3g} on {len(before)} samples"
    more, error = mean_and_error(after - before)
    if gained(before, after, noise, less) <= 0 or (before.mean() > SMALL and more > TOLD_APART * error):
        return Refit(
            known, f"Every layer is rounded by itself: fitting it behind those before it is no better ({told})."
        )
    return Refit(fitted, f"Layers were fitted behind those before them: {told} that nothing was fitted to.")
