"""``python -m benchmarks methods``: every method on the same measurements, budgets, rounding and held-out data.

Sizes are shares of what the units store at 8 bits. Losses are those of whole lowered models, their Q/DQ computed as
written, against the float model on held-out samples; methods are compared with ``gram`` sample by sample.
"""

import importlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from benchmarks.held_out import EMBEDDED, data_of, run_on
from benchmarks.zoo import names
from onnxmpq.artifacts import FLOAT, Option, Plan, parse_options
from onnxmpq.budgets.limits import Limit, budget
from onnxmpq.budgets.rows import Row, weights_of
from onnxmpq.errors import InfeasibleError, InputError, OnnxmpqError
from onnxmpq.methods.named import method as find_method
from onnxmpq.methods.study import Menu, Study, blending
from onnxmpq.methods.uniform import uniform_choices
from onnxmpq.metrics.losses import mean_and_error
from onnxmpq.options import MeasureOptions, Numbers
from onnxmpq.runtimes import get_runtime
from onnxmpq.search.constraints import make_menu
from onnxmpq.search.decide import decide
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace

METHODS = ("gram", "clado", "clado-star", "sqnr", "lampq", "local", "uniform")
SHARES = "0.28,0.32,0.37,0.43,0.5,0.6"


@dataclass(frozen=True, slots=True)
class Cell:
    """One method on one model at one size; ``behind`` is its held-out loss less gram's, with its paired error.

    ``accuracy`` is that on held-out data less float's, as a share, where the model is a classifier.
    """

    model: str
    share: float
    method: str
    chosen: str
    loss: float
    loss_error: float
    predicted: float | None
    held_out: float
    held_out_error: float
    behind: float
    behind_error: float
    full_runs: float
    seconds: float
    accuracy: float | None = None
    accuracy_error: float | None = None


def cells(
    name: str,
    shares: Sequence[float],
    methods: Sequence[str],
    options: Sequence[Option],
    *,
    target: str,
    samples: int,
    held_out: int,
    effort: str,
    rounding: str,
    store: Path,
) -> Iterator[Cell]:
    """Run every method at every size of one model."""
    data = data_of(name, held_out)
    prepared = prepare(data.path, target)
    reference = get_runtime("onnxruntime")
    before = reference.session(data.path, mode="deployed")
    numbers = Numbers.of({"rounding": rounding})
    with ExitStack() as opened:
        # Methods that measure on blends of samples have an engine and a store of their own.
        place = opened.enter_context(workspace(prepared, data.calibration, numbers))
        engines = {
            blends: opened.enter_context(
                Engine(
                    place,
                    MeasureOptions(
                        samples=samples,
                        blends=blends,
                        store=store.with_suffix(".blends.store") if blends else store,
                    ),
                )
            )
            for blends in {blending(find_method(method)) for method in methods}
        }
        for share in shares:
            base: np.ndarray | None = None
            for method in methods:
                engine = engines[blending(find_method(method))]
                menu = make_menu(engine.space, options)
                study = Study(engine, menu, (size_row(menu, share),), effort=effort)
                try:
                    began = time.perf_counter()
                    decision = decide(study, find_method(method))
                except InfeasibleError:
                    continue
                seconds = time.perf_counter() - began
                plan = Plan(engine.space.target, method, decision.choices)
                model = place.lowered(plan).model
                session = reference.session(ir.to_proto(model).SerializeToString(), mode="literal")
                outcome = run_on(data.splits, engine.model, before, [session])
                values, hits = outcome.losses[0], outcome.hits
                base = values if base is None else base
                accuracy, error = (None, None) if hits is None else mean_and_error(hits[1].astype(float) - hits[0])
                yield Cell(
                    *(name, share, method, decision.chosen, decision.loss.value, decision.loss.error),
                    decision.predicted,
                    *(*mean_and_error(values), *mean_and_error(values - base)),
                    decision.runs,
                    seconds,
                    accuracy,
                    error,
                )


def size_row(menu: Menu, share: float) -> Row:
    """Return the row that allows a share of what the units store at 8 bits."""
    eight = uniform_choices(menu.units, menu.options, Option(8, 8))
    size = budget("size")
    total = sum(size.weight(unit, eight.get(unit.name, FLOAT)) for unit in menu.units)
    return Row(Limit(size.name, share, share=True), weights_of(size, menu.units, menu.options), int(total * share))


def summary(found: Sequence[Cell]) -> list[dict[str, float | str]]:
    """Return for each method how often it is within one standard error of the best, and its geometric mean loss."""
    table: dict[tuple[str, float], dict[str, Cell]] = {}
    for cell in found:
        table.setdefault((cell.model, cell.share), {})[cell.method] = cell
    rows: list[dict[str, float | str]] = []
    for method in dict.fromkeys(cell.method for cell in found):
        mine = [(cells[method], cells) for cells in table.values() if method in cells]
        lowest = sum(
            cell.held_out <= min(other.held_out + max(_apart(cell, other), 0.0) for other in cells.values())
            for cell, cells in mine
        )
        against = [(cell, cells["gram"]) for cell, cells in mine if "gram" in cells]
        ratio = np.exp(np.mean([np.log(max(a.held_out, 1e-12) / max(b.held_out, 1e-12)) for a, b in against]))
        runs = np.exp(np.mean([np.log(max(a.full_runs, 1) / max(b.full_runs, 1)) for a, b in against]))
        rows.append(
            {
                "method": method,
                "cells": len(mine),
                "best or within one error": lowest,
                "loss over gram's": float(ratio),
                "runs over gram's": float(runs),
            }
        )
    return rows


