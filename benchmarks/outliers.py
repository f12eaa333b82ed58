"""``python -m benchmarks outliers``: models whose activations have outliers, at 8 bits, smoothed, and with 16 in part.

``planted`` is ``digits_vit`` with outliers behind its LayerNorms, which changes nothing in float. Losses are those of
whole files, their Q/DQ computed as written, against the float model on held-out samples.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.held_out import data_of, run_on
from benchmarks.planted import planted
from benchmarks.zoo import ZooModel
from onnxmpq.api import Result, quantize
from onnxmpq.metrics.losses import mean_and_error
from onnxmpq.model.load import load
from onnxmpq.options import Constraints, Numbers, SearchOptions, VerifyOptions
from onnxmpq.runtimes import get_runtime

PLANTED = "planted"
_WIDE = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One file: what was asked for, how it was smoothed, its loss and accuracy, how many units have 16-bit inputs."""

    model: str
    target: str
    asked: str
    smooth: str
    kind: str
    samples: int
    loss: float
    error: float
    fall: float | None
    wide: int
    units: int
    file_bytes: int


def measured(name: str, data: ZooModel, asked: Sequence[dict[str, Any]], folder: Path) -> Iterator[Row]:
    """Make a file for everything that is asked of a model, and measure it."""
    before = get_runtime("onnxruntime").session(data.path, mode="deployed")
    for number, given in enumerate(asked):
        result = quantize(
            data.path,
            dict(data.calibration),
            output=folder / f"{name}.{number}.onnx",
            verify=VerifyOptions(as_asked=True, allow_slower=True, speed_budget_s=0.0),
            **given,
        )
        after = get_runtime("onnxruntime").session(result.path, mode="literal")
        outcome = run_on(data.splits, load(data.path).model, before, [after])
        loss, error = mean_and_error(outcome.losses[0])
        hits = outcome.hits
        fall = None if hits is None else float(hits[0].mean() - hits[1].mean())
        wide = sum(option.activation_bits == _WIDE for option in result.plan.choices.values())
        yield Row(
            name,
            result.plan.target,
            _told(given, result),
            result.plan.ranges.get("smooth", "off"),
            outcome.kind,
            len(outcome.losses[0]),
            loss,
            error,
            fall,
            wide,
            len(result.space.units),
            result.file_bytes,
        )


def _told(given: dict[str, Any], result: Result) -> str:
    return str(given["plan"]) if "plan" in given else f"{given['budget'][0]} ({result.plan.method})"


def _smoothing(target: str) -> list[dict[str, Any]]:
    """Return what shows the worth of smoothing: w8a8 without and with it."""
    return [{"plan": "w8a8", "target": target, "numbers": Numbers(smooth=way)} for way in ("off", "auto")]


def _mixing(budgets: Sequence[str]) -> list[dict[str, Any]]:
    """Return what shows the worth of 16 bits in part: searches within budgets, without smoothing."""
    search = {
        "search": SearchOptions(options=("w8a8", "w8a16")),
        "constraints": Constraints(ties=("inputs",)),
    }
    numbers = Numbers(smooth="off")
    given: dict[str, Any] = {"target": "generic", "numbers": numbers}
    sought = given | {"numbers": replace(numbers, rounding="sequential")} | search
    return [given | {"plan": plan} for plan in ("w8a8", "w8a16")] + [sought | {"budget": [text]} for text in budgets]


@click.command("outliers")
@click.option(
    "--models", default=PLANTED, show_default=True, help="planted, or models of the zoo, with commas between."
)
@click.option("--target", default="ort-cpu", show_default=True, help="The target of what is smoothed.")
@click.option(
    "--budgets",
    default="bops=7%,bops=8%",
    show_default=True,
    help="Of searches among w8a8 and w8a16 on generic; none if it is empty.",
)
@click.option("--most", type=int, default=None, help="How many samples of each part of the data to measure on.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write raw numbers.")
def outliers(models: str, target: str, budgets: str, most: int | None, file: Path | None) -> None:
    """Models with outliers among channels at 8 bits, smoothed, and with activations of 16 bits in part."""
    asked = _smoothing(target) + (_mixing(budgets.split(",")) if budgets else [])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        for name in models.split(","):
            data = data_of("digits_vit" if name == PLANTED else name, most)
            if name == PLANTED:
                data = replace(data, path=planted(Path(place) / "planted.onnx"))
            rows += measured(name, data, asked, Path(place))
    _print(rows)
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=2), encoding="utf-8")


def _print(rows: Sequence[Row]) -> None:
    grid = Table("model", "target", "asked", "smoothed", "loss", "fall of accuracy", "16-bit units", "bytes")
    for row in rows:
        fall = "" if row.fall is None else f"{100 * row.fall:.2f}"
        loss, wide = f"{row.loss:.4g} ± {row.error:.1g} {row.kind}", f"{row.wide} of {row.units}"
        grid.add_row(row.model, row.target, row.asked, row.smooth, loss, fall, wide, f"{row.file_bytes:,}")
    Console().print(grid)
