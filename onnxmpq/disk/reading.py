"""Reading what others wrote as JSON or TOML: nothing in a file is believed, and all its faults are told at once.

    fields = Fields(read_json(path, "plan"), ("schema", "target", "passes"))
    target, passes = fields.take("target", TEXT), fields.take("passes", TEXTS, ())
    refuse(fields.faults, f"The plan '{path}' cannot be used.")

Only files are read, as a pipe would be waited for, and no more of them than their kind ever has. Numbers are finite,
and a name stands in an object once.
"""

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from onnxmpq.errors import InputError, nearest

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

JSON_BYTES = 64 << 20
"""The most that a JSON file may have: a front of 100 plans of 5,000 units has half of it."""
TOML_BYTES = 1 << 20
"""The most that a TOML file may have. They are written by hand."""

FAULTS = 20
"""How many faults of one file are told; the others are counted."""
_DIGITS = 100  # of a whole number; Python reads 4,300 and takes long for them
_DOTTED = re.compile(r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){100}""")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _NotReadError(ValueError):
    """What is wrong with a text that is no JSON or TOML."""


def read_text(path: Path, what: str, most: int) -> str:
    """Read a file of text, of at most so many bytes; whatever is wrong with it is one InputError with its name."""
    called = f"The {what} '{brief(str(path), 300)}'"
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise InputError(f"{called} is a folder. Give the name of a file.")
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{called} is a device or a pipe. Give the name of a file.")
        content = b""
        if found.st_size <= most:
            with path.open("rb") as file:
                content = file.read(most + 1)
    except OSError as error:
        told = f"{called} cannot be read: {error.strerror or error}. Check its name and permissions."
        raise InputError(told) from error
    except ValueError as error:
        raise InputError(f"{called} cannot be read: its name has a NUL character. Check its name.") from error
    if max(found.st_size, len(content)) > most:
        raise InputError(
            f"{called} is too large: no more than {most:,} bytes are read. Check that it is the right file."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = f"byte {error.start:,} is {content[error.start]:#04x}"
        raise InputError(f"{called} is not UTF-8 text: {fault}. Save it as UTF-8, or write it anew.") from error


def read_json(path: Path, what: str, most: int = JSON_BYTES) -> Any:
    """Read a JSON file; whatever is wrong with it is one InputError with its name."""
    text = read_text(path, what, most)
    try:
        return parse_json(text)
    except ValueError as error:
        raise _unreadable(path, what, "JSON", error) from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file; whatever is wrong with it is one InputError with its name."""
    text = read_text(path, what, TOML_BYTES)
    try:
        return parse_toml(text)
    except ValueError as error:
        raise _unreadable(path, what, "TOML", error) from error


