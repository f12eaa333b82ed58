"""What of a placement each segment sees: where it sees the same, its piece is the same.

    segment         0           │        1         │       2
    nodes       x ─ Conv ─ T    │  Conv ─ U ─ Add  │  ─ Gemm ─ y
    sees        Conv, pair of T │  Conv, T, U ...  │  Gemm ...

A segment sees the forms of its layers, and of those that share constants with them; the pairs on tensors that it makes
or reads, and on what those layers read; and the islands and constants in
codes of its nodes.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from onnxmpq.artifacts import Space
from onnxmpq.cuts.segments import Cuts
from onnxmpq.model.bodies import reads
from onnxmpq.model.layers import all_graphs, values_of
from onnxmpq.targets.placement import Constant, Form, Island, Pair, Placement


class Sights:
    """Which segments of a normalised model see what; its layers are those of a space."""

    def __init__(self, normal: ir.Model, space: Space, cuts: Cuts) -> None:
        self._cuts = cuts
        self._near: defaultdict[str, set[int]] = defaultdict(set)  # segments that make or read a tensor
        for node in normal.graph:
            for value in (*reads(node), *node.outputs):
                self._near[value.name or ""].add(cuts.segment_of(node.name or ""))
        values = {value.name: value for graph in all_graphs(normal) for value in values_of(graph)}
        self._reach: dict[str, set[int]] = {}  # segments that a form of a layer can change
        for layer in (layer for unit in space.units for layer in unit.layers):
            constants = [values[name] for name in (*layer.weights, layer.bias) if name in values]
            sharing = [node.name or "" for value in constants for node in value.consumers()]
            nodes = dict.fromkeys((layer.node, layer.bias_add or layer.node, *sharing))
            self._reach[layer.node] = {cuts.segment_of(node) for node in nodes}

    def of(self, placement: Placement) -> tuple[Placement, ...]:
        """Return the part of a placement that each segment sees."""
        forms: list[list[Form]] = [[] for _ in self._cuts.segments]
        pairs: list[list[Pair]] = [[] for _ in self._cuts.segments]
        islands: list[list[Island]] = [[] for _ in self._cuts.segments]
        constants: list[list[Constant]] = [[] for _ in self._cuts.segments]
        fed: dict[tuple[str, int], set[int]] = {}
        for form in placement.forms:
            fed[form.layer.node, 0] = self._reach[form.layer.node]
            for index in self._reach[form.layer.node]:
                forms[index].append(form)
        for pair in placement.pairs:
            for index in self._near[pair.tensor].union(*(fed.get(reader, ()) for reader in pair.readers)):
                pairs[index].append(pair)
        for island in placement.islands:
            islands[self._cuts.segment_of(island.node)].append(island)
        for one in placement.constants:
            constants[self._cuts.segment_of(one.node)].append(one)
        return tuple(
            replace(placement, forms=tuple(own), pairs=tuple(near), islands=tuple(inside), constants=tuple(read))
            for own, near, inside, read in zip(forms, pairs, islands, constants, strict=True)
        )


def together(placement: Placement, parts: Sequence[Placement]) -> Placement:
    """Return all that is in some parts of a placement, in its order."""
    forms = {form for part in parts for form in part.forms}
    pairs = {pair for part in parts for pair in part.pairs}
    islands = {island for part in parts for island in part.islands}
    constants = {one for part in parts for one in part.constants}
    return replace(
        placement,
        forms=tuple(form for form in placement.forms if form in forms),
        pairs=tuple(pair for pair in placement.pairs if pair in pairs),
        islands=tuple(island for island in placement.islands if island in islands),
        constants=tuple(one for one in placement.constants if one in constants),
    )
