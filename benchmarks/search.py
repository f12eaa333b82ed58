"""``python -m benchmarks search``: what a search takes, and what it finds, beside another checkout's of the same.

Every search is a process of its own: seconds, seconds of processors (its workers' too), the most memory that one
process held (Linux tells), runs of the model as the search counts them, bytes of the file, and the loss on held-out
samples.
With ``--against`` the same search is run from another checkout right before, so that both meet the same machine.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.held_out import EMBEDDED, run_on
from benchmarks.pairs import file_option, models_of
from benchmarks.zoo import ZooModel
from onnxmpq.errors import OnnxmpqError
from onnxmpq.machine import processor
from onnxmpq.metrics.losses import mean_and_error
from onnxmpq.model.load import load
from onnxmpq.runtimes import get_runtime

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Row:
    """One search, and what was found; ``seconds`` of the wall clock, ``cpu`` of all processors together."""

    model: str
    budget: str
    checkout: str
    seconds: float
    cpu: float
    peak_bytes: int
    runs: float
    file_bytes: int
    share: float
    loss: float
    error: float
    chosen: str


def searched(
    checkout: Path, label: str, data: ZooModel, budget: str, more: Sequence[str], held_out: int
) -> tuple[Row, np.ndarray]:
    """Run one search and judge its file; return the losses of every held-out sample, too."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.savez(folder / "samples.npz", **data.calibration)  # type: ignore[arg-type]
        output = folder / "found.onnx"
        arguments = (
            *("quantize", str(data.path.resolve()), "-c", str(folder / "samples.npz"), "-o", str(output)),
            *("-b", budget, "--json", "-q", "--allow-slower", *more),
        )
        path = os.pathsep.join((str(checkout), str(checkout / "passes")))
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-c", _RUN, *arguments],
            env=os.environ | {"PYTHONPATH": path},
            cwd=folder,  # not a checkout, which Python would look in first
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if ended.returncode:
            raise click.ClickException(f"{label}, {data.name}, {budget}: {ended.stderr.strip()[-500:]}")
        told = json.loads(ended.stdout)
        reference = get_runtime("onnxruntime")
        float_session = reference.session(data.path, mode="deployed")
        session = reference.session(output, mode="deployed")
        outcome = run_on(data.splits, load(data.path).model, float_session, [session])
        losses = outcome.losses[0][:held_out]
        loss, error = mean_and_error(losses)
        peak = int(ended.stderr.rpartition("peak ")[2].strip() or 0)
        row = Row(
            data.name,
            budget,
            label,
            seconds,
            (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime),
            peak,
            told["decision"]["full_runs"],
            output.stat().st_size,
            output.stat().st_size / told["float_file_bytes"],
            loss,
            error,
            told["decision"]["chosen"],
        )
        return row, losses


_RUN = """
import atexit, resource, sys
def tell():
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with open("/proc/self/status") as status:  # getrusage also tells what the process was before it was this program
        own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    sys.stderr.write(f"peak {1024 * max(own, workers)}")
atexit.register(tell)
from onnxmpq.cli import main
main()
"""


def compared(
    models: Sequence[ZooModel], budgets: Sequence[str], against: Path | None, more: Sequence[str], held_out: int
) -> Iterator[tuple[Row, str]]:
    """Yield every search with how its losses differ, sample by sample, from those of the other checkout."""
    for data in models:
        for budget in budgets:
            others: np.ndarray | None = None
            for label, checkout in (("before", against and against.resolve()), ("here", ROOT)):
                if checkout is None:
                    continue
                try:
                    row, losses = searched(checkout, label, data, budget, more, held_out)
                except click.ClickException as error:
                    error.show()
                    continue
                told = ""
                if others is not None:
                    difference, spread = mean_and_error(losses - others)
                    told = f"{difference:+.4g} ± {spread:.2g}"
                others = losses
                yield row, told


@click.command()
@click.option("--models", default="", help="Which models, separated by commas; the embedded ones if empty.")
@file_option
@click.option("--budget", "-b", "budgets", multiple=True, default=("size=15%",), show_default=True)
@click.option("--against", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Another checkout.")
@click.option("--given", default="", help="What is given to every search, besides: '--samples 64 --effort quick'.")
@click.option("--samples", default=500, show_default=True, help="Most samples of each held-out split.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def search(
    models: str,
    files: Sequence[tuple[Path, Path, Path]],
    budgets: Sequence[str],
    against: Path | None,
    given: str,
    samples: int,
    file: Path | None,
) -> None:
    """Search models within budgets, here and in another checkout, and compare what that takes and finds."""
    console = Console() if Console().is_terminal else Console(width=150)
    try:
        every = models_of(models, files, samples, () if files else EMBEDDED)
        rows = list(compared(every, budgets, against, given.split(), samples))
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    console.print(_grid(rows, given))
    if file:
        file.write_text(json.dumps([asdict(row) for row, _ in rows], indent=2) + "\n", "utf-8")


def _grid(rows: Sequence[tuple[Row, str]], given: str) -> Table:
    machine = f"{processor().brand}, {os.cpu_count()} cores, Python {platform.python_version()}"
    table = Table(title=f"{machine}; {given or 'defaults'}")
    for column in ("model", "budget", "", "seconds", "CPU s", "peak MB", "runs", "of float", "held-out loss", "paired"):
        table.add_column(column, justify="left" if column in ("model", "budget", "") else "right")
    for row, told in rows:
        table.add_row(
            *(row.model, row.budget, row.checkout, f"{row.seconds:.1f}", f"{row.cpu:.1f}"),
            *(f"{row.peak_bytes / 1e6:.0f}", f"{row.runs:.1f}", f"{100 * row.share:.2f} %"),
            *(f"{row.loss:.4g} ± {row.error:.2g}", told),
        )
    return table
