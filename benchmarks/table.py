"""``python -m benchmarks table``: every method and peer beside our search, at equal bytes of real files.

Each of the others is asked for a file first. Our search then has the bytes of that file as its budget, and both are
judged on held-out samples, sample by sample. What was made is kept in a folder, file by file: a run that was stopped
goes on.

    others                      their file
    w8a8, w4a8, w3a8, w2a8      that option for all, fitted as a search does
    sqnr, lampq, local, ...     what the method finds within the budgets, by the same rounding
    static, dynamic             onnxruntime's own quantiser: of its configurations the one that loses least
    aimet                       AIMET's point within the budgets, by GPTQ, where ``--python`` names what has it
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.aimet import Case
from benchmarks.held_out import EMBEDDED, Outcome, run_on
from benchmarks.pairs import file_option, models_of
from benchmarks.peers import PEERS, Peer, quantise
from benchmarks.zoo import ZooModel
from onnxmpq.api import quantize
from onnxmpq.errors import InfeasibleError, OnnxmpqError
from onnxmpq.machine import processor
from onnxmpq.metrics.losses import mean_and_error
from onnxmpq.model.load import load
from onnxmpq.options import MeasureOptions, Numbers, SearchOptions, VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.version import __version__

OPTIONS = ("w8a8", "w4a8", "w3a8", "w2a8")
METHODS = ("sqnr", "clado-star", "lampq", "local")
QUICK = VerifyOptions(allow_slower=True, as_asked=True, speed_budget_s=0.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One file of another, and ours of at most its bytes; ``ours_less`` is paired by sample, falls are in points."""

    model: str
    other: str
    float_bytes: int
    file_bytes: int
    loss: float
    ours_bytes: int
    ours_loss: float
    ours_less: tuple[float, float]
    fall: tuple[float, float] | None
    ours_fall: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """Say whose loss is lower by more than two standard errors."""
        difference, error = self.ours_less
        return "ours" if difference < -2 * error else "theirs" if difference > 2 * error else "level"


class Bench:
    """One model, and the files that were made of it, in a folder of its own."""

    def __init__(self, data: ZooModel, keep: Path, python: str) -> None:
        samples = hashlib.sha256(data.path.read_bytes())
        for name, array in sorted(data.calibration.items()):
            samples.update(name.encode() + np.ascontiguousarray(array).tobytes())
        self.data, self.python = data, python
        self.folder = keep / f"{data.name}.{samples.hexdigest()[:12]}.{__version__}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.float_bytes = data.path.stat().st_size

    def made(self, name: str, make: Callable[[Path], object]) -> Path | None:
        """Return a file, made unless it is there; None where it cannot be made, which is kept as well."""
        path, failed = self.folder / f"{name}.onnx", self.folder / f"{name}.failed.txt"
        if failed.exists():
            return None
        if not path.exists():
            begun = self.folder / "begun.onnx"
            begun.unlink(missing_ok=True)
            try:
                make(begun)
            except (OnnxmpqError, click.ClickException) as error:
                failed.write_text(f"{error}\n", "utf-8")
                return None
            begun.replace(path)
        return path

    def ours(self, budget: str, method: str = "gram") -> Path | None:
        """Return what a search finds within a budget."""

        def search(path: Path) -> None:
            quantize(
                self.data.path,
                self.data.calibration,
                output=path,
                budget=[budget],
                search=SearchOptions(method=method),
                measure=MeasureOptions(store=self.folder / f"{'gram' if method == 'gram' else 'others'}.store"),
                verify=QUICK,
                overwrite=True,
            )

        return self.made(f"{method}.{budget.replace('=', '')}", search)

    def uniform(self, option: str) -> Path | None:
        """Return the file of one option for all."""

        def write(path: Path) -> None:
            given = {"numbers": Numbers.searched(), "verify": QUICK, "overwrite": True}
            quantize(self.data.path, self.data.calibration, output=path, plan=option, **given)  # type: ignore[arg-type]

        return self.made(option, write)

    def peer(self, peer: Peer) -> Path | None:
        """Return the file of one configuration of onnxruntime's quantiser."""
        feeds = [{name: array[i : i + 1] for name, array in self.data.calibration.items()} for i in range(self.samples)]

        def write(path: Path) -> None:
            try:
                path.write_bytes(quantise(peer, self.data.path.read_bytes(), feeds))
                get_runtime("onnxruntime").session(path, mode="deployed")
            except Exception as error:  # whatever onnxruntime raises
                raise click.ClickException(str(error).splitlines()[0]) from error

        return self.made(peer.name.replace("/", "+").replace(", ", "."), write)

    def aimet(self, budget: str) -> Path | None:
        """Return the largest file within a budget among AIMET's points, by GPTQ."""

        def write(path: Path) -> None:
            self._case.within(budget).file.replace(path)

        return self.made(f"aimet.{budget.replace('=', '')}", write)

    @cached_property
    def _case(self) -> Case:
        folder = self.folder / "aimet"
        folder.mkdir(exist_ok=True)
        return Case.of(self.data, folder, self.python, self.folder)

    @property
    def samples(self) -> int:
        """How many samples there are to calibrate with."""
        return len(next(iter(self.data.calibration.values())))

    def judged(self, files: Sequence[Path]) -> Outcome:
        """Run files on all held-out samples."""
        reference = get_runtime("onnxruntime")
        before = reference.session(self.data.path, mode="deployed")
        after = [reference.session(file, mode="deployed") for file in files]
        return run_on(self.data.splits, load(self.data.path).model, before, after)

    def best(self, peers: Sequence[Peer]) -> Path | None:
        """Return the file of some configurations that loses least."""
        files = [file for file in map(self.peer, peers) if file is not None]
        losses = [float(losses.mean()) for losses in self.judged(files).losses] if files else []
        return files[int(np.nanargmin(losses))] if losses else None

    def row(self, other: str, file: Path) -> Row | None:
        """Hold a file against what our search finds in its bytes."""
        size = file.stat().st_size
        ours = self.ours(f"size={size}")
        if ours is None:
            return None
        found = self.judged([file, ours])
        theirs_loss, ours_loss = found.losses
        falls: list[tuple[float, float] | None] = [None, None]
        if found.hits is not None:
            before, *after = (hits.astype(float) for hits in found.hits)
            falls = [mean_and_error(100 * (before - hits)) for hits in after]
        return Row(
            model=self.data.name,
            other=other,
            float_bytes=self.float_bytes,
            file_bytes=size,
            loss=float(theirs_loss.mean()),
            ours_bytes=ours.stat().st_size,
            ours_loss=float(ours_loss.mean()),
            ours_less=mean_and_error(ours_loss - theirs_loss),
            fall=falls[0],
            ours_fall=falls[1],
        )


