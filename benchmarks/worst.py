"""``python -m benchmarks worst``: integer layers of exports on the worst input there is, without VNNI.

Every layer of an export becomes a model of its own, with its stored codes, whose input has all codes at the top. What
the runtime gives is compared with the layer computed as written. Kernels without VNNI are had by emulating a Haswell
for onnxruntime, and by asking oneDNN for AVX2 in OpenVINO.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import click
import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks import zoo
from benchmarks.held_out import EMBEDDED
from benchmarks.pairs import file_option, models_of
from benchmarks.processors import plain_environment
from benchmarks.zoo import ZooModel
from onnxmpq.artifacts import Option
from onnxmpq.errors import InternalError, OnnxmpqError
from onnxmpq.methods.uniform import uniform
from onnxmpq.options import ROUNDINGS, Numbers, Rounding
from onnxmpq.runtimes import get_runtime
from onnxmpq.verification.processors import examine, find_layers
from onnxmpq.verification.verify import worst_sqnr
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace

WANTED_DB = 60.0
TARGETS = ("ort-cpu", "openvino")
_ROWS = 4  # of a matrix, and places beyond its kernel that a convolution reaches
_ACTIVATIONS = ("Relu", "Clip")


@dataclass(frozen=True, slots=True)
class Row:
    """One export: its integer layers, how many break the rule, and the least agreement in dB, here and without VNNI."""

    model: str
    target: str
    rounding: Rounding
    layers: int
    unsafe: int
    here: float
    without: float | None


class Proto:
    """A file as protobuf, with who makes and who reads each value."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(str(path))
        graph = self.model.graph
        self.constants = {each.name: each for each in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def behind(self, name: str) -> Iterator[onnx.NodeProto]:
        """Yield what computes a value from constants, in order."""
        if name in self.makers:
            node = self.makers[name]
            for each in node.input:
                yield from self.behind(each)
            yield node

    def tail(self, name: str) -> list[onnx.NodeProto]:
        """Return what a layer's output goes through until it is quantised; nothing where it is not."""
        found: list[onnx.NodeProto] = []
        while len(readers := self.readers.get(name, [])) == 1 and readers[0].op_type in (
            *_ACTIVATIONS,
            "QuantizeLinear",
        ):
            found.append(readers[0])
            name = readers[0].output[0]
            if readers[0].op_type == "QuantizeLinear":
                return found
        return []

    def value(self, name: str) -> np.ndarray:
        """Return a constant."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def alone(
        self,
        nodes: Sequence[onnx.NodeProto],
        shape: Sequence[int],
        output: str,
        changed: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> onnx.ModelProto:
        """Return a model of some nodes, from the float ``x`` of this shape; constants may be ``changed``."""
        names = dict.fromkeys(name for node in nodes for name in node.input)
        kept = [
            numpy_helper.from_array(changed[name], name) if name in changed else self.constants[name]
            for name in names
            if name in changed or name in self.constants
        ]
        graph = helper.make_graph(
            nodes,
            "layer",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
            kept,
        )
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)


def worst_case(proto: Proto, output: str, runtime: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """Return the layer that makes ``output`` as a model of its own, and the input with all codes at the top.

    In onnxruntime a Conv is computed in integers only where its output is quantised: there the range is that of the
    output on this input, so that nothing is hidden by clipping.
    """
    node = onnx.NodeProto()
    node.CopyFrom(proto.makers[output])
    pair = proto.makers[node.input[0]]
    zero, scale = proto.value(pair.input[2]), float(proto.value(pair.input[1]))
    x = np.full(_shape(proto, node), (np.iinfo(zero.dtype).max - int(zero)) * scale, np.float32)
    kept = [each for each in node.attribute if each.name not in ("pads", "auto_pad", "strides")]
    del node.attribute[:]
    node.attribute.extend(kept)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *pair.input[1:]], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", *pair.input[1:]], [node.input[0]]),
        *(each for name in node.input[1:] for each in proto.behind(name)),
        node,
    ]
    tail = proto.tail(output) if runtime == "onnxruntime" else []
    if not tail:
        return proto.alone(nodes, x.shape, output), x
    *between, last = tail
    nodes += between
    before = proto.alone(nodes, x.shape, last.input[0])
    plain = get_runtime("onnxruntime").session(before.SerializeToString(), mode="literal")
    seen = plain.run({"x": x})[last.input[0]]
    low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 0.0)
    kind = proto.value(last.input[2]).dtype
    step = max(high - low, 1e-6) / 255
    changed = {
        last.input[1]: np.array(step, np.float32),
        last.input[2]: np.array(np.rint(np.iinfo(kind).min - low / step), kind),
    }
    back = helper.make_node("DequantizeLinear", [last.output[0], *last.input[1:]], ["back"])
    return proto.alone([*nodes, last, back], x.shape, "back", changed), x


def _shape(proto: Proto, node: onnx.NodeProto) -> tuple[int, ...]:
    """Return a small input for a layer."""
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    shape = next(
        proto.constants[name].dims
        for each in proto.behind(node.input[1])
        for name in each.input
        if name in proto.constants
    )
    if node.op_type != "Conv":
        return (_ROWS, shape[1] if attributes.get("transB", 0) else shape[0])
    dilations = attributes.get("dilations", [1] * (len(shape) - 2))
    extents = ((size - 1) * step + 1 + _ROWS for size, step in zip(shape[2:], dilations, strict=True))
    return (1, shape[1] * attributes.get("group", 1), *extents)


def run_all(folder: str, runtime: str) -> None:
    """Run every layer in a folder in a runtime, and write what it gives beside it."""
    for path in Path(folder).glob("*.onnx"):
        session = get_runtime(runtime).session(path, mode="exact")
        (output,) = session.run({"x": np.load(path.with_suffix(".npy"))}).values()
        np.save(path.with_suffix(".output.npy"), output)


def without_vnni(runtime: str) -> tuple[list[str], dict[str, str]] | None:
    """Return what runs Python on kernels without VNNI, and its environment; None where nothing here does."""
    if runtime == "openvino":
        return [], {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    return (["qemu-x86_64", "-cpu", "Haswell"], {}) if shutil.which("qemu-x86_64") else None


def _agreement(folder: Path, runtime: str, emulated: tuple[list[str], dict[str, str]]) -> float:
    """Return the least agreement of layers in a folder with what they are as written."""
    prefix, environment = emulated
    code = f"from benchmarks.worst import run_all; run_all({str(folder)!r}, {runtime!r})"
    command = [*prefix, sys.executable, "-c", code]
    ended = subprocess.run(command, env=plain_environment() | environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise InternalError(f"The layers do not run: {ended.stderr[-1000:]}")
    reference = get_runtime("onnxruntime")
    worst = np.inf
    for path in folder.glob("*.onnx"):
        exact = reference.session(path, mode="literal").run({"x": np.load(path.with_suffix(".npy"))})
        worst = min(worst, worst_sqnr([list(exact.values())], [[np.load(path.with_suffix(".output.npy"))]]))
    return worst


def measured(data: ZooModel, target: str) -> Iterator[Row]:
    """Measure one model on one target, rounded in every way."""
    prepared = prepare(data.path, target)
    runtime = prepared.target.runtime
    plan = uniform(prepared.space, Option.parse("w8a8"))
    for rounding in ROUNDINGS:
        with workspace(prepared, dict(data.calibration), Numbers(rounding=rounding)) as opened:
            path = Exporter(opened).written(plan, "export.onnx")
            layers = list(find_layers(ir.load(path)))
            unsafe = examine(layers, prepared.target)
            proto = Proto(path)
            with tempfile.TemporaryDirectory(dir=opened.folder) as place:
                folder = Path(place)
                for index, layer in enumerate(each for each in layers if each.codes is not None):
                    model, x = worst_case(proto, layer.node.outputs[0].name or "", runtime)
                    onnx.save(model, folder / f"{index}.onnx")
                    np.save(folder / f"{index}.npy", x)
                here = _agreement(folder, runtime, ([], {}))
                emulated = without_vnni(runtime)
                without = _agreement(folder, runtime, emulated) if emulated is not None else None
            yield Row(data.name, target, rounding, len(layers), len(unsafe), here, without)


@click.command()
@click.option("--models", default="", help="Which models, separated by commas; the embedded and the zoo's if empty.")
@file_option
@click.option("--targets", default=",".join(TARGETS), show_default=True, help="Which targets, separated by commas.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def worst(models: str, files: Sequence[tuple[Path, Path, Path]], targets: str, file: Path | None) -> None:
    """Run every integer layer of exports on its worst input, also without VNNI, and compare it with what is written."""
    console, log = Console(), Console(stderr=True)
    rows: list[Row] = []
    try:
        for data in models_of(models, files, 1, [*EMBEDDED, *zoo.names()]):
            for target in targets.split(","):
                for row in measured(data, target):
                    log.print(f"{row.model} {row.target} {row.rounding} {row.here:.0f} {row.without}", highlight=False)
                    rows.append(row)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    grid = Table(
        "model", "target", "rounding", title="least agreement of a layer with what is written, dB", title_justify="left"
    )
    for column in ("integer layers", "break the rule", "here", "without VNNI"):
        grid.add_column(column, justify="right")
    for row in rows:
        without = "no qemu-x86_64" if row.without is None else f"{row.without:.0f}"
        grid.add_row(row.model, row.target, row.rounding, str(row.layers), str(row.unsafe), f"{row.here:.0f}", without)
    console.print(grid)
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    bad = [
        row for row in rows if row.unsafe or min(row.here, row.here if row.without is None else row.without) < WANTED_DB
    ]
    if bad:
        raise click.ClickException(
            f"{len(bad)} exports have layers that break the rule, or agree to less than {WANTED_DB:.0f} dB."
        )
