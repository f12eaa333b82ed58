"""``python -m benchmarks processors``: exports on processors that this machine does not have.

A small network of every kind of layer at every option of ``ort-cpu``, and the embedded models, are run in onnxruntime
as it is by default: here, as a Haswell (AVX2, no VNNI), a Nehalem (SSE4.1), a Neoverse N1 and a Cortex-A53 (ARM64
with and without dot products of 8-bit integers), by ``qemu-user``. What they give is compared with Q/DQ computed as
written. ARM64 takes a Python of that kind: it is fetched once by apt and pip, into ``--arm64``.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import helper, numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks.held_out import EMBEDDED, data_of
from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.errors import InternalError, OnnxmpqError
from onnxmpq.methods.uniform import uniform
from onnxmpq.runtimes import get_runtime
from onnxmpq.runtimes.arm64 import Cpu, emulated
from onnxmpq.verification.verify import worst_sqnr
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace

WANTED_DB = 40.0
SAMPLES = 8
X86 = {"Haswell": "AVX2, no VNNI", "Nehalem": "SSE4.1"}
ARM64: dict[Cpu, str] = {"neoverse-n1": "ARM64 with dot products", "cortex-a53": "ARM64 without dot products"}
HERE = "here"
_DEBS = (
    *("libc6", "libexpat1", "zlib1g", "libstdc++6", "libgcc-s1", "libffi8", "libbz2-1.0", "liblzma5", "libssl3"),
    *("libuuid1", "libncursesw6", "libtinfo6", "libsqlite3-0", "libgomp1"),
)
_BUILT_FOR = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64")
Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Row:
    """One export: its agreement with its literal simulation in dB, by processor; None where none could be had."""

    model: str
    option: str
    agreement: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Export:
    """A file to be run, what it is fed, and what it is as written."""

    model: str
    option: str
    path: Path
    simulated: list[np.ndarray]


def network() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a small network with a Conv, a depthwise Conv, a Gemm and a MatMul, and samples for it."""
    g = np.random.default_rng(5)

    def weight(*shape: int) -> np.ndarray:
        values: np.ndarray = g.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        return values.astype(np.float32)

    weights = {
        "w1": weight(32, 3, 3, 3),
        "b1": weight(32, 1).reshape(-1),
        "w2": weight(32, 1, 3, 3),
        "w3": weight(64, 32, 1, 1),
        "w4": weight(64, 64),
        "w5": weight(16, 64),
        "b5": weight(16, 1).reshape(-1),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "depthwise", group=32, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], "pointwise"),
        helper.make_node("Relu", ["c3"], ["r3"]),
        helper.make_node("GlobalAveragePool", ["r3"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w4"], ["m"], "matmul"),
        helper.make_node("Relu", ["m"], ["r4"]),
        helper.make_node("Gemm", ["r4", "w5", "b5"], ["y"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, {"x": g.normal(size=(64, 3, 16, 16)).astype(np.float32)}


def exports(
    name: str, model: onnx.ModelProto | Path, samples: Feeds, options: Sequence[str], folder: Path
) -> Iterator[Export]:
    """Write uniform plans of a model into a folder, with what they are fed; of all options if none are named."""
    prepared = prepare(model, "ort-cpu")
    reference = get_runtime("onnxruntime")
    known = dict.fromkeys(o for unit in prepared.space.units for o in unit.options if o not in (FLOAT, Option(0, 8)))
    with workspace(prepared, dict(samples)) as opened:
        exporter = Exporter(opened)
        for option in map(Option.parse, options) if options else known:
            path = folder / f"{name}.{option}.onnx"
            shutil.copyfile(exporter.written(uniform(prepared.space, option), path.name), path)
            few: dict[str, Any] = {key: array[:SAMPLES] for key, array in samples.items()}
            np.savez(path.with_suffix(".npz"), **few)
            session = reference.session(path, mode="literal")
            feeds = ({key: array[i : i + 1] for key, array in few.items()} for i in range(SAMPLES))
            yield Export(name, str(option), path, [next(iter(session.run(feed).values())) for feed in feeds])


def measured(made: Sequence[Export], folder: Path, runners: Mapping[str, Sequence[str] | None]) -> list[Row]:
    """Run all files of a folder on every processor that can be had, and compare."""
    found: dict[str, dict[Path, float]] = {}
    for processor, command in runners.items():
        if command is None:
            continue
        call = [*command, str(files("benchmarks").joinpath("alone.py")), str(folder)]
        ended = subprocess.run(call, env=plain_environment(), capture_output=True, text=True, check=False)
        if ended.returncode:
            raise InternalError(f"The files do not run on {processor}: {ended.stderr[-1000:]}")
        found[processor] = {each.path: _agreement(each) for each in made}
    return [
        Row(each.model, each.option, {name: found[name][each.path] if name in found else None for name in runners})
        for each in made
    ]


def plain_environment() -> dict[str, str]:
    """Return the environment without what picks kernels for this processor: another one may not have them."""
    return {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}


def _agreement(export: Export) -> float:
    output = export.path.with_suffix(".out.npz")
    with np.load(output) as data:
        got = data["outputs"]
    output.unlink()
    return worst_sqnr([export.simulated], [list(got.reshape(-1, *export.simulated[0].shape))])


# ---- processors ------------------------------------------------------------------------------------------------------


def runners(arm64: Path | None) -> dict[str, Sequence[str] | None]:
    """Return what runs a Python script on each processor; None where it cannot be had here."""
    emulator = shutil.which("qemu-x86_64")
    found: dict[str, Sequence[str] | None] = {HERE: [sys.executable]}
    for name in X86:
        found[name] = [emulator, "-cpu", name, sys.executable] if emulator else None
    for name in ARM64:
        found[name] = emulated(name, arm64) if arm64 is not None else None
    return found


def fetch_arm64(place: Path) -> str:
    """Fetch a Python for ARM64 with onnxruntime, once; return why that is not possible, nothing where it is there."""
    if (place / "site" / "onnxruntime").is_dir():
        return ""
    for tool in ("qemu-aarch64", "unshare", "apt-get", "dpkg"):
        if shutil.which(tool) is None:
            return f"ARM64 needs {tool}"
    if os.geteuid() != 0:
        return "ARM64 needs root, for a /proc/cpuinfo of its own"
    for name in ("debs", "whl", "root", "site"):
        (place / name).mkdir(parents=True, exist_ok=True)
    try:
        _run(["dpkg", "--add-architecture", "arm64"])
        _run(["apt-get", "update", "-qq"])
        minor = next(n for n in (11, 12, 13, 14) if _known(f"python3.{n}-minimal:arm64"))
        python = f"python3.{minor}"
        names = (python, f"{python}-minimal", f"lib{python}-minimal", f"lib{python}-stdlib", *_DEBS)
        _run(["apt-get", "download", "-qq", *(f"{name}:arm64" for name in names)], place / "debs")
        for deb in (place / "debs").glob("*.deb"):
            _run(["dpkg", "-x", str(deb), str(place / "root")])
        kinds = [part for name in _BUILT_FOR for part in ("--platform", name)]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(place / "whl")]
        wanted = ("--only-binary=:all:", "--python-version", f"3.{minor}", "--implementation", "cp")
        _run([*pip, *wanted, *kinds, "onnxruntime", "numpy"])
        _run([*pip, "flatbuffers", "packaging"])
    except (subprocess.CalledProcessError, StopIteration) as error:
        told = error.stderr[-300:].strip() if isinstance(error, subprocess.CalledProcessError) else "no Python"
        return f"ARM64 cannot be fetched: {told}"
    for wheel in (place / "whl").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place / "site")
    return ""


def _known(package: str) -> bool:
    return subprocess.run(["apt-cache", "show", package], capture_output=True, check=False).returncode == 0


def _run(command: Sequence[str], folder: Path | None = None) -> None:
    subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


@click.command()
@click.option("--options", default="", help="Options of the small network, separated by commas; all if empty.")
@click.option(
    "--arm64",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/arm64"),
    show_default=True,
    help="Where a Python for ARM64 is, or is put.",
)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def processors(options: str, arm64: Path, file: Path | None) -> None:
    """Run exports on processors that this machine does not have, by emulation, and compare with what is written."""
    console, log = Console(), Console(stderr=True)
    arm64 = arm64.absolute()
    why = fetch_arm64(arm64)
    found = runners(None if why else arm64)
    try:
        with tempfile.TemporaryDirectory(prefix="onnxmpq-") as place:
            folder = Path(place)
            made = list(exports("small", *network(), options.split(",") if options else (), folder))
            for name in EMBEDDED:
                data = data_of(name, 1)
                made += exports(name, data.path, data.calibration, ("w8a8", "w4a8", "w2a8"), folder)
            log.print(f"{len(made)} files on {sum(command is not None for command in found.values())} processors")
            rows = measured(made, folder, found)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    names: dict[str, str] = {HERE: "here", **X86, **dict(ARM64.items())}
    grid = Table("model", "option", title="agreement with the literal simulation, dB", title_justify="left")
    for processor in found:
        head = processor if processor == HERE else f"{processor}\n{names[processor]}"
        grid.add_column(head, justify="right")
    for row in rows:
        grid.add_row(row.model, row.option, *map(_told, row.agreement.values()))
    console.print(grid)
    if why:
        console.print(f"{why}.")
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    bad = [row for row in rows for value in row.agreement.values() if value is not None and value < WANTED_DB]
    if bad:
        raise click.ClickException(f"{len(bad)} runs agree to less than {WANTED_DB:.0f} dB.")


def _told(value: float | None) -> str:
    return "–" if value is None else "same" if value == np.inf else f"{value:.0f}"
