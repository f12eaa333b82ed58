"""Options of commands, made from the fields of ``onnxmpq.options``: the same names, defaults and help everywhere.

@taking(search=SearchOptions, measure=MeasureOptions)
def command(..., search, measure): ...

A field with a flag becomes an option; a flag that two classes share is one option, which both get.
"""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import click

from onnxmpq.cli import words
from onnxmpq.options import Numbers, parse_bytes
from onnxmpq.registry import METHODS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def taking(*, only: Collection[str] = (), leave_out: Collection[str] = (), **kinds: type) -> Decorator:
    """Add the options of classes to a command, which gets what was asked for as an object of each."""
    taken = {name: [f for f in flagged(kind) if f.name not in leave_out] for name, kind in kinds.items()}
    if only:
        taken = {name: [f for f in found if f.name in only] for name, found in taken.items()}
    each = {found.name: (kind, found) for name, kind in kinds.items() for found in taken[name]}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_objects(*arguments: Any, **given: Any) -> Any:
            rest = {name: value for name, value in given.items() if name not in each}
            made = {name: kind(**read(taken[name], given)) for name, kind in kinds.items()}
            return command(*arguments, **rest, **made)

        decorated: Callable[..., Any] = with_objects
        for kind, found in reversed(each.values()):
            decorated = option(found, unset=kind is Numbers)(decorated)
        return decorated

    return decorate


def flagged(kind: type) -> Iterator[Field[Any]]:
    """Yield the fields of a class that are options of commands."""
    return (found for found in fields(kind) if "flag" in found.metadata)


def read(wanted: list[Field[Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of fields from those of options; what is not given stays out."""
    values = {}
    for found in wanted:
        value: Any = given[found.name]
        facts = found.metadata
        if value is None and found.default is not None:
            continue
        if facts.get("parse") == "bytes":
            value = parse_bytes(str(value))
        elif facts.get("listed"):
            value = tuple(part.strip() for part in str(value).split(",") if part.strip())
        values[found.name] = value
    return values


def option(found: Field[Any], *, unset: bool = False) -> Decorator:
    """Return the option of a field; ``unset`` leaves None where it is not given."""
    facts = found.metadata
    default: Any = found.default
    flags: str = facts["flag"]
    names = [flags] if "/--no-" in flags else flags.split("/")
    more: dict[str, Any] = {"help": facts["help"].format(methods=", ".join(METHODS.own))}
    if "words" in facts:
        more["shell_complete"] = words.complete(getattr(words, facts["words"]))
    if default is False and "/--no-" not in flags:
        return click.option(*names, found.name, is_flag=True, **more)
    more["default"] = None if unset or default in (None, "") else facts.get("typed", default)
    if facts.get("listed"):
        more |= {"default": ",".join(map(str, default or ())), "show_default": bool(default)}
    elif isinstance(default, tuple):
        more |= {"multiple": True, "default": (), "metavar": facts["metavar"]}
    elif "metavar" in facts:
        more["metavar"] = facts["metavar"]
    if "choices" in facts:
        more |= {"type": click.Choice(facts["choices"]), "show_default": not unset}
    elif "least" in facts:
        more["type"] = click.IntRange(min=facts["least"])
    elif found.name == "store":
        more["type"] = click.Path(path_type=Path)
    if facts.get("shows_default"):
        more["show_default"] = True
    return click.option(*names, found.name, **more)
