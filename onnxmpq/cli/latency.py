"""``onnxmpq latency``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from onnxmpq.cli import show, words
from onnxmpq.cli.fields import taking
from onnxmpq.cli.next_command import comes_next, next_command
from onnxmpq.cli.shared import (
    calibration_option,
    checked_output,
    json_option,
    model_argument,
    overwrite_option,
    quiet_option,
    target_option,
)
from onnxmpq.disk.files import refuse_shared, write_whole
from onnxmpq.options import MENU, Constraints, VerifyOptions

if TYPE_CHECKING:
    from onnxmpq.search.placing import Timed

_SHOWN = 12  # units that are listed: those that take most


@click.command("latency")
@model_argument
@target_option
@calibration_option
@click.option(
    "--options",
    default=",".join(MENU),
    show_default=True,
    shell_complete=words.complete(words.options),
    help="What units may take, separated by commas; each with its kernel, and beside it the same weights in float.",
)
@taking(constraints=Constraints, verify=VerifyOptions, only=("keep", "exclude", "ties", "threads"))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the table, for --latency-table.")
@overwrite_option
@json_option
@quiet_option
def latency_command(
    model: Path,
    calibration: Path,
    target: str,
    options: str,
    constraints: Constraints,
    verify: VerifyOptions,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure how long every unit of MODEL takes on each kernel, and the borders between kernels.

    A few files are made, run and profiled on this machine, on the first sample. What is measured is kept beside OUTPUT
    until all is done, so that a run that was killed goes on.

    \b
    onnxmpq latency model.onnx -c samples.npz -o here.json
    onnxmpq quantize model.onnx -c samples.npz -o fast.onnx -b size=25% --latency-table here.json
    """
    from onnxmpq.search.placing import timed

    refuse_shared({"model": model, "calibration data": calibration}, {"output": output})
    checked_output(output, overwrite)
    wanted = [part.strip() for part in options.split(",") if part.strip()]
    notes = Path(f"{output}.timings") if output is not None else None
    with show.progress(quiet) as told:
        found = timed(
            model,
            calibration,
            target=target,
            options=wanted,
            constraints=constraints,
            threads=verify.threads,
            notes=notes,
            progress=told,
        )
    if output is not None:
        write_whole(output, json.dumps(found.latency.to_json(), indent=1) + "\n", "table", overwrite=overwrite)
        if notes is not None:
            notes.unlink(missing_ok=True)
    if as_json:
        show.as_json(found.latency.to_json() | {"fastest": {u: str(k) for u, k in found.quickest.items()}})
        return
    _shown(found)
    if output is not None:
        more = ["--latency-table", str(output), "-o", "FAST.onnx"]
        comes_next(next_command("quantize", str(model), more=more), "places kernels by this table")


def _shown(found: "Timed") -> None:
    """Print what was measured: the whole, the units that take most, and what is foreseen to be fastest."""
    latency = found.latency
    about = ", ".join(f"{name} {value}" for name, value in latency.about.items())
    show.out.print(escape(f"{about}: float {_time(latency.float_s)}"), soft_wrap=True)
    kernels = found.kernels.every
    table = Table("unit", *map(str, kernels), "fastest in its place")
    regions = sorted(latency.regions.values(), key=lambda one: -max(one.seconds[: len(one.kernels)]))
    for region in regions[:_SHOWN]:
        seconds = dict(zip(region.kernels, region.seconds, strict=False))
        cells = [_time(seconds[each]) if each in seconds else "" for each in kernels]
        table.add_row(escape(region.unit), *cells, str(found.quickest[region.unit]))
    show.out.print(table)
    if len(regions) > _SHOWN:
        show.out.print(f"and {len(regions) - _SHOWN} units that take less")
    uniform = ", ".join(f"{each} everywhere {latency.ratio(found.kernels.uniform(each)):.2f}" for each in kernels)
    show.out.print(
        f"Foreseen, times float: {uniform}, each unit on its own {latency.ratio(found.quickest):.2f}. Files that were "
        f"timed as a whole took {latency.error:.1%} more or less than is foreseen of them (median).",
        soft_wrap=True,
    )


def _time(seconds: float) -> str:
    """Write a time.

    >>> _time(0.0123), _time(1.5e-5)
    ('12.3 ms', '15 µs')
    """
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{max(seconds, 0.0) * 1e6:.0f} µs"
