"""``python -m benchmarks aimet``: searches beside AIMET's automatic mixed precision, at equal bytes of real files.

AIMET finds an order in which weights get fewer bits, on the samples that we search with. A point of it becomes a plan
that is written as ours are: the same kernels, ranges and rounding, so that what differs is what was decided. Of its
points the one with the largest file within the budget counts, and our search then has that file's bytes as its budget.
Losses are those on held-out samples, compared sample by sample. AIMET's own file of that point is judged, too, where it
writes one.
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import click
import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from benchmarks.held_out import EMBEDDED, run_on
from benchmarks.pairs import file_option, models_of
from benchmarks.search import ROOT, searched
from benchmarks.zoo import ZooModel
from onnxmpq.api import quantize
from onnxmpq.artifacts import Option, Plan, Space
from onnxmpq.budgets.limits import Limit
from onnxmpq.errors import OnnxmpqError
from onnxmpq.machine import processor
from onnxmpq.methods.uniform import nearest
from onnxmpq.metrics.losses import mean_and_error
from onnxmpq.model.load import load
from onnxmpq.options import Numbers, Rounding, VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.workspace.prepare import prepare

SCRIPT = Path(__file__).with_name("aimet_amp.py")
_SIZING = 8  # samples for a file that is only weighed
_OTHERS: tuple[Rounding, ...] = ("nearest", "sequential")  # ways to round a point beside GPTQ

Bits = Mapping[str, int]
Point = tuple[int, Bits]


@dataclass(frozen=True, slots=True)
class Step:
    """Weights that get this many bits next; none where AIMET decides about activations alone."""

    weights: tuple[str, ...]
    bits: int


@dataclass(frozen=True, slots=True)
class Order:
    """What AIMET found: weights that start at 8 bits, the steps from there, and the CPU seconds that it took."""

    first: tuple[str, ...]
    steps: tuple[Step, ...]
    cpu_s: float
    version: str

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Read what the script wrote."""
        steps = tuple(Step(tuple(step["weights"]), step["bits"]) for step in told["steps"])
        return cls(tuple(told["first"]), steps, told["cpu_s"], told["version"])

    def points(self) -> list[Bits]:
        """Return the bits of weights before the first step and after each that changes any."""
        found: list[Bits] = [dict.fromkeys(self.first, 8)]
        for step in self.steps:
            after = {**found[-1], **dict.fromkeys(step.weights, step.bits)}
            if after != found[-1]:
                found.append(after)
        return found


def plan_of(bits: Bits, space: Space) -> Plan:
    """Return the plan that has these bits with 8-bit activations, or the nearest finer that a unit can take.

    A unit whose weights got different bits takes the most of them; what AIMET leaves out is at 8 bits.
    """
    choices = {}
    for unit in space.units:
        told = [bits[name] for layer in unit.layers for name in layer.weights if name in bits]
        choices[unit.name] = nearest(unit, Option(max(told, default=8), 8))
    return Plan(space.target, "aimet", {name: option for name, option in choices.items() if not option.is_float})


def stored(plan: Plan, space: Space) -> int:
    """Return the bytes that the units store."""
    return sum(unit.cost(plan.choices.get(unit.name, Option())).stored_bytes for unit in space.units)


def largest_within(points: Sequence[Point], allowed: int, size_of: Callable[[Point], int]) -> Point | None:
    """Return the first of points, the largest first, that takes no more than is allowed; few of them are weighed."""
    low, high = 0, len(points)
    while low < high:
        middle = (low + high) // 2
        if size_of(points[middle]) <= allowed:
            high = middle
        else:
            low = middle + 1
    return points[low] if low < len(points) else None


@dataclass(frozen=True, slots=True)
class Judged:
    """One file: its bytes, and its mean loss on held-out samples with that of every sample; ours less its is paired."""

    file_bytes: int
    loss: float
    error: float
    ours_less_its: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, size: int, losses: np.ndarray, ours: np.ndarray) -> Self:
        """Take the mean, and the difference to ours."""
        return cls(size, *mean_and_error(losses), mean_and_error(ours - losses))


@dataclass(frozen=True, slots=True)
class Row:
    """One model at one budget: ours, AIMET's plan by GPTQ, to nearest and fitted as ours, and AIMET's own file."""

    model: str
    budget: str
    allowed_bytes: int
    point: int
    points: int
    bits: Bits
    ours: Judged
    ours_cpu_s: float
    aimet: Judged
    aimet_cpu_s: float
    nearest: Judged
    fitted: Judged
    own: Judged | None
    why_no_own: str = field(default="")

    @property
    def verdict(self) -> str:
        """Say whose loss is lower by more than two errors, and what ours took of AIMET's seconds."""
        difference, error = self.aimet.ours_less_its
        who = "ours" if difference < -2 * error else "AIMET's" if difference > 2 * error else "neither"
        return f"{who} lower, at {self.ours_cpu_s / self.aimet_cpu_s:.2f} of its CPU"


