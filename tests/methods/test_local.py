"""Local: the step with the least rise of error per byte saved, until the budgets are met."""

import numpy as np
import pytest

from onnxmpq.errors import InfeasibleError, InputError
from onnxmpq.methods.local import Local
from onnxmpq.sensitivity.table import Variant
from tests.methods.fakes import W2, W4, W8, FakeEngine, drawn, study_of, unit_of


def two_units() -> FakeEngine:
    """Make a large unit and a small one; per byte the large one is cheaper, though its errors are larger."""
    units = (unit_of("large", 800), unit_of("small", 80))
    local = {
        **{Variant("large", o): e for o, e in ((W8, 0.002), (W4, 0.05), (W2, 0.5))},
        **{Variant("small", o): e for o, e in ((W8, 0.001), (W4, 0.04), (W2, 0.4))},
    }
    return FakeEngine(units, dict.fromkeys(local, 0.1), local=local)


def test_steps_go_by_error_per_byte() -> None:
    engine = two_units()
    float_bytes = 3200 + 320
    expected = [
        (float_bytes, {}),
        (float_bytes - 1, {"large": W8}),
        (1100, {"large": W8, "small": W8}),
        (879, {"large": W4, "small": W8}),
        (470, {"large": W4, "small": W4}),
        (439, {"large": W2, "small": W4}),
        (220, {"large": W2, "small": W2}),
    ]
    for size, plan in expected:
        assert Local().propose(study_of(engine, size=size)).plans == (plan,), size


def test_a_step_that_lowers_the_error_comes_first() -> None:
    engine = two_units()
    engine.local = {**engine.local, Variant("small", W8): 0.05, Variant("small", W4): 0.001}
    assert Local().propose(study_of(engine, size=1100)).plans == ({"large": W8, "small": W4},)


def test_units_that_must_agree_go_down_together() -> None:
    engine = drawn(1, units=4)
    engine.local = engine.alone
    study = study_of(engine, ties=[(0, 1), (1, 3)], size=sum(u.parameters for u in engine.units) * 5 // 8)
    (plan,) = Local().propose(study).plans
    assert study.feasible(plan)
    assert plan["u0"] == plan["u1"] == plan["u3"]


def test_random_models_end_within_any_budget_that_can_be_met() -> None:
    for seed in range(10):
        engine = drawn(seed, units=6)
        generator = np.random.default_rng(seed)
        engine.local = {variant: float(generator.uniform()) for variant in engine.alone}
        least = sum(unit.cost(W2).stored_bytes for unit in engine.units)
        for size in (least, least + 1, 2 * least, 5 * least):
            study = study_of(engine, size=size)
            assert study.feasible(Local().propose(study).plans[0])


def test_a_budget_that_nothing_meets_is_refused_with_the_least_one() -> None:
    with pytest.raises(InfeasibleError, match=r"\b220\b"):
        Local().propose(study_of(two_units(), size=219))


def test_units_that_must_agree_and_cannot_are_refused() -> None:
    engine = FakeEngine((unit_of("a", 80, (W8,)), unit_of("b", 80, (W4,))), {})
    study = study_of(engine, ties=[(0, 1)], options=(W8, W4), size=1000)
    with pytest.raises(InputError, match="'a', 'b' must agree"):
        Local().propose(study)
