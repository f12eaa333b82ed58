"""``onnxmpq inspect``."""

from pathlib import Path

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from onnxmpq.artifacts import Space, Unit
from onnxmpq.cli import show
from onnxmpq.cli.shared import json_option, model_argument, quiet_option, target_option


@click.command("inspect")
@model_argument
@target_option
@json_option
@quiet_option
def inspect_command(model: Path, target: str, as_json: bool, quiet: bool) -> None:
    """Show the units of MODEL, their options and what they cost, and what stays float and why."""
    from onnxmpq.api import inspect
    from onnxmpq.model.portions import portions_of_file

    with show.progress(quiet) as report:
        space = inspect(model, target, report)
    if as_json:
        show.as_json({**to_json(space), "file": portions_of_file(model).to_json()})
    else:
        table(space)
        told = portions_of_file(model)
        show.out.print(f"The file of {show.size(told.total)}: {show.portions(told)}.", soft_wrap=True)


WIDE = 100
"""Columns of a terminal, from which on every figure is shown."""


def to_json(space: Space) -> dict[str, object]:
    """Return a space as plain JSON data; totals carry the names that qonnx gives them."""
    return {
        "target": space.target,
        "total_macs": sum(unit.macs for unit in space.units),
        "total_bops": sum(unit.costs[0].bops for unit in space.units),
        "total_mem_w_bits": 32 * sum(unit.parameters for unit in space.units),
        "float_bytes": space.float_bytes,
        "units": [
            {
                "name": unit.name,
                "layers": [layer.node for layer in unit.layers],
                "op": unit.layers[0].op,
                "parameters": unit.parameters,
                "macs": unit.macs,
                "options": {str(c.option): {"bytes": c.stored_bytes, "bops": c.bops} for c in unit.costs},
                "reason": unit.reason,
            }
            for unit in space.units
        ],
        "leftovers": [
            {"node": x.node, "op": x.op, "bytes": x.stored_bytes, "reason": x.reason} for x in space.leftovers
        ],
        "notes": list(space.notes),
    }


def table(space: Space) -> None:
    """Print units and leftovers."""
    wide = show.out.width >= WIDE
    grid = Table(title=f"target {space.target}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("unit", overflow="fold", min_width=14)
    grid.add_column("op", no_wrap=True)
    for column in ("weights", "MACs", "float", "8 bit", "4 bit") if wide else ("weights", "float", "4 bit"):
        grid.add_column(column, justify="right", no_wrap=True)
    grid.add_column("options", overflow="fold", min_width=14)
    reasons = any(unit.reason for unit in space.units)
    if reasons:
        grid.add_column("why not more", overflow="fold", min_width=12)
    for unit in space.units:
        layer = unit.layers[0]
        kind = layer.op if layer.grouping == "dense" else f"{layer.op} {layer.grouping}"
        shared = f" (+{len(unit.layers) - 1} sharing)" if len(unit.layers) > 1 else ""
        stored, macs, eight, four = (
            *(show.size(unit.costs[0].stored_bytes), _count(unit.macs)),
            *(_bytes(unit, 8), _bytes(unit, 4)),
        )
        figures = (macs, stored, eight, four) if wide else (stored, four)
        why = (escape(unit.reason),) if reasons else ()
        grid.add_row(
            *(escape(unit.name) + shared, kind, _count(unit.parameters), *figures, show.options(unit.options), *why)
        )
    show.out.print(grid)
    whole = space.float_bytes
    quantisable = min(sum(unit.costs[0].stored_bytes for unit in space.units if len(unit.costs) > 1), whole)
    rest = max(whole - sum(unit.costs[0].stored_bytes for unit in space.units), 0)
    least = rest + sum(min(cost.stored_bytes for cost in unit.costs) for unit in space.units)
    show.out.print(
        f"{len(space.units)} units; {show.size(quantisable)} of {show.size(whole)} can be quantised, "
        f"and the smallest plan stores {show.size(least)}."
    )
    if space.leftovers:
        left = Table("stays float", "op", "bytes", "why", box=box.SIMPLE_HEAD)
        for item in space.leftovers:
            left.add_row(escape(item.node), item.op, show.size(item.stored_bytes), escape(item.reason))
        show.out.print(left)


def _count(number: int) -> str:
    return f"{number / 1e6:.3g} M" if number >= 1e6 else f"{number / 1e3:.3g} k" if number >= 1e3 else str(number)


def _bytes(unit: Unit, bits: int) -> str:
    sizes = [c.stored_bytes for c in unit.costs if c.option.weight_bits == bits and not c.option.block]
    return show.size(max(sizes)) if sizes else "–"
