"""Which of several measured plans is taken: the best, or of those that are not told apart the nearest to float."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

from onnxmpq.artifacts import Estimate, Option
from onnxmpq.methods.study import Choices, Draft, Study
from onnxmpq.metrics.losses import mean_and_error
from onnxmpq.search.decide import Decision, decide
from onnxmpq.solve import Solution
from tests.methods.fakes import W4, W8, FakeEngine, study_of, unit_of

PLANS: tuple[dict[str, Option], ...] = ({"a": W4, "b": W8}, {"a": W8, "b": W4}, {"a": Option(6), "b": Option(6)})
OPTIONS = (W8, Option(6), W4)


@dataclass
class Sampled(FakeEngine):
    """Gives every plan a loss, and an error of its outputs, on 100 samples that are as unlike as ``spread``."""

    losses_of: Mapping[tuple[tuple[str, Option], ...], tuple[float, float]] = field(default_factory=dict)
    spread: float = 0.0

    def _given(self, plan: Choices) -> tuple[float, float]:
        return self.losses_of.get(tuple(sorted(plan.items())), (9.0, 9.0))

    def sample_losses_of(self, plans: Sequence[Choices], batches: int) -> np.ndarray:
        """Return losses with a mean that is given, which go up and down from sample to sample."""
        up_and_down = np.where(np.arange(100) % 2, 1.0, -1.0)
        signs = [1.0 if plan.get("a") == W4 else -1.0 for plan in plans]
        return np.array(
            [self._given(p)[0] + self.spread * sign * up_and_down for p, sign in zip(plans, signs, strict=True)]
        )

    def losses(self, plans: Sequence[Choices]) -> list[Estimate]:
        """Measure plans."""
        return [Estimate(*mean_and_error(row)) for row in self.sample_losses_of(plans, 1)]

    def error_powers(self, plans: Sequence[Choices]) -> np.ndarray:
        """Return the errors as given."""
        return np.array([self._given(plan)[1] for plan in plans])


class Proposing:
    """A method that proposes all three plans, each with its proof."""

    name: ClassVar[str] = "proposing"

    def propose(self, study: Study) -> Draft:
        """Return the plans, with predictions that tell them apart."""
        proofs = tuple(Solution("optimal", (), float(n), float(n), (), 0, 0.0, 0, "by hand") for n in range(3))
        return Draft(PLANS, (0.0, 1.0, 2.0), proofs)


def decided(
    losses: Sequence[float],
    errors: Sequence[float],
    spread: float,
    *,
    unfit: Choices | None = None,
    uniform: float = 9.0,
    scale: float = 0.01,
) -> Decision:
    """Decide between the three plans, of which one may not fit, and a uniform one; all losses times ``scale``."""
    given = {
        tuple(sorted(plan.items())): pair
        for plan, pair in zip(PLANS, zip(scale * np.array(losses), errors, strict=True), strict=True)
    }
    given |= {tuple(sorted({"a": option, "b": option}.items())): (scale * uniform, 0.0) for option in (W8, W4)}
    units = (unit_of("a", 80, OPTIONS), unit_of("b", 80, OPTIONS))
    engine = Sampled(units, {}, losses_of=given, spread=scale * spread)
    return decide(study_of(engine), Proposing(), lambda choices: choices != unfit)


def test_a_plan_that_is_told_apart_as_the_best_is_taken() -> None:
    found = decided([1.0, 1.1, 1.2], [3.0, 2.0, 1.0], spread=0.1)
    assert found.choices == PLANS[0]
    assert found.loss == found.least
    assert not found.notes


def test_of_plans_that_are_not_told_apart_the_nearest_to_float_is_taken() -> None:
    found = decided([1.0, 1.1, 1.9], [3.0, 2.0, 1.0], spread=1.0)
    assert found.choices == PLANS[1]  # the third is worse by more than two standard errors
    assert found.loss.value == pytest.approx(0.011)
    assert found.least.value == pytest.approx(0.01)
    assert (found.predicted, found.proof and found.proof.objective) == (1.0, 1.0)
    assert found.notes == (
        "2 plans lose 0.01 to 0.011, which the samples do not tell apart. "
        "The one with 0.011 was taken: its outputs are nearest to the float model's.",
    )


def test_of_large_losses_the_least_decides() -> None:
    found = decided([1.0, 1.1, 1.2], [3.0, 2.0, 1.0], spread=1.0, scale=0.2)
    assert found.choices == PLANS[0]
    assert not found.notes


def test_a_plan_that_loses_half_as_much_again_is_not_taken_for_its_outputs() -> None:
    found = decided([1.0, 1.6, 1.4], [3.0, 1.0, 2.0], spread=9.0)
    assert found.choices == PLANS[2]


def test_a_plan_whose_file_does_not_fit_is_not_taken_for_its_outputs() -> None:
    found = decided([1.0, 1.1, 1.2], [3.0, 1.0, 2.0], spread=1.0, unfit=PLANS[1])
    assert found.choices == PLANS[2]


def test_what_is_nearest_to_float_is_not_behind_a_uniform_plan() -> None:
    found = decided([1.0, 1.1, 1.2], [3.0, 2.0, 1.0], spread=1.0, uniform=1.15)
    assert found.choices == PLANS[1]
    assert found.chosen == "proposing"
    assert decided([1.0, 1.1, 1.2], [3.0, 2.0, 1.0], spread=1.0, uniform=0.9).chosen == "uniform w8"
