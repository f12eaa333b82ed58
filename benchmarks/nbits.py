"""``python -m benchmarks nbits``: weights in blocks, mixed by measurement, beside what people write by hand.

At mean bits of 3, 3.5 and 4.5 a search stands beside a rule by position: the first and the last layers keep more bits,
as many of them as the same mean allows, with the same rounding. At the bytes of onnxruntime's own 4-bit file a search
stands beside that file. Losses are those on held-out samples, compared sample by sample.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import click
import onnx
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from benchmarks.held_out import run_on
from benchmarks.pairs import file_option, models_of
from benchmarks.zoo import ZooModel
from onnxmpq.api import Result, inspect, quantize
from onnxmpq.artifacts import Option, Plan, Unit
from onnxmpq.errors import OnnxmpqError
from onnxmpq.machine import processor
from onnxmpq.metrics.losses import mean_and_error
from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from onnxmpq.options import MeasureOptions, Numbers, VerifyOptions
from onnxmpq.runtimes import get_runtime, paired

MEANS = (3.0, 3.5, 4.5)
W8, W4, W2 = (Option(bits, 0, 32) for bits in (8, 4, 2))
_UNTIMED = VerifyOptions(speed_budget_s=0.0)
_PAIRS = 15


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: ours and the other at nearly the same bytes, their losses, and ours less the other's."""

    model: str
    wanted: str
    other: str
    bytes_ours: int
    bytes_other: int
    loss_kind: str
    loss_ours: float
    loss_other: float
    difference: float
    error: float
    samples: int
    plan: str
    seconds: float
    one_row: float | None = None

    @property
    def better(self) -> bool:
        """Tell whether ours loses less by more than two standard errors."""
        return self.difference < -2 * self.error


def by_position(units: Sequence[Unit], mean: float) -> dict[str, Option]:
    """Give the first and the last units in turn the finer of two options, as many as a mean of bits allows.

    >>> by_position([], 3.5)
    {}
    """
    fine, coarse = (W8, W4) if mean >= 4 else (W4, W2)
    order = [place for pair in zip(range(len(units)), range(len(units) - 1, -1, -1), strict=True) for place in pair]
    total = sum(unit.parameters for unit in units)
    chosen = {unit.name: coarse for unit in units}
    spent = coarse.weight_bits * total
    for place in dict.fromkeys(order):
        more = (fine.weight_bits - coarse.weight_bits) * units[place].parameters
        if spent + more > mean * total:
            continue
        chosen[units[place].name], spent = fine, spent + more
    return chosen


def compared(data: ZooModel, samples: int, log: Console) -> list[Row]:
    """Compare one model."""
    rows = []
    with TemporaryDirectory() as folder:
        place = Path(folder)
        store = str(place / "measured.store")
        units = [unit for unit in inspect(data.path, "nbits").units if W4 in unit.options and W2 in unit.options]
        for mean in MEANS:
            ours, seconds = _searched(data, place / f"{mean}.onnx", f"bits={mean}", samples, store)
            plan = Plan("nbits", "by position", by_position(units, mean), ranges=Numbers.searched().told())
            other = quantize(
                *(data.path, data.calibration),
                output=place / f"{mean}.rule.onnx",
                target="nbits",
                plan=plan,
                verify=_UNTIMED,
            )
            rows.append(_row(data, f"{mean} bits", "by position", ours, other.path, other.file_bytes, seconds))
            log.print(_told(rows[-1]), highlight=False)
        theirs = _theirs(data.path, place / "theirs.onnx")
        size = theirs.stat().st_size
        ours, seconds = _searched(data, place / "ours.onnx", f"size={size}", samples, store)
        rows.append(_row(data, "its bytes", "onnxruntime, 4 bits", ours, theirs, size, seconds, fast=True))
        log.print(_told(rows[-1]), highlight=False)
    return rows


def _searched(data: ZooModel, output: Path, budget: str, samples: int, store: str) -> tuple[Result, float]:
    began = process_time()
    found = quantize(
        *(data.path, data.calibration),
        output=output,
        target="nbits",
        budget=[budget],
        measure=MeasureOptions(samples=samples, store=store),
        verify=_UNTIMED,
    )
    return found, process_time() - began


