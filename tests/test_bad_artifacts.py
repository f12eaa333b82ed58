"""Files of JSON and TOML that are not what they should be are one sentence each, whatever stands in them."""

import copy
import json
import math
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.artifacts import Option, Plan
from onnxmpq.cli import cli
from onnxmpq.cli.config import read as read_configuration
from onnxmpq.data.images import SPEC, Images
from onnxmpq.disk.reading import JSON_BYTES, TOML_BYTES, brief, read_json
from onnxmpq.errors import InfeasibleError, InputError
from onnxmpq.exchange.overrides import from_overrides
from onnxmpq.exchange.plans import import_overrides
from onnxmpq.report.page import make_page
from onnxmpq.report.record import read_record, record_of
from onnxmpq.report.view import make_view
from onnxmpq.search.from_table import plan_from
from onnxmpq.sensitivity.table import Table
from onnxmpq.targets import builtin_names, parse_target
from onnxmpq.targets import target as find_target
from tests.exchange.test_overrides import written
from tests.graphs import layer_chain, normal
from tests.report import made
from tests.sensitivity.test_table import table

MODEL = str(Path(__file__).parents[1] / "models" / "digits_cnn.onnx")


def configuration(path: Path) -> None:
    """Read a configuration for ``onnxmpq quantize``."""
    command = cli.get_command(click.Context(cli), "quantize")
    assert command is not None
    read_configuration(path, click.Context(command))


def description(path: Path) -> None:
    """Read what describes a folder of images."""
    Images.described(path.parent)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "plan": ("p.json", Plan.read),
    "front": ("f.json", lambda path: Plan.read(path, 1)),
    "table": ("t.json", Table.read),
    "record": ("r.json", read_record),
    "overrides": ("o.json", lambda path: import_overrides(MODEL, path)),
    "configuration": ("c.toml", configuration),
    "description": (SPEC, description),
    "target": ("mine.toml", lambda path: find_target(str(path))),
}


def told(read: Callable[[Path], object], path: Path) -> str:
    """Return the one sentence, or few, that a file which cannot be read is told in; it is told soon."""
    begun = time.monotonic()
    with pytest.raises(InputError) as error:
        read(path)
    text = str(error.value)
    assert brief(path.name, 50).removesuffix("...") in text
    assert "\n" not in text
    assert len(text) < 4000 + len(str(path))
    assert time.monotonic() - begun < 10
    return text


# ---- what is no text, no JSON, no TOML -------------------------------------------------------------------------------

BYTES: dict[str, bytes] = {
    "empty": b"",
    "blanks": b" \n\n ",
    "no UTF-8": b'{"schema": 1, "target": "\xff\xfe"}',
    "UTF-16": '{"schema": 1}'.encode("utf-16"),
    "zeros": bytes(1000),
    "a control character": b'{"a\x01": "\x00"}',
    "cut short": b'{"schema": 1, "choices": {',
    "an escape": b"\x1b[31m{}",
    "lists in lists": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "lists without end": b"a = " + b"[" * 100_000,
    "objects in objects": b'{"a": ' * 100_000,
    "tables in tables": b"a = " + b"{a = " * 100_000,
    "a key of many parts": b"a." * 400_000 + b"a = 1",
    "a table of many parts": b"[" + b"a." * 400_000 + b"a]",
    "a number of many digits": b'{"schema": ' + b"9" * 10_000 + b"}",
    "a number of many digits in TOML": b"schema = " + b"9" * 10_000,
    "a number of many digits in base 16": b"threads = 0x" + b"f" * 10_000,
    "no number": b'{"schema": NaN}',
    "an infinite number": b'{"schema": 1e999}',
    "an infinite number in TOML": b"schema = inf",
    "a name twice": b'{"schema": 1, "schema": 1, "choices": {}}',
    "a name twice in TOML": b"schema = 1\nschema = 1",
    "half a character": b'{"schema": 1, "target": "\\ud800"}',
    "a list": b"[1]",
    "a text": b'"text"',
    "null": b"null",
    "many names": b"{" + b", ".join(b'"%d": 0' % i for i in range(50_000)) + b"}",
    "many names in TOML": b"".join(b"a%d = 0\n" % i for i in range(50_000)),
    "a name of many letters": b'{"' + b"schema" * 200_000 + b'": 1}',
    "a name of many letters in TOML": b"a" * 1_000_000 + b" = 1",
    "a huge text": b'{"schema": "' + b"x" * 1_000_000 + b'"}',
    "a huge text in TOML": b'schema = "' + b"x" * 1_000_000 + b'"',
}


