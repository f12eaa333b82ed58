"""The numbers of a report are those of what it was made from, and whatever is absent is left out."""

import json
from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.artifacts import FLOAT, Estimate, Option
from onnxmpq.errors import InputError
from onnxmpq.report.plans import Measured
from onnxmpq.report.predictions import PAIRS
from onnxmpq.report.view import make_view
from onnxmpq.sensitivity.table import Variant
from tests.report import made

SPACE = made.space(12)
TABLE = made.table(SPACE, pairs=True)
RESULT = made.result(SPACE)
FRONT = made.front(SPACE)
FULL = make_view(RESULT, front=FRONT, table=TABLE, title="t", command="onnxmpq quantize m.onnx")


def test_the_summary_is_that_of_the_result() -> None:
    summary, decision = FULL.summary, RESULT.decision
    assert decision is not None
    assert (summary.file_bytes, summary.float_file_bytes) == (RESULT.file_bytes, RESULT.float_file_bytes)
    assert (summary.loss, summary.predicted) == (decision.loss, decision.predicted)
    assert summary.accuracy == RESULT.accuracy
    assert (summary.full_runs, summary.seconds, summary.samples) == (35.0, 3.7, 64)
    assert [check.value for check in summary.speeds] == [RESULT.verdict["speed"].value]
    assert FULL.notes == (*RESULT.notes, *SPACE.notes)
    assert FULL.checks == RESULT.verdict.checks


def test_the_proof_is_that_of_the_decision() -> None:
    assert RESULT.decision is not None
    assert FULL.proof is not None
    for name in ("objective", "bound", "gap", "status", "solver", "seed", "seconds"):
        assert getattr(FULL.proof, name) == getattr(RESULT.decision.proof, name)


def test_units_have_the_costs_of_the_space() -> None:
    for unit, shown in zip(SPACE.units, FULL.units, strict=True):
        assert (shown.name, shown.op, shown.parameters, shown.reason) == (
            *(unit.name, unit.layers[0].op, unit.parameters),
            unit.reason,
        )
        for cost in shown.costs:
            assert cost.stored_bytes == unit.cost(Option.parse(cost.option)).stored_bytes
    assert FULL.chosen == tuple(str(RESULT.plan.choices.get(unit.name, FLOAT)) for unit in SPACE.units)


def test_every_plan_is_there_once_with_what_it_measured() -> None:
    decision = RESULT.decision
    assert decision is not None
    chosen, *others = FULL.plans
    assert (chosen.kind, chosen.loss, chosen.file_bytes) == ("chosen", decision.loss, RESULT.file_bytes)
    assert len({plan.options for plan in FULL.plans}) == len(FULL.plans) == len(FRONT.points) + 2
    by_options = {plan.options: plan for plan in others}
    for point in FRONT.points:
        plan = by_options[tuple(str(point.choices.get(unit.name, FLOAT)) for unit in SPACE.units)]
        assert (plan.file_bytes, plan.loss, plan.predicted, plan.bound, plan.gap) == (
            *(point.file_bytes, point.loss, point.predicted),
            *(point.bound, point.gap),
        )


def test_the_size_of_a_plan_that_was_not_written_follows_from_its_units() -> None:
    uniform = next(plan for plan in FULL.plans if plan.name == "uniform w2a8")
    change = sum(
        unit.cost(Option.parse("w2a8")).stored_bytes - unit.cost(RESULT.plan.choices[unit.name]).stored_bytes
        for unit in SPACE.units
        if unit.name in RESULT.plan.choices
    )
    assert not uniform.size_is_exact
    assert uniform.file_bytes == RESULT.file_bytes + change


def test_losses_alone_are_those_of_the_table() -> None:
    for one, row in zip(FULL.alone, range(len(TABLE.variants)), strict=True):
        variant = Variant(one.unit, Option.parse(one.option))
        assert variant == TABLE.variants[row]
        assert one.loss == Estimate(TABLE.loss[row], TABLE.loss_error[row])
        assert one.predicted == pytest.approx(TABLE.predict({variant.unit: variant.option}), rel=1e-12)
        assert (one.local, one.sqnr_db) == (TABLE.local[row], TABLE.sqnr_db[row].min())


def test_pairs_that_were_measured_are_set_beside_their_prediction() -> None:
    ((a, b), measured), *_ = TABLE.pairs.items()
    guess = next(guess for guess in FULL.guesses if guess.kind == "pair")
    assert guess.measured == measured
    assert guess.predicted == pytest.approx(TABLE.predict({a.unit: a.option, b.unit: b.option}), rel=1e-12)


