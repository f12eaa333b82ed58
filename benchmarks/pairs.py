"""``python -m benchmarks pairs``: what it costs that no sum of two products saturates, on held-out samples.

Three files of one model differ in the codes of their weights only: any 8-bit codes, which need VNNI; 8-bit codes whose
pairs are safe on every processor; 7-bit codes, which are safe by nature. Their Q/DQ are computed as written.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from benchmarks import zoo
from benchmarks.accuracy import paired
from benchmarks.held_out import EMBEDDED, data_of
from benchmarks.zoo import Split, ZooModel
from onnxmpq.artifacts import Option
from onnxmpq.errors import OnnxmpqError
from onnxmpq.methods.uniform import uniform
from onnxmpq.options import Numbers, Rounding
from onnxmpq.runtimes import Session, get_runtime
from onnxmpq.targets import target as find_target
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace

FORMS = ("any codes", "pair-safe", "7 bits")
_BATCH = 20

Feed = Mapping[str, np.ndarray]

ALONE: tuple[Rounding, ...] = ("nearest", "gptq")
"""Ways to round in which every layer is rounded by itself: of what comes of fitting, codes are only a part."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model rounded one way: dB to float, mean over samples and outputs, and points of its metric, for ``FORMS``.

    ``error`` is the standard error of pair-safe less any codes; there are no points where nothing is scored.
    """

    model: str
    rounding: Rounding
    samples: int
    sqnr_db: tuple[float, ...]
    points: tuple[float, ...]
    error: float

    @property
    def cost(self) -> float:
        """Return the dB that the rule costs."""
        return self.sqnr_db[0] - self.sqnr_db[1]

    @property
    def gain(self) -> float:
        """Return the dB that pair-safe codes are above those of 7 bits."""
        return self.sqnr_db[1] - self.sqnr_db[2]


def measured(name: str, data: ZooModel, target: str) -> Iterator[Row]:
    """Measure one model, rounded both ways."""
    reference = get_runtime("onnxruntime")
    prepared = prepare(data.path, target)
    free = find_target(f"{target}@vnni")
    plans = [uniform(prepared.space, Option.parse(option)) for option in ("w8a8", "w8a8", "w7a8")]
    with workspace(prepared, dict(data.calibration), Numbers(rounding="gptq")) as opened:
        before = reference.session(opened.float_model, mode="deployed", threads=2)
        for plan in plans:
            opened.calibrate(opened.calibrated.needs(plan))
        for rounding in ALONE:
            held = replace(opened.calibrated, numbers=Numbers(rounding=rounding))
            models = [
                each.lower(plan).model
                for each, plan in zip((replace(held, target=free), held, held), plans, strict=True)
            ]
            after = [
                reference.session(ir.to_proto(model).SerializeToString(), mode="literal", threads=2) for model in models
            ]
            yield Row(name, rounding, *_compared(data, before, after))


def _compared(
    data: ZooModel, before: Session, after: Sequence[Session]
) -> tuple[int, tuple[float, ...], tuple[float, ...], float]:
    """Return samples, dB to float, points and the error of the second less the first."""
    decibels: list[np.ndarray] = []
    for split in data.splits:
        rows = len(next(iter(split.feeds.values())))
        for start in range(0, rows, _BATCH):
            feed = zoo.cut({key: array[start : start + _BATCH] for key, array in split.feeds.items()})
            decibels.append(_decibels(before.run(feed), [session.run(feed) for session in after]))
    every = np.concatenate(decibels)
    decibel, count = tuple(every.mean(0)), len(every)
    if data.metric == "none":
        return count, decibel, (), 0.0
    scores = [np.concatenate([data.scores(session, split) for split in data.splits]) for session in after]
    truth = np.concatenate([split.truth for split in data.splits])
    (first, second), error = paired(scores[0], scores[1], truth, data.metric)
    (_, third), _ = paired(scores[0], scores[2], truth, data.metric)
    return count, decibel, (first, second, third), error


def _decibels(exact: Feed, outputs: Sequence[Feed]) -> np.ndarray:
    """Return dB to float: [samples, files], mean over outputs of numbers."""
    found = []
    for name, value in exact.items():
        if value.dtype.kind == "f":
            flat = value.astype(np.float64).reshape(len(value), -1)
            noise = [((each[name].reshape(len(value), -1) - flat) ** 2).sum(1) for each in outputs]
            found.append(10 * np.log10((flat**2).sum(1)[:, None] / np.stack(noise, 1)))
    return np.asarray(np.mean(found, axis=0))


def of_files(model: Path, calibration: Path, held_out: Path, most: int) -> ZooModel:
    """Read a model whose samples lie in npz files; those held out may have ``labels`` of classes."""
    with np.load(calibration) as kept, np.load(held_out) as other:
        given = {key: kept[key] for key in kept.files}
        feeds = {key: other[key][:most] for key in given}
        labels = other["labels"][:most] if "labels" in other.files else np.zeros(0)
    metric = "top1" if labels.dtype.kind in "iu" else "none"
    return ZooModel(model.stem, model, given, (Split(held_out.stem, feeds, labels),), metric)


def models_of(
    models: str, files: Sequence[tuple[Path, Path, Path]], most: int, otherwise: Sequence[str]
) -> list[ZooModel]:
    """Return the models that are named, or ``otherwise``, and those of files; ``most`` samples of each split."""
    names = models.split(",") if models else otherwise
    return [data_of(name, most) for name in names] + [of_files(*each, most) for each in files]


file_option = click.option(
    *("--files", "files"),
    nargs=3,
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="MODEL CALIBRATION HELD_OUT",
    help="A model with samples in npz files, besides. Repeatable.",
)


@click.command()
@click.option("--models", default="", help="Which models, separated by commas; the embedded and the zoo's if empty.")
@file_option
@click.option("--target", type=click.Choice(["ort-cpu", "openvino"]), default="ort-cpu", show_default=True)
@click.option("--samples", default=500, show_default=True, help="Most samples of each held-out split.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def pairs(models: str, files: Sequence[tuple[Path, Path, Path]], target: str, samples: int, file: Path | None) -> None:
    """Quantise models to w8a8 with and without pairs that are safe without VNNI, and to w7a8, and compare."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=160)
    rows: list[Row] = []
    try:
        for data in models_of(models, files, samples, [*EMBEDDED, *zoo.names()]):
            for row in measured(data.name, data, target):
                log.print(
                    f"{row.model} {row.rounding} {' '.join(f'{value:.1f}' for value in row.sqnr_db)}", highlight=False
                )
                rows.append(row)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    console.print(_grid(rows, target))
    for rounding in ALONE:
        chosen = [row for row in rows if row.rounding == rounding]
        cost, gain = (float(np.mean(each)) for each in ([row.cost for row in chosen], [row.gain for row in chosen]))
        console.print(f"{rounding}: pair-safe costs {cost:.2f} dB on average and is {gain:.2f} dB above 7 bits.")
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def _grid(rows: list[Row], target: str) -> Table:
    grid = Table("model", "rounding", title=f"target {target}: dB to float", title_justify="left")
    for column in ("samples", *FORMS, "cost", "above 7 bits", "points", "pair-safe - any ± se"):
        grid.add_column(column, justify="right")
    for row in rows:
        difference = f"{row.points[1] - row.points[0]:+.2f} ± {row.error:.2f}" if row.points else "–"
        grid.add_row(
            *(row.model, row.rounding, str(row.samples)),
            *(f"{value:.2f}" for value in row.sqnr_db),
            *(f"{row.cost:.2f}", f"{row.gain:.2f}"),
            *(" ".join(f"{value:.2f}" for value in row.points) or "–", difference),
        )
    return grid
