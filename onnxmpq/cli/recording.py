"""What a run leaves for those who were not there: a page, and a record from which the page can be made again."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from onnxmpq.cli import show
from onnxmpq.disk.files import page_of

if TYPE_CHECKING:
    from onnxmpq.report.figures import View


def running() -> str:
    """Return the command that runs, as it is typed."""
    return shlex.join(["onnxmpq", *sys.argv[1:]])


def leave(view: "View", report: Path | None, record: Path | None, overwrite: bool) -> None:
    """Write the page with its numbers, the record, or both."""
    from onnxmpq.report.record import write_record
    from onnxmpq.report.write import write_view  # the page is loaded only for it

    if record is not None:
        write_record(view, record, overwrite=overwrite)
    if report is not None:
        write_view(view, report)


def tell(report: Path | None, record: Path | None) -> None:
    """Say where they are."""
    for what, path in (("report", page_of(report) if report else None), ("record", record)):
        if path is not None:
            show.out.print(f"{what:10}{escape(str(path))}", soft_wrap=True)
