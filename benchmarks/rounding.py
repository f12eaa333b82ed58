"""``python -m benchmarks rounding``: ways to round weights, by measured loss on held-out samples.

To the nearest code, by GPTQ, and fitted in the order of the network. All have the same ranges of activations and the
same bytes. Losses are those of whole lowered models, their Q/DQ computed as written, against the float model;
differences are paired by sample.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from benchmarks import zoo
from benchmarks.held_out import EMBEDDED, run_on
from benchmarks.pairs import file_option, models_of
from benchmarks.zoo import Feeds, ZooModel
from onnxmpq.artifacts import Option
from onnxmpq.errors import OnnxmpqError
from onnxmpq.methods.uniform import uniform
from onnxmpq.metrics.losses import mean_and_error
from onnxmpq.options import Numbers
from onnxmpq.runtimes import get_runtime
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace


@dataclass(frozen=True, slots=True)
class Row:
    """One model at one option.

    ``difference`` is gptq less nearest, ``fitted_difference`` sequential less gptq, with errors of paired samples.
    """

    model: str
    option: str
    loss: str
    calibration: int
    samples: int
    nearest: float
    gptq: float
    difference: float
    error: float
    sequential: float
    fitted_difference: float
    fitted_error: float
    hessians_s: float
    rounding_s: float
    fitting_s: float
    notes: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """Return the loss that GPTQ leaves of that of nearest."""
        return self.gptq / self.nearest if self.nearest else float("nan")

    @property
    def fitted_ratio(self) -> float:
        """Return the loss that fitting in the order of the network leaves of that of GPTQ."""
        return self.sequential / self.gptq if self.gptq else float("nan")


def measured(
    name: str, data: ZooModel, calibration: Feeds, options: Sequence[str], target: str, numbers: Numbers
) -> Iterator[Row]:
    """Measure one model at several options, rounded all ways."""
    reference = get_runtime("onnxruntime")
    prepared = prepare(data.path, target)
    with workspace(prepared, calibration, replace(numbers, rounding="sequential")) as opened:
        before = reference.session(opened.float_model, mode="deployed")
        for option in options:
            plan = uniform(prepared.space, Option.parse(option))
            began = time.perf_counter()
            opened.count_hessians(opened.calibrated.missing_hessians(plan))
            counted = time.perf_counter() - began
            opened.calibrate(opened.calibrated.needs(plan))
            nearest = replace(opened.calibrated, numbers=replace(numbers, rounding="nearest"))
            models, seconds = [], []
            for rounded in (nearest.lower, opened.calibrated.lower, opened.lowered):
                began = time.perf_counter()
                models.append(rounded(plan).model)
                seconds.append(time.perf_counter() - began)
            sessions = [reference.session(ir.to_proto(model).SerializeToString(), mode="literal") for model in models]
            outcome = run_on(data.splits, prepared.model, before, sessions)
            found = outcome.losses
            difference, error = mean_and_error(found[1] - found[0])
            yield Row(
                name,
                option,
                outcome.kind,
                len(opened.samples),
                len(found[0]),
                float(found[0].mean()),
                float(found[1].mean()),
                difference,
                error,
                float(found[2].mean()),
                *mean_and_error(found[2] - found[1]),
                counted,
                seconds[1] - seconds[0],
                seconds[2],
                opened.notes(plan),
            )


@click.command()
@click.option("--models", default="", help="Which models, separated by commas; the embedded and the zoo's if empty.")
@file_option
@click.option("--options", default="w4a8,w3a8", show_default=True, help="Which options, separated by commas.")
@click.option("--target", default="generic", show_default=True)
@click.option("--samples", default=500, show_default=True, help="Most samples of each held-out split.")
@click.option("--calibration", default=0, help="Most samples to calibrate with; all of them if 0.")
@click.option("--weight-ranges", type=click.Choice(["mse", "minmax"]), default="mse", show_default=True)
@click.option("--bias-correction/--no-bias-correction", default=True, show_default=True)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def rounding(
    models: str,
    files: Sequence[tuple[Path, Path, Path]],
    options: str,
    target: str,
    samples: int,
    calibration: int,
    weight_ranges: str,
    bias_correction: bool,
    file: Path | None,
) -> None:
    """Round the weights of models in three ways, and measure them on held-out data."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=210)
    numbers = Numbers.of({"weights": weight_ranges, "bias_correction": str(bias_correction)})
    rows: list[Row] = []
    try:
        for data in models_of(models, files, samples, () if files else (*EMBEDDED, *zoo.names())):
            kept = {key: array[: calibration or None] for key, array in data.calibration.items()}
            for row in measured(data.name, data, kept, options.split(","), target, numbers):
                log.print(
                    f"{row.model} {row.option} {row.nearest:.4g} {row.gptq:.4g} {row.sequential:.4g}", highlight=False
                )
                rows.append(row)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    console.print(_grid(rows, target))
    for note in dict.fromkeys(f"{row.model}: {note}" for row in rows for note in row.notes):
        console.print(note, highlight=False, soft_wrap=True)
    better = sum(row.difference < 0 for row in rows)
    worse = sum(row.difference > row.error for row in rows)
    console.print(f"GPTQ is better in {better} of {len(rows)} cells, and worse by more than one error in {worse}.")
    better = sum(row.fitted_difference < 0 for row in rows)
    worse = sum(row.fitted_difference > row.fitted_error for row in rows)
    console.print(
        f"Fitted in the order of the network: better still in {better}, worse by more than one error in {worse}."
    )
    for option in dict.fromkeys(row.option for row in rows):
        ratios = [row.fitted_ratio for row in rows if row.option == option]
        console.print(f"{option}: {np.exp(np.log(ratios).mean()):.2f} of GPTQ's loss, geometric mean.", highlight=False)
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def _grid(rows: list[Row], target: str) -> Table:
    grid = Table("model", "option", "loss", title=f"target {target}", title_justify="left")
    for column in (
        "calibrated",
        "samples",
        "nearest",
        "gptq",
        "gptq - nearest ± se",
        "ratio",
        "sequential",
        "sequential - gptq ± se",
        "ratio",
        "Hessians s",
        "rounding s",
        "fitting s",
    ):
        grid.add_column(column, justify="right")
    for row in rows:
        grid.add_row(
            *(row.model, row.option, row.loss, str(row.calibration), str(row.samples)),
            *(f"{row.nearest:.4g}", f"{row.gptq:.4g}", f"{row.difference:+.3g} ± {row.error:.2g}", f"{row.ratio:.2f}"),
            *(
                f"{row.sequential:.4g}",
                f"{row.fitted_difference:+.3g} ± {row.fitted_error:.2g}",
                f"{row.fitted_ratio:.2f}",
            ),
            *(f"{row.hessians_s:.1f}", f"{row.rounding_s:.1f}", f"{row.fitting_s:.1f}"),
        )
    return grid
