"""``python -m benchmarks drop``: the smallest files that keep the accuracy within a drop, checked on other data.

Labelled test data are dealt out in turn: the search judges by one half, the table tells how accurate the file is on the
other, which it never saw.
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

from benchmarks import zoo
from benchmarks.accuracy import paired
from benchmarks.held_out import EMBEDDED, data_of
from onnxmpq.api import quantize
from onnxmpq.errors import InfeasibleError, InputError, OnnxmpqError
from onnxmpq.options import MeasureOptions, SearchOptions, VerifyOptions
from onnxmpq.runtimes import get_runtime


@dataclass(frozen=True, slots=True)
class Row:
    """One model and method: its file's share of the float file, and accuracy on data that the search did not see."""

    model: str
    split: str
    method: str
    size_share: float
    judged: str
    samples: int
    before: float
    after: float
    error: float
    seconds: float
    refused: str = ""


def rows(name: str, methods: Sequence[str], drop: str, samples: int, most: int, effort: str) -> Iterator[Row]:
    """Search one model by every method; ``most`` is of each half of the test data."""
    reference = get_runtime("onnxruntime")
    data = data_of(name)
    if data.metric != "top1":
        raise InputError(f"'{name}' is no classifier: choose others with --models.")
    before = reference.session(data.path, mode="deployed")
    split = max(data.splits, key=lambda split: len(split.truth))
    judged, checked = (_half(split, start, most) for start in (0, 1))
    with tempfile.TemporaryDirectory(prefix="onnxmpq-") as place:
        for method in methods:
            began = time.perf_counter()
            try:
                result = quantize(
                    data.path,
                    data.calibration,
                    output=Path(place) / f"{method}.onnx",
                    budget=[f"drop={drop}"],
                    evaluation={**judged.feeds, "labels": judged.truth},
                    search=SearchOptions(method=method, effort=effort),
                    measure=MeasureOptions(samples=samples, store=Path(place) / f"{method}.store"),
                    verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
                )
            except InfeasibleError as error:
                yield Row(name, split.name, method, 1.0, "", 0, 0.0, 0.0, 0.0, time.perf_counter() - began, str(error))
                continue
            after = reference.session(result.path, mode="deployed")
            first, second = (data.scores(session, checked) for session in (before, after))
            points, error_points = paired(first, second, checked.truth, "top1")
            share = result.file_bytes / result.float_file_bytes
            told = next((note for note in result.notes if note.startswith("The metric falls")), "")
            seconds = time.perf_counter() - began
            yield Row(name, split.name, method, share, told, len(checked.truth), *points, error_points, seconds)


def _half(split: zoo.Split, start: int, most: int) -> zoo.Split:
    """Return every other sample, at most so many."""
    feeds = {name: np.ascontiguousarray(array[start::2][:most]) for name, array in split.feeds.items()}
    return zoo.Split(split.name, feeds, split.truth[start::2][:most])


@click.command()
@click.option("--models", default=",".join(EMBEDDED), show_default=True, help="Classifiers, separated by commas.")
@click.option("--methods", default="gram,clado-star,sqnr,lampq,local,uniform", show_default=True)
@click.option("--drop", default="1%", show_default=True)
@click.option("--samples", default=256, show_default=True, help="Calibration samples that are measured on.")
@click.option("--most", default=2500, show_default=True, help="Most samples of each half of the test data.")
@click.option("--effort", default="quick", show_default=True)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def drop(models: str, methods: str, drop: str, samples: int, most: int, effort: str, file: Path | None) -> None:
    """Search the smallest file within a drop of accuracy, and check it on data that the search did not see."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=160)
    found: list[Row] = []
    try:
        for name in models.split(","):
            for row in rows(name, methods.split(","), drop, samples, most, effort):
                log.print(f"{name} {row.method}: {row.size_share:.3f}, {row.seconds:.0f} s", highlight=False)
                found.append(row)
                if file is not None:
                    file.write_text(json.dumps([asdict(row) for row in found], indent=1), encoding="utf-8")
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    table = Table("model", "split", "method", title=f"drop={drop}", title_justify="left")
    for column in ("of float", "float", "quantised", "difference ± se", "s"):
        table.add_column(column, justify="right")
    for row in found:
        told = (
            (f"{row.size_share:.3f}", f"{row.before:.2f}", f"{row.after:.2f}") if row.samples else ("refused", "", "")
        )
        apart = f"{row.after - row.before:+.2f} ± {row.error:.2f}" if row.samples else ""
        table.add_row(row.model, row.split, row.method, *told, apart, f"{row.seconds:.0f}")
    console.print(table)
