"""``python -m benchmarks device``: the engine on a device beside the engine on the processor.

Both measure the same table of the same samples, each with a store of its own. The device goes first through one batch
that is not timed: libraries are loaded then. Differences are in standard errors of the losses, so what is far below one
changes no decision. The usual model is of ResNet-50's shape, with random weights: nothing has to be there.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from rich.console import Console
from rich.table import Table as Grid

from benchmarks.shapes import LARGE, NETS, feeds
from onnxmpq.artifacts import Option, parse_options
from onnxmpq.errors import OnnxmpqError
from onnxmpq.machine import usable_cores
from onnxmpq.options import MeasureOptions
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.sensitivity.table import Table
from onnxmpq.sensitivity.workers.devices import smallest
from onnxmpq.sensitivity.workers.executors import opened
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace

_NETS = {"resnet18": NETS["resnet18"], **LARGE}
_LEAST = 1e-12  # of a loss: below it a standard error says nothing


@dataclass(frozen=True, slots=True)
class Row:
    """What was seen on one model: seconds, and the largest differences in standard errors."""

    model: str
    device: str
    samples: int
    options: str
    variants: int
    batch: int
    cpu_s: float
    device_s: float
    worst_loss: float
    worst_plan: float
    local: float

    @property
    def ratio(self) -> float:
        """How many times as long the processor takes."""
        return self.cpu_s / self.device_s


@dataclass(frozen=True, slots=True)
class Seen:
    """A table, the losses of a plan of every option for all, how long the table took, and the samples of a batch."""

    table: Table
    plans: list[tuple[float, float]]
    seconds: float
    batch: int


def with_free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let a network take any number of images at once."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    return model


def seen(model: Any, samples: Any, options: list[Option], measure: MeasureOptions) -> Seen:
    """Measure a table, once everything is loaded that the first batch needs."""
    with (
        workspace(prepare(model, "ort-cpu"), samples) as work,
        opened(measure) as pooled,
        Engine(work, pooled) as engine,
    ):
        variants = engine.variants(options)
        engine.losses([{variants[0].unit: variants[0].option}])
        began = time.perf_counter()
        table = engine.table(options)
        seconds = time.perf_counter() - began
        plans = [{v.unit: v.option for v in table.variants if v.option == option} for option in options]
        losses = [(found.value, found.error) for found in engine.losses([plan for plan in plans if plan])]
        return Seen(table, losses, seconds, engine.layout.size)


def compared(name: str, model: Any, samples: Any, options: str, measure: MeasureOptions) -> Row:
    """Measure on the processor and on a device, once that is seen to be there."""
    smallest(measure)
    wanted = list(parse_options(options.split(",")))
    cpu = seen(model, samples, wanted, replace(measure, device="cpu", executor="inline"))
    other = seen(model, samples, wanted, measure)
    a, b = cpu.table, other.table
    errors = np.maximum(a.loss_error, _LEAST)
    plans = [abs(x - y) / max(error, _LEAST) for (x, error), (y, _) in zip(cpu.plans, other.plans, strict=True)]
    return Row(
        model=name,
        device=measure.device,
        samples=b.samples,
        options=options,
        variants=len(b.variants),
        batch=other.batch,
        cpu_s=cpu.seconds,
        device_s=other.seconds,
        worst_loss=float((np.abs(a.loss - b.loss) / errors).max()),
        worst_plan=max(plans),
        local=float((np.abs(a.local - b.local) / np.maximum(a.local, _LEAST)).max()),
    )


@click.command()
@click.option("--device", "where", default="cuda:0", show_default=True, help="As for onnxmpq measure.")
@click.option(
    "--model", default="resnet50", show_default=True, help="A file, or resnet18 or resnet50 with random weights."
)
@click.option("--calibration", type=click.Path(path_type=Path), help="Samples for a file.")
@click.option("--size", default=224, show_default=True, help="The side of a network's images.")
@click.option("--samples", default=64, show_default=True)
@click.option("--options", default="w4a8", show_default=True)
@click.option("--threads", type=int, default=usable_cores, show_default="all cores", help="Of the processor.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the row here, too.")
def device(
    where: str,
    model: str,
    calibration: Path | None,
    size: int,
    samples: int,
    options: str,
    threads: int,
    file: Path | None,
) -> None:
    """Measure a table on a device and on the processor."""
    given: Any = Path(model)
    data: Any = calibration
    if model in _NETS:
        made = _NETS[model](size)
        data = feeds(made, samples, 1)
        given = with_free_batch(made)
    elif calibration is None:
        raise click.UsageError("A file needs samples: --calibration.")
    try:
        measure = MeasureOptions(device=where, threads=threads, samples=samples)
        row = compared(Path(model).stem, given, data, options, measure)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    console = Console()
    console = console if console.is_terminal else Console(width=150)
    grid = Grid("model", title=f"{where} and the processor, {threads} thread(s)", title_justify="left")
    columns = (
        "samples",
        "options",
        "variants",
        "batch",
        "cpu s",
        f"{where} s",
        "ratio",
        "worst loss",
        "worst plan",
        "local",
    )
    for column in columns:
        grid.add_column(column, justify="right")
    grid.add_row(
        *(row.model, str(row.samples), row.options, str(row.variants), str(row.batch)),
        *(f"{row.cpu_s:.1f}", f"{row.device_s:.1f}", f"{row.ratio:.1f}"),
        *(f"{row.worst_loss:.2g}", f"{row.worst_plan:.2g}", f"{row.local:.1e}"),
    )
    console.print(grid)
    console.print("worst: differences of losses in standard errors; local: of local errors, as a share")
    if file is not None:
        file.write_text(json.dumps({**asdict(row), "ratio": row.ratio}, indent=1), encoding="utf-8")
