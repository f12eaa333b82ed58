"""What a process makes that must not stay when it is killed, told while it lives to the one who clears up.

keep_in(file)                      from now on what is made is written down there
note(folder)                       this is to be removed ...
note(store, rescue_for=output)     ... but this holds what was measured for an output, and is moved beside it
"""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

_ledger: IO[str] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder, and for a store the output that its results were measured for."""

    path: Path
    rescue_for: Path | None


def keep_in(file: IO[str]) -> None:
    """Write down in ``file`` what is made from now on."""
    global _ledger
    _ledger = file


def note(path: Path, rescue_for: Path | None = None) -> None:
    """Write down a file or folder that is about to be made, if anybody asked for it."""
    if _ledger is not None:
        output = None if rescue_for is None else str(rescue_for.absolute())
        _ledger.write(json.dumps([str(path.absolute()), output]) + "\n")
        _ledger.flush()


def temporary_folder(where: Path | None = None, prefix: str = "onnxmpq-") -> TemporaryDirectory[str]:
    """Make a folder that is gone when it is closed, or when the process is killed and somebody clears up."""
    folder = TemporaryDirectory(prefix=prefix, dir=where)
    note(Path(folder.name))
    return folder


def entries(file: IO[str]) -> list[Entry]:
    """Read what was written down."""
    file.seek(0)
    lines = [json.loads(line) for line in file]
    return [Entry(Path(path), Path(output) if output else None) for path, output in lines]
