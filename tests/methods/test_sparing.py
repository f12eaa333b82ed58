"""Variants that are spared: plans are those of a whole table, and what is not measured could not be in them."""

from typing import Any

import numpy as np
import pytest

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.methods import sparing
from onnxmpq.methods.gram import Gram
from onnxmpq.methods.models import EXACTLY, Models, plans_of
from onnxmpq.methods.sparing import contested, offers, spared_table, spares
from onnxmpq.methods.study import Study
from onnxmpq.sensitivity.table import Table, Variant
from tests.methods.fakes import W2, W4, W8, FakeEngine, drawn, study_of, unit_of


def opened(engine: FakeEngine, share: float = 0.15) -> Study:
    """Open a study of a drawn model under a size."""
    return study_of(engine, size=int(share * engine.space.float_bytes))


def losing(seed: int, units: int = 40, off: float = 1.0) -> FakeEngine:
    """Draw a model whose units lose what their errors foresee, up to a factor of ``off``."""
    generator = np.random.default_rng(seed)
    made = tuple(unit_of(f"u{i}", int(generator.integers(10, 50)) * 8) for i in range(units))
    size = 10.0 ** generator.uniform(-2, 2, units)
    local = {Variant(unit.name, o): 4.0**-o.weight_bits for unit in made for o in (W8, W4, W2)}
    alone = {
        Variant(unit.name, o): float(s * 4.0**-o.weight_bits * off ** generator.uniform(-1, 1))
        for unit, s in zip(made, size, strict=True)
        for o in (W8, W4, W2)
    }
    return FakeEngine(made, alone, local=local)


@pytest.mark.parametrize("off", [1.0, 1.7])
@pytest.mark.parametrize("share", [0.1, 0.15, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_plans_are_those_of_a_whole_table(seed: int, share: float, off: float) -> None:
    engine = losing(seed, off=off)
    study, whole = opened(engine, share), opened(engine, share)
    table, near = spared_table(study, study.menu.options)
    everything = Models.of(whole, whole.table(), whole.menu.options)
    expected = plans_of(whole, everything, EXACTLY)[0].predicted
    found = plans_of(study, Models.of(study, table, near), EXACTLY)[0].predicted
    assert found == pytest.approx(expected, rel=1e-2)
    assert len(table.variants) + len(study.spared) == 3 * len(engine.units)
    assert len(table.variants) < 0.8 * 3 * len(engine.units)
    assert study.runs < whole.runs
    assert study.first is not None
    assert study.first.variants == table.variants


def test_an_option_that_is_worth_it_is_measured_however_much_was_foreseen() -> None:
    """The largest unit loses far less in two bits than its error foresees, as far as that may be off."""
    engine = losing(0)
    large = unit_of("large", 20_000)
    engine.units = (*engine.units, large)
    errors = {Variant("large", option): 4.0**-option.weight_bits for option in (W8, W4, W2)}
    alone = {variant: 1e-3 * error for variant, error in errors.items()}
    alone[Variant("large", W2)] = 1.1 * alone[Variant("large", W4)] * 4.0**2 / sparing.FAVOUR_NEAR
    engine.local, engine.alone = {**engine.local, **errors}, {**engine.alone, **alone}
    study, whole = opened(engine), opened(engine)
    best = plans_of(whole, Models.of(whole, whole.table(), whole.menu.options), EXACTLY)[0]
    assert best.choices["large"] == W2
    table, _ = spared_table(study, study.menu.options)
    assert Variant("large", W2) in table.variants


def test_little_is_measured_whole_and_so_is_all_at_most_effort() -> None:
    few, many = opened(drawn(0, units=5)), opened(losing(0))
    assert not spares(few, few.menu.options)
    assert spares(many, many.menu.options)
    many.effort = "extensive"
    table, near = spared_table(many, many.menu.options)
    assert len(table.variants) == 3 * 40
    assert near == many.menu.options
    assert many.spared == ()


def test_studies_of_one_search_share_what_was_asked_for() -> None:
    engine = losing(1)
    first = opened(engine)
    table, _ = spared_table(first, first.menu.options)
    second = opened(engine)
    second.asked = first.asked
    again, _ = spared_table(second, second.menu.options)
    assert set(table.variants) <= set(again.variants)


def test_a_draft_says_what_was_spared() -> None:
    study = opened(losing(2))
    draft = Gram().propose(study)
    assert study.spared
    known = 120 - len(study.spared)
    assert any(f"{known} of 120 variants were measured" in note for note in draft.notes)


def test_options_whose_price_is_far_from_all_others_are_not_looked_at_around_a_plan() -> None:
    engine = losing(3)
    dear, idle = Variant("u0", W2), Variant("u1", W8)  # nothing is worth the one, and the other gains nothing
    engine.alone = {**engine.alone, dear: 1e6, Variant("u1", W4): 1e-12, idle: 1e-13}
    study = opened(engine)
    spared_table(study, study.menu.options)
    study.known = opened(engine).table()
    plan = {unit.name: W4 for unit in engine.units}
    near = study.menu.options
    kept = dict(zip((unit.name for unit in engine.units), contested(study, plan, near), strict=True))
    assert W2 not in kept["u0"]
    assert W8 not in kept["u1"]
    assert all(W4 in options for options in kept.values())  # a plan's own stay
    assert 0 < sum(map(len, kept.values())) < sum(map(len, near))


def test_no_round_is_made_around_a_plan_that_no_exchange_can_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the budget has room for is taken: what is near saves what nobody needs."""
    engine = losing(4)
    study = study_of(engine, options=[W8, W4], size=engine.space.float_bytes // 2)
    asked: list[int] = []
    table = study.table

    def noted(centre: Any = None, near: Any = None, **more: Any) -> Table:
        found = table(centre, near, **more)
        asked.append(len(found.variants))
        return found

    monkeypatch.setattr(Study, "table", lambda _, *given, **more: noted(*given, **more))
    draft = Gram().propose(study)
    assert draft.plans[0] == {unit.name: W8 for unit in engine.units}
    assert draft.notes[0].startswith("Rounds around a plan: 0;")
    assert min(asked) > 0


def test_float_is_no_variant() -> None:
    study = study_of(drawn(0), options=[FLOAT, W8])
    assert [[v.option for v in of_unit] for of_unit in offers(study, study.menu.options)] == [[Option(8)]] * 5
