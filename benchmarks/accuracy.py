"""``python -m benchmarks accuracy``: what quantising costs real models, with paired standard errors."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks import zoo
from onnxmpq.api import quantize
from onnxmpq.errors import OnnxmpqError
from onnxmpq.options import ACTIVATION_RANGES, ActivationRanges, Numbers, VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.targets import target as find_target

_RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Row:
    """One model at one option on one split; scores in points."""

    model: str
    split: str
    option: str
    ranges: str
    samples: int
    before: float
    after: float
    error: float
    size_share: float
    speed: float
    sqnr_db: float


def measure(name: str, option: str, target: str, ranges: ActivationRanges, correct: bool) -> list[Row]:
    """Quantise one model and score it beside its float form."""
    reference, runtime = get_runtime("onnxruntime"), get_runtime(find_target(target).runtime)
    before = reference.session(zoo.folder() / "models" / f"{name}.onnx", mode="deployed", threads=2)
    model = zoo.zoo_model(name, before.inputs[0].name)
    rows = []
    with tempfile.TemporaryDirectory(prefix="onnxmpq-") as place:
        path = Path(place) / "export.onnx"
        result = quantize(
            model.path,
            dict(model.calibration),
            output=path,
            target=target,
            plan=option,
            numbers=Numbers(ranges, bias_correction=correct),
            verify=VerifyOptions(allow_slower=True, as_asked=True),
        )
        after = runtime.session(path, mode="deployed", threads=2)
        speed, sqnr = (
            value if isinstance(value := result.verdict[key].value, float) else 0.0 for key in ("speed", "sqnr")
        )
        for split in model.splits:
            scores = [model.scores(session, split) for session in (before, after)]
            points, error = paired(scores[0], scores[1], split.truth, model.metric)
            share = result.file_bytes / result.float_file_bytes
            rows.append(Row(name, split.name, option, ranges, len(scores[0]), *points, error, share, speed, sqnr))
    return rows


def paired(a: np.ndarray, b: np.ndarray, truth: np.ndarray, metric: str) -> tuple[tuple[float, float], float]:
    """Return both scores in points and the standard error of their difference: exact for hits, else bootstrapped."""
    if metric == "top1":
        difference = b.astype(float) - a.astype(float)
        error = float(np.std(difference, ddof=1) / np.sqrt(len(difference)))
        return (100 * float(a.mean()), 100 * float(b.mean())), 100 * error

    def score(x: np.ndarray, rows: np.ndarray) -> float:
        return 100 * float(spearmanr(x[rows], truth[rows]).statistic)

    generator, everything = np.random.default_rng(0), np.arange(len(a))
    draws = [generator.integers(0, len(a), len(a)) for _ in range(_RESAMPLES)]
    error = float(np.std([score(b, rows) - score(a, rows) for rows in draws], ddof=1))
    return (score(a, everything), score(b, everything)), error


@click.command()
@click.option("--models", default="", help="Which models, separated by commas; all of the folder if empty.")
@click.option("--options", default="w8a8", show_default=True, help="Which options, separated by commas.")
@click.option("--target", default="ort-cpu", show_default=True)
@click.option("--ranges", default="mse", show_default=True, help="Which range methods, separated by commas.")
@click.option("--bias-correction/--no-bias-correction", default=True, show_default=True)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def accuracy(models: str, options: str, target: str, ranges: str, bias_correction: bool, file: Path | None) -> None:
    """Quantise the models of ONNXMPQ_ZOO and score them on held-out data beside float."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=160)
    rows: list[Row] = []
    try:
        for name in models.split(",") if models else zoo.names():
            for option in options.split(","):
                chosen: list[ActivationRanges] = [known for known in ACTIVATION_RANGES if known in ranges.split(",")]
                for method in chosen:
                    log.print(f"{name} {option} {method}", highlight=False)
                    rows += measure(name, option, target, method, bias_correction)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    table = Table("model", "split", "option", "ranges", title=f"target {target}", title_justify="left")
    for column in ("samples", "float", "quantised", "difference ± se", "bytes", "speed", "SQNR dB"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            *(row.model, row.split, row.option, row.ranges, str(row.samples), f"{row.before:.2f}", f"{row.after:.2f}"),
            f"{row.after - row.before:+.2f} ± {row.error:.2f}",
            *(f"{row.size_share:.2f}", f"{row.speed:.2f}", f"{row.sqnr_db:.1f}"),
        )
    console.print(table)
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
