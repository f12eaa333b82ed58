"""``write_report``: report.html and report.json of a build, of a front, of both, or of what was measured."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxmpq.api import Result
from onnxmpq.artifacts import Space
from onnxmpq.disk.files import checked_page, refuse_foreign, refuse_shared, write_whole
from onnxmpq.errors import InputError
from onnxmpq.report.figures import View
from onnxmpq.report.page import make_page
from onnxmpq.report.plans import Measured
from onnxmpq.report.record import write_record
from onnxmpq.report.view import make_view
from onnxmpq.search.front import Front
from onnxmpq.sensitivity.table import Table


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a report."""

    page: Path
    numbers: Path


def write_report(
    result: Result | None = None,
    path: str | os.PathLike[str] = "report.html",
    *,
    front: Front | None = None,
    table: Table | None = None,
    space: Space | None = None,
    others: Sequence[Measured] = (),
    notes: Sequence[str] = (),
    title: str = "",
    command: str = "",
) -> Written:
    """Write a page and its numbers: ``path`` is the page, or a folder for report.html; the JSON lies beside it.

    Existing files of these names are replaced. Every keyword is a part of what the page shows; see ``make_view``.
    """
    if result is None and front is None and table is None:
        raise InputError("A report shows a result, a front or a table: give one of them.")
    page = checked_page(Path(path))
    if result is not None:
        refuse_shared(
            {"output": result.path, "plan": result.plan_path},
            {"report": page, "file of its numbers": page.with_suffix(".json")},
        )
    view = make_view(
        result, front=front, table=table, space=space, others=others, notes=notes, title=title, command=command
    )
    return write_view(view, page)


def write_view(view: View, path: Path) -> Written:
    """Write a page of numbers that were gathered, and the numbers beside it."""
    page = checked_page(path)
    numbers = page.with_suffix(".json")
    refuse_foreign(page)
    write_record(view, numbers)
    write_whole(page, make_page(view), "report")
    return Written(page, numbers)
