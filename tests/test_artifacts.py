"""Artifacts: options are read as they are written, plans survive JSON, and all faults are told at once."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.artifacts import FLOAT, Check, Option, Plan, Verdict, parse_options
from onnxmpq.errors import InputError
from onnxmpq.numerics.formats import container_bits
from onnxmpq.targets import builtin_names, target

BITS = st.integers(2, 16)
OPTIONS = st.just(FLOAT) | st.builds(
    Option, weight_bits=BITS, activation_bits=st.just(0) | BITS, block=st.just(0) | st.integers(1, 4096)
)
OPTIONS |= st.builds(Option, activation_bits=BITS)
NAMES = st.text(min_size=1, max_size=12)
PLANS = st.builds(
    Plan,
    target=NAMES,
    method=NAMES,
    choices=st.dictionaries(NAMES, OPTIONS, max_size=5),
    model_sha256=NAMES,
    ranges=st.dictionaries(NAMES, NAMES, max_size=3),
)


@given(OPTIONS)
def test_an_option_is_read_as_it_is_written(option: Option) -> None:
    assert Option.parse(str(option)) == option
    assert option.is_float == (str(option) == "float")


@given(st.from_regex(r"(w[0-9]{0,2})?(b[0-9]{0,3})?(a[0-9]{0,2})?", fullmatch=True) | st.text(max_size=8))
def test_what_is_read_as_an_option_is_written_back_the_same(text: str) -> None:
    try:
        option = Option.parse(text)
    except InputError:
        return
    assert str(option) == text


@pytest.mark.parametrize("text", ["", "w1", "w17a8", "w8a1", "a17", "w0", "a0", "w8b0", "w08", "b32", "w8 a8", "w٤"])
def test_what_is_no_option_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is not an option\. Expected 'float', or w<bits>"):
        Option.parse(text)


def test_a_range_of_widths_is_written_out_in_its_order_and_once() -> None:
    assert [str(o) for o in parse_options(["w2-4", "w5-3a8", "w4", "float"])] == (
        ["w2", "w3", "w4", "w5a8", "w4a8", "w3a8", "float"]
    )
    with pytest.raises(InputError, match="'w17' is not an option"):
        parse_options(["w8-99999"])


@pytest.mark.parametrize("name", builtin_names())
def test_every_option_of_every_target_is_read_as_it_is_written(name: str) -> None:
    for rule in target(name).layers:
        assert parse_options([str(option) for option in rule.options]) == rule.options


def test_codes_are_held_by_the_narrowest_type_that_has_room() -> None:
    assert {bits: container_bits(bits) for bits in range(2, 17)} == (
        {2: 2, 3: 4, 4: 4, **dict.fromkeys(range(5, 9), 8), **dict.fromkeys(range(9, 17), 16)}
    )


@given(PLANS)
def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_all_faults_of_a_plan_are_told_at_once() -> None:
    data = {"schema": 1, "choices": {"a": "w8a8", "b": "w1", "c": 8}, "ranges": ["mse"]}
    with pytest.raises(InputError) as told:
        Plan.from_json(data, "p.json")
    message = str(told.value)
    assert message.startswith("'p.json' cannot be used. ")
    assert "unit 'b': 'w1' is not an option" in message
    assert "unit 'c': '8' is not an option" in message
    assert "'ranges' is a list, expected an object with texts" in message
    assert "unit 'a'" not in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "'plan' is not a plan: expected a JSON object with 'schema', 'target' and 'choices'"),
        ({"schema": 1}, "is not a plan"),
        ({"schema": 1, "choices": ["w8"]}, "is not a plan"),
        ({"schema": 2, "choices": {}}, "has schema 2; this version of onnxmpq reads schema 1"),
        ({"choices": {}}, "has schema None"),
    ],
)
def test_json_that_is_no_plan_is_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan.from_json(data)


def test_a_plan_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with pytest.raises(InputError, match=r"The plan '.*p\.json' cannot be read: No such file"):
        Plan.read(path)
    path.write_bytes(b"{")
    with pytest.raises(InputError, match=r"The plan '.*p\.json' is not JSON"):
        Plan.read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"The plan '.*p\.json' is not UTF-8 text"):
        Plan.read(path)


def test_a_verdict_is_written_in_strict_json() -> None:
    values: tuple[float | int | str, ...] = (math.inf, -math.inf, 1.5, 3, "x")
    checks = tuple(Check(f"c{i}", None, value, "") for i, value in enumerate(values))
    data = Verdict("r", checks).to_json()
    assert [check["value"] for check in data["checks"]] == ["inf", "-inf", 1.5, 3, "x"]
    json.dumps(data, allow_nan=False)


def test_a_verdict_holds_unless_a_check_failed() -> None:
    passed, figure, failed = (Check(name, ok, 0, "") for name, ok in (("a", True), ("b", None), ("c", False)))
    assert Verdict("r", (passed, figure)).ok
    assert not Verdict("r", (passed, failed, figure)).ok
    assert Verdict("r", (passed, failed))["c"] is failed
    with pytest.raises(KeyError):
        Verdict("r", ())["c"]