def _theirs(model: Path, output: Path) -> Path:
    """Write onnxruntime's own file: 4 bits in symmetric blocks of 32, tables that are looked up included."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    how = DefaultWeightOnlyQuantConfig(
        block_size=32, is_symmetric=True, accuracy_level=1, bits=4, op_types_to_quantize=("MatMul", "Gather")
    )
    made: Any = MatMulNBitsQuantizer(onnx.load(str(model)), algo_config=how)
    made.process()
    made.model.save_model_to_file(str(output))
    return output


def _row(
    data: ZooModel, wanted: str, name: str, ours: Result, other: Path, size: int, seconds: float, fast: bool = False
) -> Row:
    runtime = get_runtime("onnxruntime")
    before = runtime.session(data.path, mode="deployed")
    after = [runtime.session(path, mode="deployed") for path in (ours.path, other)]
    outcome = run_on(data.splits, _normal(data.path), before, after)
    own, their = outcome.losses
    difference, error = mean_and_error(own - their)
    counts = [f"{sum(o == each for o in ours.plan.choices.values())} {each}" for each in (W8, W4, W2)]
    return Row(
        model=data.name,
        wanted=wanted,
        other=name,
        bytes_ours=ours.file_bytes,
        bytes_other=size,
        loss_kind=outcome.kind,
        loss_ours=float(own.mean()),
        loss_other=float(their.mean()),
        difference=difference,
        error=error,
        samples=len(own),
        plan=", ".join(counts),
        seconds=seconds,
        one_row=_one_row(data, other, ours.path) if fast else None,
    )


def _normal(path: Path) -> ir.Model:
    return normalise(load(path)).model


def _one_row(data: ZooModel, theirs: Path, ours: Path) -> float | None:
    """Return how many times faster than theirs ours is on a sequence of one; None where that is not an input."""
    runtime = get_runtime("onnxruntime")
    sessions = [runtime.session(path, mode="deployed") for path in (theirs, ours)]
    feed = {name: array[:1, :1] if array.ndim == 2 else array[:1] for name, array in data.calibration.items()}
    if all(array.ndim != 2 for array in data.calibration.values()):
        return None
    return paired(*(session.bind(feed) for session in sessions), budget_s=0.0, min_pairs=_PAIRS).ratio


def _told(row: Row) -> str:
    return (
        f"{row.model}, {row.wanted}: {row.loss_ours:.4g} ({row.bytes_ours:,} bytes, {row.plan}), {row.other} "
        f"{row.loss_other:.4g} ({row.bytes_other:,}): {row.difference:+.2g} ± {row.error:.1g}"
    )


@click.command()
@click.option("--models", default="", help="Models of the zoo, separated by commas.")
@file_option
@click.option("--samples", default=128, show_default=True, help="Calibration samples that are measured on.")
@click.option("--held-out", default=500, show_default=True, help="Most samples of each held-out split.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def nbits(
    models: str, files: Sequence[tuple[Path, Path, Path]], samples: int, held_out: int, file: Path | None
) -> None:
    """Compare weights in blocks, mixed by measurement, with rules by position and onnxruntime's 4-bit quantiser."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=180)
    rows: list[Row] = []
    try:
        for data in models_of(models, files, held_out, []):
            rows += compared(data, samples, log)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    console.print(_grid(rows))
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def _grid(rows: Sequence[Row]) -> Table:
    title = f"held-out loss of files in blocks of 32, made on {processor().brand}"
    table = Table("model", "wanted", "other", "bytes", title=title, title_justify="left")
    for name in ("ours", "other's", "ours less other's ± se", "plan", "CPU s", "speed at one row"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            *(row.model, row.wanted, row.other, f"{row.bytes_ours:,} and {row.bytes_other:,}"),
            *(f"{row.loss_ours:.4g}", f"{row.loss_other:.4g}", f"{row.difference:+.2g} ± {row.error:.1g}"),
            *(row.plan, f"{row.seconds:.0f}", f"{row.one_row:.2f}" if row.one_row else ""),
        )
    return table
