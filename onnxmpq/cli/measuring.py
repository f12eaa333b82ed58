"""What commands that measure share: their options, where jobs run, and what an interrupt leaves behind."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from onnxmpq.artifacts import Option, parse_options
from onnxmpq.cli import show, words
from onnxmpq.cli.console import SafeConsole
from onnxmpq.cli.options import decorated
from onnxmpq.registry import METHODS
from onnxmpq.sensitivity.executors import open_executor

if TYPE_CHECKING:
    from onnxmpq.sensitivity.settings import Settings

threads_option = click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads of each process."
)
effort_option = click.option(
    "--effort",
    type=click.Choice(words.EFFORTS),
    default="default",
    show_default=True,
    help="How long to search: quick measures once, the others again around the plans they find.",
)
menu_option = click.option(
    "--options",
    default=",".join(words.OPTIONS),
    show_default=True,
    shell_complete=words.complete(words.OPTIONS),
    help="What units may take, separated by commas.",
)


@dataclass(frozen=True, slots=True)
class Measuring:
    """How to measure, what keeps the results, and where jobs run."""

    settings: "Settings"
    store: Path | None
    executor: str

    @property
    def ahead(self) -> int:
        """Return how many jobs to keep in flight: twice the workers that are named, and never few."""
        count = self.executor.rpartition(":")[2]
        return max(16, 2 * int(count)) if count.isdigit() and "//" not in self.executor else 16

    @contextmanager
    def running(self, quiet: bool, verbose: bool) -> Iterator[dict[str, Any]]:
        """Give what a function that measures takes: settings, store, executor and progress.

        After an interrupt say what the store has, and end with 130.
        """
        with (
            resumable(self.store),
            show.progress(quiet, verbose) as told,
            open_executor(self.executor) as pool,
        ):
            yield {
                "settings": self.settings,
                "store": self.store,
                "executor": pool,
                "ahead": self.ahead,
                "progress": told,
            }


def measuring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how to measure, and give them to the command as ``measuring``; it has ``threads``."""

    @functools.wraps(command)
    def with_measuring(
        store: Path | None,
        executor: str,
        memory: str,
        loss: str,
        outputs: str,
        samples: int,
        blends: bool | None,
        **rest: Any,
    ) -> Any:
        from onnxmpq.sensitivity.settings import Settings, parse_bytes

        settings = Settings(
            loss=loss,
            outputs=tuple(name.strip() for name in outputs.split(",") if name.strip()),
            samples=samples,
            memory=parse_bytes(memory),
            threads=rest["threads"],
            seed=rest["seed"],
            blends=blends,
        )
        return command(measuring=Measuring(settings, store, executor), **rest)

    return decorated(
        with_measuring,
        [
            click.option(
                "--store", type=click.Path(path_type=Path), help="Keep every finished job here, and go on from it."
            ),
            click.option(
                "--loss",
                default="auto",
                show_default=True,
                shell_complete=words.complete(words.LOSSES),
                help="auto, kl, ce (with labels) or power.",
            ),
            click.option("--outputs", default="", help="Which outputs count, separated by commas; all if empty."),
            click.option(
                "--samples", default=0, type=click.IntRange(min=0), help="How many samples to use; all of them if 0."
            ),
            click.option(
                "--blends/--no-blends",
                default=None,
                help="Measure on blends of two samples, too. A store holds either.  [default: as the method asks]",
            ),
            click.option("--memory", default="4GB", show_default=True, help="Ceiling for one process."),
            click.option(
                "--executor",
                default="inline",
                show_default=True,
                shell_complete=words.complete(words.EXECUTORS),
                help="inline, processes[:N], dask:local[:N], dask:URL.",
            ),
            click.option("--seed", default=0, type=click.IntRange(min=0), help="Seed of everything random."),
        ],
    )


def method_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a method and its options."""
    return decorated(
        command,
        [
            click.option(
                "--method",
                metavar="NAME",
                shell_complete=words.complete(words.methods),
                help=f"How a plan is made: {', '.join(METHODS.own)}.  [default: gram with a budget, else uniform]",
            ),
            click.option(
                "--method-option",
                "-m",
                "method_options",
                multiple=True,
                metavar="NAME=VALUE",
                help="An option of the method: psd=no for clado, search=sequential for sqnr, gamma=2 for lampq. "
                "Repeatable.",
            ),
        ],
    )


def constraint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the decisions by hand, and give them to the command as ``keep``, ``exclude`` and ``ties``."""
    named = "NODE is a unit, a node, a regular expression, or op:Conv."
    return decorated(
        command,
        [
            click.option("--keep", multiple=True, metavar="NODE=OPTION", help=f"These take this option. {named}"),
            click.option("--exclude", multiple=True, metavar="NODE", help="These stay float."),
            click.option("--tie", "ties", multiple=True, metavar="NODE,NODE", help="These take one option together."),
        ],
    )


def menu(text: str) -> tuple[Option, ...]:
    """Read options that are separated by commas."""
    return parse_options([part.strip() for part in text.split(",")])


@contextmanager
def resumable(store: Path | None) -> Iterator[None]:
    """After an interrupt say what the store has, and end with 130."""
    try:
        yield
    except KeyboardInterrupt:
        if store is None or not os.path.exists(store):
            raise
        from onnxmpq.sensitivity.store import Store

        with Store.open(store, None) as kept:
            count = kept.count
        SafeConsole(stderr=True).print(
            f"Interrupted: {count} results are in '{escape(str(store))}'. The same command goes on from there.",
            highlight=False,
            soft_wrap=True,
        )
        raise click.exceptions.Exit(130) from None
