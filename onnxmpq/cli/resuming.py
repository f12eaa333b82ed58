"""What commands that measure share: progress, and what an interrupt leaves behind."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.markup import escape

from onnxmpq.cli import show
from onnxmpq.cli.console import SafeConsole


@contextmanager
def measuring(store: str | Path | None, quiet: bool, verbose: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show progress; after an interrupt say what the store has, and end with 130."""
    with resumable(store), show.progress(quiet, verbose) as told:
        yield told


@contextmanager
def resumable(store: str | Path | None) -> Iterator[None]:
    """After an interrupt say what the store has, and end with 130."""
    try:
        yield
    except KeyboardInterrupt:
        if store is None or not os.path.exists(store):
            raise
        from onnxmpq.sensitivity.stored.store import Store

        with Store.open(Path(store), None) as kept:
            count = kept.count
        SafeConsole(stderr=True).print(
            f"Interrupted: {count} results are in '{escape(str(store))}'. The same command goes on from there.",
            highlight=False,
            soft_wrap=True,
        )
        raise click.exceptions.Exit(130) from None
