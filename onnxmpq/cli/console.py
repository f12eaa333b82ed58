"""The console of the command line: what comes out of files is shown, and never obeyed.

Names in a model may hold escape sequences, which a terminal would carry out. Text is stripped of them where it is
rendered, whatever table or line it stands in.

What cannot be written to where the output goes is told like any other file that cannot be written.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from onnxmpq.disk.files import reason
from onnxmpq.errors import InputError


class Unread(BaseException):
    """Nobody reads the output any more: `| head` has seen enough."""


class _Stream:
    """A stream of the process, whose failures are told apart from those of other files."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """Write a text; one that is empty is click's question what stream this is, and it ignores the answer."""
        if text == "":
            return 0
        with self._told():
            return self._stream.write(text)

    def flush(self) -> None:
        """Write what is held back."""
        with self._told():
            self._stream.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._give_up()
            raise Unread from None
        except OSError as error:
            self._give_up()
            raise InputError(f"The {self._name} cannot be written: {reason(error)}.") from error

    def _give_up(self) -> None:
        """Let go of what is held back, which could not be written when the process ends either."""
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the stream."""
        return getattr(self._stream, name)


@contextmanager
def told_streams() -> Iterator[None]:
    """Tell what cannot be written as an error, and write what the encoding of a stream does not have as its code."""
    before = sys.stdout, sys.stderr
    for name, told, stream in (("stdout", "output", sys.stdout), ("stderr", "standard error", sys.stderr)):
        if stream is None:  # closed from outside
            continue
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _Stream(stream, told))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


_SHOWN = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
"""Control characters, which are shown as what cannot be shown."""


def printable(text: str) -> str:
    r"""Return a text without control characters.

    >>> printable("conv\x1b[31m1")
    'conv�[31m1'
    """
    return text.translate(_SHOWN)


def literal(text: str) -> str:
    """Return the markup of a text as it is, but for names that are too long to be read."""
    return escape(re.sub(r"'([^']{60})[^']{180,}([^']{60})'", r"'\1…\2'", text))


def tell(text: str) -> None:
    """Print a message with markup on standard error, in colour on a terminal."""
    SafeConsole(stderr=True).print(text, highlight=False, soft_wrap=True)


class SafeConsole(Console):
    """A console that renders no control characters of the texts it is given."""

    def render_str(self, text: str, **more: Any) -> Text:
        """Render a text, its markup included."""
        return super().render_str(printable(text), **more)
