"""``onnxmpq diagnose``: its function has an argument for every option, or class of options, that it takes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from onnxmpq.cli import show, words
from onnxmpq.cli.fields import taking
from onnxmpq.cli.shared import (
    calibration_option,
    json_option,
    model_argument,
    numbers_options,
    quiet_option,
    target_option,
)
from onnxmpq.errors import InputError
from onnxmpq.options import Constraints, GraphOptions, NumbersAsked, VerifyOptions

if TYPE_CHECKING:
    from onnxmpq.guard.diagnosis import Diagnosis

SHOWN = 10
"""Layers in the table, from the worst on."""


@click.command("diagnose")
@model_argument
@click.option(
    "--float",
    "float_model",
    type=click.Path(path_type=Path),
    help="The float model that MODEL was made of, if MODEL is a quantised file, of whatever tool.",
)
@calibration_option
@target_option
@click.option(
    "--option",
    shell_complete=words.complete(words.options),
    help="What every unit of a float MODEL would get, w8a8, w4a8, w8 …  [default: w8a8]",
)
@taking(constraints=Constraints)
@taking(verify=VerifyOptions, only=("guard",))
@numbers_options
@taking(graph=GraphOptions, only=("passes",))
@json_option
@quiet_option
def diagnose_command(
    model: Path,
    float_model: Path | None,
    calibration: Path,
    target: str,
    option: str | None,
    constraints: Constraints,
    verify: VerifyOptions,
    numbers: NumbersAsked,
    graph: GraphOptions,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say what quantising does to MODEL, and which of its layers are to blame.

    \b
    onnxmpq diagnose model.onnx -c samples.npz --option w4a8           before it is quantised
    onnxmpq diagnose small.onnx --float model.onnx -c samples.npz      a quantised file, of any tool that writes Q/DQ
    """
    from onnxmpq.guard.diagnosis import diagnose

    if float_model is not None and (option or constraints != Constraints() or graph.passes):
        raise InputError(
            "A quantised file is looked at as it is: leave out --option, --keep, --exclude, --tie and --pass."
        )
    with show.progress(quiet) as report:
        found = diagnose(
            model,
            calibration,
            float_model=float_model,
            target=target,
            option=option or "w8a8",
            constraints=constraints,
            guard=verify.guard,
            numbers=numbers,
            graph=graph,
            progress=report,
        )
    if as_json:
        show.as_json(found.to_json())
    else:
        print_diagnosis(found)


def print_diagnosis(found: "Diagnosis") -> None:
    """Print the damage, the worst layers and who is to blame."""
    mark = "[red]damaged[/]" if found.broken else "[green]usable[/]"
    show.out.print(
        f"{mark}: {found.damage} on {found.damage.samples} samples ({found.thresholds.said(found.damage)} is usable)",
        soft_wrap=True,
    )
    if found.layers:
        finer = list(dict.fromkeys(option for layer in found.layers for option in layer.finer))
        optioned = any(layer.option for layer in found.layers)
        show.out.print("local errors, the worst first:")
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        grid.add_column("layers", overflow="fold")
        if optioned:
            grid.add_column("option", no_wrap=True)
        for heading in ("dB behind it", *(f"at {option}" for option in finer)):
            grid.add_column(heading, justify="right", no_wrap=True)
        for layer in found.layers[:SHOWN]:
            values = [layer.local_db, *(layer.finer.get(option) for option in finer)]
            figures = ("" if value is None else f"{value:.1f}" for value in values)
            grid.add_row(escape(layer.name), *([layer.option] if optioned else []), *figures)
        show.out.print(grid)
        if len(found.layers) > SHOWN:
            show.out.print(f"{len(found.layers) - SHOWN} more are better than these.")
    for one in found.blamed[:SHOWN]:
        kept = f"; finer: --keep {one.name}={one.kept}" if one.kept else ""
        alone = f"; alone: {one.alone}" if one.alone else ""
        show.out.print(
            f"[bold]to blame[/]  {escape(one.name)}  ({one.local_db:.1f} dB behind it{escape(alone)}){escape(kept)}",
            soft_wrap=True,
        )
    if len(found.blamed) > SHOWN:
        show.out.print(f"[bold]to blame[/]  {len(found.blamed) - SHOWN} more; --json names them all.")
    if found.blamed and found.after is not None:
        show.out.print(
            f"Without their errors: {found.after}. Found in {found.runs} runs of one sample, {found.share:.1%} of "
            "measuring every layer.",
            soft_wrap=True,
        )
    show.notes(found.notes)
