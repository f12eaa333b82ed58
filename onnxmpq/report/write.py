"""``write_report``: report.html and report.json of a build, of a front, or of both."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxmpq.api import Result
from onnxmpq.artifacts import Space
from onnxmpq.disk.files import page_of, refuse_foreign, refuse_shared, write_whole
from onnxmpq.errors import InputError
from onnxmpq.report.page import make_page
from onnxmpq.report.plans import Measured
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
    title: str = "",
    command: str = "",
) -> Written:
    """Write a page and its numbers: ``path`` is the page, or a folder for report.html; the JSON lies beside it.

    Existing files of these names are replaced. See ``make_view`` for the rest.
    """
    if result is None and front is None:
        raise InputError("A report shows a result or a front: give one of them.")
    page = page_of(Path(path))
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"The report '{page}' is a page: call it .html, or give a folder that exists.")
    if not page.parent.is_dir():
        raise InputError(f"The folder '{page.parent}' of the report does not exist. Make it first.")
    view = make_view(result, front=front, table=table, space=space, others=others, title=title, command=command)
    numbers = page.with_suffix(".json")
    refuse_foreign(page)
    if result is not None:
        refuse_shared(
            {"output": result.path, "plan": result.plan_path}, {"report": page, "file of its numbers": numbers}
        )
    write_whole(numbers, view.to_text(), "report")
    write_whole(page, make_page(view), "report")
    return Written(page, numbers)
