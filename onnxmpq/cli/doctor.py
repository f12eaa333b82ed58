"""``onnxmpq doctor``."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from onnxmpq.cli import show
from onnxmpq.cli.shared import json_option

if TYPE_CHECKING:
    from onnxmpq.doctor import Findings


@click.command("doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Say what this machine has, what follows from it, and whether a model can be quantised and run.

    Ends with 0 if a model of one layer was quantised and ran, else with 2 and what to do. Nothing is sent anywhere.
    """
    from onnxmpq.doctor import examine

    found = examine()
    if as_json:
        show.as_json({**asdict(found), "ok": not found.faults})
    else:
        _shown(found)
    if found.faults:
        raise click.exceptions.Exit(2)


def _shown(found: "Findings") -> None:
    processor, memory = found.processor, found.memory_bytes
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items()))
    table.add_row("system", escape(found.system))
    table.add_row("providers", ", ".join(found.providers) or "none: onnxruntime is not there")
    table.add_row("devices", escape(", ".join(["cpu", *(f"{name} ({what})" for name, what in found.devices.items())])))
    table.add_row("processor", escape(processor.brand))
    table.add_row("instructions", "not known" if processor.isa is None else ", ".join(processor.isa) or "none of note")
    table.add_row("cores", f"{found.usable_cores} of {found.cores}")
    free = f", {show.size(found.free_memory_bytes)} free" if found.free_memory_bytes is not None else ""
    table.add_row("memory", "not known" if memory is None else show.size(memory) + free)
    for extra in found.extras:
        state = "installed" if extra.installed else escape(f"not installed: {extra.install}")
        table.add_row(f"extra {extra.name}", f"{state}  ({extra.purpose})")
    show.out.print(table)
    for remark in found.remarks:
        show.out.print(escape(remark))
    if found.trial:
        show.out.print(f"[green]ok[/]  {escape(found.trial)}")
    for fault in found.faults:
        show.out.print(f"[red]fault[/]  {escape(fault)}")
