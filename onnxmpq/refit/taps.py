"""Tensors inside a piece: a small model gives them, with what they need of the piece and nothing else."""

from collections.abc import Iterator, Mapping, Sequence

import onnx

from onnxmpq.refit.moments import Array
from onnxmpq.runtimes import Runtime
from onnxmpq.runtimes.base import Session


class Taps:
    """What gives some tensors of a piece, of which some may be its inputs."""

    def __init__(self, runtime: Runtime, piece: onnx.ModelProto, wanted: set[str]) -> None:
        given = {value.name for value in piece.graph.input}
        self.straight, inner = wanted & given, sorted(wanted - given)
        self.session: Session | None = None
        self.reads: tuple[str, ...] = ()
        if inner:
            part = part_for(piece, inner)
            self.reads = tuple(value.name for value in part.graph.input)
            self.session = runtime.session(part.SerializeToString(), mode="literal")

    @property
    def needs(self) -> set[str]:
        """What it reads of a sample."""
        return self.straight | set(self.reads)

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return the tensors of a sample."""
        found = {name: values[name] for name in self.straight}
        if self.session is not None:
            found |= self.session.run({name: values[name] for name in self.reads})
        return found


def part_for(piece: onnx.ModelProto, wanted: Sequence[str]) -> onnx.ModelProto:
    """Return what of a piece some tensors need, as a model that gives these."""
    makers = {name: place for place, node in enumerate(piece.graph.node) for name in node.output}
    todo, nodes, used = list(wanted), set[int](), set[str]()
    while todo:
        name = todo.pop()
        used.add(name)
        place = makers.get(name)
        if place is not None and place not in nodes:
            nodes.add(place)
            todo.extend(_reads(piece.graph.node[place]))
    part = onnx.ModelProto(ir_version=piece.ir_version, opset_import=piece.opset_import, functions=piece.functions)
    part.graph.name = "taps"
    part.graph.node.extend(piece.graph.node[place] for place in sorted(nodes))
    part.graph.input.extend(value for value in piece.graph.input if value.name in used)
    part.graph.initializer.extend(tensor for tensor in piece.graph.initializer if tensor.name in used)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return part


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, bodies included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in body.node:
                yield from _reads(inner)
            yield from (value.name for value in body.output)
