"""Keeping what a search has found when something after it, or within it, fails.

    with workshop(output) as folder, Rescue(output, given_store, folder) as kept:
        Search(..., store=kept.store)      results go to a store, also where none was asked for
        kept.keep(plan)                    as soon as there is one

On any error, an interrupt too, the store and the plan are moved beside the output, and the error says in a note where
they are and how to go on from there. Without an error nothing is left.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from onnxmpq.artifacts import Plan
from onnxmpq.disk import leftovers
from onnxmpq.disk.files import kept_of, write_whole
from onnxmpq.errors import InputError, OnnxmpqError
from onnxmpq.sensitivity.stored.store import Store


class Rescue:
    """What is kept of a run that fails. Use it as a context manager, opened before the search and closed after it."""

    def __init__(self, output: Path, given: Path | None, folder: Path) -> None:
        """Measure into ``given``, or into a store in ``folder``, which is on the disk of the output."""
        self.output, self.given = output, given
        self.store = given or folder / "results.store"
        self.plan: Plan | None = None

    def keep(self, plan: Plan) -> None:
        """Keep a plan, too, from now on."""
        self.plan = plan

    def __enter__(self) -> Self:
        if self.given is None:
            leftovers.note(self.store, rescue_for=self.output)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        try:
            notes = [*self._kept_results(), *self._kept_plan()]
        except OSError as fault:
            notes = [f"What was measured could not be kept beside '{self.output}': {fault.strerror}."]
        except InputError as fault:
            notes = [str(fault)]
        for note in notes:
            error.add_note(note)

    def _kept_results(self) -> list[str]:
        """Move the store beside the output if it holds anything; say where it is."""
        return kept_results(self.store, self.output, self.given)

    def _kept_plan(self) -> list[str]:
        """Write the plan beside the output; say how to use it."""
        if self.plan is None:
            return []
        place = free_name(kept_of(self.output)[1])
        write_whole(place, self.plan.to_text(), "plan", overwrite=False)
        return [
            f"The plan that was found is in '{place}': `onnxmpq apply MODEL {place} -c SAMPLES -o {self.output}` tries "
            "it again, here or on another machine."
        ]


def kept_results(store: Path, output: Path, given: Path | None = None) -> list[str]:
    """Move a store beside an output if it holds anything and is nobody's own; say where it is."""
    count = _results(store)
    if not count:
        return []
    place = given
    if place is None:
        place = free_name(kept_of(output)[0])
        shutil.move(store, place)
    return [f"What was measured, {count} results, is in '{place}': the same command with --store {place} goes on."]


def rescued(made: Sequence[leftovers.Entry]) -> list[str]:
    """Clear up after a process that was killed: keep what it measured, remove all else; say what was kept."""
    notes = []
    for entry in made:
        if entry.rescue_for is not None:
            try:
                notes += kept_results(entry.path, entry.rescue_for)
            except OSError as fault:
                notes.append(f"What was measured could not be kept beside '{entry.rescue_for}': {fault.strerror}.")
    for entry in made:
        if entry.path.is_dir():
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            entry.path.unlink(missing_ok=True)
    return notes


def free_name(path: Path) -> Path:
    """Return ``path``, or the next name with a number that no file has.

    >>> free_name(Path("/nowhere/model.store")).name
    'model.store'
    """
    found, number = path, 2
    while found.exists():
        found = path.with_name(f"{path.stem}.{number}{path.suffix}")
        number += 1
    return found


def _results(store: Path) -> int:
    """Return how many results a store holds; none where it cannot be read."""
    if not store.exists():
        return 0
    try:
        with Store.open(store, None) as opened:
            return opened.count
    except OnnxmpqError:
        return 0