@dataclass(frozen=True, slots=True)
class Found:
    """AIMET's point within a budget of so many bytes: its number, its bits, its plan, and that written by GPTQ."""

    allowed: int
    number: int
    bits: Bits
    plan: Plan
    file: Path


@dataclass(frozen=True, slots=True)
class Case:
    """One model with its samples, in a folder where both sides find them, and what AIMET found."""

    data: ZooModel
    folder: Path
    python: str
    space: Space
    order: Order

    @classmethod
    def of(cls, data: ZooModel, folder: Path, python: str, keep: Path | None = None) -> Self:
        """Let AIMET search the graph that our plans are for, so that weights have the same names.

        What it finds is kept in a folder, and taken from there for the same graph, samples and script.
        """
        prepared = prepare(data.path, "ort-cpu")
        model, samples, order = folder / "model.onnx", folder / "samples.npz", folder / "order.json"
        ir.save(prepared.model, model)
        np.savez(samples, **data.calibration)  # type: ignore[arg-type]
        if keep is not None:
            digest = hashlib.sha256(b"".join(file.read_bytes() for file in (model, samples, SCRIPT))).hexdigest()
            keep.mkdir(parents=True, exist_ok=True)
            order = keep / f"{data.name}.{digest[:16]}.json"
        if not order.exists():
            run_aimet(python, "order", folder, str(order.resolve()))
        return cls(data, folder, python, prepared.space, Order.from_json(json.loads(order.read_text("utf-8"))))

    def written(self, plan: Plan, rounding: Rounding, samples: int | None = None) -> Path:
        """Write a plan as it is."""
        path = self.folder / f"{rounding}.onnx"
        quantize(
            self.data.path,
            {name: array[:samples] for name, array in self.data.calibration.items()},
            output=path,
            plan=plan,
            numbers=Numbers(rounding=rounding),
            verify=VerifyOptions(allow_slower=True, speed_budget_s=0.1),
            overwrite=True,
        )
        return path

    def size(self, plan: Plan) -> int:
        """Return the bytes of a plan's file."""
        return self.written(plan, "nearest", _SIZING).stat().st_size

    def within(self, budget: str) -> "Found":
        """Return the largest point whose file by GPTQ is within a budget; few of them are weighed."""
        limit = Limit.parse(budget)
        allowed = int(limit.amount * (self.data.path.stat().st_size if limit.share else 1))
        every = self.order.points()
        left = sorted(enumerate(every), key=lambda point: -stored(plan_of(point[1], self.space), self.space))
        while True:  # rounding may change a few bytes, which is seen when it is done
            chosen = largest_within(left, allowed, lambda point: self.size(plan_of(point[1], self.space)))
            if chosen is None:
                raise click.ClickException(f"AIMET has no point of {self.data.name} within {budget}.")
            plan = plan_of(chosen[1], self.space)
            file = self.written(plan, "gptq")
            if file.stat().st_size <= allowed:
                return Found(allowed, *chosen, plan, file)
            left = left[left.index(chosen) + 1 :]

    def own(self, bits: Bits) -> tuple[Path | None, str]:
        """Return AIMET's own file, or why there is none that onnxruntime runs."""
        (self.folder / "bits.json").write_text(json.dumps(dict(bits)), "utf-8")
        try:
            run_aimet(self.python, "export", self.folder, "bits.json", "own.onnx")
            get_runtime("onnxruntime").session(self.folder / "own.onnx", mode="deployed")
        except Exception as error:  # whatever onnxruntime raises
            return None, str(error).strip().splitlines()[-1]
        return self.folder / "own.onnx", ""

    def losses(self, files: Sequence[Path]) -> list[np.ndarray]:
        """Return the losses of every held-out sample."""
        reference = get_runtime("onnxruntime")
        before = reference.session(self.data.path, mode="deployed")
        after = [reference.session(file, mode="deployed") for file in files]
        return list(run_on(self.data.splits, load(self.data.path).model, before, after).losses)


