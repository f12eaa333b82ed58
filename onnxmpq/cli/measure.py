"""``onnxmpq measure``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from onnxmpq.artifacts import parse_options
from onnxmpq.calibrated import Numbers
from onnxmpq.cli import show
from onnxmpq.cli.options import (
    calibration_option,
    json_option,
    model_argument,
    numbers_options,
    quiet_option,
    target_option,
)
from onnxmpq.compile import prepare
from onnxmpq.errors import InputError
from onnxmpq.executors import open_executor
from onnxmpq.measure.engine import Cost, Engine
from onnxmpq.measure.settings import Settings, parse_bytes
from onnxmpq.measure.store import Store
from onnxmpq.measure.table import Table

_SHOWN = 12


@click.command("measure")
@model_argument
@target_option
@calibration_option
@click.option("--options", default="w8a8,w4a8,w2a8", show_default=True, help="What to measure, separated by commas.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the table as JSON.")
@click.option("--store", type=click.Path(path_type=Path), help="Keep every finished job here, and go on from it.")
@click.option("--pairs", is_flag=True, help="Measure every pair exactly, too.")
@click.option("--loss", default="auto", show_default=True, help="auto, kl, ce (with labels) or power.")
@click.option("--outputs", default="", help="Which outputs count, separated by commas; all of them if empty.")
@click.option("--samples", default=0, type=click.IntRange(min=0), help="How many samples to use; all of them if 0.")
@click.option("--memory", default="4GB", show_default=True, help="Ceiling for one process.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads of each process.")
@click.option(
    "--executor", default="inline", show_default=True, help="inline, processes[:N], dask:local[:N], dask:URL."
)
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Seed of sampled labels and projections.")
@click.option("--dry-run", is_flag=True, help="Say what it would take, and stop.")
@numbers_options
@json_option
@quiet_option
def measure_command(
    model: Path,
    target: str,
    calibration: Path,
    options: str,
    output: Path | None,
    store: Path | None,
    pairs: bool,
    executor: str,
    memory: str,
    outputs: str,
    dry_run: bool,
    numbers: Numbers | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Measure what every unit of MODEL costs at each option, alone and together.

    \b
    onnxmpq measure model.onnx -c samples.npz --store model.store -o table.json
    onnxmpq measure model.onnx -c samples.npz --options w8a8,w4a8 --executor processes:4
    """
    wanted = parse_options([text.strip() for text in options.split(",")])
    chosen = Settings(
        memory=parse_bytes(memory), outputs=tuple(name for name in outputs.split(",") if name), **settings
    )
    if output is not None and not output.absolute().parent.is_dir():
        raise InputError(f"The folder of the output '{output}' does not exist. Make it first.")
    kept_in = None if dry_run else store
    table: Table | None = None
    with _resumable(kept_in), show.progress(quiet) as report, open_executor(executor) as pool:
        prepared = prepare(model, target, report)
        with Engine(
            prepared,
            calibration,
            numbers=numbers,
            settings=chosen,
            store=kept_in,
            executor=pool,
            ahead=_ahead(executor),
            progress=report,
        ) as engine:
            forecast = engine.cost(engine.variants(wanted)) if dry_run else None
            notes = engine.notes
            kept = (engine.samples, engine.batch, len(engine.cuts.segments))
            if not dry_run:
                table = engine.table(wanted)
                table = engine.pairs(table) if pairs else table
    if forecast is not None:
        _forecast(forecast, *kept, as_json=as_json)
    if table is None:
        return
    if output is not None:
        table.write(output)
    if as_json:
        show.as_json(table.to_json())
    else:
        _shown(table, output, notes)


def _ahead(executor: str) -> int:
    """Return how many jobs to keep in flight: twice the workers that ``executor`` names, and never few."""
    count = executor.rpartition(":")[2]
    return max(16, 2 * int(count)) if count.isdigit() and "//" not in executor else 16


@contextmanager
def _resumable(store: Path | None) -> Iterator[None]:
    """After an interrupt say what the store has, and end with 130."""
    try:
        yield
    except KeyboardInterrupt:
        if store is None or not store.exists():
            raise
        with Store.open(store, None) as kept:
            count = kept.count
        Console(stderr=True).print(
            f"Interrupted: {count} results are in '{escape(str(store))}'. The same command goes on from there.",
            highlight=False,
            soft_wrap=True,
        )
        raise click.exceptions.Exit(130) from None


def _forecast(cost: Cost, samples: int, batch: int, segments: int, *, as_json: bool) -> None:
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


def _shown(table: Table, output: Path | None, notes: tuple[str, ...]) -> None:
    """Print the variants that cost most, and what was noticed on the way."""
    grid = Grid(title=f"loss {table.loss_name}, {table.samples} samples", title_justify="left", box=box.SIMPLE_HEAD)
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
        + (f". Table: {escape(str(output))}" if output else ". Keep it with -o table.json.")
    )
    for note in notes:
        show.out.print(f"[yellow]note[/]  {escape(note)}", soft_wrap=True)
