"""``python -m benchmarks memory``: the peak memory of every command, in a process of its own, beside its model.

resident   the most pages that the process had in memory, those of mapped files included (VmHWM)
own        of these what no file has: the most that was seen of RssAnon and RssShmem
needs      resident = base + share * bytes of the model, fitted to the rows of a command; it foretells other models
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from onnxmpq.errors import InputError
from onnxmpq.model.mapped import read_mapped
from onnxmpq.model.protos import bytes_on_disk

_EVERY_S = 0.01
_EMBEDDED = ("digits_cnn", "digits_vit")
_COMMANDS = (
    *("inspect", "quantize w8a8", "quantize w4a8", "quantize w4b128 --rounding nearest", "diagnose", "verify", "apply"),
    *("measure", "quantize size=40%", "pareto"),
)
_SEARCHES = _COMMANDS[-3:]


@dataclass(frozen=True, slots=True)
class Peak:
    """What a process took at its height, and how it ended."""

    resident_bytes: int
    own_bytes: int
    seconds: float
    exit_code: int
    errors: str


@dataclass(frozen=True, slots=True)
class Row:
    """One command on one model."""

    command: str
    model: str
    model_bytes: int
    peak: Peak


def peak_of(arguments: Sequence[str]) -> Peak:
    """Run a command of onnxmpq in a process of its own and watch what it takes; Linux tells."""
    if not Path("/proc/self/status").is_file():
        raise InputError("What a process takes is read from /proc, which this system does not have. Use Linux.")
    began, most, own = time.perf_counter(), 0, 0
    folders = os.pathsep.join(path for path in sys.path if path)
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "onnxmpq", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=told,
            env=os.environ | {"PYTHONPATH": folders, "ONNXMPQ_ONE_PROCESS": "1"},
        )
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            except OSError:
                continue
            found = {name: 1024 * int(kb) for name, kb in re.findall(r"(\w+):\s+(\d+) kB", status)}
            most = max(most, found.get("VmHWM", 0))
            own = max(own, found.get("RssAnon", 0) + found.get("RssShmem", 0))
            time.sleep(_EVERY_S)
        told.seek(0)
        return Peak(most, own, time.perf_counter() - began, process.returncode, told.read()[-2000:])


def write_stack(path: Path, layers: int, width: int, *, external: bool = False, samples: int = 16) -> Path:
    """Write a model of so many square matrix products with Relu between them; return the file of its samples."""
    generator = np.random.default_rng(0)
    steps = [f"m{i} = MatMul(r{i}, w{i})  r{i + 1} = Relu(m{i})" for i in range(layers)]
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[n, {width}] r0) => (float[n, {width}] m{layers - 1}) {{ '
        f"{' '.join(steps).rpartition('  ')[0]} }}"
    )
    for i in range(layers):
        weight = generator.standard_normal((width, width), np.float32) * np.float32(np.sqrt(2 / width))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, f"w{i}"))
    onnx.save(proto, str(path), save_as_external_data=external, location=f"{path.name}.data")
    data = path.with_suffix(".npz")
    np.savez(data, r0=generator.standard_normal((samples, width), np.float32))
    return data


def arguments_of(command: str, model: Path, data: Path, folder: Path) -> list[str]:
    """Return the command line of a command on a model."""
    name, _, option = command.partition(" ")
    small, samples = folder / f"{model.stem}.int8.onnx", ["-c", str(data)]
    match name:
        case "inspect":
            return [name, str(model)]
        case "quantize" if "=" in option:
            return [name, str(model), *samples, "-o", str(folder / "searched.onnx"), "-b", option, "--overwrite"]
        case "quantize":
            output = small if option == "w8a8" else folder / "quantized.onnx"
            return [name, str(model), *samples, "-o", str(output), "--option", *option.split(), "--overwrite"]
        case "diagnose":
            return [name, str(model), *samples, "--option", "w8a8"]
        case "verify":
            return [name, str(small), *samples, "--float", str(model)]
        case "apply":
            plan = str(small.with_suffix(".plan.json"))
            return [name, str(model), plan, *samples, "-o", str(folder / "applied.onnx"), "--overwrite"]
        case "measure":
            return [name, str(model), *samples, "-o", str(folder / "table.json"), "--overwrite"]
        case _:
            return [name, str(model), *samples, "-o", str(folder / "front.json"), "--overwrite"]


def needs(rows: Sequence[Row]) -> tuple[float, float]:
    """Fit base and share to peaks by least squares; with models of one size the share is that of all above nothing.

    >>> peaks = [Row("x", "m", size, Peak(200 + 2 * size, 0, 0.0, 0, "")) for size in (0, 100, 1000)]
    >>> [round(number) for number in needs(peaks)]
    [200, 2]
    """
    sizes = np.array([row.model_bytes for row in rows], np.float64)
    peaks = np.array([row.peak.resident_bytes for row in rows], np.float64)
    (base, share), *_ = np.linalg.lstsq(np.stack([np.ones_like(sizes), sizes], axis=1), peaks, rcond=None)
    return float(base), float(share)


def _models(names: str, megabytes: str, folder: Path) -> list[tuple[str, Path, Path]]:
    """Return names, models and samples: embedded ones, and stacks of about so many MB with their weights outside."""
    here = Path(__file__).parents[1] / "models"
    found = [(name, here / f"{name}.onnx", here / "digits_calibration.npz") for name in names.split(",") if name]
    for text in (part for part in megabytes.split(",") if part):
        width = 4096 if float(text) >= 256 else 1024
        layers = max(2, round(float(text) * 1e6 / (4 * width * width)))
        path = folder / f"stack_{text}MB.onnx"
        found.append((f"stack of {text} MB", path, write_stack(path, layers, width, external=True)))
    return found


@click.command()
@click.option("--models", default=",".join(_EMBEDDED), show_default=True, help="Embedded models, separated by commas.")
@click.option("--sizes", default="16,64,268,1074", show_default=True, help="MB of synthetic models.")
@click.option("--commands", default=",".join(_COMMANDS), show_default=True, help="Which commands.")
@click.option("--largest-search", default=20.0, show_default=True, help="The largest model that is searched on, in MB.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def memory(models: str, sizes: str, commands: str, largest_search: float, file: Path | None) -> None:
    """Run every command on models of many sizes and tell what it took at its height."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=140)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="onnxmpq-") as place:
        for name, model, data in _models(models, sizes, Path(place)):
            size = bytes_on_disk(model, read_mapped(model)[0])
            for command in commands.split(","):
                if command in _SEARCHES and size > largest_search * 1e6:
                    continue
                log.print(f"{name}: {command}", highlight=False)
                peak = peak_of(arguments_of(command, model, data, Path(place)))
                if peak.exit_code:
                    log.print(peak.errors, highlight=False)
                rows.append(Row(command, name, size, peak))
    grid = Table("command", "model", title="peaks of memory, in MB", title_justify="left")
    for column in ("bytes", "resident", "own", "times the model", "foretold", "seconds", "exit"):
        grid.add_column(column, justify="right")
    for command in dict.fromkeys(row.command for row in rows):
        group = [row for row in rows if row.command == command]
        base, share = needs(group)
        for row in group:
            resident, foretold = row.peak.resident_bytes, base + share * row.model_bytes
            grid.add_row(
                *(command, row.model, f"{row.model_bytes / 1e6:.1f}", f"{resident / 1e6:.0f}"),
                *(f"{row.peak.own_bytes / 1e6:.0f}", f"{resident / row.model_bytes:.1f}", f"{foretold / 1e6:.0f}"),
                *(f"{row.peak.seconds:.0f}", str(row.peak.exit_code)),
            )
        grid.add_row(command, "needs", "", f"{base / 1e6:.0f} MB + {share:.2f} times the model", end_section=True)
    console.print(grid)
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
