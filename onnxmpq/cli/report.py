"""``onnxmpq report``."""

import os
from pathlib import Path

import click

from onnxmpq.cli.recording import tell
from onnxmpq.cli.shared import checked_output, overwrite_option
from onnxmpq.disk.files import checked_page, refuse_foreign, refuse_shared, write_whole


@click.command("report")
@click.argument("record", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="The page to write: a .html file, or a folder for report.html.  [default: RECORD with .html]",
)
@overwrite_option
def report_command(record: Path, output: Path | None, overwrite: bool) -> None:
    """Make the page of a report from RECORD, without running anything.

    RECORD is what --record wrote, or the JSON beside the page of a report: the page is the same as that of the run.

    \b
    onnxmpq measure model.onnx -c samples.npz --record model.record.json
    onnxmpq report model.record.json -o model.html
    """
    from onnxmpq.report.page import make_page
    from onnxmpq.report.record import read_record

    view = read_record(record)
    page = checked_page(output or record.with_suffix(".html"))
    refuse_shared({"record": record}, {"report": page})
    checked_output(page, overwrite, "report")
    if os.path.realpath(page.with_suffix(".json")) != os.path.realpath(record):
        refuse_foreign(page)
    write_whole(page, make_page(view), "report", overwrite=overwrite)
    tell(page, None)
