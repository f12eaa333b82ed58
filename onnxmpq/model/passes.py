"""Find passes and pipelines by name.

Passes come from ``onnxmpq_passes`` and from entry points of the group ``onnxmpq.passes``, each of which names a class.
"""

import tomllib
from dataclasses import fields
from functools import cache
from importlib.resources import files
from typing import Any

from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, InternalError, nearest
from onnxmpq.model.passkit import Pass, Pipeline, check_names
from onnxmpq.registry import PASSES


@cache
def passes() -> dict[str, type[Pass]]:
    """Return every pass by its name; two of one name are an error that names both."""
    import onnxmpq_passes

    found = list(onnxmpq_passes.PASSES)
    for name, home in PASSES.homes().items():
        kind = PASSES.load(name)
        if not (isinstance(kind, type) and issubclass(kind, Pass)):
            raise InternalError(f"The entry point '{name}' ({home}) is no onnxmpq.model.passkit.Pass.")
        found.append(kind)
    return check_names(found)


def make_pass(name: str, **options: object) -> Pass:
    """Return the pass of that name with its options; refuse names and options that are not known."""
    known = passes()
    if name not in known:
        raise InputError(f"There is no pass '{name}'. Known: {', '.join(sorted(known))}.{nearest(name, known)}")
    kind = known[name]
    allowed = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = options.keys() - allowed
    if unknown:
        raise InputError(
            f"Pass '{name}' has no option '{min(unknown)}'. Known: {', '.join(sorted(allowed)) or 'none'}."
            + nearest(min(unknown), allowed)
        )
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})


def read_pass(text: str) -> Pass:
    """Return the pass that a text as of ``Pass.spec`` stands for.

    >>> read_pass("fix-shapes{batch=4,sizes=length:128+width:8}")
    FixShapes(batch=4, sizes=('length:128', 'width:8'))
    """
    name, brace, rest = text.partition("{")
    if brace and not rest.endswith("}"):
        raise InputError(f"Pass '{brief(text)}' has no '}}' at its end.")
    options: dict[str, object] = {}
    known = {field.name: field.default for field in fields(passes()[name])} if name in passes() else {}  # type: ignore[arg-type]
    for item in filter(None, rest[:-1].split(",")):
        key, _, value = item.partition("=")
        options[key] = _as(known.get(key), value, text)
    return make_pass(name, **options)


def _as(like: object, value: str, text: str) -> object:
    """Read the value of an option that is by default something."""
    if isinstance(like, tuple):
        return tuple(value.split("+"))
    if not isinstance(like, int | float):
        return value
    try:
        return type(like)(value)
    except ValueError as error:
        raise InputError(f"Pass '{brief(text)}' has '{brief(value)}', which is no number.") from error


def pipeline(name: str) -> Pipeline:
    """Return the pipeline that ``pipelines/<name>.toml`` lists."""
    return Pipeline(tuple(make_pass(**entry) for entry in _listed(name)))


@cache
def _listed(name: str) -> list[dict[str, Any]]:
    """Read the file of a pipeline, once."""
    file = files("onnxmpq_passes") / "pipelines" / f"{name}.toml"
    if not file.is_file():
        raise InputError(f"There is no pipeline '{name}'.")
    listed: list[dict[str, Any]] = tomllib.loads(file.read_text("utf-8"))["pass"]
    return listed