def run_aimet(python: str, command: str, folder: Path, *more: str) -> None:
    """Run the script in AIMET's interpreter."""
    files = [str(folder / name) for name in ("model.onnx", "samples.npz", *more)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    call = [python, str(SCRIPT.resolve()), command, *files]
    ended = subprocess.run(call, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise click.ClickException(f"AIMET did not {command}: {ended.stderr.strip()[-500:]}")


def compared(case: Case, budget: str, more: Sequence[str]) -> Row:
    """Find AIMET's largest file within the budget, search with its bytes, and judge all files."""
    point = case.within(budget)
    files = [point.file, *(case.written(point.plan, rounding) for rounding in _OTHERS)]
    size, *others = (file.stat().st_size for file in files)
    own, why = case.own(point.bits)
    losses = case.losses([*files, *([own] if own else [])])
    held_out = sum(len(next(iter(split.feeds.values()))) for split in case.data.splits)
    found, ours = searched(ROOT, "ours", case.data, f"size={size}", more, held_out)
    nearest, fitted = (Judged.of(other, loss, ours) for other, loss in zip(others, losses[1:3], strict=True))
    return Row(
        *(case.data.name, budget, point.allowed, point.number, len(case.order.points()) - 1, point.bits),
        Judged.of(found.file_bytes, ours, ours),
        found.cpu,
        Judged.of(size, losses[0], ours),
        case.order.cpu_s,
        nearest,
        fitted,
        Judged.of(own.stat().st_size, losses[3], ours) if own else None,
        why,
    )


@click.command()
@click.option("--python", required=True, help="An interpreter that has aimet-onnx.")
@click.option("--models", default="", help="Which models, separated by commas; the embedded ones if empty.")
@file_option
@click.option("--budget", "-b", "budgets", multiple=True, default=("size=15%",), show_default=True)
@click.option("--given", default="", help="What is given to every search of ours, besides: '--effort quick'.")
@click.option("--calibration", default=256, show_default=True, help="Most samples for both searches.")
@click.option("--samples", default=500, show_default=True, help="Most samples of each held-out split.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep what AIMET finds, and use it.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def aimet(
    models: str,
    files: Sequence[tuple[Path, Path, Path]],
    samples: int,
    calibration: int,
    file: Path | None,
    **asked: Any,
) -> None:
    """Search models within budgets beside AIMET's automatic mixed precision, at equal bytes of files."""
    console = Console() if Console().is_terminal else Console(width=190)
    rows: list[Row] = []
    version = ""
    try:
        for data in models_of(models, files, samples, () if files else EMBEDDED):
            few = {name: array[:calibration] for name, array in data.calibration.items()}
            with TemporaryDirectory() as folder:
                case = Case.of(replace(data, calibration=few), Path(folder), asked["python"], asked["keep"])
                version = case.order.version
                for budget in asked["budgets"]:
                    try:
                        rows.append(compared(case, budget, asked["given"].split()))
                    except click.ClickException as error:
                        error.show()
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    console.print(grid(rows, version))
    if file:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", "utf-8")


def grid(rows: Sequence[Row], version: str) -> Table:
    """Return the table: five lines for each row, ours first, and how far ours is below each."""
    machine = f"{processor().brand}, {os.cpu_count()} cores, Python {platform.python_version()}"
    table = Table(title=f"{machine}; AIMET-ONNX {version}")
    for column in ("model", "budget", "", "bytes", "CPU s", "held-out loss", "ours less it", "verdict"):
        right = column in ("bytes", "CPU s", "held-out loss", "ours less it")
        table.add_column(column, justify="right" if right else "left")
    for row in rows:
        lines: list[tuple[str, Judged | None, str, str]] = [
            ("ours", row.ours, f"{row.ours_cpu_s:.1f}", ""),
            (f"AIMET's point {row.point} of {row.points}, by GPTQ", row.aimet, f"{row.aimet_cpu_s:.1f}", row.verdict),
            ("the same to nearest", row.nearest, "", ""),
            ("the same fitted as ours", row.fitted, "", ""),
            ("AIMET's own file", row.own, "", row.why_no_own),
        ]
        for label, judged, seconds, told in lines:
            what = (row.model, row.budget) if label == "ours" else ("", "")
            table.add_row(*what, label, *_figures(judged, seconds, label != "ours"), told)
    return table


def _figures(judged: Judged | None, seconds: str, differs: bool) -> tuple[str, ...]:
    if judged is None:
        return "–", seconds, "–", "–"
    difference, error = judged.ours_less_its
    paired = f"{difference:+.4g} ± {error:.2g}" if differs else ""
    return str(judged.file_bytes), seconds, f"{judged.loss:.4g} ± {judged.error:.2g}", paired