@pytest.mark.parametrize("content", BYTES)
@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_artifact_is_one_sentence(kind: str, content: str, tmp_path: Path) -> None:
    name, read = READERS[kind]
    path = tmp_path / name
    path.write_bytes(BYTES[content])
    if kind == "configuration" and content in ("empty", "blanks"):
        read(path)  # no option at all is a configuration
        return
    told(read, path)


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    name, read = READERS[kind]
    path = tmp_path / name
    assert "cannot be read: No such file" in told(read, path)
    path.mkdir()
    assert "is a folder" in told(read, path)
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert "is a device or a pipe" in told(read, path)
    path.unlink()
    os.mkfifo(path)
    assert "is a device or a pipe" in told(read, path)
    if kind != "description":
        assert "File name too long" in told(read, path.with_name("x" * 300 + name))


@pytest.mark.parametrize("kind", READERS)
def test_a_file_without_permission_or_of_a_gigabyte_is_told(kind: str, tmp_path: Path) -> None:
    name, read = READERS[kind]
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(1 << 31)  # holes take no room
    assert "is too large: no more than" in told(read, path)
    path.chmod(0)
    if not os.access(path, os.R_OK):
        assert "cannot be read: Permission denied" in told(read, path)


def test_the_limits_are_far_above_what_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = [f"/model/layers.{i}/self_attention/query_projection/MatMul" for i in range(5000)]
    plan = Plan("ort-cpu", "gram", dict.fromkeys(names, Option(8, 8)))
    assert 100 * len(plan.to_text()) < JSON_BYTES
    targets = resources.files("onnxmpq") / "targets" / "builtin"
    assert TOML_BYTES > 20 * max(len((targets / f"{name}.toml").read_bytes()) for name in builtin_names())
    path = tmp_path / "p.json"
    path.write_text(plan.to_text())
    assert Plan.read(path) == plan
    with pytest.raises(InputError, match="is too large: no more than 1,000 bytes"):
        read_json(path, "plan", 1000)


def test_a_mark_of_byte_order_is_no_fault(tmp_path: Path) -> None:
    plan = Plan("ort-cpu", "by hand", {"a": Option(8, 8)})
    (tmp_path / "p.json").write_text(plan.to_text(), encoding="utf-8-sig")
    assert Plan.read(tmp_path / "p.json") == plan
    (tmp_path / "c.toml").write_text('option = "w8"', encoding="utf-8-sig")
    configuration(tmp_path / "c.toml")


def test_a_name_with_a_nul_is_told() -> None:
    assert "has a NUL character" in told(Plan.read, Path("a\0b.json"))
    with pytest.raises(InputError, match="has a NUL character"):
        find_target("a\0b.toml")


def test_a_configuration_gives_no_nul_to_the_file_system(tmp_path: Path) -> None:
    for text in ('calibration = "a\\u0000b"', 'budget = ["size=30%\\u0000"]'):
        (tmp_path / "c.toml").write_text(text)
        assert "has a NUL character, which no option can have" in told(configuration, tmp_path / "c.toml")


# ---- what is JSON and no artifact ------------------------------------------------------------------------------------

