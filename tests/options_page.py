"""The page of options, written from the fields that they are: ``pytest tests/test_options.py --update-golden``."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from onnxmpq import options
from onnxmpq.registry import METHODS

PAGE = Path(__file__).parents[1] / "docs" / "options.md"
KINDS = {
    options.Numbers: "numbers",
    options.GraphOptions: "graph",
    options.Constraints: "constraints",
    options.SearchOptions: "search",
    options.MeasureOptions: "measure",
    options.VerifyOptions: "verify",
}
HEAD = """# Options

What can be asked of a run, beside model, samples, target, budget and output. In Python it is a field of a class, on the
command line a flag, in a configuration file (`--config`) the flag without its dashes. Which commands take which is in
`--help`.
"""


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(_part(kind, keyword) for kind, keyword in KINDS.items())


def _part(kind: type, keyword: str) -> str:
    """Return the table of one class."""
    text = (kind.__doc__ or "").replace("``", "`").split("\n\n")
    told = " ".join(" ".join(text).split())
    lines = [
        f"\n## {kind.__name__}\n\n`{keyword}=onnxmpq.{kind.__name__}(...)`. {told}\n",
        "| field | default | flag | |",
    ]
    lines.append("|---|---|---|---|")
    for found in fields(kind):
        facts = found.metadata
        flag = " ".join(f"`{part}`" for part in facts["flag"].split("/")) if facts else ""
        lines.append(f"| `{found.name}` | {_shown(found.default)} | {flag} | {_help(facts)} |")
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:
    if default is None or default in ("", ()):
        return ""
    return f"`{','.join(map(str, default))}`" if isinstance(default, tuple) else f"`{default}`"


def _help(facts: Any) -> str:
    if not facts:
        return "in Python only"
    return str(facts["help"]).format(methods=", ".join(METHODS.own)).partition("  [default")[0].replace("|", "\\|")
