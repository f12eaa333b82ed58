"""The search for culprits by itself, on a probe that stands in for a model: where its steps end."""

from collections.abc import Mapping, Sequence

import pytest

from onnxmpq.artifacts import FLOAT, Option, Plan
from onnxmpq.guard.culprits import Hunt
from onnxmpq.guard.damage import Damage, Thresholds

STEPS = (Option(4, 8), Option(8, 8), FLOAT)
RUINED, GOOD = Damage(4, sqnr=-300.0), Damage(4, sqnr=60.0)


class Ruin:
    """Outputs that some units ruin by themselves, whatever they take; all err alike where they stand."""

    spent, runs, everything = False, 0, 100.0

    def __init__(self, ruined_at: Mapping[str, Sequence[Option]]) -> None:
        self.ruined_at = ruined_at

    def local_errors(self, plans: Sequence[Plan]) -> list[dict[str, float]]:
        return [dict.fromkeys(self.ruined_at, 0.01) for _ in plans]

    def damage(self, plan: Plan) -> Damage:
        bad = any(plan.choices[unit] in options for unit, options in self.ruined_at.items())
        return RUINED if bad else GOOD


def hunt(ruined_at: Mapping[str, Sequence[Option]]) -> Hunt:
    """Return a hunt through units, all of them asked for at the coarsest step."""
    plan = Plan("ort-cpu", "uniform", dict.fromkeys(ruined_at, STEPS[0]))
    return Hunt(Ruin(ruined_at), plan, dict.fromkeys(ruined_at, STEPS), Thresholds())  # type: ignore[arg-type]


@pytest.mark.parametrize("units", [1, 2, 9])
def test_a_hunt_ends_where_nothing_helps(units: int) -> None:
    found = hunt({f"u{number}": STEPS for number in range(units)}).finding()
    assert found is None or found.after == RUINED


@pytest.mark.parametrize("units", [1, 2, 9])
def test_a_unit_that_ruins_outputs_below_float_is_kept_float(units: int) -> None:
    bad = f"u{units - 1}"
    ruined_at: dict[str, Sequence[Option]] = {f"u{number}": () for number in range(units - 1)}
    found = hunt(ruined_at | {bad: STEPS[:2]}).finding()
    assert found is not None
    assert found.after == GOOD
    assert [culprit.unit for culprit in found.culprits] == [bad]
    assert found.plan.choices[bad] == FLOAT