def test_of_many_measured_pairs_some_are_shown_and_the_notes_say_so() -> None:
    variants = made.table(made.space(30)).variants
    every = [(a, b) for a in variants for b in variants if a < b and a.unit != b.unit]
    losses = np.random.default_rng(1).permutation(len(every)) / len(every)
    pairs = {pair: Estimate(float(loss), 0.0) for pair, loss in zip(every, losses, strict=True)}
    view = make_view(RESULT, table=replace(made.table(made.space(30)), pairs=pairs))
    shown = [guess.measured.value for guess in view.guesses if guess.kind == "pair"]
    assert PAIRS / 2 < len(shown) <= PAIRS < len(every)
    assert shown == sorted(losses)[:: -(-len(every) // PAIRS)]
    assert any(f"Of {len(every):,} pairs that were measured" in note for note in view.notes)
    assert f"shows {len(shown):,}, evenly" in " ".join(view.notes)
    assert "pairs that were measured" not in " ".join(FULL.notes)


def test_plans_that_were_predicted_are_set_beside_what_they_measured() -> None:
    plans = [guess for guess in FULL.guesses if guess.kind == "plan"]
    assert [(guess.predicted, guess.measured) for guess in plans] == [
        (plan.predicted, plan.loss) for plan in FULL.plans if plan.predicted is not None
    ]


def test_what_stays_float_says_why() -> None:
    gather, unit = SPACE.leftovers[0], SPACE.units[-1]
    assert {(left.name, left.stored_bytes, left.reason) for left in FULL.unquantised} == {
        (gather.node, gather.stored_bytes, gather.reason),
        (unit.name, unit.cost(FLOAT).stored_bytes, "it has no kernel"),
    }
    sizes = [left.stored_bytes for left in FULL.unquantised]
    assert sizes == sorted(sizes, reverse=True)


def test_other_plans_stand_beside_the_search() -> None:
    other = Measured("another tool", Estimate(0.2, 0.01), 70_000)
    view = make_view(RESULT, others=[other])
    found = next(plan for plan in view.plans if plan.kind == "other")
    assert (found.name, found.loss, found.file_bytes, found.options) == (
        *(other.name, other.loss),
        other.file_bytes,
        (),
    )


def test_a_plan_that_was_tried_has_the_size_of_its_units() -> None:
    tried = made.choices(SPACE, 9)
    view = make_view(RESULT, others=[Measured("tried", Estimate(0.2, 0.01), choices=tried)])
    found = next(plan for plan in view.plans if plan.kind == "other")
    stored = [
        sum(unit.cost(choices.get(unit.name, FLOAT)).stored_bytes for unit in SPACE.units)
        for choices in (tried, RESULT.plan.choices)
    ]
    assert found.file_bytes == RESULT.file_bytes + stored[0] - stored[1]
    assert not found.size_is_exact
    with pytest.raises(InputError, match="needs its size"):
        make_view(RESULT, others=[Measured("tried", Estimate(0.2, 0.01))])


def test_a_uniform_build_has_what_it_has() -> None:
    view = make_view(made.result(SPACE, uniform_only=True))
    assert view.summary.loss is None
    assert view.proof is None
    assert not any(map(len, (view.plans, view.alone, view.maps, view.pairs, view.guesses)))
    assert len(view.units) == len(view.chosen) == len(SPACE.units)


def test_a_front_stands_alone() -> None:
    view = make_view(front=FRONT)
    assert view.summary.float_file_bytes == FRONT.float_file_bytes
    assert len(view.plans) == len(FRONT.points)
    assert {unit.name for unit in view.units} == {name for point in FRONT.points for name in point.choices}
    assert len(make_view(front=FRONT, space=SPACE).units) == len(SPACE.units)


def test_a_plan_whose_kernels_were_made_float_has_no_loss_of_its_own() -> None:
    float_kernels = {unit: replace(option, activation_bits=0) for unit, option in RESULT.plan.choices.items()}
    view = make_view(replace(RESULT, plan=replace(RESULT.plan, choices=float_kernels)), table=TABLE, front=FRONT)
    assert view.summary.loss is None
    assert all(plan.kind != "chosen" for plan in view.plans)
    assert any("computes the same weights in float" in note for note in view.notes)


def test_the_json_is_strict() -> None:
    def refuse(text: str) -> float:
        raise AssertionError(text)

    data = json.loads(FULL.to_text(), parse_constant=refuse)
    assert data["schema"] == 1
    assert data["checks"][1]["value"] == "inf"
    assert data["alone"][0]["loss"] == {"value": TABLE.loss[0], "error": TABLE.loss_error[0]}
