"""``python -m benchmarks latency``: what is foreseen of the time of plans, and what placing kernels gives.

Plans are drawn at random, each unit on one of its kernels, and timed beside float in pairs: how far is the table off?
Then kernels are placed by measurement, and stand beside the uniform plans and onnxruntime's own files, all of them
timed beside float in the same way. Shapes have random weights; models of the zoo and of files are trained.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time

import click
import numpy as np
import onnx
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks.pairs import file_option, models_of
from benchmarks.peers import PEERS, quantise
from benchmarks.shapes import NETS, feeds
from onnxmpq.artifacts import Option, Plan
from onnxmpq.errors import OnnxmpqError
from onnxmpq.latency.fastest import fastest
from onnxmpq.latency.observe import Watch
from onnxmpq.machine import processor
from onnxmpq.options import Constraints, Numbers
from onnxmpq.runtimes import get_runtime, paired
from onnxmpq.search.placing import choice
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import Model, prepare
from onnxmpq.workspace.workspace import workspace

CALIBRATION = 8
PAIRS = 15

Samples = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Row:
    """One model: times float of what was placed, of uniform plans and of the best peer, and how far a table is off."""

    model: str
    units: int
    float_ms: float
    placed: float
    in_codes: int
    codes: float
    floats: float
    peer: float | None
    peer_name: str
    error: float
    rank: float
    table_s: float
    runs: float


def compared(name: str, model: Model, data: bytes, samples: Samples, drawn: int, peers: bool, threads: int) -> Row:
    """Measure one model."""
    prepared = prepare(model, "ort-cpu")
    kernels, held = choice(prepared.space, (Option(8, 8),), Constraints())
    with workspace(prepared, samples, Numbers()) as place:
        watch = Watch(Exporter(place, threads=threads), Plan("ort-cpu", "", held), kernels)
        began = process_time()
        latency, _ = watch.learn()
        took = process_time() - began
        random = np.random.default_rng(7)
        foreseen, measured = [], []
        for _ in range(drawn):
            share = random.uniform(0.1, 0.9)
            plan = {unit: tuple(found)[int(random.random() < share)] for unit, found in kernels.offered.items()}
            foreseen.append(latency.seconds(plan))
            measured.append(latency.float_s / watch.ratio(plan, PAIRS))
        found = fastest(watch)
    best, which = _best_peer(data, samples, threads) if peers else (None, "")
    off = np.abs(np.array(foreseen) / np.array(measured) - 1) if drawn else np.zeros(1)
    return Row(
        name,
        len(kernels.offered),
        1e3 * latency.float_s,
        found.ratio,
        sum(bool(each.activation_bits) for each in found.kernels.values()),
        found.uniform["a8"],
        found.uniform["float"],
        best,
        which,
        float(np.median(off)),
        float(spearmanr(foreseen, measured)[0]) if drawn > 2 else 1.0,
        took,
        took / latency.float_s,
    )


def _best_peer(data: bytes, samples: Samples, threads: int) -> tuple[float | None, str]:
    """Return how many times faster than float the fastest of onnxruntime's own files is, and its name."""
    runtime = get_runtime("onnxruntime")
    given = [{name: array[place : place + 1] for name, array in samples.items()} for place in range(CALIBRATION)]
    before = runtime.session(data, mode="deployed", threads=threads).bind(given[0])
    found: list[tuple[float, str]] = []
    for peer in PEERS:
        try:
            after = runtime.session(quantise(peer, data, given), mode="deployed", threads=threads).bind(given[0])
        except Exception:  # of many kinds: a peer that cannot is none
            continue
        found.append((paired(before, after, budget_s=0.0, min_pairs=PAIRS).ratio, peer.name))
    return max(found, default=(None, ""))


def _models(
    shapes: str, models: str, files: Sequence[tuple[Path, Path, Path]], size: int
) -> Iterator[tuple[str, Model, bytes, Samples]]:
    for name in [part for part in shapes.split(",") if part]:
        proto: onnx.ModelProto = NETS[name](size)
        drawn = [feed["x"] for feed in feeds(proto, CALIBRATION, 1)]
        yield name, proto, proto.SerializeToString(), {"x": np.concatenate(drawn)}
    for one in models_of(models, files, 1, []):
        few = {name: array[:CALIBRATION] for name, array in one.calibration.items()}
        yield one.name, one.path, one.path.read_bytes(), few


@click.command()
@click.option("--shapes", default=",".join(NETS), show_default=True, help="Networks with random weights.")
@click.option("--models", default="", help="Models of the zoo, separated by commas.")
@file_option
@click.option("--size", default=224, show_default=True, help="Side of the image of shapes.")
@click.option("--drawn", default=30, show_default=True, help="Random plans that are foreseen and timed.")
@click.option("--peers/--no-peers", default=True, show_default=True, help="Time onnxruntime's own files, too.")
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def latency(
    shapes: str,
    models: str,
    files: Sequence[tuple[Path, Path, Path]],
    size: int,
    drawn: int,
    peers: bool,
    threads: int,
    file: Path | None,
) -> None:
    """Foresee and time random plans, place kernels, and compare with uniform plans and onnxruntime's own files."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=180)
    rows: list[Row] = []
    try:
        for name, model, data, samples in _models(shapes, models, files, size):
            rows.append(compared(name, model, data, samples, drawn, peers, threads))
            log.print(f"{name}: {rows[-1].placed:.2f} placed, {rows[-1].codes:.2f} in codes", highlight=False)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    console.print(_grid(rows, threads))
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def _grid(rows: Sequence[Row], threads: int) -> Table:
    title = f"times float on {processor().brand}, {threads} thread{'s' * (threads > 1)}, batch 1"
    table = Table("model", title=title, title_justify="left")
    for name in ("float ms", "placed", "in codes", "all in codes", "all in floats", "best of onnxruntime's", "error"):
        table.add_column(name, justify="right")
    for name in ("rank", "table CPU s", "runs of float"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.model,
            f"{row.float_ms:.3g}",
            f"{row.placed:.2f}",
            f"{row.in_codes} of {row.units}",
            f"{row.codes:.2f}",
            f"{row.floats:.2f}",
            f"{row.peer:.2f} ({row.peer_name})" if row.peer is not None else "",
            f"{row.error:.1%}",
            f"{row.rank:.3f}",
            f"{row.table_s:.1f}",
            f"{row.runs:.0f}",
        )
    return table
