"""A run record: all numbers of a report in a JSON file, of which its page can be made again without the run.

    write_record(view, path)     what came out, on the disk
    read_record(path)            the same again, or every fault of the file at once

What a field may be is read from its class in ``onnxmpq.report.figures``, so a field that is added there is read here. A
number stays as it stands, whole or not: the page of a record is the page of the run to the last byte.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from onnxmpq.artifacts import Option
from onnxmpq.disk.files import write_whole
from onnxmpq.disk.reading import (
    COUNT,
    FIGURE,
    FLAG,
    OBJECT,
    OBJECTS,
    TEXT,
    TEXTS,
    Fields,
    Kind,
    brief,
    read_json,
    refuse,
    shown,
)
from onnxmpq.errors import InputError
from onnxmpq.report.figures import Map, OptionFigures, View

T = TypeVar("T")

_PLANS = ("chosen", "searched", "uniform", "other")
_GUESSES = ("pair", "plan")


def write_record(view: View, path: Path, *, overwrite: bool = True) -> None:
    """Write a record, whole or not at all."""
    write_whole(path, view.to_text(), "record", overwrite=overwrite)


def read_record(path: Path) -> View:
    """Read a record, or the JSON beside a page, which is one."""
    return record_of(read_json(path, "record"), str(path))


def record_of(data: Any, where: str = "record") -> View:
    """Make the numbers of a report from plain JSON data; every fault is told at once."""
    if not isinstance(data, dict) or not isinstance(data.get("summary"), dict):
        raise InputError(
            f"'{where}' is not a record: expected a JSON object with 'schema', 'summary' and 'units'. Give what "
            "--record wrote, or the JSON beside the page of a report."
        )
    if type(data.get("schema")) is not int or data["schema"] != View.schema:
        told = shown(data["schema"]) if "schema" in data else "none"
        raise InputError(
            f"The record '{where}' has schema {told}; this version of onnxmpq reads schema {View.schema}. Read it with "
            "the version that wrote it, or run the command again with --record."
        )
    faults: list[str] = []
    view: View = _object(View, {name: value for name, value in data.items() if name != "schema"}, "", faults)
    # Only of fields that could be read it can be said whether they agree.
    faults = faults or [*_disagreements(view)]
    refuse(faults, f"The record '{where}' is damaged.", " Run the command again with --record.")
    return view


# ---- fields, as their classes say ------------------------------------------------------------------------------------


def _number(value: Any) -> float:
    """Read a number as it stands."""
    read = FIGURE.read(value)
    return read if isinstance(value, str) else value


def _value(value: Any) -> float | str:
    """Read what a check found; a text that stands for a number is one."""
    return _number(value) if type(value) is not str or value in ("inf", "-inf", "nan") else value


def _whole_numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and abs(item) < 2**31 for item in value):
        raise ValueError
    return tuple(value)


def _or_null(kind: Kind[T]) -> Kind[T | None]:
    return Kind(f"{kind.expected} or null", None, lambda value: None if value is None else kind.read(value))


NUMBER = Kind("a number", 0.0, _number)
_KINDS: Mapping[Any, Kind[Any]] = {
    str: TEXT,
    bool: FLAG,
    int: COUNT,
    float: NUMBER,
    tuple[str, ...]: TEXTS,
    tuple[int, ...]: Kind("a list of whole numbers", (), _whole_numbers),
    float | int | str | None: _or_null(Kind("a number, a text", "", _value)),
}


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return what every field of a class is."""
    hints = get_type_hints(kind)
    return {found.name: hints[found.name] for found in fields(kind)}


def _object(kind: Any, data: Mapping[str, Any], inside: str, faults: list[str]) -> Any:
    """Read an object of a class; what cannot be read is told in ``faults``, and something empty stands for it."""
    hints = _hints(kind)
    found = Fields(data, hints, inside, faults)
    return kind(**{name: _field(hint, name, found) for name, hint in hints.items()})


def _field(hint: Any, name: str, found: Fields) -> Any:
    """Read a field: a plain one, an object, or a list of objects; each of the first two may be absent."""
    if hint in _KINDS:
        return found.take(name, _KINDS[hint])
    inner: Any = next(iter(get_args(hint)), hint)
    if get_origin(hint) is tuple:
        items = enumerate(found.take(name, OBJECTS))
        return tuple(_object(inner, item, f"{found.inside}{name}[{place}].", found.faults) for place, item in items)
    kind = _KINDS.get(inner, OBJECT)
    before = len(found.faults)
    value = found.take(name, _or_null(kind) if NoneType in get_args(hint) else kind)
    if value is None or inner in _KINDS:
        return value
    told = found.faults if len(found.faults) == before else []  # of what is no object no fields are missed
    return _object(inner, value, f"{found.inside}{name}.", told)


