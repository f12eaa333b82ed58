"""Groups of commands that point at the nearest name, and load a command when it is asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from onnxmpq.errors import nearest


class NearestGroup(click.Group):
    """A group that names the nearest command where there is none of a name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names."""
        known, name = self.list_commands(ctx), args[0]
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command '{name}'.{nearest(name, known)}", ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(NearestGroup):
    """A group that knows its commands by name and by what they do; a command is loaded when it is asked for.

    ``NAME`` is ``NAME_command`` of the module ``onnxmpq.cli.NAME``.
    """

    def __init__(self, *arguments: Any, lines: Mapping[str, str], **rest: Any) -> None:
        """Take what each command does, in a line."""
        super().__init__(*arguments, **rest)
        self.lines = lines

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the table."""
        return list(self.lines)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name not in self.lines:
            return None
        command: click.Command = getattr(import_module(f"onnxmpq.cli.{cmd_name}"), f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the commands do, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lines.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin so, without loading any."""
        found = [CompletionItem(name, help=line) for name, line in self.lines.items() if name.startswith(incomplete)]
        return found or click.Command.shell_complete(self, ctx, incomplete)
