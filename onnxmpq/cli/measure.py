"""``onnxmpq measure``: its function has an argument for every option, or class of options, that it takes."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.markup import escape
from rich.table import Table as Grid

from onnxmpq.cli import show
from onnxmpq.cli.config import config_options
from onnxmpq.cli.fields import taking
from onnxmpq.cli.next_command import comes_next, next_command
from onnxmpq.cli.recording import leave, running, tell
from onnxmpq.cli.resuming import measuring
from onnxmpq.cli.shared import (
    calibration_option,
    checked_output,
    json_option,
    model_argument,
    numbers_options,
    overwrite_option,
    quiet_option,
    record_option,
    target_option,
    verbose_option,
)
from onnxmpq.options import GraphOptions, MeasureOptions, Numbers, NumbersAsked, SearchOptions

if TYPE_CHECKING:
    from onnxmpq.sensitivity.table import Cost, Table

_SHOWN = 12


@click.command("measure")
@model_argument
@target_option
@calibration_option
@taking(search=SearchOptions, only=("options",))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the table as JSON.")
@record_option
@click.option("--pairs", is_flag=True, help="Measure every pair exactly, too.")
@taking(measure=MeasureOptions)
@click.option("--dry-run", is_flag=True, help="Say what it would take, and stop.")
@overwrite_option
@numbers_options
@taking(graph=GraphOptions, only=("passes",))
@json_option
@quiet_option
@verbose_option
@config_options
def measure_command(
    model: Path,
    target: str,
    calibration: Path,
    search: SearchOptions,
    output: Path | None,
    record: Path | None,
    pairs: bool,
    measure: MeasureOptions,
    dry_run: bool,
    numbers: NumbersAsked,
    graph: GraphOptions,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Measure what every unit of MODEL costs at each option, alone and together.

    \b
    onnxmpq measure model.onnx -c samples.npz --store model.store -o table.json
    onnxmpq measure model.onnx -c samples.npz --options w8a8,w4a8 --executor processes:4
    onnxmpq solve table.json -b size=30% -o plan.json
    """
    from onnxmpq.search.constraints import menu_of, tried
    from onnxmpq.search.sizing import with_facts
    from onnxmpq.sensitivity.engine import Engine
    from onnxmpq.sensitivity.workers.executors import opened
    from onnxmpq.workspace.prepare import prepare
    from onnxmpq.workspace.workspace import workspace

    settled = Numbers.asked(numbers, Numbers())
    checked_output(output, overwrite)
    checked_output(record, overwrite, "record")
    if dry_run:
        measure = replace(measure, store=None)
    table: Table | None = None
    with measuring(measure.store, quiet, verbose) as told, opened(measure) as pooled:
        prepared = prepare(model, target, told, extra_passes=graph.passes)
        wanted = menu_of(search.options, prepared.target)
        at = {} if dry_run else tried(prepared.space)
        with workspace(prepared, calibration, settled, told, at) as place, Engine(place, pooled) as engine:
            forecast = engine.cost(engine.variants(wanted)) if dry_run else None
            notes = engine.notes
            kept = (engine.samples, engine.layout.size, len(engine.cuts.segments))
            if not dry_run:
                table = engine.table(wanted)
                table = engine.pairs(table) if pairs else table
                table = with_facts(table, engine) if output is not None or as_json else table
    if forecast is not None:
        _forecast(forecast, *kept, as_json=as_json)
    if table is None:
        return
    if output is not None:
        table.write(output, overwrite=overwrite)
    if record is not None:
        from onnxmpq.report.view import make_view

        view = make_view(table=table, space=prepared.space, notes=notes, title=model.name, command=running())
        leave(view, None, record, overwrite)
    if as_json:
        show.as_json(table.to_json())
    else:
        _shown(table, output, notes)
        tell(None, record)
        _ending(model, output, measure, settled)


def _ending(model: Path, output: Path | None, measure: MeasureOptions, numbers: Numbers) -> None:
    """Say what can be done with what was measured: a search from the store, or a plan from the table."""
    if measure.store is not None:
        within = ["-b", "size=30%", "-o", f"{model.stem}.small.onnx", "--store", str(measure.store)]
        rounding = ["--rounding", numbers.rounding]
        blends = ["--no-blends"] if measure.blends is None else []
        comes_next(
            next_command("quantize", str(model), more=[*within, *rounding, *blends]),
            "searches; nothing is measured twice",
        )
    elif output is not None:
        within = ["-b", "size=30%", "-o", f"{output.stem}.plan.json"]
        comes_next(shlex.join(["onnxmpq", "solve", str(output), *within]), "a plan from the table alone")


def _forecast(cost: "Cost", samples: int, batch: int, segments: int, *, as_json: bool) -> None:
    """Print what measuring would take."""
    data = {
        "variants": cost.variants,
        "jobs": cost.jobs,
        "full_run_equivalents": round(cost.full_runs, 1),
        "samples": samples,
        "batch": batch,
        "segments": segments,
        "memory_bytes": cost.memory,
        "seconds": round(cost.seconds, 1),
    }
    if as_json:
        show.as_json(data)
        return
    show.out.print(
        f"{cost.variants} variants in {cost.jobs} jobs, worth {cost.full_runs:.1f} runs of the whole model on "
        f"{samples} samples ({segments} segments, batches of {batch}); about {show.size(cost.memory)} and "
        f"{cost.seconds:.0f} s in one process. Nothing was measured."
    )


def _shown(table: "Table", output: Path | None, notes: tuple[str, ...]) -> None:
    """Print the variants that cost most, and what was noticed on the way."""
    grid = Grid(
        title=f"loss {table.loss_name}, {table.samples} samples",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    grid.add_column("unit", overflow="fold")
    for column in ("option", "loss", "± se", "SQNR dB", "local error"):
        grid.add_column(column, justify="right", no_wrap=True)
    order = sorted(range(len(table.variants)), key=lambda i: -table.loss[i])
    for i in order[:_SHOWN]:
        variant = table.variants[i]
        row = (f"{table.loss[i]:.3g}", f"{table.loss_error[i]:.1g}", f"{table.sqnr_db[i].min():.1f}")
        grid.add_row(escape(variant.unit), str(variant.option), *row, f"{table.local[i]:.2g}")
    show.out.print(grid)
    more = len(order) - _SHOWN
    runs, seconds = table.cost.get("full_runs", 0.0), table.cost.get("seconds", 0.0)
    show.out.print(
        (f"and {more} more; " if more > 0 else "")
        + f"{len(table.variants)} variants"
        + (f", {len(table.pairs)} pairs" if table.pairs else "")
        + f", {runs:.1f} full-run equivalents in {seconds:.1f} s"
        + (f". Table: {escape(str(output))}" if output else ". Keep it with -o table.json."),
        soft_wrap=True,
    )
    show.notes(notes)
