"""``python -m benchmarks detector``: the example detector on drawn shapes, its mAP before and after.

    float, quantised   ->   detections of the same pictures   ->   mAP of each, and the error of the difference

Both see the same pictures. The error is that of pictures drawn again and again, with returning, for both (bootstrap).
"""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from models import shapes
from onnxmpq.api import quantize
from onnxmpq.errors import OnnxmpqError
from onnxmpq.options import MeasureOptions, SearchOptions, VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.targets.named import target as target_of

MODEL = Path(shapes.__file__).parent / "shapes_detector.onnx"
CALIBRATED, CALIBRATION_SEED = 128, 2
EVALUATION_SEED = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One file: what it was made for and how, its share of the float file, and mAP in points before and after."""

    target: str
    asked: str
    loss: str
    size_share: float
    pictures: int
    before: float
    after: float
    error: float
    seconds: float


def rows(
    target: str, asked: Sequence[str], losses: Sequence[str], pictures: int, draws: int, effort: str
) -> Iterator[Row]:
    """Quantise the detector for one target as ``asked``: an option, or a budget."""
    image, wanted = shapes.draw(pictures, EVALUATION_SEED)
    samples = {"image": shapes.draw(CALIBRATED, CALIBRATION_SEED)[0]}
    float_found = _found(MODEL, "onnxruntime", image)
    for text in asked:
        for loss in losses if "=" in text else losses[:1]:
            began = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix="onnxmpq-") as place:
                result = quantize(
                    MODEL,
                    samples,
                    output=Path(place) / "detector.onnx",
                    target=target,
                    budget=[text] if "=" in text else (),
                    plan=None if "=" in text else text,
                    search=SearchOptions(effort=effort),
                    measure=MeasureOptions(loss=loss),
                    verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
                )
                found = _found(result.path, target_of(target).runtime, image)
            share, seconds = result.file_bytes / result.float_file_bytes, time.perf_counter() - began
            yield Row(target, text, loss, share, pictures, *paired((float_found, found), wanted, draws), seconds)


def _found(path: Path, runtime: str, image: np.ndarray) -> list[shapes.Objects]:
    """Return what a file detects in pictures."""
    session = get_runtime(runtime).session(path, mode="deployed")
    outputs = [session.run({"image": image[start : start + 1]})["detections"] for start in range(len(image))]
    return shapes.detections(np.concatenate(outputs))


def paired(
    found: tuple[Sequence[shapes.Objects], Sequence[shapes.Objects]], wanted: Sequence[shapes.Objects], draws: int
) -> tuple[float, float, float]:
    """Return both mAP in points, and the standard error of their difference: pictures drawn again with returning."""
    random = np.random.default_rng(0)
    matches = [[shapes.matched(*both) for both in zip(each, wanted, strict=True)] for each in found]
    before, after = (100 * shapes.mean_precision(each) for each in matches)
    differences = []
    for _ in range(draws):
        drawn = random.integers(0, len(wanted), len(wanted))
        first, second = (shapes.mean_precision([each[i] for i in drawn]) for each in matches)
        differences.append(100 * (second - first))
    return before, after, float(np.std(differences, ddof=1)) if draws > 1 else 0.0


@click.command()
@click.option("--targets", default="ort-cpu,openvino,generic", show_default=True)
@click.option("--asked", default="w8a8,size=20%", show_default=True, help="Options and budgets, separated by commas.")
@click.option("--losses", default="auto", show_default=True, help="Losses that searches measure: auto, power.")
@click.option("--pictures", default=500, show_default=True, help="Pictures that mAP is counted on.")
@click.option("--draws", default=100, show_default=True, help="How often pictures are drawn again for the error.")
@click.option("--effort", default="default", show_default=True)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def detector(targets: str, asked: str, losses: str, pictures: int, draws: int, effort: str, file: Path | None) -> None:
    """Compare the example detector with its float form by mAP."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=160)
    found: list[Row] = []
    try:
        for target in targets.split(","):
            for row in rows(target, asked.split(","), losses.split(","), pictures, draws, effort):
                log.print(f"{target} {row.asked}: {row.after - row.before:+.2f}, {row.seconds:.0f} s", highlight=False)
                found.append(row)
                if file is not None:
                    file.write_text(json.dumps([asdict(row) for row in found], indent=1), encoding="utf-8")
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    console.print(_table(found))


def _table(found: Sequence[Row]) -> Table:
    """Lay out the rows."""
    table = Table("target", "asked", "loss")
    for column in ("of float", "float", "quantised", "difference ± se", "s"):
        table.add_column(column, justify="right")
    for row in found:
        points = (f"{row.before:.2f}", f"{row.after:.2f}", f"{row.after - row.before:+.2f} ± {row.error:.2f}")
        table.add_row(row.target, row.asked, row.loss, f"{row.size_share:.3f}", *points, f"{row.seconds:.0f}")
    return table
