"""Plans from a table alone: what a search solves first, with its rows and its proof, and nothing measured."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmpq.api import measure, quantize
from onnxmpq.artifacts import FLOAT, Estimate, Option, Plan
from onnxmpq.budgets.limits import parse_limits
from onnxmpq.errors import InfeasibleError, InputError
from onnxmpq.methods.gram import _worthwhile
from onnxmpq.methods.models import EXACTLY, Models, plans_of
from onnxmpq.options import MENU, Constraints, MeasureOptions, Numbers, SearchOptions, VerifyOptions
from onnxmpq.search.from_table import Planned, plan_from
from onnxmpq.search.loop import Search
from onnxmpq.sensitivity.table import Table
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace
from tests.small import MODELS, small_model

W8A8, W4A8, W2A8 = Option(8, 8), Option(4, 8), Option(2, 8)
BUDGETS = (("size=25%",), ("bits=5",), ("bops=5%", "size=30%"), ("memory=40%", "bits=4.5", "size=28%"))
WHOLE = ("w8a8", "w4a8", "w2a8")
"""Options whose codes have a type of their own."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder for a store, so that all is measured once."""
    return tmp_path_factory.mktemp("planned")


def images() -> dict[str, np.ndarray]:
    """Return some of the calibration samples."""
    with np.load(MODELS / "digits_calibration.npz") as data:
        return {"image": data["image"][:12]}


def kept(folder: Path) -> MeasureOptions:
    """Return how all is measured here: as by a search, blends among the samples."""
    return MeasureOptions(store=folder / "m.store", blends=True)


@pytest.fixture(scope="module")
def table(folder: Path) -> Table:
    """Measure the small model at the usual options."""
    return measure(small_model(), images(), numbers=Numbers.searched(), measure=kept(folder))


@pytest.fixture(scope="module")
def search(folder: Path) -> Iterator[Search]:
    """Open a search of the same model, from the same store."""
    prepared = prepare(small_model(), "ort-cpu")
    options = SearchOptions(effort="quick")
    with (
        workspace(prepared, images(), Numbers.searched()) as place,
        Search(Exporter(place), Plan("ort-cpu", "", {}), options, kept(folder), Constraints()) as found,
    ):
        yield found


def stored(planned: Planned) -> int:
    """Return the bytes that the units of a plan store."""
    return sum(unit.cost(planned.plan.choices.get(unit.name, FLOAT)).stored_bytes for unit in planned.space.units)


# ---- the plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", BUDGETS, ids=" ".join)
def test_the_plan_is_the_one_that_a_search_solves_first(budget: tuple[str, ...], table: Table, search: Search) -> None:
    planned = plan_from(table, budget=budget)
    study = search.study(parse_limits(budget))
    for mine, its in zip(planned.rows, study.rows, strict=True):
        assert (mine.limit, mine.most, mine.fixed, mine.of_float) == (its.limit, its.most, its.fixed, its.of_float)
        assert mine.weights.tolist() == its.weights.tolist()
    near = _worthwhile(study)
    first = plans_of(study, Models.of(study, study.table(near=near), near), EXACTLY)[0]
    assert planned.plan.choices == first.choices
    assert first.proof is not None
    assert planned.predicted == pytest.approx(first.proof.objective, rel=1e-9)
    assert planned.proof.status == "optimal"
    assert planned.proof.bound <= planned.predicted == pytest.approx(table.predict(planned.plan.choices))
    assert planned.usage == study.usage(first.choices)


def test_a_search_measures_that_plan(table: Table, folder: Path, tmp_path: Path) -> None:
    planned = plan_from(table, budget=["size=25%"])
    result = quantize(
        small_model(),
        images(),
        output=tmp_path / "q.onnx",
        budget=["size=25%"],
        search=SearchOptions(effort="quick"),
        measure=kept(folder),
        verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
    )
    assert result.decision is not None
    tried = [plan for plan, _ in result.decision.tried]
    assert planned.plan.choices in tried
    assert replace(planned.plan, choices=result.plan.choices) == result.plan


@pytest.mark.parametrize(("options", "most"), [(WHOLE, 100), (MENU, 200)], ids=["whole", "planes share constants"])
@pytest.mark.parametrize("budget", BUDGETS, ids=" ".join)
def test_its_file_is_as_large_as_foreseen_up_to_names_and_what_planes_share(
    budget: tuple[str, ...], options: tuple[str, ...], most: int, table: Table, search: Search, tmp_path: Path
) -> None:
    planned = plan_from(table, budget=budget, options=options)
    assert abs(search.whole(planned.plan.choices).size - planned.file_bytes) <= most
    assert planned.file_bytes > stored(planned)
    if budget == BUDGETS[0]:
        verify = VerifyOptions(allow_slower=True, speed_budget_s=0.0)
        result = quantize(small_model(), images(), output=tmp_path / "q.onnx", plan=planned.plan, verify=verify)
        assert result.file_bytes == search.whole(planned.plan.choices).size
        assert result.plan == planned.plan
        assert result.file_bytes <= 0.25 * planned.float_file_bytes + most


def test_a_file_gives_the_same_plan(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "t.json")
    again, first = (plan_from(given, budget={"size": 0.25}) for given in (tmp_path / "t.json", table))
    assert again.plan == first.plan
    assert again.file_bytes == first.file_bytes
    assert Plan.from_json(again.to_json()["plan"]) == again.plan


