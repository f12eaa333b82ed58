"""What was timed, kept line by line in a file, so that a run that was killed goes on where it was.

A line holds the digest of what was asked (plan, machine, runtime, threads, shapes, model) and the answer. What cannot
be read is measured again.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxmpq.errors import InputError


@dataclass(frozen=True, slots=True)
class Notebook:
    """A file of what was timed of one model, or nothing but memory where no path is given."""

    path: Path | None
    model: str
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what is there."""
        if self.path is None or not self.path.exists():
            return
        for line in self._lines():
            try:
                found = json.loads(line)
                self.known[found["asked"]] = dict(found["answer"])
            except (ValueError, KeyError, TypeError):
                continue

    def __call__(self, asked: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what was answered before, or measure it and write that down."""
        key = hashlib.sha256(f"{self.model}\n{asked}".encode()).hexdigest()
        if key not in self.known:
            self.known[key] = measure()
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(
                        "\n" + json.dumps({"asked": key, "answer": self.known[key]}) + "\n"
                    )  # behind a torn line
                    file.flush()
                    os.fsync(file.fileno())
        return self.known[key]

    def _lines(self) -> list[str]:
        assert self.path is not None
        try:
            return self.path.read_text("utf-8", "replace").splitlines()
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be read: {error.strerror}.") from error


def beside(store: str | os.PathLike[str] | None) -> Path | None:
    """Return where timings are kept that belong to a store of measurements."""
    return Path(f"{os.fspath(store)}.timings") if store else None
