"""The five tests that every pass must stand, for any number of graphs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from onnxmpq.model.layers import all_graphs
from onnxmpq.model.passkit import Pass

Feeds = dict[str, Any]
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class Case:
    """A graph in ONNX text form, and the operators that are left of it, those of bodies after their node."""

    name: str
    graph: str
    ops: str
    fires: bool = True
    rtol: float = 0.0
    opset: int = 17

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    def model(self) -> ir.Model:
        """Parse the graph; what stands in front of it may be a whole header, and behind it functions."""
        return parse(self.graph, self.opset)


def parse(graph: str, opset: int = 17, ir_version: int = 8) -> ir.Model:
    """Parse a graph in ONNX text form."""
    header = "" if graph.startswith("<") else f'<ir_version: {ir_version}, opset_import: ["": {opset}]> '
    return ir.from_proto(onnx.parser.parse_model(header + graph))


def add_weight(node: ir.Node, index: int, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Make ``tensor`` an initialiser of the graph of ``node`` and feed it to the node."""
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    assert node.graph is not None
    node.graph.register_initializer(value)
    node.replace_input_with(index, value)
    return value


def operators(model: ir.Model) -> str:
    """List the operators of a model in order, those of bodies after the node they belong to."""
    return " ".join(node.op_type for node in model.graph.all_nodes())


def run(model: ir.Model, feeds: Feeds | None = None) -> tuple[Feeds, list[Any]]:
    """Run a model as it stands, on random numbers unless feeds are given; symbolic dimensions are 3."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    random = np.random.default_rng(0)
    if feeds is None:
        feeds = {}
        for value in session.get_inputs():
            shape = [size if isinstance(size, int) else 3 for size in value.shape]
            feeds[value.name] = np.asarray(random.standard_normal(shape) * 2).astype(_TYPES[value.type])
    return feeds, list(session.run(None, feeds))


def public(model: ir.Model) -> list[tuple[str, Any, Any]]:
    """Return name, type and shape of every input (but for those with an initialiser) and output."""
    values = [value for value in model.graph.inputs if not value.is_initializer()] + list(model.graph.outputs)
    return [(value.name or "", value.type, value.shape) for value in values]


def initializers(model: ir.Model) -> Iterator[str]:
    """Name the initialisers of every graph."""
    for graph in all_graphs(model):
        yield from graph.initializers


class FiveTests:
    """What each pass must do on each case; subclasses give ``make`` and parametrise ``case``."""

    make: ClassVar[Pass]

    def test_expected_operators_are_left(self, case: Case) -> None:
        model = case.model()
        before = operators(model)
        result = self.make(model)
        assert operators(model) == (case.ops or before)
        assert result.modified == case.fires

    def test_outputs_are_equal(self, case: Case) -> None:
        model = case.model()
        feeds, expected = run(model)
        self.make(model)
        feeds = {name: feed for name, feed in feeds.items() if name in {value.name for value in model.graph.inputs}}
        for a, b in zip(expected, run(model, feeds)[1], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=case.rtol, atol=case.rtol)

    def test_checker_accepts_the_result(self, case: Case) -> None:
        model = case.model()
        self.make(model)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)

    def test_public_names_types_and_shapes_stay(self, case: Case) -> None:
        model = case.model()
        before = public(model)
        self.make(model)
        assert public(model) == before

    def test_second_run_changes_nothing(self, case: Case) -> None:
        model = case.model()
        self.make(model)
        text = str(ir.to_proto(model))
        assert not self.make(model).modified
        assert str(ir.to_proto(model)) == text
