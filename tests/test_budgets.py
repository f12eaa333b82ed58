"""Budgets: how they are typed, and what a misspelt one is told."""

import numpy as np
import pytest

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.budgets.limits import Limit, budget, parse_limits
from onnxmpq.budgets.rows import weights_of
from onnxmpq.errors import InputError
from onnxmpq.methods.rows import make_rows
from onnxmpq.methods.study import Menu
from onnxmpq.registry import BUDGETS
from tests.methods.fakes import FakeEngine, Given, unit_of

UNITS = (unit_of("a", 80), unit_of("b", 160))
SPACE = FakeEngine(UNITS, {}).space
GIVEN = Given(SPACE, source_bytes=1060, overhead=100, live_bytes=70)
MENU = Menu(UNITS, tuple((FLOAT, Option(8), Option(4)) for _ in UNITS))


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("size=30%", Limit("size", 0.3, share=True)),
        ("size=5MB", Limit("size", 5e6, share=False)),
        ("size=300kB", Limit("size", 3e5, share=False)),
        ("size=1.5MiB", Limit("size", 1.5 * 2**20, share=False)),
        ("size=123456", Limit("size", 123456, share=False)),
        (" bops = 1.5 G ", Limit("bops", 1.5e9, share=False)),
        ("bops=2e9", Limit("bops", 2e9, share=False)),
        ("bits=4.5", Limit("bits", 4.5, share=False)),
        ("memory=40MB", Limit("memory", 4e7, share=False)),
        ("drop=1%", Limit("drop", 0.01, share=True)),
    ],
)
def test_a_budget_is_read_and_written_as_it_is_typed(text: str, limit: Limit) -> None:
    assert Limit.parse(text) == limit
    assert Limit.parse(str(limit)) == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("siez=30%", "no budget 'siez'. Known: size, bits, bops, memory, drop. Did you mean 'size'?"),
        ("bop=1", "Did you mean 'bops'?"),
        ("latency=1ms", "There is no budget 'latency'"),
        ("size", "'size' is not a budget. Expected an amount: size=30%, size=5MB"),
        ("size=", "Expected an amount"),
        ("size=much", "Expected an amount"),
        ("size=-5%", "Expected an amount"),
        ("size=5XB", "Expected an amount"),
        ("size=NaN", "Expected an amount"),
        ("size=inf%", "Expected an amount"),
        ("size=٤%", "Expected an amount"),
        ("size=1e999%", "'size=1e999%' is not a budget: it is too large a number. Expected size=30%, size=5MB."),
        ("bits=1e999", "too large a number"),
        ("memory=1e308GB", "too large a number"),
        pytest.param(f"size={'9' * 5000}", "9...' is not a budget: it is too large", id="many digits"),
        pytest.param(f"size={'x' * 5000}", "xx...' is not a budget", id="many letters"),
        pytest.param(f"{'x' * 5000}=1", "There is no budget 'xxx", id="a long name"),
        ("bits=50%", "'bits=50%' is not a budget: expected a number, for example bits=4.5."),
        ("drop=3", "'drop=3' is not a budget: expected a share, for example drop=1%."),
    ],
)
def test_what_is_no_budget_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        Limit.parse(text)
    assert message in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "amount", [float("nan"), float("inf"), -1, -0.5, None, True, [], pytest.param(10**5000, id="digits"), "x"]
)
def test_what_is_no_amount_in_a_mapping_is_refused(amount: object) -> None:
    with pytest.raises(InputError, match="budget"):
        parse_limits({"size": amount})


def test_every_kind_has_examples_that_are_read() -> None:
    for kind in BUDGETS.names():
        for example in budget(kind).examples.split(", "):
            assert Limit.parse(example).kind == kind


def test_a_mapping_may_give_numbers() -> None:
    assert parse_limits({"size": 0.25, "bits": 0.5, "bops": 1000}) == (
        Limit("size", 0.25, share=True),
        Limit("bits", 0.5, share=False),
        Limit("bops", 1000, share=False),
    )
    assert parse_limits({"size": "25%"}) == parse_limits(["size=25%"])


def test_a_kind_is_given_once() -> None:
    with pytest.raises(InputError, match="The budget 'size' is given twice"):
        parse_limits(["size=30%", "bits=4", "size=1MB"])


def test_rows_count_what_options_take() -> None:
    assert weights_of(budget("size"), UNITS, MENU.options).tolist() == [320, 80, 40, 640, 160, 80]
    assert weights_of(budget("bits"), UNITS, MENU.options).tolist() == [2560, 640, 320, 5120, 1280, 640]
    assert budget("bops").of_float(GIVEN) == 240 * 32 * 32
    assert budget("memory").of_float(GIVEN) == 960 + 70


def test_rows_have_what_is_left_to_units() -> None:
    size, bits, bops = make_rows(parse_limits(["size=50%", "bits=5", "bops=25%", "drop=1%"]), MENU, GIVEN)
    assert (size.most, bits.most, bops.most) == (430, 1200, 61440)
    assert (size.total(430), bits.total(1200), bops.total(1000)) == (530, 5, 1000)
    assert size.weights.dtype == np.int64


def test_a_budget_beyond_all_numbers_is_no_limit() -> None:
    rows = make_rows(parse_limits(["bits=1e30", "size=1e30TB"]), MENU, GIVEN)
    assert all(np.isfinite(row.most) and row.most > row.weights.sum() for row in rows)


def test_what_is_told_of_a_row_is_enough_for_it() -> None:
    (row,) = make_rows(parse_limits(["bits=5"]), MENU, GIVEN)
    assert row.written(1001) == "4.1709"  # 4.170833...: a budget of what is told can be met
    (row,) = make_rows(parse_limits(["size=10%"]), MENU, Given(SPACE, source_bytes=30000, overhead=100))
    assert row.written(900) == "1,000 (3.34% of float)"