def others(bench: Bench, budgets: Sequence[str], methods: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield the files of all others that are smaller than the float file."""
    static, dynamic = ([peer for peer in PEERS if peer.kind.startswith(kind)] for kind in ("static", "dynamic"))
    makers: list[tuple[str, Callable[[], Path | None]]] = [
        *((option, partial(bench.uniform, option)) for option in OPTIONS),
        ("onnxruntime static", partial(bench.best, static)),
        ("onnxruntime dynamic", partial(bench.best, dynamic)),
    ]
    for budget in budgets:
        makers += [(f"{method} {budget}", partial(bench.ours, budget, method)) for method in methods]
        if bench.python:
            makers.append((f"AIMET {budget}", partial(bench.aimet, budget)))
    for name, make in makers:
        if (file := make()) is not None and file.stat().st_size < bench.float_bytes:
            yield name, file


@click.command()
@click.option("--models", default="", help="Which models, separated by commas; the embedded ones if empty.")
@file_option
@click.option("--budget", "-b", "budgets", multiple=True, default=("size=20%", "size=15%"), show_default=True)
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--python", default="", help="An interpreter that has aimet-onnx; AIMET is left out without.")
@click.option("--samples", default=500, show_default=True, help="Most samples of each held-out split.")
@click.option("--keep", default="out/table", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def table(
    models: str,
    files: Sequence[tuple[Path, Path, Path]],
    samples: int,
    keep: Path,
    file: Path | None,
    **asked: Any,
) -> None:
    """Hold our search against every method and peer, at equal bytes of files."""
    console = Console() if Console().is_terminal else Console(width=150)
    rows: list[Row] = []
    for data in models_of(models, files, samples, () if files else EMBEDDED):
        bench = Bench(data, keep.resolve(), asked["python"])
        try:
            for name, other in others(bench, asked["budgets"], [name for name in asked["methods"].split(",") if name]):
                row = bench.row(name, other)
                rows += [row] if row is not None else []
        except InfeasibleError as error:
            raise click.ClickException(str(error)) from error
    console.print(grid(rows))
    if file:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", "utf-8")


def grid(rows: Sequence[Row]) -> Table:
    """Return the table: a line for each file of another, and ours of its bytes."""
    machine = f"{processor().brand}, {os.cpu_count()} cores, Python {platform.python_version()}"
    wins = [row.verdict for row in rows]
    counted = ", ".join(f"{wins.count(name)} {name}" for name in ("ours", "level", "theirs"))
    shown = Table(title=f"{machine}; lower held-out loss: {counted}")
    for column in ("model", "other", "of float", "loss", "ours", "ours less it", "falls by", "ours by", ""):
        shown.add_column(column, justify="left" if column in ("model", "other", "") else "right")
    for row in rows:
        difference, error = row.ours_less
        shown.add_row(
            *(row.model, row.other, f"{row.file_bytes / row.float_bytes:.1%}"),
            *(f"{row.loss:.4g}", f"{row.ours_loss:.4g}", f"{difference:+.2g} ± {error:.1g}"),
            *(_points(row.fall), _points(row.ours_fall), row.verdict),
        )
    return shown


def _points(fall: tuple[float, float] | None) -> str:
    return "–" if fall is None else f"{fall[0]:+.2f} ± {fall[1]:.2f}"
