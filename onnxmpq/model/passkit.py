"""What a pass is, and how passes are run one after another.

A pass is a frozen data class whose fields are its options. It changes the model in place and says truthfully
whether it did. ``Pipeline`` runs passes in order and keeps a record of each.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.errors import InternalError, OnnxmpqError


class Pass(ir.passes.InPlacePass):
    """A rewrite of a whole model, in place; subclasses are frozen data classes with a ``name``."""

    name: ClassVar[str] = ""

    def spec(self) -> str:
        """Write the pass as text: its name, and the options that differ from their defaults.

        >>> from onnxmpq_passes import RemoveIdentity
        >>> RemoveIdentity(keep=("a",)).spec()
        'remove-identity{keep=a}'
        """
        shown = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                text = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
                shown.append(f"{field.name}={text}")
        return f"{self.name}{{{','.join(shown)}}}" if shown else self.name


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One pass that was run: what it was called, whether it changed anything, how long it took."""

    spec: str
    modified: bool
    seconds: float


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order in which they run."""

    passes: tuple[Pass, ...]

    def run(self, model: ir.Model, progress: Callable[[str], None] | None = None) -> tuple[PassRecord, ...]:
        """Run every pass on ``model`` in place and return a record of each.

        A pass that fails is named together with those that ran before it.
        """
        records: list[PassRecord] = []
        for step in self.passes:
            if progress:
                progress(step.name)
            started = time.perf_counter()
            try:
                modified = step(model).modified
            except OnnxmpqError:
                raise
            except Exception as error:
                before = ", ".join(record.spec for record in records) or "none"
                raise InternalError(f"Pass '{step.spec()}' failed: {error}. Passes run before it: {before}.") from error
            records.append(PassRecord(step.spec(), modified, time.perf_counter() - started))
        return tuple(records)


def check_names(passes: Iterable[type[Pass]]) -> dict[str, type[Pass]]:
    """Map names to pass classes; two classes of one name are an error that names both."""
    table: dict[str, type[Pass]] = {}
    for kind in passes:
        other = table.setdefault(kind.name, kind)
        if other is not kind:
            raise InternalError(f"Two passes are called '{kind.name}': {other.__module__} and {kind.__module__}.")
    return table


def bypass(node: ir.Node, index: int = 0) -> bool:
    """Make every reader of the first output of ``node`` read its input ``index``, and remove the node.

    Refuse (return False) where that would merge two public values (inputs, initialisers and outputs of a graph), or
    make an outer value the output of a body.
    """
    x, y, graph = node.inputs[index], node.outputs[0], node.graph
    if x is None or graph is None:
        return False
    if y.is_graph_output():
        if x.is_graph_input() or x.is_graph_output() or x.is_initializer() or x.graph is not graph:
            return False
        x.name, x.shape, x.doc_string = y.name, y.shape, y.doc_string
        x.metadata_props.update(y.metadata_props)
    x.type, x.shape = x.type or y.type, x.shape or y.shape
    y.replace_all_uses_with(x, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add a constant to a graph, under a name that is free."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace_by_initializer(value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    """Make every reader of ``value``, the output of a node, read an initialiser of that name in the same graph."""
    graph = value.graph
    assert graph is not None
    constant = ir.Value(
        name=value.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
        doc_string=value.doc_string,
        metadata_props=dict(value.metadata_props) or None,
    )
    value.replace_all_uses_with(constant)
    graph.register_initializer(constant)
    return constant
