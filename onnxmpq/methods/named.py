"""Find methods by name: our own, and those of the entry points of the group ``onnxmpq.methods``."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

from onnxmpq.errors import InputError, InternalError, nearest

if TYPE_CHECKING:
    from onnxmpq.methods.study import Method

ENTRY_POINTS = "onnxmpq.methods"
_SWITCH = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@cache
def method_homes() -> dict[str, str]:
    """Return where every method's class is, by its name; two of one name are an error that names both."""
    from onnxmpq.methods import METHODS

    homes = dict(METHODS)
    for entry in entry_points(group=ENTRY_POINTS):
        other = homes.setdefault(entry.name, entry.value)
        if other != entry.value:
            raise InternalError(f"Two methods are called '{entry.name}': {other} and {entry.value}.")
    return homes


def method(name: str, **options: object) -> "Method":
    """Return the method of that name with its options; refuse names and options that are not known."""
    homes = method_homes()
    if name not in homes:
        raise InputError(f"There is no method '{name}'. Known: {', '.join(sorted(homes))}.{nearest(name, homes)}")
    module, _, attribute = homes[name].partition(":")
    kind = getattr(import_module(module), attribute, None)
    if not (isinstance(kind, type) and is_dataclass(kind) and callable(getattr(kind, "propose", None))):
        raise InternalError(f"The method '{name}' ({homes[name]}) is no data class with a 'propose'.")
    allowed = sorted(field.name for field in fields(kind))
    if unknown := sorted(options.keys() - set(allowed)):
        raise InputError(
            f"Method '{name}' has no option '{unknown[0]}'. Known: {', '.join(allowed) or 'none'}."
            + nearest(unknown[0], allowed)
        )
    return cast("type[Method]", kind)(**options)


def typed_method(name: str, texts: Sequence[str]) -> "Method":
    """Return the method of that name with options as they are typed, ``psd=no``; refuse what does not fit."""
    kind: Any = type(method(name))
    defaults = {field.name: field.default for field in fields(kind)}
    options: dict[str, object] = {}
    for text in texts:
        option, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise InputError(f"'{text}' is no option of a method. Expected name=value, for example psd=no for clado.")
        options[option] = _typed(option, value, defaults[option]) if option in defaults else value
    return method(name, **options)


def _typed(name: str, text: str, default: object) -> object:
    """Read a value of the kind that the default is of; a number where that is None."""
    if isinstance(default, bool):
        if text.lower() in _SWITCH:
            return _SWITCH[text.lower()]
        raise InputError(f"'{name}={text}' is neither yes nor no.")
    if isinstance(default, str):
        return text
    kind = int if isinstance(default, int) else float
    try:
        return kind(text)
    except ValueError as error:
        raise InputError(f"'{name}={text}' is no {'whole number' if kind is int else 'number'}.") from error
