"""``onnxmpq store``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from onnxmpq.cli import show
from onnxmpq.cli.groups import NearestGroup
from onnxmpq.cli.shared import json_option
from onnxmpq.errors import VerifyError

if TYPE_CHECKING:
    from onnxmpq.sensitivity.stored.store import Report, Store


@click.group("store", cls=NearestGroup)
def store_command() -> None:
    """Look at a store of measurements, check it, or make it smaller."""


path_argument = click.argument("path", type=click.Path(path_type=Path))


@store_command.command("show")
@path_argument
@json_option
def show_command(path: Path, as_json: bool) -> None:
    """Show what the store at PATH was made for and what it holds."""
    with _opened(path) as store:
        _print(store.verify(), as_json)


@store_command.command("verify")
@path_argument
@json_option
def verify_command(path: Path, as_json: bool) -> None:
    """Check every result in the store at PATH; end with 4 if any is damaged."""
    with _opened(path) as store:
        report = store.verify()
        _print(report, as_json)
    if not report.ok:
        raise VerifyError(
            f"'{path}' has {report.damaged} damaged results; they are never used. `onnxmpq store compact` drops them."
        )


@store_command.command("compact")
@path_argument
def compact_command(path: Path) -> None:
    """Drop damaged results from the store at PATH and give unused space back."""
    with _opened(path) as store:
        before = path.stat().st_size
        dropped = store.compact()
    show.out.print(f"{dropped} results dropped; {show.size(before)} → {show.size(path.stat().st_size)}.")


def _opened(path: Path) -> "Store":
    from onnxmpq.sensitivity.stored.store import Store

    return Store.open(path, None)


def _print(report: "Report", as_json: bool) -> None:
    if as_json:
        show.as_json({name: getattr(report, name) for name in report.__slots__})
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("store", report.path)
    table.add_row("results", f"{report.good} intact, {report.damaged} damaged, measured in {report.seconds:.1f} s")
    table.add_row("size", f"{show.size(report.array_bytes)} of arrays in a file of {show.size(report.file_bytes)}")
    for name, value in report.identity.items():
        table.add_row(f"made for {name}", value)
    for fault in report.faults:
        table.add_row("fault", fault)
    show.out.print(table)
