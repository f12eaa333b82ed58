"""Maps and pairs: they hold what the Gram matrix says, in an order that shows it."""

from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.artifacts import Option
from onnxmpq.report.interactions import LARGEST_MAP, STRONGEST, clustered, correlations
from onnxmpq.report.view import make_view
from onnxmpq.sensitivity.table import Array, Variant
from tests.report import made

SPACE = made.space(12)
TABLE = made.table(SPACE, pairs=True)
RESULT = made.result(SPACE)
FULL = make_view(RESULT, front=made.front(SPACE), table=TABLE)


def test_maps_hold_the_correlations_of_the_gram_matrix() -> None:
    assert [found.name for found in FULL.maps] == ["plan", "w8a8", "w4a8", "w2a8"]
    for found in FULL.maps:
        rows = [
            TABLE.index(Variant(unit, Option.parse(option)))
            for unit, option in zip(found.units, found.options, strict=True)
        ]
        gram = TABLE.gram[np.ix_(rows, rows)]
        lengths = np.sqrt(np.diag(gram))
        expected = (gram / np.outer(lengths, lengths))[np.triu_indices(len(rows), 1)]
        np.testing.assert_allclose(np.array(found.thousandths) / 1000, expected, rtol=0, atol=0.0005 + 1e-12)
        assert sorted(found.clustered) == list(range(len(rows)))
    assert FULL.maps[0].options == tuple(option for option in FULL.chosen if option != "float")


def test_the_strongest_pairs_come_first() -> None:
    sizes = [abs(pair.extra) for pair in FULL.pairs]
    assert sizes == sorted(sizes, reverse=True)
    first = FULL.pairs[0]
    rows = [
        TABLE.index(Variant(first.first, Option.parse(first.first_option))),
        TABLE.index(Variant(first.second, Option.parse(first.second_option))),
    ]
    units = np.array([variant.unit for variant in TABLE.variants])
    between = units[:, None] != units
    assert first.extra == TABLE.gram[rows[0], rows[1]]
    assert sizes[0] == np.abs(TABLE.gram[between]).max()
    assert len({frozenset((pair.first, pair.second)) for pair in FULL.pairs}) == len(FULL.pairs)


@pytest.mark.parametrize("gram", [TABLE.gram, np.zeros_like(TABLE.gram), np.round(200 * TABLE.gram)])
@pytest.mark.parametrize("band", [1, 100, 10_000])
def test_the_strongest_pairs_do_not_depend_on_how_many_rows_are_read_at_once(
    gram: Array, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmpq.report.interactions.BAND", band)
    variants = TABLE.variants
    entries = [
        (-abs(gram[i, j]), i, j) for i in range(len(variants)) for j in range(i) if variants[i].unit != variants[j].unit
    ]
    expected: dict[frozenset[str], tuple[str, str, float]] = {}
    for _, j, i in sorted((size, j, i) for size, i, j in entries):
        a, b = variants[j], variants[i]
        expected.setdefault(frozenset((a.unit, b.unit)), (str(a), str(b), gram[j, i]))
    found = make_view(RESULT, table=replace(TABLE, gram=gram)).pairs
    told = [(f"{p.first}@{p.first_option}", f"{p.second}@{p.second_option}", p.extra) for p in found]
    assert told == list(expected.values())[:STRONGEST]


def test_a_row_without_a_response_has_no_correlation() -> None:
    gram = np.array([[4.0, 0.0, 2.0], [0.0, 0.0, 0.0], [2.0, 0.0, 4.0]])
    np.testing.assert_array_equal(correlations(gram), [[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.5, 0.0, 1.0]])
    assert sorted(clustered(correlations(gram))) == [0, 1, 2]


def test_rows_that_are_alike_come_together() -> None:
    signs = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    kinds = np.array([0, 1, 0, 1, 0, 1])
    matrix = np.where(kinds[:, None] == kinds, 0.9, 0.05) * np.outer(signs, signs)
    np.fill_diagonal(matrix, 1.0)
    order = clustered(matrix)
    assert list(kinds[list(order)]) in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


def test_a_large_model_keeps_the_map_of_its_most_sensitive_units() -> None:
    space = made.space(LARGEST_MAP + 60)
    view = make_view(front=made.front(space, 2), table=made.table(space))
    assert {len(found.units) for found in view.maps} == {LARGEST_MAP}
    order = [unit.name for unit in view.units]
    places = [order.index(unit) for unit in view.maps[0].units]
    assert places == sorted(places)