def _apart(cell: Cell, other: Cell) -> float:
    """Return the standard error that a difference to another method of the same cell has."""
    return other.behind_error if cell.method == "gram" else float(np.hypot(cell.behind_error, other.behind_error))


def markdown(found: Sequence[Cell]) -> str:
    """Return the tables as Markdown."""
    columns = ("model", "size", "method", "plan", "measured", "held out", "less gram's", "accuracy", "full runs", "s")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += [
        f"| {c.model} | {c.share:.2f} | {c.method} | {c.chosen} | {c.loss:.4g} | {c.held_out:.4g} ± "
        f"{c.held_out_error:.2g} | {c.behind:+.3g} ± {c.behind_error:.2g} | {_points(c)} | {c.full_runs:.0f} | "
        f"{c.seconds:.0f} |"
        for c in found
    ]
    rows = summary(found)
    if rows:
        lines += ["", "| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(_text(value) for value in line.values()) + " |" for line in rows]
    return "\n".join(lines) + "\n"


def _points(cell: Cell) -> str:
    """Write the change of accuracy in points."""
    if cell.accuracy is None or cell.accuracy_error is None:
        return ""
    return f"{100 * cell.accuracy:+.2f} ± {100 * cell.accuracy_error:.2f}"


def _text(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def plot(found: Sequence[Cell], file: Path) -> None:
    """Draw held-out loss over size, one panel for each model."""
    try:
        importlib.import_module("matplotlib").use("Agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise InputError("Drawing needs matplotlib: pip install matplotlib.") from error
    models = list(dict.fromkeys(cell.model for cell in found))
    figure, axes = pyplot.subplots(1, len(models), figsize=(4 * len(models), 3.6), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        for method in dict.fromkeys(cell.method for cell in found):
            mine = sorted((c.share, c.held_out) for c in found if c.model == model and c.method == method)
            if mine:
                axis.plot(*zip(*mine, strict=True), marker="o", markersize=3, label=method)
        axis.set(title=model, xlabel="share of the 8-bit size", yscale="log")
    axes[0][0].set_ylabel("held-out loss")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file)


@click.command()
@click.option("--models", default="", help="Which models, separated by commas; the embedded and the zoo's if empty.")
@click.option("--methods", "wanted", default=",".join(METHODS), show_default=True)
@click.option("--shares", default=SHARES, show_default=True, help="Sizes, as shares of the 8-bit one.")
@click.option("--options", default="w8a8,w4a8,w3a8,w2a8", show_default=True)
@click.option("--target", default="ort-cpu", show_default=True)
@click.option("--samples", default=128, show_default=True, help="Calibration samples that are measured on.")
@click.option("--held-out", default=500, show_default=True, help="Most samples of each held-out split.")
@click.option("--effort", default="default", show_default=True)
@click.option("--rounding", default="nearest", show_default=True)
@click.option("--stores", type=click.Path(path_type=Path), help="A folder to keep measurements in.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the cells here, too.")
@click.option("--markdown", "text", type=click.Path(dir_okay=False, path_type=Path), help="Write the tables here, too.")
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw .svg, .png or .pdf.")
def methods(
    models: str,
    wanted: str,
    shares: str,
    options: str,
    target: str,
    samples: int,
    held_out: int,
    effort: str,
    rounding: str,
    stores: Path | None,
    file: Path | None,
    text: Path | None,
    picture: Path | None,
) -> None:
    """Compare methods at equal budgets on held-out data."""
    console, log = Console(), Console(stderr=True)
    found: list[Cell] = []
    try:
        with TemporaryDirectory(prefix="onnxmpq-") as folder:
            for name in models.split(",") if models else (*EMBEDDED, *names()):
                place = (stores or Path(folder)) / f"{name}.{rounding}.{samples}.store"
                for cell in cells(
                    name,
                    [float(share) for share in shares.split(",")],
                    wanted.split(","),
                    parse_options(options.split(",")),
                    target=target,
                    samples=samples,
                    held_out=held_out,
                    effort=effort,
                    rounding=rounding,
                    store=place,
                ):
                    log.print(
                        f"{name} {cell.share} {cell.method}: held out {cell.held_out:.4g}, {cell.seconds:.0f} s",
                        highlight=False,
                    )
                    found.append(cell)
                    if file is not None:
                        file.write_text(json.dumps([asdict(c) for c in found], indent=1), encoding="utf-8")
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    table = Table("method", "cells", "best or within one error", "loss / gram's", "runs / gram's")
    for line in summary(found):
        table.add_row(*map(_text, line.values()))
    console.print(table)
    if text is not None:
        text.write_text(markdown(found), encoding="utf-8")
    if picture is not None:
        plot(found, picture)
