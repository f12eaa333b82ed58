"""Local errors of all layers from one run: every layer sees float inputs, and what it makes of them is looked at.

    float      x ──▶ conv1 ──▶ relu ──▶ t ──▶ conv2 ──▶ log ──▶ u ──▶ ...
    quantised  x ──▶ [Q DQ] conv1 ──▶ relu ──▶ t'     t ──▶ [Q DQ] conv2 ──▶ log ──▶ u'     u ──▶ ...

A hop is what lies between float tensors: where a layer reads a tensor that the float model has, too, the file is given
the float one and its own is compared with it. So the error of a hop is made by its own layers, seen behind everything
that stands between them and the next layer: a product in front of a logarithm is judged behind it. One run of the
float model and one of the file give all of them, whatever their number.

Works on any file whose Q and DQ stand around float operators and whose tensors keep the names of the float model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmpq.errors import InternalError
from onnxmpq.guard.damage import Channels
from onnxmpq.model.layers import constant
from onnxmpq.runtimes import Runtime, Session

Array = np.ndarray
Feed = Mapping[str, Array]
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "LSTM", "GRU", "RNN"})
_READS = {"Gather": (), "LSTM": (0,), "GRU": (0,), "RNN": (0,)}
"""Which inputs of a layer are activations, where it is not any that is no constant."""


@dataclass(frozen=True, slots=True)
class Hop:
    """What is seen at a tensor: the layers between it and the float tensors before, and noise over signal."""

    tensor: str
    layers: tuple[str, ...]
    ratio: float


@dataclass(slots=True)
class Hops:
    """A file cut at the tensors that its layers read. ``seen`` are those that are compared, by the names of both."""

    given: tuple[str, ...]
    seen: tuple[str, ...]
    layers: Mapping[str, tuple[str, ...]]
    ends: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]
    _sums: dict[str, Channels] = field(default_factory=dict)
    _session: Session | None = None

    @classmethod
    def of(cls, model: ir.Model, arrays: Mapping[str, Array]) -> "Hops":
        """Cut a model, which is changed; ``arrays`` are the float model's tensors for one sample."""
        outputs = [value.name or "" for value in model.graph.outputs]
        cut = [value for value in boundaries(model) if value.name in arrays]
        ranges = {value.name or "": found for value in cut if (found := code_range(value)) is not None}
        for value in cut:
            force(model, value, arrays[value.name or ""])
        seen = {value.name or "": value for value in (*model.graph.outputs, *cut) if value.name in arrays}
        layers = {name: tuple(_behind(value)) for name, value in seen.items()}
        model.graph.outputs.extend(value for name, value in seen.items() if name not in outputs)
        return cls(tuple(value.name or "" for value in cut), tuple(seen), layers, tuple(outputs), ranges)

    def open(self, reference: Runtime, cut: bytes | Path) -> None:
        """Load the model that is cut, which nobody need hold any more."""
        self._session = reference.session(cut, mode="literal")

    def add(self, feed: Feed, arrays: Mapping[str, Array]) -> None:
        """Run one sample, and count its errors."""
        if self._session is None:
            raise InternalError("The model that is cut was not loaded.")
        known = {spec.name for spec in self._session.inputs}
        given = {name: array for name, array in feed.items() if name in known}
        given |= {forced_name(name): arrays[name] for name in self.given}
        found = self._session.run(given, self.seen)
        for name in self.seen:
            wanted, got = arrays[name], found[name]
            if wanted.dtype.kind != "f" or wanted.shape != got.shape or not wanted.ndim:
                continue
            if name in self.ranges:  # codes clip, which may stand for a Relu that the file does not have any more
                wanted, got = np.clip(wanted, *self.ranges[name]), np.clip(got, *self.ranges[name])
            axis = 1 if wanted.ndim == 4 else wanted.ndim - 1
            sums = self._sums.setdefault(name, Channels())
            sums.add(np.asarray(wanted, np.float64), np.asarray(got, np.float64), axis)

    def found(self) -> tuple[Hop, ...]:
        """Return what was counted, in the order of the graph; a hop of no layer is none."""
        return tuple(
            Hop(name, self.layers[name], self._sums[name].ratio(parts=name in self.ends))
            for name in self.seen
            if name in self._sums and self.layers[name]
        )


def boundaries(model: ir.Model) -> list[ir.Value]:
    """Return the float tensors that layers read, before they are quantised; each once, in the order of the graph."""
    found: dict[int, ir.Value] = {}
    for node in model.graph:
        if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx"):
            continue
        for index in _READS.get(node.op_type, range(min(2, len(node.inputs)))):
            value = float_source(node.inputs[index])
            maker = value.producer() if value is not None else None
            if value is not None and maker is not None and maker.graph is model.graph:
                found[id(value)] = value
    return list(found.values())


def float_source(value: ir.Value | None) -> ir.Value | None:
    """Return the float tensor that a layer's input comes from, seen through Q and DQ; None for a constant."""
    if value is None or _is_constant(value, 6):
        return None
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return value
    codes = node.inputs[0].producer() if node.inputs[0] is not None else None
    return codes.inputs[0] if codes is not None and codes.op_type == "QuantizeLinear" else None


def code_range(value: ir.Value) -> tuple[float, float] | None:
    """Return the range of the codes that a tensor becomes; None where that is not one for all who read it."""
    readers = [node for node, _ in value.uses()]
    if not readers or any(node.op_type != "QuantizeLinear" for node in readers):
        return None
    found = set()
    for node in readers:
        scale, zero = (
            constant(operand) for operand in (node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None)
        )
        if scale is None or zero is None or scale.size != 1 or zero.dtype.numpy().kind not in "iu":
            return None
        limits, step = np.iinfo(zero.dtype.numpy()), float(scale.numpy().reshape(-1)[0])
        point = int(zero.numpy().reshape(-1)[0])
        found.add(((int(limits.min) - point) * step, (int(limits.max) - point) * step))
    return found.pop() if len(found) == 1 else None


def force(model: ir.Model, value: ir.Value, array: Array) -> None:
    """Give all who read a tensor an input of the model instead."""
    given = ir.Value(
        name=forced_name(value.name or ""),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape([None] * array.ndim),
    )
    for node, index in list(value.uses()):
        node.replace_input_with(index, given)
    model.graph.inputs.append(given)


def forced_name(name: str) -> str:
    """Return the name of the input that stands for a float tensor."""
    return f"{name}/float"


def _is_constant(value: ir.Value, steps: int) -> bool:
    if value.is_initializer() and not value.is_graph_input():
        return True
    node = value.producer()
    if node is None or not steps:
        return False
    return all(operand is None or _is_constant(operand, steps - 1) for operand in node.inputs)


def _behind(value: ir.Value) -> Iterator[str]:
    """Yield the layers between a tensor and the inputs of the model that is cut, the nearest first."""
    pending, met = [value], set()
    while pending:
        node = pending.pop(0).producer()
        if node is None or id(node) in met:
            continue
        met.add(id(node))
        if node.op_type in LAYERS and not all(x is None or _is_constant(x, 6) for x in node.inputs):
            yield node.name or f"{node.op_type} of {node.outputs[0].name}"
        pending += [operand for operand in node.inputs if operand is not None]
