"""Writing an export: made beside where it goes, and moved there whole, with its data and its plan, or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxmpq.build import Export
from onnxmpq.errors import InputError


def checked_output(path: Path, overwrite: bool) -> Path:
    """Refuse an output that could not be written, before any work is done: the model, its data or its plan."""
    free_place(path, overwrite)
    for there in (path.with_suffix(".plan.json"), path.with_name(path.name + ".data")):
        if there.exists() and not overwrite:
            raise InputError(f"The output '{there}' exists. Choose another name, or give --overwrite.")
    return path


def free_place(path: Path, overwrite: bool, what: str = "output") -> None:
    """Refuse a file that could not be written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"The folder '{path.parent}' of the {what} '{path}' does not exist. Make it first.")
    if path.is_dir():
        raise InputError(f"The {what} '{path}' is a folder. Give the name of a file.")
    if not os.access(folder, os.W_OK):
        raise InputError(f"The folder '{path.parent}' of the {what} '{path}' cannot be written to.")
    if path.exists() and not overwrite:
        raise InputError(f"The {what} '{path}' exists. Choose another name, or give --overwrite.")


@contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """Give a folder beside the output, on the same disk; it is gone afterwards, whatever happens."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=".onnxmpq-", dir=path.parent)
    except OSError as error:
        raise InputError(f"The folder '{path.parent}' of the output cannot be written to: {error.strerror}.") from error
    with folder as name:
        yield Path(name)


def publish(export: Export, path: Path) -> Path:
    """Move a verified export, its data and its plan to where the caller wants them: all, or none of them."""
    plan_path = path.with_suffix(".plan.json")
    draft, kept = export.path.parent / plan_path.name, export.path.parent / "replaced"
    moved: list[Path] = []
    try:
        draft.write_text(json.dumps(export.plan.to_json(), indent=2) + "\n", encoding="utf-8")
        new = sorted(export.path.parent.iterdir(), key=lambda file: file == export.path)  # the model comes last
        kept.mkdir()
        for file in new:
            final = path.parent / file.name
            if final.exists():
                os.replace(final, kept / file.name)
            moved.append(final)
            os.replace(file, final)
    except BaseException as error:
        for final in moved:
            final.unlink(missing_ok=True)
        for file in kept.iterdir() if kept.is_dir() else ():
            os.replace(file, path.parent / file.name)
        if isinstance(error, OSError):
            raise InputError(f"The output '{path}' cannot be written: {error.strerror}.") from error
        raise
    return plan_path
