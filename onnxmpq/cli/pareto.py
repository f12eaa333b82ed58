"""``onnxmpq pareto``: its function has an argument for every option, or class of options, that it takes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from onnxmpq.cli import show, words
from onnxmpq.cli.config import config_options
from onnxmpq.cli.fields import taking
from onnxmpq.cli.next_command import comes_next, next_command
from onnxmpq.cli.recording import leave, running, tell
from onnxmpq.cli.resuming import measuring
from onnxmpq.cli.shared import (
    budget_option,
    calibration_option,
    checked_output,
    checked_report,
    json_option,
    model_argument,
    numbers_options,
    overwrite_option,
    quiet_option,
    record_option,
    report_option,
    target_option,
    verbose_option,
)
from onnxmpq.options import Constraints, GraphOptions, MeasureOptions, SearchOptions

if TYPE_CHECKING:
    from onnxmpq.search.front import Front


@click.command("pareto")
@model_argument
@target_option
@calibration_option
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the front as JSON, for `onnxmpq apply`.")
@click.option(
    "--over",
    default="size",
    show_default=True,
    shell_complete=words.complete(words.OVER),
    help=f"Which budget to run over: {', '.join(words.OVER)}.",
)
@click.option(
    "--points", default=20, show_default=True, type=click.IntRange(min=2), help="How many limits to solve for."
)
@budget_option("Another budget that every point meets.")
@taking(search=SearchOptions, constraints=Constraints, measure=MeasureOptions)
@taking(graph=GraphOptions)
@overwrite_option
@report_option
@record_option
@numbers_options
@json_option
@quiet_option
@verbose_option
@config_options
def pareto_command(
    model: Path,
    calibration: Path,
    output: Path | None,
    measure: MeasureOptions,
    overwrite: bool,
    report: Path | None,
    record: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **rest: Any,
) -> None:
    """Show what MODEL loses at every size, from one measurement.

    \b
    onnxmpq pareto model.onnx -c samples.npz --store model.store -o front.json
    onnxmpq apply model.onnx front.json --point 7 -c samples.npz -o small.onnx
    """
    from onnxmpq.search.front import pareto

    checked_report(report)
    checked_output(output, overwrite)
    checked_output(record, overwrite, "record")
    with measuring(measure.store, quiet, verbose) as told:
        front = pareto(model, calibration, measure=measure, progress=told, **rest)
    if output is not None:
        front.write(output, overwrite=overwrite)
    if report is not None or record is not None:
        from onnxmpq.report.view import make_view

        view = make_view(front=front, space=front.space, table=front.table, title=model.name, command=running())
        leave(view, report, record, overwrite)
    if as_json:
        show.as_json(front.to_json())
    else:
        _shown(front)
        tell(report, record)
        _ending(front, model, output)


def _shown(front: "Front") -> None:
    """Print the points; the limits, too, where they are no sizes."""
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    limits = [] if front.over == "size" else [front.over]
    for column in ("point", *limits, "size", "of float", "loss", "± se", "predicted", "gap"):
        grid.add_column(column, justify="right", no_wrap=True)
    grid.add_column("from", overflow="fold")
    for number, point in enumerate(front.points, 1):
        grid.add_row(
            str(number),
            *([f"{point.limit:.4g}"] if limits else []),
            f"{point.file_bytes:,}",
            f"{point.file_bytes / front.float_file_bytes:.1%}",
            f"{point.loss.value:.3g}",
            f"{point.loss.error:.1g}",
            "" if point.predicted is None else f"{point.predicted:.3g}",
            "" if point.gap is None else f"{point.gap:.1%}",
            point.source,
        )
    show.out.print(grid)
    show.notes(front.notes)


def _ending(front: "Front", model: Path, output: Path | None) -> None:
    """Say where the front is, and how to make a file of the point where it bends."""
    if output is None:
        show.out.print("Keep the front with -o front.json; `onnxmpq apply` makes a file of a point.")
        return
    chosen = bend([point.file_bytes for point in front.points], [point.loss.value for point in front.points])
    made = ["--point", str(chosen), "-o", f"{model.stem}.point{chosen}.onnx"]
    show.out.print(f"front     {escape(str(output))}", soft_wrap=True)
    comes_next(next_command("apply", str(model), str(output), more=made), "where the front bends")


def bend(sizes: Sequence[float], losses: Sequence[float]) -> int:
    """Return where a front bends, counted from 1: farthest below the line between its ends, both in logarithms.

    >>> bend([100, 120, 200, 400], [1.0, 0.01, 0.008, 0.007])
    2
    """
    x, y = ([math.log(max(value, 1e-12)) for value in values] for values in (sizes, losses))
    wide, high = x[-1] - x[0], y[0] - y[-1]
    if wide <= 0 or high <= 0:
        return 1
    below = [(y[0] - b) / high - (a - x[0]) / wide for a, b in zip(x, y, strict=True)]
    return below.index(max(below)) + 1
