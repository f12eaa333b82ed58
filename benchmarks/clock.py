"""``python -m benchmarks clock``: how well the clock of a run foresees the whole, after a tenth of it and later.

Every search is a process of its own, as ``onnxmpq quantize`` runs it. What its clock says is written down at every
report; when the run is over, so is what there truly was left. Beside it stands what ``--dry-run`` would have said.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from onnxmpq.machine import processor

ROOT = Path(__file__).parents[1]
AFTER = (0.1, 0.25, 0.5, 0.75)
EMBEDDED = tuple(
    (ROOT / "models" / f"{name}.onnx", ROOT / "models" / "digits_calibration.npz")
    for name in ("digits_cnn", "digits_vit")
)


@dataclass(frozen=True, slots=True)
class Row:
    """One search: its seconds, and the whole that was foreseen, as a share of them.

    ``early`` is what is said before it starts, the others what the clock says after ``AFTER`` of the real time; None
    where it said nothing by then. It speaks once the model is calibrated: ``since`` is that share of the real time, and
    ``first`` what it said.
    """

    model: str
    budget: str
    effort: str
    seconds: float
    early: float
    since: float
    first: float
    estimates: tuple[float | None, ...]


def estimates(
    steps: Sequence[tuple[float, float | None]], seconds: float, after: Sequence[float] = AFTER
) -> tuple[float | None, ...]:
    """Return what was foreseen of the whole, as a share of it, at shares of the real time.

    ``steps`` are moments of a run, and the seconds that its clock said were left.

    >>> estimates([(0.0, None), (1.0, 8.0), (5.0, 5.0)], 10.0, (0.05, 0.1, 0.5))
    (None, 0.9, 1.0)
    """
    moments = [moment for moment, _ in steps]
    found: list[float | None] = []
    for share in after:
        moment = share * seconds
        place = bisect_right(moments, moment) - 1
        left = steps[place][1] if place >= 0 else None
        idle = moment - steps[place][0] if place >= 0 else 0.0
        found.append(None if left is None else (moment + max(left - idle, 0.0)) / seconds)
    return tuple(found)


_RUN = """
import json, sys, time
def main():
    began = time.monotonic()
    from onnxmpq import MeasureOptions, SearchOptions, quantize
    from onnxmpq.search.dry_run import foresee
    from onnxmpq.workspace.clock import Clock
    model, data, output, budget, effort, samples = sys.argv[1:]
    options = {"budget": [budget], "search": SearchOptions(effort=effort)}
    options["measure"] = MeasureOptions(samples=int(samples))
    early = foresee(model, data, **options).efforts[effort].seconds
    began, steps = time.monotonic(), []
    def note(*_):
        steps.append((time.monotonic() - began, clock.left_s()))
    clock = Clock(note)
    quantize(model, data, output=output, progress=clock, **options)
    print(json.dumps({"early": early, "seconds": time.monotonic() - began, "steps": steps}))
if __name__ == "__main__":
    main()
"""


def timed(model: Path, data: Path, budget: str, effort: str, samples: int) -> tuple[Row, dict[str, Any]]:
    """Run one search and compare what its clock said; return all that it said, too."""
    with tempfile.TemporaryDirectory() as place:
        program = Path(place, "program.py")
        program.write_text(_RUN, "utf-8")
        files = map(str, (model.resolve(), data.resolve(), Path(place, "found.onnx")))
        given = (*files, budget, effort, str(samples))
        ended = subprocess.run(
            [sys.executable, str(program), *given],
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "passes")))},
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode:
        raise click.ClickException(f"{model.stem}, {budget}: {ended.stderr.strip()[-500:]}")
    told = json.loads(ended.stdout)
    seconds = told["seconds"]
    shares = estimates(told["steps"], seconds)
    began, left = next(((moment, left) for moment, left in told["steps"] if left is not None), (seconds, 0.0))
    first = (began / seconds, (began + left) / seconds)
    return Row(model.stem, budget, effort, seconds, told["early"] / seconds, *first, shares), told


@click.command()
@click.option(
    "--file",
    "files",
    type=(click.Path(exists=True, path_type=Path), click.Path(exists=True, path_type=Path)),
    multiple=True,
    help="A model and its samples, .npz; the embedded ones where there is none. Repeatable.",
)
@click.option("--budget", "-b", default="size=20%", show_default=True)
@click.option("--effort", default="default", show_default=True)
@click.option("--samples", default=0, help="How many samples of each; all of them if 0.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all that was said, too.")
def clock(files: Sequence[tuple[Path, Path]], budget: str, effort: str, samples: int, file: Path | None) -> None:
    """Search models, and compare what was foreseen of the time with what it took."""
    rows, said = [], []
    for model, data in files or EMBEDDED:
        row, told = timed(model, data, budget, effort, samples)
        rows.append(row)
        said.append({**asdict(row), "steps": told["steps"]})
    Console(width=150).print(_grid(rows))
    if file:
        file.write_text(json.dumps(said) + "\n", "utf-8")


def _grid(rows: Sequence[Row]) -> Table:
    table = Table(
        title=f"estimate of the whole / truth; {processor().brand}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    for column in ("model", "budget", "effort"):
        table.add_column(column)
    for column in ("seconds", "before", "first", *(f"after {share:.0%}" for share in AFTER)):
        table.add_column(column, justify="right")
    for row in rows:
        first = f"{row.first:.2f} at {row.since:.0%}"
        shares = ["–" if share is None else f"{share:.2f}" for share in row.estimates]
        table.add_row(row.model, row.budget, row.effort, f"{row.seconds:.1f}", f"{row.early:.2f}", first, *shares)
    tenth = [row.estimates[0] for row in rows if row.estimates[0] is not None]
    if tenth:
        table.caption = f"after a tenth: {np.min(tenth):.2f} to {np.max(tenth):.2f}, of {len(tenth)} of {len(rows)}"
    return table