CHAIN = normal(layer_chain("Conv"))
OVERRIDES, SPACE, PLAN = written(CHAIN, "w4a8")
PLAN_JSON = PLAN.to_json() | {"ranges": {"weights": "mse"}, "passes": ["equalise-layers"]}
FRONT_JSON = {"schema": 1, "over": "size", "notes": [], "points": [{"file_bytes": 1, "plan": PLAN_JSON}] * 2}
TABLE_JSON = json.loads(json.dumps(table().to_json()))
UNITS = made.space(4)
RECORD_JSON = json.loads(
    make_view(made.result(UNITS), front=made.front(UNITS, 2), table=made.table(UNITS, pairs=True)).to_text()
)
SCALARS = (
    st.sampled_from([None, True, False, 0, 1, -1, 10**400, 0.5, math.nan, math.inf, "", "w8a8", "float", "nan", "\0"])
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def nested(depth: int) -> list[Any]:
    """Return a list in a list in a list ..."""
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


def places(value: Any, depth: int = 20) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a document that is not deep in it: what holds it, and its key there."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        if depth:
            yield from places(value[key], depth - 1)


@st.composite
def mutated(draw: st.DrawFn, document: Any, *, deep: bool = True) -> Any:
    """Draw a document in which one place, or two, have another value, are gone, or have a neighbour."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        found = list(places(made))
        if not found:
            break
        holder, key = found[draw(st.integers(0, len(found) - 1))]
        change = draw(st.sampled_from(["value", "value", "gone", "new", "deep" if deep else "value"]))
        if change == "gone":
            del holder[key]
        elif change == "new" and isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = draw(ANYTHING)
        elif change == "new":
            holder.append(draw(ANYTHING))
        else:
            holder[key] = nested(3000) if change == "deep" else draw(ANYTHING)
    return made


def read_or_refused(read: Callable[[], Any]) -> Any:
    """Return what is read, or None where it is refused in few words."""
    try:
        return read()
    except (InputError, InfeasibleError) as error:
        text = str(error)
    assert len(text) < 5000
    assert "\n" not in text
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder for one file after the other."""
    return tmp_path_factory.mktemp("mutated")


@given(mutated(PLAN_JSON) | ANYTHING)
def test_a_plan_is_read_or_refused(data: Any) -> None:
    plan = read_or_refused(lambda: Plan.from_json(data))
    if plan is not None:
        assert Plan.from_json(json.loads(plan.to_text())) == plan


@given(mutated(TABLE_JSON) | ANYTHING)
def test_a_table_is_read_or_refused(data: Any) -> None:
    found = read_or_refused(lambda: Table.from_json(data))
    if found is not None:
        assert found.gram.shape == (len(found.variants), len(found.variants))
        again = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert Table.from_json(again).to_json() == found.to_json()


FIGURES = st.sampled_from([0, 1, -1, 7, 2**40, 2**55, 2**59, 1e308, -1e308, 5e-324, 1e-9, "inf", "nan"]) | st.floats(
    -9, 9
)


@st.composite
def renumbered(draw: st.DrawFn, document: Any) -> Any:
    """Draw a document in which some numbers are others."""
    made = copy.deepcopy(document)
    found = [(holder, key) for holder, key in places(made) if type(holder[key]) in (int, float) and key != "schema"]
    for holder, key in draw(st.lists(st.sampled_from(found), min_size=1, max_size=3)):
        holder[key] = draw(FIGURES)
    return made


@given(renumbered(TABLE_JSON), st.sampled_from([("size=90%",), ("bits=6", "bops=1G"), ("memory=3kB", "size=70%")]))
def test_a_table_is_solved_or_refused(data: Any, budget: tuple[str, ...]) -> None:
    found = read_or_refused(lambda: Table.from_json(data))
    if found is not None:
        planned = read_or_refused(lambda: plan_from(found, budget=budget))
        assert planned is None or planned.predicted >= planned.proof.bound


@given(data=mutated(FRONT_JSON, deep=False), point=st.sampled_from([None, 1, 2, 3]))
def test_a_front_is_read_or_refused(folder: Path, data: Any, point: int | None) -> None:
    (folder / "f.json").write_text(json.dumps(data))
    plan = read_or_refused(lambda: Plan.read(folder / "f.json", point))
    if plan is not None:
        assert Plan.from_json(json.loads(plan.to_text())) == plan


@given(mutated(RECORD_JSON) | ANYTHING)
def test_a_record_is_read_or_refused(data: Any) -> None:
    view = read_or_refused(lambda: record_of(data))
    if view is not None:
        assert record_of(json.loads(view.to_text())).to_text() == view.to_text()
        make_page(view)


@given(mutated(OVERRIDES) | ANYTHING)
def test_overrides_are_read_or_refused(data: Any) -> None:
    plan = read_or_refused(lambda: from_overrides(data, CHAIN, SPACE))
    if plan is not None:
        assert all(option in SPACE.unit(unit).options for unit, option in plan.choices.items())


def as_toml(value: Any) -> str:
    """Write a value of TOML; null, which TOML does not have, as a date."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return "1979-05-27" if value is None else json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def toml(document: dict[str, Any]) -> str:
    """Write a document as TOML."""
    return "\n".join(f"{json.dumps(key)} = {as_toml(value)}" for key, value in document.items())


TARGET = tomllib.loads((resources.files("onnxmpq") / "targets" / "builtin" / "ort-cpu.toml").read_text("utf-8"))
IMAGES: dict[str, Any] = {"size": [28, 28], "layout": "NCHW", "color": "RGB", "mean": [0.1, 0.2, 0.3], "crop": 0.875}
CONFIGURATION: dict[str, Any] = {"calibration": "s.npz", "budget": ["size=30%"], "threads": 2, "bias-correction": True}


@given(mutated(TARGET, deep=False))
def test_a_target_is_read_or_refused(data: Any) -> None:
    found = read_or_refused(lambda: parse_target(toml(data), "mine.toml"))
    assert found is None or found.layers == () or found.layers[0].op


@given(data=mutated(IMAGES, deep=False))
def test_a_description_of_images_is_read_or_refused(folder: Path, data: Any) -> None:
    (folder / SPEC).write_text(toml(data))
    spec = read_or_refused(lambda: Images.described(folder))
    if spec is not None:
        assert all(0 < side <= 16384 for side in spec.shape)


@given(data=mutated(CONFIGURATION, deep=False))
def test_a_configuration_is_read_or_refused(folder: Path, data: Any) -> None:
    (folder / "c.toml").write_text(toml(data))
    read_or_refused(lambda: configuration(folder / "c.toml"))
