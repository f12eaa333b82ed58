"""``python -m onnxmpq.bench rounding``: GPTQ against rounding to nearest, by measured loss on held-out samples.

Both share ranges, scales and bias correction; only the codes of the weights differ. Losses are those of whole lowered
models, their Q/DQ computed as written, against the float model; differences are paired by sample.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from onnxmpq.artifacts import Option
from onnxmpq.bench import zoo
from onnxmpq.build import scratch
from onnxmpq.calibrated import Numbers
from onnxmpq.compile import prepare
from onnxmpq.errors import OnnxmpqError
from onnxmpq.measure.heads import find_heads
from onnxmpq.measure.losses import Array, Loss, mean_and_error
from onnxmpq.methods.uniform import uniform
from onnxmpq.runtime import Session, get_runtime

EMBEDDED = ("digits_cnn", "digits_vit")
_BATCH = 50

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Row:
    """One model at one option; ``difference`` is gptq less nearest, with the standard error of paired samples."""

    model: str
    option: str
    loss: str
    calibration: int
    samples: int
    nearest: float
    gptq: float
    difference: float
    error: float
    hessians_s: float
    rounding_s: float
    notes: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """Return the loss that GPTQ leaves of that of nearest."""
        return self.gptq / self.nearest if self.nearest else float("nan")


def measured(
    name: str, path: Path, calibration: Feeds, held_out: list[Feeds], options: list[str], target: str, numbers: Numbers
) -> Iterator[Row]:
    """Measure one model at several options, rounded both ways."""
    reference = get_runtime("onnxruntime")
    prepared = prepare(path, target)
    with scratch(prepared, calibration, replace(numbers, rounding="gptq")) as builder:
        before = reference.session(builder.float_model, mode="deployed")
        for option in options:
            plan = uniform(prepared.space, Option.parse(option))
            began = time.perf_counter()
            builder.count_hessians(builder.calibrated.missing_hessians(plan))
            counted = time.perf_counter() - began
            builder.calibrate(builder.calibrated.needs(plan))
            nearest = replace(builder.calibrated, numbers=replace(numbers, rounding="nearest"))
            models, seconds = [], []
            for calibrated in (nearest, builder.calibrated):
                began = time.perf_counter()
                models.append(calibrated.lower(plan).model)
                seconds.append(time.perf_counter() - began)
            sessions = [reference.session(ir.to_proto(model).SerializeToString(), mode="literal") for model in models]
            kind, found = losses(prepared.model, before, sessions, held_out)
            difference, error = mean_and_error(found[1] - found[0])
            yield Row(
                name,
                option,
                kind,
                len(builder.samples),
                len(found[0]),
                float(found[0].mean()),
                float(found[1].mean()),
                difference,
                error,
                counted,
                seconds[1] - seconds[0],
                builder.calibrated.notes(plan),
            )


def losses(model: ir.Model, before: Session, after: list[Session], held_out: list[Feeds]) -> tuple[str, list[Array]]:
    """Return the kind of loss and, for each session, the loss of every sample."""
    heads = find_heads(model)
    outputs: list[list[Array]] = [[] for _ in (before, *after)]
    classes: dict[str, int] = {}
    for feeds in held_out:
        count = len(next(iter(feeds.values())))
        for start in range(0, count, _BATCH):
            feed = {key: array[start : start + _BATCH] for key, array in feeds.items()}
            if "attention_mask" in feed:  # what is behind the longest text has no meaning
                width = int(feed["attention_mask"].sum(1).max())
                feed = {key: array[:, :width] for key, array in feed.items()}
            rows = len(next(iter(feed.values())))
            for session, parts in zip((before, *after), outputs, strict=True):
                given = session.run(feed)
                classes |= {head.name: given[head.name].shape[head.axis] for head in heads}
                parts.append(np.concatenate([head.features(given[head.name], rows) for head in heads], axis=1))
    float_outputs, *others = (np.concatenate(parts) for parts in outputs)
    widths = [float_outputs.shape[1]] if len(heads) == 1 else [classes[head.name] for head in heads]
    heads = tuple(
        replace(head, width=width, classes=classes[head.name]) for head, width in zip(heads, widths, strict=True)
    )
    loss = Loss(heads, float_outputs)
    loss = loss.with_powers(loss.signal().mean(0))
    return "+".join(head.kind for head in heads), [loss.values(values) for values in others]


def data_of(name: str, samples: int) -> tuple[Path, Feeds, list[Feeds]]:
    """Return a model's file, its calibration data and the first samples of each held-out split."""
    if name in EMBEDDED:
        folder = Path("models")
        with np.load(folder / "digits_calibration.npz") as kept, np.load(folder / "digits_evaluation.npz") as other:
            return folder / f"{name}.onnx", {"image": kept["image"]}, [{"image": other["image"][:samples]}]
    path = zoo.folder() / "models" / f"{name}.onnx"
    session = get_runtime("onnxruntime").session(path, mode="deployed")
    model = zoo.zoo_model(name, session.inputs[0].name)
    parts: list[Feeds] = [{key: array[:samples] for key, array in split.feeds.items()} for split in model.splits]
    return path, model.calibration, parts


@click.command()
@click.option("--models", default="", help="Which models, separated by commas; the embedded and the zoo's if empty.")
@click.option("--options", default="w4a8,w3a8", show_default=True, help="Which options, separated by commas.")
@click.option("--target", default="generic", show_default=True)
@click.option("--samples", default=500, show_default=True, help="Most samples of each held-out split.")
@click.option("--calibration", default=0, help="Most samples to calibrate with; all of them if 0.")
@click.option("--weight-ranges", type=click.Choice(["mse", "minmax"]), default="mse", show_default=True)
@click.option("--bias-correction/--no-bias-correction", default=True, show_default=True)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def rounding(
    models: str,
    options: str,
    target: str,
    samples: int,
    calibration: int,
    weight_ranges: str,
    bias_correction: bool,
    file: Path | None,
) -> None:
    """Round the weights of models with GPTQ and to nearest, and measure both on held-out data."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=160)
    numbers = Numbers.of({"weights": weight_ranges, "bias_correction": str(bias_correction)})
    rows: list[Row] = []
    try:
        for name in models.split(",") if models else (*EMBEDDED, *zoo.names()):
            path, kept, held_out = data_of(name, samples)
            kept = {key: array[: calibration or None] for key, array in kept.items()}
            for row in measured(name, path, kept, held_out, options.split(","), target, numbers):
                log.print(f"{row.model} {row.option} {row.nearest:.4g} -> {row.gptq:.4g}", highlight=False)
                rows.append(row)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    console.print(_grid(rows, target))
    for note in dict.fromkeys(f"{row.model}: {note}" for row in rows for note in row.notes):
        console.print(note, highlight=False, soft_wrap=True)
    better = sum(row.difference < 0 for row in rows)
    worse = sum(row.difference > row.error for row in rows)
    console.print(f"GPTQ is better in {better} of {len(rows)} cells, and worse by more than one error in {worse}.")
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
        "Hessians s",
        "rounding s",
    ):
        grid.add_column(column, justify="right")
    for row in rows:
        grid.add_row(
            *(row.model, row.option, row.loss, str(row.calibration), str(row.samples)),
            *(f"{row.nearest:.4g}", f"{row.gptq:.4g}", f"{row.difference:+.3g} ± {row.error:.2g}", f"{row.ratio:.2f}"),
            *(f"{row.hessians_s:.1f}", f"{row.rounding_s:.1f}"),
        )
    return grid
