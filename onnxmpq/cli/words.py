"""Words that options take, known without loading what they stand for, so that help and completion are quick."""

import re
from collections.abc import Callable, Iterable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from onnxmpq.options import DEVICES, LOSSES, MENU
from onnxmpq.registry import BUDGETS, METHODS, PASSES, TARGETS

ISAS = ("any", "vnni")
OVER = ("size", "bits", "bops", "memory")
options, losses, devices = MENU, LOSSES, DEVICES
executors = ("auto", "inline", "processes", "processes:4", "dask:local", "dask:local:4", "dask:tcp://")

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
_PASS_NAME = re.compile(r'^    name: ClassVar\[str\] = "([^"]+)"', re.MULTILINE)


def targets() -> list[str]:
    """Return the names of the targets that are installed."""
    found = (file.name for file in (files("onnxmpq") / "targets" / "builtin").iterdir())
    own = (name.removesuffix(".toml") for name in found if name.endswith(".toml"))
    return sorted({*own, *TARGETS.homes()})


def budgets() -> list[str]:
    """Return the names of the budgets, those of other packages behind ours."""
    return list(BUDGETS.homes())


def methods() -> list[str]:
    """Return the names of the methods, those of other packages too."""
    return list(METHODS.names())


def passes() -> list[str]:
    """Return the names of the passes, read from their files; those of other packages by their entry points."""
    found = set(PASSES.homes())
    spec = find_spec("onnxmpq_passes")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in Path(folder).rglob("*.py"):
            found.update(_PASS_NAME.findall(file.read_text("utf-8")))
    return sorted(found)


def complete(words: Callable[[], Iterable[str]] | Iterable[str]) -> Complete:
    """Return what completes one of the words; a list with commas is completed at its end."""

    def completed(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        known = words() if callable(words) else words
        return [CompletionItem(before + comma + word) for word in known if word.startswith(last)]

    return completed


def complete_target(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a target, or the path of a file."""
    named = [CompletionItem(name) for name in targets() if name.startswith(incomplete)]
    return named or [CompletionItem(incomplete, type="file")]


def complete_budget(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the kind of a budget; the amount is the user's."""
    return [CompletionItem(f"{kind}=") for kind in budgets() if f"{kind}=".startswith(incomplete)]
