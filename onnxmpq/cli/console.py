"""The console of the command line: what comes out of files is shown, and never obeyed.

Names in a model may hold escape sequences, which a terminal would carry out. Text is stripped of them where it is
rendered, whatever table or line it stands in.
"""

from typing import Any

from rich.console import Console
from rich.text import Text

_SHOWN = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
"""Control characters, which are shown as what cannot be shown."""


def printable(text: str) -> str:
    r"""Return a text without control characters.

    >>> printable("conv\x1b[31m1")
    'conv�[31m1'
    """
    return text.translate(_SHOWN)


def tell(text: str) -> None:
    """Print a message with markup on standard error, in colour on a terminal."""
    SafeConsole(stderr=True).print(text, highlight=False, soft_wrap=True)


class SafeConsole(Console):
    """A console that renders no control characters of the texts it is given."""

    def render_str(self, text: str, **more: Any) -> Text:
        """Render a text, its markup included."""
        return super().render_str(printable(text), **more)
