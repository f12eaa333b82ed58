"""The table: what it predicts, and that a file gives back what was written, bit for bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmpq.artifacts import FLOAT, Estimate, Leftover, Option, Plan, Space
from onnxmpq.errors import InputError
from onnxmpq.sensitivity.facts import Facts
from onnxmpq.sensitivity.table import Table, Variant
from tests.graphs import rng
from tests.methods.fakes import unit_of

A4, A8, B4 = Variant("a", Option(4, 8)), Variant("a", Option(8, 8)), Variant("b", Option(4, 8))


def facts() -> Facts:
    """Return what budgets are counted from, for three units of which one has no more than float and one option."""
    options = (Option(8, 8), Option(4, 8))
    units = (unit_of("a", 800, options), unit_of("b", 80, options), unit_of("c", 8, options[:1]))
    space = Space(
        "ort-cpu", units, (Leftover("add", "Add", 12, "its operand is no weight"),), 3564, together=(("a", "c"),)
    )
    empty = Plan("ort-cpu", "", {}, "f00d", {"weights": "mse"}, ("equalise-layers",), keep_metadata=True)
    return Facts(space, empty, 4000, -3, 256, {FLOAT: 0, Option(8, 8): 70, Option(4, 8): -5})


def table() -> Table:
    """Return a table of random numbers around a centre in which one unit is quantised."""
    g = rng(1)
    roots = g.normal(size=(3, 5))
    sqnr = g.normal(size=(3, 2))
    sqnr[1] = np.inf, -np.inf
    return Table(
        target="ort-cpu",
        loss_name="kl(y)+power(z)",
        centre={"c": Option(8, 8)},
        variants=(A4, A8, B4),
        samples=7,
        centre_loss=Estimate(0.1, 1 / 3),
        loss=g.normal(size=3),
        loss_error=g.normal(size=3) ** 2,
        linear=g.normal(size=3) * 1e-300,
        linear_error=np.zeros(3),
        gram=roots @ roots.T,
        gram_error=g.normal(size=(3, 3)) ** 2,
        local=np.array([0.0, -0.0, 5e-324]),
        local_error=g.random(3),
        sqnr_db=sqnr,
        sqnr_error_db=g.random((3, 2)),
        outputs=("y", "z"),
        sketched=True,
        pairs={(A4, B4): Estimate(0.7, 0.1), (A8, B4): Estimate(np.nextafter(0.7, 1), 0.0)},
        cost={"jobs": 12, "seconds": 0.1},
        facts=facts(),
    )


def test_a_file_gives_back_every_bit(tmp_path: Path) -> None:
    before, path = table(), tmp_path / "t.json"
    before.write(path)
    after = Table.read(path)
    for name in Table.__slots__:
        a, b = getattr(before, name), getattr(after, name)
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name
        else:
            assert a == b, name
    assert list(after.pairs) == list(before.pairs)


def test_the_file_is_strict_json(tmp_path: Path) -> None:
    table().write(tmp_path / "t.json")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    data = json.loads((tmp_path / "t.json").read_text(), parse_constant=refuse)
    assert data["schema"] == 1
    assert data["variants"][1]["sqnr_db"] == {"y": "inf", "z": "-inf"}


def test_the_rows_of_a_plan_are_those_it_changes() -> None:
    t = table()
    plan = {"a": Option(4, 8), "b": Option(4, 8), "c": Option(8, 8), "d": FLOAT}
    rows = [0, 2]
    want = 0.1 + t.linear[rows].sum() + 0.5 * (t.gram[0, 0] + t.gram[2, 2] + 2 * t.gram[0, 2])
    assert t.predict(plan) == pytest.approx(want)
    assert t.predict_alone(plan) == pytest.approx(t.loss[0] + t.loss[2] - 0.1)
    assert t.predict({"c": Option(8, 8)}) == t.predict_alone({}) == 0.1


def test_a_plan_of_what_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match=r"not measured: b@w8a8, d@w4\. Measure"):
        table().predict({"a": Option(4, 8), "b": Option(8, 8), "d": Option(4)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "schema 1"),
        ('{"schema": 2}', "schema 1"),
        ('{"schema": 1}', "damaged"),
    ],
)
def test_what_is_no_table_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        Table.read(path)


# ---- what budgets are counted from -----------------------------------------------------------------------------------


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """Return the table as JSON with another value at a place of it; None takes the place away."""
    data: dict[str, Any] = json.loads(json.dumps(table().to_json()))
    holder: Any = data
    for key in path[:-1]:
        holder = holder[key]
    if to is None:
        del holder[path[-1]]
    else:
        holder[path[-1]] = to
    return data


def test_a_table_without_it_is_read_as_before() -> None:
    data = changed("facts", to=None)
    assert Table.from_json(data).facts is None
    assert Table.from_json(data).to_json() == data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("units", 0, "name"), "z", "'facts.units' does not have a@w4a8, which is in the table"),
        (("units", 2, "name"), "a", "'facts.units' has a name twice"),
        (("units", 2, "options"), {"float": {"bytes": 1, "bops": 1}}, "'facts.units' does not have c@w8a8"),
        (
            ("units", 0, "options", "float", "bytes"),
            -1,
            r"'facts.units\[0\].options' is an object, expected an object with",
        ),
        (("units", 0, "options", "float", "bytes"), True, r"'facts.units\[0\].options' is an object"),
        (("units", 0, "options"), {"w8a8": {"bytes": 1, "bops": 1}}, "'float' first"),
        (("units", 0, "options"), {}, "'float' first"),
        (("units", 0, "options", "w9b0"), {"bytes": 1, "bops": 1}, r"'facts.units\[0\].options' is"),
        (("units", 0, "layers"), [], r"'facts.units\[0\].layers' is an empty list, expected a list of layers"),
        (("units", 0, "layers", 0, "op"), None, r"'facts.units\[0\].layers' is a list"),
        (("units", 0, "layers", 0, "grouping"), ["dense"], r"'facts.units\[0\].layers' is a list"),
        (("units", 0, "parameters"), -8, r"'facts.units\[0\].parameters' is -8"),
        (("units", 0, "parameters"), 2**61, "'facts' has figures beyond those of any model"),
        (("units", 0, "options", "w8a8", "bops"), 2**62, "'facts' has figures beyond those of any model"),
        (("units", 0, "cost"), 1, r"'facts.units\[0\].cost' is unknown"),
        (("together",), [["a"], "b"], r"'facts.together' is a list, expected a list of lists of names"),
        (("together",), [["a", "z"]], r"'facts.together' names 'z', which 'facts.units' has not"),
        (("beside", "w4a8"), None, "'facts.beside' does not have w4a8"),
        (("beside", "float"), None, "'facts.beside' does not have float"),
        (("beside", "w4a8"), 0.5, "'facts.beside' is an object, expected an object with a whole number"),
        (("beside", "w4a8"), 2**59, "'facts' has figures beyond those of any model"),
        (("overhead",), 1.5, "'facts.overhead' is 1.5, expected a whole number"),
        (("source_bytes",), -1, "'facts.source_bytes' is -1"),
        (("model_sha256",), 7, "'facts.model_sha256' is 7, expected a text"),
        (("passes",), None, "'facts.passes' is missing"),
        (("leftovers", 0, "stored_bytes"), -1, "'facts.leftovers' is a list"),
    ],
)
def test_what_is_wrong_with_it_is_told(path: tuple[str | int, ...], value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Table.from_json(changed("facts", *path, to=value))
