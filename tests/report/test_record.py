"""A record holds all numbers of a report, gives them back as they were, and is not believed where it is damaged."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxmpq.artifacts import Check
from onnxmpq.errors import InputError
from onnxmpq.report.figures import View
from onnxmpq.report.page import make_page
from onnxmpq.report.record import read_record, record_of, write_record
from onnxmpq.report.view import make_view
from onnxmpq.report.write import write_report
from tests.report import made

SPACE = made.space(12)
TABLE = made.table(SPACE, pairs=True)
FULL = make_view(made.result(SPACE), front=made.front(SPACE), table=TABLE, title="t", command="onnxmpq quantize m.onnx")
VIEWS: dict[str, View] = {
    "everything": FULL,
    "a uniform build": make_view(made.result(SPACE, uniform_only=True)),
    "a front": make_view(front=made.front(SPACE)),
    "a front and its units": make_view(front=made.front(SPACE), space=SPACE, table=TABLE),
    "what was measured": make_view(table=TABLE, space=SPACE, notes=["a note"], title="m.onnx", command="measure"),
    "nothing": make_view(),
}


def data(view: View = FULL) -> dict[str, Any]:
    """Return a record as JSON data that may be changed."""
    found: dict[str, Any] = json.loads(view.to_text())
    return found


def refused(damaged: Any) -> str:
    """Return the sentences in which a record is refused."""
    with pytest.raises(InputError) as error:
        record_of(damaged, "r.json")
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIEWS)
def test_what_is_read_is_what_was_written(name: str, tmp_path: Path) -> None:
    view = VIEWS[name]
    write_record(view, tmp_path / "r.json")
    again = read_record(tmp_path / "r.json")
    assert again == view
    assert again.to_text() == view.to_text() == (tmp_path / "r.json").read_text("utf-8")
    assert make_page(again) == make_page(view)


def test_the_numbers_beside_a_page_are_a_record(tmp_path: Path) -> None:
    written = write_report(made.result(SPACE), tmp_path, table=TABLE)
    assert make_page(read_record(written.numbers)) == written.page.read_text("utf-8")


def test_numbers_stay_as_they_stand() -> None:
    assert FULL.proof is not None
    proof = replace(FULL.proof, gap=0, bound=-math.inf, seconds=3)
    checks = (Check("a", None, math.nan, "", ""), Check("b", True, 7, "", ""), Check("c", True, "inf.", "", ""))
    text = replace(FULL, proof=proof, checks=checks).to_text()
    again = record_of(json.loads(text))
    assert again.to_text() == text
    assert again.proof == proof
    value, *others = (check.value for check in again.checks)
    assert isinstance(value, float)
    assert math.isnan(value)
    assert others == [7, "inf."]


# ---- what was only measured ------------------------------------------------------------------------------------------


def test_a_table_and_a_space_are_a_view() -> None:
    view = VIEWS["what was measured"]
    assert (view.title, view.command, view.verified) == ("m.onnx", "measure", None)
    assert (view.chosen, view.plans) == ((), ())
    assert [unit.name for unit in view.units] == [unit.name for unit in SPACE.units]
    assert (view.alone, view.pairs, view.maps[1:]) == (FULL.alone, FULL.pairs, FULL.maps[2:])
    assert [guess.kind for guess in view.guesses] == ["pair"]
    assert view.notes == ("a note", *SPACE.notes)
    assert [left.name for left in view.unquantised] == [SPACE.units[-1].name, SPACE.leftovers[0].node]
    assert (view.summary.target, view.summary.samples, view.summary.file_bytes) == ("ort-cpu", 64, None)


def test_what_measuring_took_is_that_of_the_table() -> None:
    table = replace(TABLE, cost={"full_runs": 32.0, "seconds": 4.5})
    assert "32.0 runs" in make_page(make_view(table=table, space=SPACE))
    assert "of the whole model to measure" in make_page(make_view(table=table, space=SPACE))
    assert make_view(front=made.front(SPACE), table=table).summary.full_runs is None


def test_a_page_of_what_was_measured_says_it_without_scripts() -> None:
    text = make_page(VIEWS["what was measured"])
    assert '<div class="value">11 units</div>' in text
    assert "at w8a8, w4a8, w2a8, target ort-cpu" in text
    worst = max(FULL.alone, key=lambda one: one.loss.value)
    rows = text.partition("the largest losses as a table")[2].partition("</table>")[0].split("<tr>")[2:]
    assert len(rows) == len(FULL.alone)
    assert f"{worst.loss.value:.4g} ± {worst.loss.error:.2g}" in rows[0]
    assert "the largest losses as a table" not in make_page(FULL)


def test_a_report_of_a_table_is_written(tmp_path: Path) -> None:
    written = write_report(path=tmp_path, table=TABLE, space=SPACE)
    assert read_record(written.numbers) == make_view(table=TABLE, space=SPACE)
    assert read_record(written.numbers).title == "What was measured"


# ---- damage ----------------------------------------------------------------------------------------------------------


def objects(value: Any, inside: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of a record, the first of each list, and how their fields are called in messages."""
    if isinstance(value, dict):
        yield value, inside
        for name, item in value.items():
            yield from objects(item, f"{inside}{name}.")
    elif isinstance(value, list) and value:
        yield from objects(value[0], f"{inside.removesuffix('.')}[0].")


def test_every_field_must_be_there_and_no_other() -> None:
    whole = data()
    seen = 0
    for number, (_, inside) in enumerate(objects(whole)):
        damaged = copy.deepcopy(whole)
        found = [found for found, _ in objects(damaged)][number]
        names = [name for name in found if name not in ("schema", "summary")]
        for name in names:
            del found[name]
        found["strange"] = 1
        if not inside:
            damaged["summary"] = {}
        told = refused(damaged)
        assert f"'{inside}strange' is unknown." in told
        assert f"'{inside}{names[0]}' is missing, expected" in told
        seen += len(names)
    assert seen > 90


