"""The table: what it predicts, and that a file gives back what was written, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.artifacts import FLOAT, Estimate, Option
from onnxmpq.errors import InputError
from onnxmpq.sensitivity.table import Table, Variant
from tests.graphs import rng

A4, A8, B4 = Variant("a", Option(4, 8)), Variant("a", Option(8, 8)), Variant("b", Option(4, 8))


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
