"""What the values of a lowered model stand for, and in which segment each is made.

    normalised   x ─▶ Conv ─▶ T ─▶ Add               T is made in the segment of Conv
    lowered      x ─▶ Conv ─▶ T ─▶ Q ─▶ DQ ─▶ Add    Q and DQ, a pair, stand for T in the segment of Add
                       └─ DQ ◀─ codes of the weight  stands for nothing: made wherever it is read

What is told here decides which piece a node goes to and what crosses a cut.
"""

from collections import defaultdict
from collections.abc import Iterator

import onnx_ir as ir

from onnxmpq.cuts.segments import Cuts
from onnxmpq.model.bodies import bodies_below
from onnxmpq.model.layers import all_graphs, all_nodes, values_of


class Original:
    """A normalised model and its cuts, by name: what its lowered forms are compared with."""

    def __init__(self, normal: ir.Model, cuts: Cuts) -> None:
        nodes = {node.name or "": node for node in normal.graph}
        self.made = tuple(
            tuple(value.name or "" for name in segment.nodes for value in nodes[name].outputs if value.name)
            for segment in cuts.segments
        )
        """The tensors that are made in each segment."""
        self.home = dict.fromkeys((value.name or "" for value in normal.graph.inputs), -1) | {
            name: index for index, names in enumerate(self.made) for name in names
        }
        """The segment in which each tensor is made; -1 for inputs."""
        self.rank = {name: index for index, name in enumerate(self.home)}
        self.values = {value.name or "": value for graph in all_graphs(normal) for value in values_of(graph)}
        self.nodes = {node.name for node in all_nodes(normal)}


class Origins:
    """The values of one lowered model, told by their origin.

    They are of three kinds. One that stands for a tensor of the normalised model is made in the segment of that. A pair
    of Q and DQ behind such a tensor is made in the segment of its first reader, or in that of the tensor if the outside
    reads it. Everything else (weights being dequantised, rows being widened, activations in another dialect than
    ``qdq``) is made wherever it is read.
    """

    def __init__(self, original: Original, lowered: ir.Model) -> None:
        self.original, self.lowered = original, lowered
        graph = lowered.graph
        self._owners = {id(body): top for top in graph for body in bodies_below(top)}
        self.tensor: dict[ir.Value, str] = {}  # values that stand for tensors of the normalised model
        self.codes: dict[ir.Value, ir.Value] = {}  # DQ -> codes, for pairs
        self.pairs: defaultdict[ir.Value, list[ir.Value]] = defaultdict(list)  # codes -> DQs, of islands too
        self.home: dict[ir.Value, int] = {}
        values = {value.name: value for value in values_of(graph)}
        for name, home in original.home.items():
            value = values.get(name)
            if value is not None:  # converting to a newer opset drops outputs that nobody reads
                value = self.quantised_by(value) or value  # the DQ has the name of a tensor that the outside reads
                self.tensor[value], self.home[value] = name, home
        for node in graph:
            origin, codes = self.quantised_by(node.outputs[0]), node.inputs[0] if node.inputs else None
            if codes is not None and origin is not None and origin in self.tensor:
                self.tensor[codes] = self.tensor[origin]
                self.codes[node.outputs[0]] = codes
                self.pairs[codes].append(node.outputs[0])
        for codes, results in self.pairs.items():
            own = max(original.home[self.tensor[codes]], 0)
            outside = any(value.is_graph_output() for value in results)
            self.home[codes] = own if outside else min(self._reader_segments(codes), default=own)

    def quantised_by(self, value: ir.Value) -> ir.Value | None:
        """Return the value in front of the Q and DQ, both added by lowering, out of which ``value`` comes."""
        for op in ("DequantizeLinear", "QuantizeLinear"):
            node = value.producer()
            if node is None or node.op_type != op or node.name in self.original.nodes or node.inputs[0] is None:
                return None
            value = node.inputs[0]
        return value

    def _reader_segments(self, value: ir.Value) -> Iterator[int]:
        """Yield the segments of the normalised model's nodes that read ``value``, directly or through added ones."""
        for reader in value.consumers():
            top = self._owners.get(id(reader.graph), reader)
            for output in top.outputs:
                if output in self.home:
                    yield self.home[output]
                else:
                    yield from self._reader_segments(output)

    def source(self, value: ir.Value) -> ir.Value | None:
        """Return what stands for a value that may cross a cut: itself, the codes for any DQ of a pair, else None."""
        return self.codes.get(value, value if value in self.home else None)

    def result(self, source: ir.Value) -> ir.Value:
        """Return the value that crosses a cut: of several DQ of one pair, all alike, the plainest."""
        return min(self.pairs[source], key=_scale_rank) if source in self.pairs else source


def _scale_rank(value: ir.Value) -> int:
    """Return the rank of the scale that a DequantizeLinear reads."""
    node = value.producer()
    scale = node.inputs[1] if node is not None else None
    return len(scale.shape or ()) if scale is not None else 0
