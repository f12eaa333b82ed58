"""How large values are, and what layers take, for one sample: dimensions that a model leaves open are the sample's.

    Sizes.of(model, seen)     inputs and tensors, as samples have them ─▶ bytes of values, multiply-accumulates

Where nothing follows from these, dimensions that are not known count as one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import onnx
import onnx_ir as ir

from onnxmpq.artifacts import Layer
from onnxmpq.model.layers import all_graphs, dimensions, find_layers
from onnxmpq.model.save import skeleton
from onnxmpq.numerics.histograms import Histogram

_CARRIED = frozenset(  # types whose arrays every runtime takes and gives
    {ir.DataType[name] for name in ("FLOAT", "FLOAT16", "DOUBLE", "BOOL")}
    | {ir.DataType[f"{sign}INT{bits}"] for sign in ("", "U") for bits in (8, 16, 32, 64)}
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one sample: the shapes of the inputs, and how many numbers tensors have that were counted."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    numbers: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], counted: Mapping[str, Histogram], samples: int) -> Self:
        """Take the mean of what was counted over so many samples."""
        numbers = ((name, stats.count // max(samples, 1)) for name, stats in sorted(counted.items()))
        return cls(tuple(sorted(shapes.items())), tuple(numbers))


UNSEEN = Seen()
"""Nothing is known: what a model leaves open counts as one."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the values of a model's main graph, None for what cannot be carried over a cut, and MACs of its layers.

    Layers are told apart by the names of their nodes.
    """

    bytes: Mapping[str, int | None]
    macs: Mapping[str, int]

    @classmethod
    def of(cls, model: ir.Model, seen: Seen) -> Self:
        """Count them for one sample; what is not known of it stays as the model declares it."""
        sized, numbers = _sized(model, dict(seen.shapes)), dict(seen.numbers)
        of_twin = {value.name or "": value for value in _values(sized)}
        found: dict[str, int | None] = {}
        for value in _values(model):
            name, declared = value.name or "", _bytes_of(value)
            twin = _bytes_of(of_twin[name]) if name in of_twin else None
            if declared is not None and value.dtype is not None and name in numbers:
                found[name] = numbers[name] * value.dtype.bitwidth // 8
            else:
                found[name] = declared if declared is None or twin is None else twin
        nodes = {node.name: node for graph in all_graphs(sized) for node in graph}
        macs = {layer.node: _macs(layer, nodes[layer.node], numbers) for layer in find_layers(sized)}
        return cls(found, macs)

    def of_value(self, value: ir.Value) -> int | None:
        """Return the bytes of one value."""
        return self.bytes.get(value.name or "")


def _macs(layer: Layer, node: ir.Node, numbers: Mapping[str, int]) -> int:
    """Return the multiply-accumulates of a layer, for inputs as large as they were counted."""
    for place in layer.inputs:
        value = node.inputs[place]
        if value is not None and value.name is not None and value.name in numbers:
            declared = math.prod(dim or 1 for dim in dimensions(value) or ())
            return layer.macs * max(numbers[value.name], 1) // max(declared, 1)
    return layer.macs


def _sized(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """Return a model whose inputs have these shapes, with all that follows, and without its large weights.

    A model that leaves nothing open is returned as it is, and so is one of which nothing follows.
    """
    open_ends = {
        value.name: shapes[value.name or ""]
        for value in model.graph.inputs
        if (known := dimensions(value)) is not None
        and None in known
        and len(shapes.get(value.name or "", ())) == len(known)
    }
    if not open_ends:
        return model
    proto = skeleton(model)
    for value in proto.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, open_ends.get(value.name, ()), strict=False):
            dimension.dim_value = size
    for value in (*proto.graph.value_info, *proto.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if not dimension.HasField("dim_value"):
                dimension.Clear()  # a name would stay
    try:
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return model


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]


def _bytes_of(value: ir.Value) -> int | None:
    """Return the size of a tensor, unknown dimensions as 1; None for what cannot be carried over a cut."""
    dtype = value.dtype
    shape = dimensions(value)
    if dtype is None or dtype not in _CARRIED or shape is None or not isinstance(value.type, ir.TensorType):
        return None
    return math.prod(dim or 1 for dim in shape) * dtype.bitwidth // 8