@pytest.mark.parametrize("value", [None, True, -1, 1.5, "x", [], {}, [1], ["x"], [[]], [{}], {"x": 1}, 10**400, 2**70])
def test_every_field_is_of_its_kind(value: Any) -> None:
    """Some fit; what does not is told by its place, and what is accepted makes a page."""
    whole = data()
    for number, (original, inside) in enumerate(objects(whole)):
        for name in original:
            damaged = copy.deepcopy(whole)
            [found for found, _ in objects(damaged)][number][name] = value
            try:
                view = record_of(damaged, "r.json")
            except InputError as error:
                told = str(error)
            else:
                make_page(view)
                continue
            assert name in told or inside.split("[")[0].split(".")[0] in told


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Return a record that was changed."""
    made = data()
    change(made)
    return made


DISAGREEMENTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an option twice": (lambda r: r["options"].append(r["options"][0]), "'options' has 'float' twice."),
    "a unit twice": (lambda r: r["units"].__setitem__(1, r["units"][2]), "'units' has 'blocks.2.layer/Conv' twice."),
    "an option of other bits": (lambda r: r["options"][1].update(weight_bits=3), "'options[1]' has other bits than"),
    "an option that is none": (lambda r: r["options"][1].update(name="w99"), "'options[1]' has other bits than"),
    "a plan too short": (lambda r: r["plans"][2]["options"].pop(), "'plans[2].options' has 11 options for 12 units."),
    "choices too long": (lambda r: r["chosen"].append("float"), "'chosen' has 13 options for 12 units."),
    "a plan of unknown options": (
        lambda r: r["plans"][2].update(options=["w9"] * 12),
        "'plans[2].options' has 'w9', which is not in 'options'.",
    ),
    "choices without a file": (lambda r: r["summary"].update(file_bytes=None), "'summary.file_bytes' is null."),
    "a unit alone that is none": (
        lambda r: r["alone"][3].update(unit="no\n" + "x" * 100),
        f"'alone[3].unit' has 'no\ufffd{'x' * 57}...', which is not in 'units'.",
    ),
    "an option alone that is none": (
        lambda r: r["alone"][3].update(option="w5"),
        "'alone[3].option' has 'w5', which is not in 'options'.",
    ),
    "costs of another option": (
        lambda r: r["units"][1]["costs"][0].update(option="w5"),
        "'units[1].costs' has 'w5', which is not in 'options'.",
    ),
    "a map of other units": (lambda r: r["maps"][0]["units"].__setitem__(1, "no"), "'maps[0].units' has 'no', which"),
    "a map without an option": (lambda r: r["maps"][0]["options"].pop(), "'maps[0].options' has 10 options for 11"),
    "a map without order": (
        lambda r: r["maps"][1]["clustered"].__setitem__(0, 99),
        "'maps[1].clustered' is no order of 11 units.",
    ),
    "a map with a hole": (
        lambda r: r["maps"][1]["thousandths"].pop(),
        "'maps[1].thousandths' has 54 numbers, expected 55.",
    ),
    "a map beyond 1": (
        lambda r: r["maps"][1]["thousandths"].__setitem__(0, 1001),
        "'maps[1].thousandths' has a number beyond -1000 to 1000.",
    ),
    "a pair of other units": (
        lambda r: r["pairs"][0].update(second="no"),
        "'pairs[0]' has 'no', which is not in 'units'.",
    ),
    "a plan of another kind": (
        lambda r: r["plans"][1].update(kind="best"),
        "'plans[1].kind' is 'best', expected one of chosen, searched, uniform, other.",
    ),
    "a guess of another kind": (
        lambda r: r["guesses"][0].update(kind="alone"),
        "'guesses[0].kind' is 'alone', expected one of pair, plan.",
    ),
}


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_what_does_not_fit_together_is_refused(name: str) -> None:
    change, message = DISAGREEMENTS[name]
    told = refused(changed(change))
    assert told.startswith("The record 'r.json' is damaged. ")
    assert message in told
    assert told.endswith(" Run the command again with --record.")


def test_all_faults_are_told_at_once_and_many_are_counted() -> None:
    def damage(record: dict[str, Any]) -> None:
        record["title"], record["tilte"] = 3, "t"
        record["summary"]["samples"] = "many"
        record["plans"][1]["loss"] = []

    told = refused(changed(damage))
    for fault in (
        "'tilte' is unknown. Did you mean 'title'?",
        "'title' is 3, expected a text.",
        "'summary.samples' is 'many', expected a whole number or null.",
        "'plans[1].loss' is an empty list, expected an object.",
    ):
        assert fault in told
    assert "plans[1].loss.value" not in told
    told = refused(changed(lambda record: record.update(alone=[{}] * 1000)))
    assert "There are 5,980 more." in told
    assert len(told) < 4000


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            [],
            "'r.json' is not a record: expected a JSON object with 'schema', 'summary' and 'units'. Give what --record",
        ),
        ({"schema": 1, "choices": {}}, "'r.json' is not a record"),
        (data() | {"schema": 2}, "The record 'r.json' has schema 2; this version of onnxmpq reads schema 1."),
        (data() | {"schema": True}, "has schema true"),
        ({name: value for name, value in data().items() if name != "schema"}, "has schema none"),
    ],
    ids=["a list", "a plan", "a later schema", "true", "no schema"],
)
def test_what_is_no_record_of_this_schema_is_told_so(other: Any, message: str) -> None:
    assert message in refused(other)