def parse_json(text: str) -> Any:
    """Read JSON text; what is wrong with it is the message of a ValueError."""
    if not text.strip():
        raise _NotReadError("there is nothing in it")
    try:
        data = json.loads(
            text, parse_constant=_constant, parse_float=_finite, parse_int=_whole, object_pairs_hook=_object
        )
        if _SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise _NotReadError("its lists and objects are nested too deeply") from None
    except UnicodeEncodeError:
        raise _NotReadError("a text in it has half a character (a surrogate without its other half)") from None
    return data


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML text; what is wrong with it is the message of a ValueError."""
    if _DOTTED.search(text):  # tomllib takes time that grows with the square of the parts
        raise _NotReadError("a key in it has 100 parts or more")
    try:
        data = tomllib.loads(text, parse_float=_finite)
    except RecursionError:
        raise _NotReadError("its arrays and tables are nested too deeply") from None
    except (tomllib.TOMLDecodeError, _NotReadError):
        raise
    except ValueError:  # Python's limit on the digits of a whole number
        raise _NotReadError("a number in it has too many digits") from None
    inner: list[Any] = [data]
    while inner:
        value = inner.pop()
        if isinstance(value, dict | list):
            inner += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and abs(value) >= 10**_DIGITS:
            raise _NotReadError("a number in it has too many digits")
    return data


def _unreadable(path: Path, what: str, kind: str, fault: ValueError) -> InputError:
    called = f"The {what} '{brief(str(path), 300)}'"
    return InputError(f"{called} is not {kind}: {brief(str(fault), 200)}. Fix it, or write it anew.")


def _constant(text: str) -> NoReturn:
    raise _NotReadError(f"'{text}' in it is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotReadError(f"the number '{brief(text)}' in it is not finite")
    return value


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise _NotReadError(f"a number in it has {len(text):,} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise _NotReadError(f"'{brief(name)}' stands twice in one object")
        made[name] = value
    return made


# ---- fields ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """What a field may be; ``read`` raises ValueError for anything else, and ``empty`` stands in for it then."""

    expected: str
    empty: T_co
    read: Callable[[Any], T_co]


class Fields:
    """The fields of one object; what is wrong with them is kept in ``faults``, to be told at once.

    >>> fields = Fields({"target": None, "pases": []}, ("target", "passes"))
    >>> fields.take("target", TEXT), fields.take("passes", TEXTS, ())
    ('', ())
    >>> fields.faults
    ["'pases' is unknown. Did you mean 'passes'?", "'target' is null, expected a text."]
    """

    def __init__(
        self, data: Mapping[str, Any], known: Collection[str], inside: str = "", faults: list[str] | None = None
    ) -> None:
        """Look for names that are not known; ``inside`` says where the object stands in its file."""
        self.data, self.inside = data, inside
        self.faults: list[str] = [] if faults is None else faults
        self.faults += [f"'{inside}{brief(name)}' is unknown.{hint}" for name, hint in strangers(data, known)]

    def take(self, name: str, kind: Kind[T], default: T | None = None) -> T:
        """Return a field; one without a default must be there."""
        if name not in self.data:
            if default is None:
                self.faults.append(f"'{self.inside}{name}' is missing, expected {kind.expected}.")
            return kind.empty if default is None else default
        try:
            return kind.read(self.data[name])
        except ValueError:
            self.faults.append(f"'{self.inside}{name}' is {shown(self.data[name])}, expected {kind.expected}.")
            return kind.empty


def strangers(names: Iterable[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the names that are not known, the first of them with the one that was perhaps meant."""
    for index, name in enumerate(name for name in names if name not in known):
        yield name, nearest(name, known) if index < FAULTS else ""


def refuse(faults: Sequence[str], opening: str, closing: str = "") -> None:
    """Raise an InputError that tells all faults, if there are any."""
    if faults:
        more = f" There are {len(faults) - FAULTS:,} more." if len(faults) > FAULTS else ""
        raise InputError(f"{opening} {' '.join(faults[:FAULTS])}{more}{closing}")


def brief(text: str, most: int = 60) -> str:
    """Shorten a text that comes out of a file, for a message in one line.

    >>> brief("abc"), brief("a" * 100, 5), brief("a\\nb")
    ('abc', 'aaaaa...', 'a�b')
    """
    return _CONTROL.sub("\ufffd", text if len(text) <= most else f"{text[:most]}...")


def shown(value: Any) -> str:
    """Write a value out of a file for a message: lists and objects by what they are.

    >>> shown(None), shown(True), shown("a"), shown([1]), shown(0.5), shown(10**5000)
    ('null', 'true', "'a'", 'a list', '0.5', 'a number of many digits')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, int) and abs(value) > 10**20:
        return "a number of many digits"
    return f"'{brief(value)}'" if isinstance(value, str) else brief(str(value))


def _of_type(kind: type[T]) -> Callable[[Any], T]:
    def read(value: Any) -> T:
        if type(value) is not kind:
            raise ValueError
        return value

    return read


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError
    return tuple(value)


def _named_texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError
    return value


def _objects(value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError
    return tuple(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError
    return value


def _figure(value: Any) -> float:
    if type(value) not in (int, float) and value not in ("inf", "-inf", "nan"):
        raise ValueError
    try:
        return float(value)
    except OverflowError:
        raise ValueError from None


TEXT = Kind("a text", "", _of_type(str))
FLAG = Kind("true or false", False, _of_type(bool))
COUNT = Kind("a whole number", 0, _count)
FIGURE = Kind("a number", 0.0, _figure)
TEXTS: Kind[tuple[str, ...]] = Kind("a list of texts", (), _texts)
NAMED_TEXTS: Kind[dict[str, str]] = Kind("an object with texts", {}, _named_texts)
OBJECT: Kind[dict[str, Any]] = Kind("an object", {}, _of_type(dict))
OBJECTS: Kind[tuple[dict[str, Any], ...]] = Kind("a list of objects", (), _objects)