# ---- what must agree -------------------------------------------------------------------------------------------------


def _disagreements(view: View) -> Iterator[str]:
    """Yield what a page could not be made of: names that nothing has, and lists that do not fit one another."""
    options = {option.name for option in view.options}
    units = {unit.name for unit in view.units}
    yield from _twice("options", (option.name for option in view.options))
    yield from _twice("units", (unit.name for unit in view.units))
    yield from (f"'options[{at}]' has other bits than its name." for at, o in enumerate(view.options) if not _named(o))
    for name, count in _columns(view):
        if count not in (0, len(view.units)):
            yield f"'{name}' has {count:,} options for {len(view.units):,} units."
    if view.chosen and view.summary.file_bytes is None:
        yield "'chosen' is the plan of a file, and 'summary.file_bytes' is null."
    yield from (f"{what}, which is not in 'units'." for what in _strange(_named_units(view), units))
    yield from (f"{what}, which is not in 'options'." for what in _strange(_named_options(view), options))
    kinds: list[tuple[str, str, Collection[str]]]
    kinds = [(f"plans[{at}].kind", plan.kind, _PLANS) for at, plan in enumerate(view.plans)]
    kinds += [(f"guesses[{at}].kind", guess.kind, _GUESSES) for at, guess in enumerate(view.guesses)]
    for where, kind, known in kinds:
        if kind not in known:
            yield f"'{where}' is '{brief(kind)}', expected one of {', '.join(known)}."
    for at, found in enumerate(view.maps):
        yield from (f"'maps[{at}].{told}" for told in _of_map(found))


def _twice(what: str, names: Iterable[str]) -> Iterator[str]:
    """Yield what stands more than once in a list."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"'{what}' has '{brief(name)}' twice."
        seen.add(name)


def _named(figures: OptionFigures) -> bool:
    """Tell whether an option is what it is called."""
    try:
        option = Option.parse(figures.name)
    except InputError:
        return False
    return (option.weight_bits, option.activation_bits, option.block) == (
        *(figures.weight_bits, figures.activation_bits),
        figures.block,
    )


def _columns(view: View) -> Iterator[tuple[str, int]]:
    """Yield the lists that follow the units, and how long they are."""
    yield "chosen", len(view.chosen)
    for at, plan in enumerate(view.plans):
        yield f"plans[{at}].options", len(plan.options)


def _strange(named: Iterable[tuple[str, Iterable[str]]], known: set[str]) -> Iterator[str]:
    """Yield where names stand that are not known, and the first of them there."""
    for where, names in named:
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            yield f"'{where}' has '{brief(unknown)}'"


def _named_units(view: View) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield where units are named."""
    yield from ((f"alone[{at}].unit", (one.unit,)) for at, one in enumerate(view.alone))
    yield from ((f"maps[{at}].units", found.units) for at, found in enumerate(view.maps))
    yield from ((f"pairs[{at}]", (pair.first, pair.second)) for at, pair in enumerate(view.pairs))


def _named_options(view: View) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield where options are named."""
    yield "chosen", view.chosen
    yield from ((f"plans[{at}].options", plan.options) for at, plan in enumerate(view.plans))
    yield from ((f"units[{at}].costs", (cost.option for cost in unit.costs)) for at, unit in enumerate(view.units))
    yield from ((f"alone[{at}].option", (one.option,)) for at, one in enumerate(view.alone))
    yield from ((f"maps[{at}].options", found.options) for at, found in enumerate(view.maps))
    yield from ((f"pairs[{at}]", (pair.first_option, pair.second_option)) for at, pair in enumerate(view.pairs))


def _of_map(found: Map) -> Iterator[str]:
    """Yield what does not fit in a map, from the name of its field on."""
    count = len(found.units)
    if len(found.options) != count:
        yield f"options' has {len(found.options):,} options for {count:,} units."
    if sorted(found.clustered) != list(range(count)):
        yield f"clustered' is no order of {count:,} units."
    if len(found.thousandths) != count * (count - 1) // 2:
        yield f"thousandths' has {len(found.thousandths):,} numbers, expected {count * (count - 1) // 2:,}."
    if not all(abs(number) <= 1000 for number in found.thousandths):
        yield "thousandths' has a number beyond -1000 to 1000."
