"""The kinds of input that are damaged: how a mutant is made from a number, and which command is tried on it."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx

from tests.fuzz.bases import models, samples
from tests.fuzz.children import Outcome, fresh, run
from tests.fuzz.models import damaged


@dataclass(frozen=True, slots=True)
class Recipe:
    """A mutant: its base, the seeds of its changes, and the seed of all else."""

    base: str
    changes: tuple[int, ...]
    seed: int
    command: tuple[str, ...]

    def without(self, place: int) -> "Recipe":
        """Return the recipe with one change less."""
        return replace(self, changes=self.changes[:place] + self.changes[place + 1 :])


class Kind(Protocol):
    """One kind of input."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def recipe(self, number: int) -> Recipe:
        """Return what a number stands for."""
        ...

    def make(self, recipe: Recipe, folder: Path, /) -> None:
        """Write the files of a mutant."""
        ...

    def tried(self, recipe: Recipe, folder: Path) -> Outcome:
        """Try a mutant."""
        ...

    def outcome(self, number: int, folder: Path) -> Outcome:
        """Try the mutant of a number."""
        ...


@dataclass(frozen=True)
class Made:
    """A kind whose mutants are files, made by ``write``, tried by one command of the command line."""

    name: str
    bases: Callable[[], Mapping[str, bytes]]
    write: Callable[[Recipe, bytes, Path], None]
    commands: tuple[tuple[str, ...], ...]
    most_changes: int = 4

    def recipe(self, number: int) -> Recipe:
        """Choose the base, how many changes, and the command."""
        chance = random.Random(number)
        base = chance.choice(list(self.bases()))
        changes = tuple(chance.randrange(1 << 31) for _ in range(chance.randint(1, self.most_changes)))
        return Recipe(base, changes, number, chance.choice(self.commands))

    def make(self, recipe: Recipe, folder: Path) -> None:
        """Write the files."""
        self.write(recipe, self.bases()[recipe.base], folder)

    def tried(self, recipe: Recipe, folder: Path) -> Outcome:
        """Write the files into an empty folder and run the command there."""
        self.make(recipe, fresh(folder))
        keep = frozenset(path.name for path in folder.iterdir())
        return run(lambda: command(*recipe.command), folder, keep=keep)

    def outcome(self, number: int, folder: Path) -> Outcome:
        """Try the mutant of a number."""
        return self.tried(self.recipe(number), folder)


def command(*arguments: str) -> None:
    """Run the command line in this process as a user does, but without timing any export."""
    import sys

    import onnxmpq.compile
    from onnxmpq.cli import entry

    (onnxmpq.compile.quantize.__kwdefaults__ or {})["speed_budget_s"] = 0.0
    sys.argv = ["onnxmpq", *arguments]
    entry()


def preload() -> None:
    """Import what commands need, so that forked children need not."""
    import onnxruntime  # noqa: F401

    import onnxmpq_passes  # noqa: F401
    from onnxmpq.registry import pipeline

    pipeline("normalise")


def _write_model(recipe: Recipe, base: bytes, folder: Path) -> None:
    data = damaged(base, list(recipe.changes))
    (folder / "m.onnx").write_bytes(data)
    try:
        arrays = samples(onnx.ModelProto.FromString(data), recipe.seed)
        np.savez(folder / "s.npz", **arrays)  # type: ignore[arg-type]
    except Exception:  # names and types that numpy does not take: the samples of the base do
        np.savez(folder / "s.npz", **samples(onnx.ModelProto.FromString(base), recipe.seed))  # type: ignore[arg-type]


_QUANTIZE = ("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "-q", "--allow-slower")

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Made(
            "models",
            models,
            _write_model,
            (
                ("inspect", "m.onnx"),
                *((*_QUANTIZE, "--option", option) for option in ("w8a8", "w8a8", "w4a8", "w4b32", "w2a8")),
                (*_QUANTIZE, "--target", "openvino"),
                (*_QUANTIZE, "-b", "size=60%", "--effort", "quick"),
            ),
        ),
    )
}
