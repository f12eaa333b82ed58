"""Files of a run: written whole or not at all, and never one over another.

write_whole(path, text, "table")        a temporary file beside it, on the disk, then renamed
refuse_shared(reads, writes)            two names of one file, before any work
"""

import errno
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from onnxmpq.disk.leftovers import note
from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError

_NAME_BYTES = 255  # of a file's name, where a folder does not say
_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "your quota is used up; free some space or choose another place",
    errno.EACCES: "permission denied; choose a folder you may write to",
    errno.EPERM: "permission denied; choose a folder you may write to",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENAMETOOLONG: "its name is too long; choose a shorter one",
}


def write_whole(path: Path, text: str, what: str, *, overwrite: bool = True) -> None:
    """Write a text file: afterwards there is the new one, or on any failure what was there before.

    Without ``overwrite`` a file that came into being since it was looked for is not replaced. ``what`` it is is told
    where it cannot be written. A place that is no file, such as /dev/stdout, is written to as it is.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        final = Path(os.path.realpath(path))  # so that a link is written through, not replaced
        draft = final.with_name(f".onnxmpq-{secrets.token_hex(6)}")
        note(draft)
        try:
            with draft.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            place(draft, final, overwrite=overwrite)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        raise taken(path, what) from None
    except OSError as error:
        raise InputError(f"The {what} '{path}' cannot be written: {reason(error)}.") from error


def taken(path: Path, what: str = "output") -> InputError:
    """Make the error for a file that is there and must not be replaced."""
    return InputError(f"The {what} '{path}' exists. Choose another name, or give --overwrite.")


def place(draft: Path, final: Path, *, overwrite: bool) -> None:
    """Give a finished file its name in one step; FileExistsError if another has it and ``overwrite`` is not given."""
    if overwrite:
        os.replace(draft, final)
        return
    try:
        os.link(draft, final)  # unlike a rename it does not replace
    except OSError as error:
        if final.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from error
        os.replace(draft, final)  # a file system without hard links
    else:
        os.unlink(draft)  # weights of two names are refused by onnx, and by us


def reason(error: OSError) -> str:
    """Say why a file could not be written, and what to do."""
    return _REASONS.get(error.errno or 0, f"{error.strerror or error}; choose another place")


def plan_of(output: Path) -> Path:
    """Return where the plan of a model file lies: beside it."""
    return output.parent / f"{output.stem}.plan.json"


def data_of(output: Path) -> Path:
    """Return where the weights of a model file lie that is too large for protobuf."""
    return output.parent / f"{output.name}.data"


def kept_of(output: Path) -> tuple[Path, Path]:
    """Return where a search that fails keeps its measurements and its plan: beside the output."""
    return output.parent / f"{output.stem}.store", output.parent / f"{output.stem}.unverified.plan.json"


def journal_of(store: Path) -> Path:
    """Return where SQLite keeps what it needs to take a change of a store back."""
    return store.parent / f"{store.name}-journal"


def spare_of(output: Path) -> Path:
    """Return where those weights lie while older ones have their place: whoever reads the older model needs them."""
    return output.parent / f"{output.name}.2.data"


def page_of(report: Path) -> Path:
    """Return the page of a report, which may be asked for by a folder."""
    return report / "report.html" if os.path.isdir(report) else report


def checked_page(report: Path) -> Path:
    """Return the page of a report, or refuse one that could not be written."""
    page = page_of(report)
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"The report '{page}' is a page: call it .html, or give a folder that exists.")
    if not os.path.isdir(page.absolute().parent):
        raise InputError(f"The folder '{page.parent}' of the report '{page}' does not exist. Make it first.")
    return page


def refuse_shared(reads: Mapping[str, Path | None], writes: Mapping[str, Path | None]) -> None:
    """Refuse a run in which one file has two roles, of which one is to be written; all faults are told at once.

    >>> refuse_shared({"model": Path("m.onnx")}, {"output": Path("m.onnx")})
    Traceback (most recent call last):
        ...
    onnxmpq.errors.InputError: The output 'm.onnx' is the model, too. Give each a name of its own.
    """
    known = {what: _real(path) for what, path in reads.items() if path is not None}
    faults = []
    for what, path in writes.items():
        if path is None or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)):
            continue
        check_length(path, what)
        for other, there in known.items():
            if there == _real(path):
                faults.append(f"The {what} '{path}' is the {other}, too.")
        known[what] = _real(path)
    if faults:
        raise InputError(f"{' '.join(faults)} Give each a name of its own.")


def free_place(path: Path, overwrite: bool, what: str = "output") -> None:
    """Refuse a file that could not be written."""
    folder = path.absolute().parent
    if not os.path.isdir(folder):
        raise InputError(f"The folder '{path.parent}' of the {what} '{path}' does not exist. Make it first.")
    check_length(path, what)
    if path.is_dir():
        raise InputError(f"The {what} '{path}' is a folder. Give the name of a file.")
    if not os.access(folder, os.W_OK):
        raise InputError(f"The folder '{path.parent}' of the {what} '{path}' cannot be written to.")
    if path.exists() and not overwrite:
        raise taken(path, what)


def check_length(path: Path, what: str) -> None:
    """Refuse a name that is longer than the file system takes, before any work."""
    try:
        most = os.pathconf(path.absolute().parent, "PC_NAME_MAX")
    except (OSError, AttributeError):
        most = _NAME_BYTES
    over = len(os.fsencode(path.name)) - most
    if over > 0:
        raise InputError(
            f"The name of the {what} '{brief(str(path), 300)}' is too long by {over} bytes; choose a shorter one."
        )


def refuse_foreign(page: Path) -> None:
    """Refuse a report whose numbers would replace a file that is of no report: there is one, and no page beside it."""
    numbers = page.with_suffix(".json")
    if numbers.exists() and not page.exists():
        raise InputError(
            f"The report '{page}' keeps its numbers in '{numbers}', which is another file. Call the report otherwise."
        )


def _real(path: Path) -> str:
    """Return what tells a file from others: where it is on its disk, or its whole name where there is none yet."""
    real = os.path.realpath(path)
    try:
        found = os.stat(real)
    except OSError:
        return real
    return f"{found.st_dev}:{found.st_ino}"
