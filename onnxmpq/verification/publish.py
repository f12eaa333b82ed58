"""Writing an export: made beside where it goes, and moved there whole, with its data and its plan, or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import serialization

from onnxmpq.artifacts import Export
from onnxmpq.disk.files import check_length, data_of, free_place, kept_of, place, plan_of, reason, spare_of, taken
from onnxmpq.disk.leftovers import temporary_folder
from onnxmpq.errors import InputError
from onnxmpq.model.protos import locations


def checked_output(path: Path, overwrite: bool) -> Path:
    """Refuse an output that could not be written, before any work is done: the model, its data or its plan."""
    free_place(path, overwrite)
    kind = serialization.registry.get_format_from_file_extension(path.suffix.lower())
    if kind not in (None, "protobuf"):
        raise InputError(
            f"The output '{path}' is a model in protobuf, which '{path.suffix}' would let others read as {kind}. "
            "Call it .onnx."
        )
    check_length(max(kept_of(path), key=lambda kept: len(kept.name)), "file that keeps the plan of a search that fails")
    for there in (plan_of(path), data_of(path), spare_of(path)):
        check_length(there, "file beside the output")
        if there.exists() and not overwrite:
            raise taken(there)
    return path


@contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """Give a folder beside the output, on the same disk; it is gone afterwards, whatever happens."""
    try:
        folder = temporary_folder(path.parent, ".onnxmpq-")
    except OSError as error:
        raise InputError(f"The folder '{path.parent}' of the output cannot be written to: {error.strerror}.") from error
    with folder as name:
        yield Path(name)


def publish(export: Export, path: Path, *, overwrite: bool) -> Path:
    """Move a verified export, its data and its plan to where the caller wants them: all, or none of them.

    Whenever the process is killed there is a whole model, the old one or the new one, and no plan beside it that is not
    its own: an old plan goes first, then the model is replaced in one step, then its plan comes. Data of a model takes
    a name that no older data has, which goes last. What came into being since it was looked for is not replaced without
    ``overwrite``.
    """
    plan_path = plan_of(path)
    draft, kept = export.path.parent / plan_path.name, export.path.parent / secrets.token_hex(8)
    moved: list[Path] = []
    new: list[Path] = []
    older = [file for file in (data_of(path), spare_of(path)) if overwrite and file.exists()]
    try:
        if data_of(export.path).exists() and older and data_of(path).name in _locations(path):
            _move_data(export.path, spare_of(export.path))
        draft.write_text(export.plan.to_text(), encoding="utf-8")
        new = sorted(export.path.parent.iterdir(), key=lambda file: (file == draft, file == export.path))
        kept.mkdir()
        if overwrite:
            for file in (plan_path, path):  # older data stays where it is
                _keep(file, kept)
            plan_path.unlink(missing_ok=True)
        for file in new:
            final = path.parent / file.name
            place(file, final, overwrite=overwrite)
            moved.append(final)
        for file in older:
            if file not in moved:
                file.unlink(missing_ok=True)
    except BaseException as error:
        for final in moved:
            final.unlink(missing_ok=True)
        for file in kept.iterdir() if kept.is_dir() else ():
            os.replace(file, path.parent / file.name)
        if isinstance(error, FileExistsError):
            raise taken(path.parent / new[len(moved)].name) from None
        if isinstance(error, OSError):
            raise InputError(f"The output '{path}' cannot be written: {reason(error)}.") from error
        raise
    return plan_path


def _locations(model: Path) -> set[str]:
    """Return the names of the files in which a model that is there keeps its weights."""
    if not model.is_file():
        return set()
    try:
        proto = onnx.load(model, load_external_data=False)
    except Exception:  # what is there is no model, and needs no data
        return set()
    return {entry.value for entry in locations(proto)}


def _move_data(model: Path, data: Path) -> None:
    """Give the external data of a model another name, in the model, too."""
    proto = onnx.load(model, load_external_data=False)
    for entry in locations(proto):
        entry.value = data.name
    os.replace(data_of(model), data)
    model.write_bytes(proto.SerializeToString())


def _keep(final: Path, kept: Path) -> None:
    """Keep a file that is about to be replaced under a second name; it stays where it is."""
    if final.exists():
        try:
            os.link(final, kept / final.name)
        except OSError:  # a file system without hard links
            shutil.copyfile(final, kept / final.name)