def test_nothing_is_known_of_what_was_measured_but_the_table(table: Table) -> None:
    planned = plan_from(table, budget=["bits=5"])
    assert planned.to_json()["measured"] is None
    assert planned.plan.ranges == replace(Numbers.searched(), smooth="off").told()  # no channel of it is uneven
    assert sum(planned.counts.values()) == len(planned.space.units)


# ---- what may be chosen ----------------------------------------------------------------------------------------------


def test_decisions_by_hand_hold(table: Table) -> None:
    names = [unit.name for unit in table.facts.space.units] if table.facts else []
    by_hand = Constraints(keep=["op:Gemm=w2a8"], exclude=[names[0]], ties=["stage2.*"])
    planned = plan_from(table, budget=["size=35%"], constraints=by_hand)
    choices = planned.plan.choices
    assert choices["head/Gemm"] == W2A8
    assert names[0] not in choices
    assert len({choices.get(name) for name in names if name.startswith("stage2")}) == 1
    assert "Units that stay float among quantised ones: 1." in planned.notes[0]
    free = plan_from(table, budget=["size=35%"])
    assert not free.notes
    assert free.predicted <= planned.predicted


def test_options_limit_what_is_taken(table: Table) -> None:
    planned = plan_from(table, budget=["size=35%"], options=["w8a8", Option(4, 8)])
    assert set(planned.plan.choices.values()) <= {W8A8, W4A8}
    mixed = plan_from(table, budget=["size=60%"], options=["w4a8", "float"])
    assert set(mixed.counts) == {W4A8, FLOAT}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": []}, r"A plan needs a budget: size=30%"),
        (
            {"budget": ["drop=1%"]},
            r"'drop=1%' is measured on whole files, and a table has none\. `onnxmpq quantize MODEL",
        ),
        (
            {"budget": ["bits=5"], "options": ["w4b32"]},
            r"at any of w4b32\. It has: w8a8, w6a8, w4a8, w3a8, w2a8\.",
        ),
        ({"budget": ["bits=5"], "options": ["w44"]}, "'w44' is not an option"),
        ({"budget": ["bits=5"], "constraints": Constraints(keep=["head/Gemm=w8"])}, "at which it was not measured"),
        ({"budget": ["bits=5"], "constraints": Constraints(exclude=["haed/Gemm"])}, "Did you mean 'head/Gemm'"),
    ],
)
def test_what_a_table_cannot_give_is_refused(given: dict[str, Any], message: str, table: Table) -> None:
    with pytest.raises(InputError, match=message):
        plan_from(table, **given)


def test_a_table_without_costs_is_refused(table: Table) -> None:
    with pytest.raises(InputError, match=r"does not have what its units cost.*Measure again"):
        plan_from(replace(table, facts=None), budget=["size=30%"])


def test_budgets_that_nothing_meets_are_told_with_what_would_do(table: Table) -> None:
    with pytest.raises(InfeasibleError, match=r"size=5% cannot be met: the least is [\d,]+ \(\d"):
        plan_from(table, budget=["size=5%"])
    with pytest.raises(InfeasibleError, match=r"bits=1\.5 cannot be met: the least is 2\..*The nearest plan takes"):
        plan_from(table, budget=["size=60%", "bits=1.5"])


def test_units_that_were_not_measured_stay_and_are_told(table: Table) -> None:
    rows = [i for i, variant in enumerate(table.variants) if variant.unit != "head/Gemm"]
    columns = ("loss", "loss_error", "linear", "linear_error", "local", "local_error", "sqnr_db", "sqnr_error_db")
    fewer: dict[str, Any] = {name: getattr(table, name)[rows] for name in columns}
    fewer |= {name: getattr(table, name)[np.ix_(rows, rows)] for name in ("gram", "gram_error")}
    part = replace(table, variants=tuple(table.variants[i] for i in rows), **fewer)
    planned = plan_from(part, budget=["size=40%"])
    assert "head/Gemm" not in planned.plan.choices
    assert planned.notes[0] == "No option was measured of these units, which stay as they were: head/Gemm."


def test_around_a_plan_units_may_keep_what_they_have(folder: Path, table: Table) -> None:
    names = [unit.name for unit in table.facts.space.units] if table.facts else []
    centre = Plan("ort-cpu", "", dict.fromkeys(names, W4A8))
    around = measure(small_model(), images(), centre=centre, numbers=Numbers.searched(), measure=kept(folder))
    planned = plan_from(around, budget=["bits=5"])
    assert W4A8 in planned.plan.choices.values()
    whole = {name: planned.plan.choices.get(name, FLOAT) for name in names}
    assert planned.predicted == pytest.approx(around.predict(whole))
    assert planned.predicted <= around.centre_loss.value + 1e-12


def test_figures_that_are_none_are_refused(table: Table) -> None:
    broken = replace(table, linear=np.full_like(table.linear, np.nan))
    with pytest.raises(InputError, match="Linear has a value that is not a finite number"):
        plan_from(broken, budget=["bits=5"])
    with pytest.raises(InputError, match="The constant is nan"):
        plan_from(replace(table, centre_loss=Estimate(np.nan, 0.0)), budget=["bits=5"])
