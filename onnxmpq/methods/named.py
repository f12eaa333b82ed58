"""Methods by their names and options, as they are typed."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, cast

from onnxmpq.errors import InputError, InternalError, nearest
from onnxmpq.options import SearchOptions
from onnxmpq.registry import METHODS

if TYPE_CHECKING:
    from onnxmpq.methods.study import Method

_SWITCH = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def method(name: str, **options: object) -> "Method":
    """Return the method of that name with its options; refuse names and options that are not known."""
    kind = METHODS.load(name)
    if not (isinstance(kind, type) and is_dataclass(kind) and callable(getattr(kind, "propose", None))):
        home = METHODS.homes()[name]
        raise InternalError(f"The method '{name}' ({home}) is no data class with a 'propose'.")
    allowed = sorted(field.name for field in fields(kind))
    if unknown := sorted(options.keys() - set(allowed)):
        raise InputError(
            f"Method '{name}' has no option '{unknown[0]}'. Known: {', '.join(allowed) or 'none'}."
            + nearest(unknown[0], allowed)
        )
    return cast("type[Method]", kind)(**options)


def chosen(options: SearchOptions) -> "Method":
    """Return the method of a search: the one that is named, with its options as they are typed, or given."""
    if isinstance(options.method, str):
        return typed_method(options.method or "gram", options.method_options)
    if options.method_options:
        raise InputError("A method that is given has its options in it: leave out method_options.")
    if not callable(getattr(options.method, "propose", None)):
        raise InputError(
            f"'{options.method!r}' is no method: it has no 'propose'. Give a name, or onnxmpq.method(...)."
        )
    return cast("Method", options.method)


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
