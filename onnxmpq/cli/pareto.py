"""``onnxmpq pareto``."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from onnxmpq.budgets import ROWS
from onnxmpq.cli import show
from onnxmpq.cli.measuring import (
    Measuring,
    constraint_options,
    measuring_options,
    menu,
    menu_option,
    threads_option,
)
from onnxmpq.cli.options import (
    calibration_option,
    checked_report,
    json_option,
    model_argument,
    numbers_options,
    quiet_option,
    report_option,
    target_option,
)
from onnxmpq.errors import InputError
from onnxmpq.front import Front, pareto


@click.command("pareto")
@model_argument
@target_option
@calibration_option
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the front as JSON, for `onnxmpq apply`.")
@click.option("--over", default="size", show_default=True, help=f"Which budget to run over: {', '.join(ROWS)}.")
@click.option(
    "--points", default=20, show_default=True, type=click.IntRange(min=2), help="How many limits to solve for."
)
@click.option(
    "--budget", "-b", multiple=True, metavar="KIND=AMOUNT", help="Another budget that every point meets. Repeatable."
)
@menu_option
@constraint_options
@threads_option
@measuring_options
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@report_option
@numbers_options
@json_option
@quiet_option
def pareto_command(
    model: Path,
    calibration: Path,
    output: Path | None,
    budget: Sequence[str],
    options: str,
    measuring: Measuring,
    overwrite: bool,
    report: Path | None,
    as_json: bool,
    quiet: bool,
    threads: int,
    **rest: Any,
) -> None:
    """Show what MODEL loses at every size, from one measurement.

    \b
    onnxmpq pareto model.onnx -c samples.npz --store model.store -o front.json
    onnxmpq apply model.onnx front.json --point 7 -c samples.npz -o small.onnx
    """
    checked_report(report)
    if output is not None:
        if not output.absolute().parent.is_dir():
            raise InputError(f"The folder of the output '{output}' does not exist. Make it first.")
        if output.exists() and not overwrite:
            raise InputError(f"The output '{output}' exists. Choose another name, or give --overwrite.")
    with measuring.workers() as pool, show.progress(quiet) as told:
        front = pareto(
            model,
            calibration,
            budget=budget,
            options=menu(options),
            settings=measuring.settings,
            store=measuring.store,
            executor=pool,
            ahead=measuring.ahead,
            progress=told,
            **rest,
        )
    if output is not None:
        front.write(output)
    if report is not None:
        from onnxmpq.report import write_report

        command = shlex.join(["onnxmpq", *sys.argv[1:]])
        write_report(path=report, front=front, space=front.space, table=front.table, title=model.name, command=command)
    if as_json:
        show.as_json(front.to_json())
    else:
        _shown(front, model, output)


def _shown(front: Front, model: Path, output: Path | None) -> None:
    """Print the points, and how to make a file of one."""
    grid = Table(box=box.SIMPLE_HEAD)
    grid.add_column("point", justify="right")
    for column in (front.over, "file", "of float", "predicted", "gap", "loss", "± se"):
        grid.add_column(column, justify="right", no_wrap=True)
    grid.add_column("from", no_wrap=True)
    for number, point in enumerate(front.points, 1):
        grid.add_row(
            str(number),
            f"{point.limit:.4g}" if front.over == "bits" else f"{point.limit:,.0f}",
            f"{point.file_bytes:,}",
            f"{point.file_bytes / front.float_file_bytes:.1%}",
            "" if point.predicted is None else f"{point.predicted:.3g}",
            "" if point.gap is None else f"{point.gap:.1%}",
            f"{point.loss.value:.3g}",
            f"{point.loss.error:.1g}",
            point.source,
        )
    show.out.print(grid)
    show.notes(front.notes)
    if output is None:
        show.out.print("Keep it with -o front.json; `onnxmpq apply` makes a file of a point.")
    else:
        show.out.print(
            f"Front: {escape(str(output))}. A file of a point: onnxmpq apply {escape(str(model))} "
            f"{escape(str(output))} --point 1 -c SAMPLES -o OUTPUT",
            soft_wrap=True,
        )
