"""The last line of a run: the exact command that comes next."""

import shlex
from collections.abc import Sequence

import click
from rich.markup import escape

from onnxmpq.cli import show
from onnxmpq.cli.config import keys, told

_OWN = ("output", "budget", "option", "store", "plan", "report", "record", "evaluation", "rounding")
"""Options that belong to one run, or that a plan holds: the next command is not given them again."""


def next_command(name: str, *arguments: str, more: Sequence[str] = ()) -> str:
    """Return a command with the options of the running one that both have.

    ``more`` names options that it would not get otherwise, as they are typed.
    """
    context = click.get_current_context()
    group = context.find_root().command
    command = group.get_command(context, name) if isinstance(group, click.Group) else None
    known = keys(command) if command is not None else {}
    parts = ["onnxmpq", name, *arguments]
    for key, value in told(context).items():
        if key in known and key not in _OWN:
            parts += _typed(known[key], value)
    return shlex.join([*parts, *more])


def _typed(option: click.Option, value: object) -> list[str]:
    """Return an option as it is typed."""
    name = min(option.opts, key=len)
    if isinstance(value, bool):
        return [name] if value else list(option.secondary_opts[:1])
    values = value if isinstance(value, tuple | list) else (value,)
    return [part for item in values for part in (name, str(item))]


def comes_next(command: str, why: str = "") -> None:
    """Print the command in one line, so that it can be copied."""
    show.out.print(f"next      {escape(command)}" + (f"  [dim]# {escape(why)}[/]" if why else ""), soft_wrap=True)
