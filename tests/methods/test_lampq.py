"""LampQ: types of layers, the metric, and swaps that stop by their rule and never end worse."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.errors import InfeasibleError, InputError
from onnxmpq.methods import named
from onnxmpq.methods.lampq import Lampq, layer_types
from onnxmpq.methods.study import Choices, Study
from onnxmpq.sensitivity.table import Variant
from onnxmpq.targets import target
from onnxmpq.targets.space import make_space
from onnxmpq.workspace.prepare import prepare
from tests.graphs import from_text, rng
from tests.methods.fakes import W2, W4, W8, FakeEngine, drawn, study_of, unit_of

MODELS = Path(__file__).parents[2] / "models"


# ---- types -----------------------------------------------------------------------------------------------------------


def test_types_of_a_vision_transformer_are_found() -> None:
    prepared = prepare(str(MODELS / "digits_vit.onnx"), "ort-cpu")
    types = layer_types(prepared.model, prepared.space)
    ends = {
        "attention.query": "attention-qkv",
        "attention.key": "attention-qkv",
        "attention.value": "attention-qkv",
        "attention.project": "attention-proj",
        "mlp.widen": "mlp-in",
        "mlp.narrow": "mlp-out",
        "patches": "conv",
        "head": "other",
    }
    expected = {unit: kind for unit in types for end, kind in ends.items() if unit.rpartition("/")[0].endswith(end)}
    assert types == expected


def test_types_of_a_convolutional_network_are_conv_and_other() -> None:
    prepared = prepare(str(MODELS / "digits_cnn.onnx"), "ort-cpu")
    types = layer_types(prepared.model, prepared.space)
    assert types.pop("head/Gemm") == "other"
    assert set(types.values()) == {"conv"}


def test_a_fused_projection_and_a_gated_mlp_are_found_and_sizes_lead_nowhere() -> None:
    g = rng(0)
    shapes = {"qkv": (16, 48), "proj": (16, 16), "gate": (16, 32), "up": (16, 32), "down": (32, 16), "head": (16, 4)}
    weights = {name: g.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"one": np.array([1], np.int64), "third": np.array([16, 16, 16], np.int64)}
    text = """g (float[n, 5, 16] x) => (float[n, 5, 4] y) {
        f = MatMul(x, qkv)
        q, k, v = Split<axis = 2>(f, third)
        t = Transpose<perm = [0, 2, 1]>(k)
        s = MatMul(q, t)
        p = Softmax(s)
        a = MatMul(p, v)
        r = MatMul(a, proj)
        h = Add(x, r)
        m = MatMul(h, gate)
        u = MatMul(h, up)
        e = Sigmoid(m)
        w = Mul(e, u)
        d = MatMul(w, down)
        o = Add(h, d)
        size = Shape(a)
        same = Reshape(o, size)
        y = MatMul(same, head)
    }"""
    model = from_text(text, weights)
    for number, node in enumerate(model.graph):
        node.name = f"n{number}"
    space = make_space(model, target("generic"))
    found = layer_types(model, space)
    by_weight = {unit.layers[0].weights[0]: found[unit.name] for unit in space.units if unit.layers[0].weights}
    assert by_weight == {
        "qkv": "attention-qkv",
        "proj": "attention-proj",
        "gate": "mlp-in",
        "up": "mlp-in",
        "down": "mlp-out",
        "head": "other",
    }


# ---- metric and program ----------------------------------------------------------------------------------------------


def measured_at_beta(base: float = 0.0) -> FakeEngine:
    """Make units of one type whose traces are 1, 2 and 4 and whose rises are what the metric says of them."""
    units = tuple(unit_of(name, 80) for name in "abc")
    trace = dict(zip("abc", (1.0, 2.0, 4.0), strict=True))
    alone = {Variant(u, o): 0.1 * t * 4.0 ** (4 - o.weight_bits) for u, t in trace.items() for o in (W8, W4, W2)}
    return FakeEngine(units, alone, trace=trace, local=alone, base=base)


@pytest.mark.parametrize("per_option", [False, True])
@pytest.mark.parametrize("probes", [1, 2, 3])
def test_the_metric_is_the_trace_times_the_factor_of_its_type(per_option: bool, probes: int) -> None:
    engine = measured_at_beta(base=0.5)
    study = study_of(engine, size=100)
    draft = Lampq(per_option=per_option, probes=probes, swaps=0).propose(study)
    assert draft.plans == ({"a": W2, "b": W4, "c": W4},) or draft.plans == ({"a": W4, "b": W2, "c": W4},)
    assert draft.proofs[0] is not None
    assert draft.notes == ()
    if probes == 3:
        assert draft.plans == ({"a": W2, "b": W4, "c": W4},)
        assert draft.predicted[0] == pytest.approx(engine.true_loss(draft.plans[0]))


def test_quantised_activations_add_their_own_term() -> None:
    w8a8 = Option(8, 8)
    engine = FakeEngine(
        (unit_of("a", 80, (W8, w8a8)),), {Variant("a", W8): 0.1, Variant("a", w8a8): 0.3}, trace={"a": 1.0}
    )
    study = study_of(engine, size=80)
    assert Lampq(beta=8, swaps=0).propose(study).plans == ({"a": W8},)


def test_units_without_a_trace_have_the_rise_that_was_measured() -> None:
    engine = measured_at_beta()
    engine.trace = {"a": 1.0, "b": 2.0}
    draft = Lampq(swaps=0).propose(study_of(engine, size=100))
    assert draft.plans == ({"a": W2, "b": W4, "c": W4},)
    assert draft.predicted[0] == pytest.approx(engine.true_loss(draft.plans[0]))


def test_numbers_that_mean_nothing_are_refused() -> None:
    for name, wrong in (("gamma", 1.0), ("probes", 0), ("draws", 0), ("swaps", -1), ("beta", 0)):
        with pytest.raises(InputError, match="lampq needs"):
            named.method("lampq", **{name: wrong})


def test_a_budget_that_nothing_meets_is_refused_with_the_least_one() -> None:
    with pytest.raises(InfeasibleError, match=r"\b60\b"):
        Lampq().propose(study_of(measured_at_beta(), size=59))


# ---- swaps -----------------------------------------------------------------------------------------------------------


def misled(seed: int) -> FakeEngine:
    """Draw a model whose traces say nothing of its losses, while local errors do."""
    engine = drawn(seed, units=6, spread=0.1)
    generator = np.random.default_rng(seed)
    engine.units = tuple(unit_of(unit.name, 80) for unit in engine.units)
    engine.trace = {unit.name: float(generator.uniform(0.2, 5.0)) for unit in engine.units}
    engine.local = engine.alone
    return engine


def start_of(study: Study) -> Choices:
    return Lampq(swaps=0).propose(study).plans[0]


@pytest.mark.parametrize("seed", range(5))
def test_swaps_lower_the_measured_loss_and_keep_the_budget(seed: int) -> None:
    engine = misled(seed)
    start = start_of(study_of(engine, size=300))
    study = study_of(engine, size=300)
    draft = Lampq().propose(study)
    assert study.feasible(draft.plans[0])
    assert engine.true_loss(draft.plans[0]) <= engine.true_loss(start)
    assert (draft.proofs[0] is not None) == (draft.plans[0] == start)


def test_swaps_do_lower_the_loss_of_some() -> None:
    better = 0
    for seed in range(5):
        engine = misled(seed)
        start = start_of(study_of(engine, size=300))
        better += engine.true_loss(Lampq().propose(study_of(engine, size=300)).plans[0]) < engine.true_loss(start)
    assert better >= 3


def test_swaps_stop_where_the_measured_loss_does_not_fall() -> None:
    engine = misled(0)
    engine.measure = lambda plan: float(sum(option.weight_bits for option in plan.values()))
    study = study_of(engine, size=300)
    draft = Lampq().propose(study)
    losses = [engine.true_loss(plan) for plan in engine.measured]
    assert all(later < earlier for earlier, later in pairwise(losses[:-1]))
    assert losses[-1] >= losses[-2]
    assert engine.true_loss(draft.plans[0]) == min(losses)
    assert "does not lower the measured loss" in draft.notes[0]


def test_no_more_swaps_than_allowed() -> None:
    engine = misled(1)
    steps = iter(range(1000, 0, -1))
    engine.measure = lambda plan: float(next(steps))
    draft = Lampq(swaps=2).propose(study_of(engine, size=300))
    assert draft.notes[0].startswith("2 swaps took")
    assert "no more were allowed" in draft.notes[0]


def test_where_no_swap_fits_the_plan_stays() -> None:
    engine = FakeEngine(
        (unit_of("a", 80),), {Variant("a", o): 1.0 / o.weight_bits for o in (W8, W4, W2)}, trace={"a": 1.0}
    )
    draft = Lampq().propose(study_of(engine, size=40))
    assert draft.plans == ({"a": W4},)
    assert "no swap fits the budgets" in draft.notes[0]


def test_tied_units_are_swapped_together() -> None:
    engine = misled(2)
    study = study_of(engine, ties=[(0, 1), (2, 3)], size=300)
    (plan,) = Lampq().propose(study).plans
    assert study.feasible(plan)
    assert plan.get("u0", FLOAT) == plan.get("u1", FLOAT)
