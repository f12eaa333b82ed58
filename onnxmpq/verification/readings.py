"""What another machine's tools say of a file, read back: which layers run in few bits there, and how long all take.

    trtexec --exportLayerInfo    layers of the engine with the types of what they read, and the ONNX nodes they are of
    trtexec --exportProfile      the time of every layer of the engine

What is read takes the place of what could not be run here; the verdict says where it is from. Types are words in the
names of formats, which differ by release: "Int8 NC/32HW32", "Thirty-two wide channel vectorized row major Int8 format".
Kernels that quantise what they read have floats as inputs; the name of their tactic has the types that it multiplies.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxmpq.artifacts import Check, Verdict
from onnxmpq.disk.reading import brief, read_json
from onnxmpq.errors import InputError
from onnxmpq.model.mapped import load_mapped
from onnxmpq.verification.processors import find_layers

_NODES = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]")
_DETAILED = "run trtexec with --profilingVerbosity=detailed"
_LOW = re.compile(r"\b(int8|int4|fp8|fp4)\b", re.IGNORECASE)
_LOW_TACTIC = re.compile(r"i8i32|e4m3", re.IGNORECASE)  # codes multiplied, and what they are summed in
_COPIES = ("Reformat", "NoOp", "Constant")  # these move tensors of layers whose names they have


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """A layer of an engine: the nodes of the file that it is of, the types of what it reads, and its kernel."""

    name: str
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    tactic: str = ""

    @property
    def low_bit(self) -> bool:
        """Tell whether it multiplies codes."""
        return any(_LOW.search(kind) for kind in self.reads) or _LOW_TACTIC.search(self.tactic) is not None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one file of a tool says: layers of an engine, or milliseconds of all of them."""

    tool: str
    layers: tuple[EngineLayer, ...] = ()
    total_ms: float | None = None


def read(path: Path) -> Reading:
    """Read a file of a tool; refuse one that is of none."""
    data = read_json(path, "file of a tool")
    if isinstance(data, dict) and isinstance(data.get("Layers"), list):
        return Reading("trtexec --exportLayerInfo", tuple(_layers(data["Layers"], path)))
    if isinstance(data, list) and any(isinstance(one, dict) and "averageMs" in one for one in data):
        return Reading("trtexec --exportProfile", total_ms=_total(data, path))
    raise InputError(
        f"'{path}' is of no tool that is known here. Expected what `trtexec --exportLayerInfo=FILE`, or "
        "`--exportProfile=FILE`, writes."
    )


def _layers(found: Sequence[Any], path: Path) -> Iterator[EngineLayer]:
    for layer in found:
        if not isinstance(layer, dict):
            raise InputError(f"'{path}' has the names of layers alone, not what they read: {_DETAILED}.")
        name, metadata = str(layer.get("Name", "")), str(layer.get("Metadata", ""))
        inputs = layer.get("Inputs", [])
        if not isinstance(inputs, list) or not all(isinstance(one, dict) for one in inputs):
            raise InputError(f"'{path}' cannot be used: layer '{brief(name)}' has no list of inputs.")
        if layer.get("LayerType") in _COPIES:
            continue
        reads = tuple(str(one.get("Format/Datatype", "")) for one in inputs)
        nodes = tuple(node.strip() for node in _NODES.findall(metadata)) or tuple(
            part.strip() for part in name.split(" + ")
        )
        yield EngineLayer(name, nodes, reads, str(layer.get("TacticName", "")))


def _total(found: Sequence[Any], path: Path) -> float:
    times = [one.get("averageMs") for one in found if isinstance(one, dict) and "averageMs" in one]
    if not all(isinstance(time, int | float) for time in times):
        raise InputError(f"'{path}' cannot be used: a layer's 'averageMs' is no number.")
    return float(sum(float(time) for time in times if isinstance(time, int | float)))


def promised(path: Path) -> list[str]:
    """Return the names of the layers of a file that read codes of activations and of weights."""
    return [layer.name for layer in find_layers(load_mapped(path))]


def with_readings(verdict: Verdict, readings: Sequence[Reading], wanted: Sequence[str]) -> Verdict:
    """Put what was read in the place of checks that were not run here; ``wanted`` names layers that have codes.

    A time proves no kernel: the proof reaches further with layers alone.
    """
    checks = {check.name: check for check in verdict.checks}
    for reading in readings:
        if reading.total_ms is not None:
            checks["speed"] = Check("speed", None, reading.total_ms, "ms", f"all layers, read from {reading.tool}")
            continue
        checks["kernels"] = _kernels(reading, wanted)
        if "proof" in checks:
            detail = f"kernels are read from {reading.tool}, run elsewhere; {checks['proof'].detail}"
            checks["proof"] = replace(checks["proof"], value="read", detail=detail)
    return Verdict(verdict.runtime, tuple(checks.values()))


def _kernels(reading: Reading, wanted: Sequence[str]) -> Check:
    """Count the layers that multiply codes in the engine; refuse the engine of another file."""
    seen = {node for layer in reading.layers for node in layer.nodes}
    low = {node for layer in reading.layers if layer.low_bit for node in layer.nodes}
    if wanted and not seen & set(wanted):
        raise InputError(
            f"What {reading.tool} wrote is of another file: none of its {len(reading.layers)} layers is one of the "
            f"{len(wanted)} that have codes here, like '{brief(wanted[0])}'. Build it from the verified file."
        )
    missing = [name for name in wanted if name not in low]
    unseen = f"; not seen in codes: {', '.join(missing[:5])}" if missing else ""
    count = len(wanted) - len(missing)
    held = not missing if wanted else None
    return Check("kernels", held, count, f"{len(wanted)} layers in codes", f"read from {reading.tool}{unseen}")
