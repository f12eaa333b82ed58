"""``python -m benchmarks guard``: uniform plans as asked for, beside those whose culprits are kept finer."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import zoo
from benchmarks.accuracy import paired
from benchmarks.held_out import EMBEDDED, data_of
from benchmarks.zoo import ZooModel
from onnxmpq.api import Result, quantize
from onnxmpq.errors import OnnxmpqError
from onnxmpq.options import Numbers, VerifyOptions
from onnxmpq.runtimes import get_runtime

_SAMPLES = 128


@dataclass(frozen=True, slots=True)
class Row:
    """One model at one option: points of the metric on held-out data, shares of the float file, and what it took."""

    model: str
    option: str
    samples: int
    before: float
    asked: float
    asked_error: float
    asked_share: float
    kept: float
    kept_error: float
    kept_share: float
    units: int
    culprits: int
    measuring: float


def measured(model: ZooModel, option: str) -> Row:
    """Quantise a model both ways, and score it on all of its splits."""
    reference = get_runtime("onnxruntime")
    before = reference.session(model.path, mode="deployed", threads=2)
    calibration = {key: array[:_SAMPLES] for key, array in model.calibration.items()}
    with tempfile.TemporaryDirectory(prefix="onnxmpq-") as place:

        def made(name: str, as_asked: bool) -> Result:
            return quantize(
                model.path,
                calibration,
                output=Path(place) / name,
                plan=option,
                numbers=Numbers(),
                verify=VerifyOptions(as_asked=as_asked, allow_slower=True, speed_budget_s=0.0),
            )

        results = [made("asked.onnx", True), made("kept.onnx", False)]
        sessions = [reference.session(result.path, mode="deployed", threads=2) for result in results]
        scores = [
            np.concatenate([model.scores(session, split) for split in model.splits]) for session in (before, *sessions)
        ]
    truth = np.concatenate([split.truth for split in model.splits])
    (plain, asked), asked_error = paired(scores[0], scores[1], truth, model.metric)
    (_, kept), kept_error = paired(scores[0], scores[2], truth, model.metric)
    shares = [result.file_bytes / result.float_file_bytes for result in results]
    found = results[1].judgement.finding if results[1].judgement else None
    return Row(
        *(model.name, option, len(truth), plain, asked, asked_error, shares[0], kept, kept_error, shares[1]),
        *(len(results[1].space.units), len(found.culprits) if found else 0, found.share if found else 0.0),
    )


@click.command()
@click.option("--models", default="", help="Which models, separated by commas; the embedded and the zoo's if empty.")
@click.option("--options", default="w4a8,w3a8,w2a8", show_default=True, help="Which options, separated by commas.")
@click.option("--samples", default=1000, show_default=True, help="The most held-out samples of a split.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def guard(models: str, options: str, samples: int, file: Path | None) -> None:
    """Quantise models at coarse options, as asked and with what ruins them kept finer, and score both."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=140)
    rows: list[Row] = []
    for name in models.split(",") if models else [*EMBEDDED, *zoo.names()]:
        for option in options.split(","):
            log.print(f"{name} {option}", highlight=False)
            try:
                rows.append(measured(data_of(name, samples), option))
            except OnnxmpqError as error:
                log.print(f"{name} {option}: {error}", highlight=False)
    grid = Table("model", "option", title="uniform plans, and with culprits kept finer", title_justify="left")
    for column in ("samples", "float", "as asked", "bytes", "kept finer", "bytes", "culprits", "of measuring"):
        grid.add_column(column, justify="right")
    for row in rows:
        grid.add_row(
            *(row.model, row.option, str(row.samples), f"{row.before:.2f}"),
            *(f"{row.asked:.2f} ± {row.asked_error:.2f}", f"{row.asked_share:.3f}"),
            *(f"{row.kept:.2f} ± {row.kept_error:.2f}", f"{row.kept_share:.3f}"),
            *(f"{row.culprits} of {row.units}", f"{row.measuring:.1%}"),
        )
    console.print(grid)
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
