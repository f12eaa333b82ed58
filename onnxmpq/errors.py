"""Everything onnxmpq raises on purpose.

    OnnxmpqError
    ├── InputError        exit 2   the caller can fix it: a file, a name, an option, samples
    │   └── RuntimeMissingError    a runtime is not installed; says which command installs it
    ├── InfeasibleError   exit 3   no plan meets the budgets; says the tightest that can be met
    ├── VerifyError       exit 4   an export does not load, or does not do what was predicted
    └── InternalError     exit 70  our fault: please report

Every message says what, where, what was expected and what to do. Anything else that escapes is a bug
and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

_LONGEST = 200  # letters of a word that may be a slip of the finger; comparing takes time


class OnnxmpqError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class InputError(OnnxmpqError):
    """Something the caller gave cannot be used."""

    exit_code = 2


class RuntimeMissingError(InputError):
    """A runtime that the work needs is not installed."""


class InfeasibleError(OnnxmpqError):
    """No plan meets the budgets."""

    exit_code = 3


class VerifyError(OnnxmpqError):
    """An export was made and does not behave as predicted."""

    exit_code = 4


class InternalError(OnnxmpqError):
    """A promise inside onnxmpq was broken."""

    exit_code = 70


def nearest(word: str, known: Iterable[str]) -> str:
    """Ask whether the nearest of the known words was meant, to be put behind an error; nothing where none is near.

    >>> nearest("sise", ("size", "bits"))
    " Did you mean 'size'?"
    >>> nearest("magic", ("size", "bits"))
    ''
    """
    if len(word) > _LONGEST:
        return ""
    words = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), words, 1)
    return f" Did you mean '{words[near[0]]}'?" if near else ""
