"""Where to cut a model, so that measuring all its units is cheapest.

    node ─ node ═ node ─ node ─ node ═ node ─ node      ═ a cut: few bytes cross it, and a unit begins behind it
    └─ segment ─┘└───── segment ─────┘└─ segment ─┘

A cut saves running what stands in front of it, and costs moving what crosses it.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import onnx_ir as ir

from onnxmpq.artifacts import Space
from onnxmpq.cuts.segments import Cuts, Segment
from onnxmpq.cuts.sizes import UNSEEN, Seen, Sizes
from onnxmpq.model.bodies import owners, reads
from onnxmpq.model.layers import constant

_NANOSECONDS_PER_MAC = 1 / 40
_NANOSECONDS_PER_BYTE = 1 / 8
_NANOSECONDS_PER_NODE = 500
_NANOSECONDS_PER_CUT = 2_000  # about 30 us for one more run of a session, shared by a batch of 16 samples
_AROUND = 8
_NARROWER = 0.8


def cut(model: ir.Model, space: Space, seen: Seen = UNSEEN, *, chain_cost: float | None = None) -> Cuts:
    """Choose where to cut a normalised model for measuring the units of ``space``.

    1. The nodes get one topological order: their own, or the depth-first one that keeps branches together if that
       has fewer live bytes in the mean.
    2. Between two nodes with units in a row, the cut of the fewest live bytes is the candidate; of several, the last,
       so that activations stay with their layer. One more is right in front of the first unit. Values that no runtime
       takes and gives as arrays are never cut.
    3. A candidate is passed over when, among the next eight on both sides, there is one narrower by a fifth: it stands
       inside a residual or attention branch, and cuts fusions and layouts apart for little.
    4. Of the others those are taken that make all variants together cheapest. A variant of a unit runs from the start
       of the unit's segment to the end; every cut on the way, its start included, costs about as much as moving the
       live bytes twice plus a fixed overhead. Sets of cuts are paths over the candidates, so the cheapest set is a
       shortest path.

    ``seen`` tells of one sample where the model leaves dimensions open.
    ``chain_cost`` multiplies the estimated cost of a cut: 0 takes every candidate, infinity none.
    """
    order = _Order.best(model, Sizes.of(model, seen))
    starts = order.unit_starts(space)
    chosen = order.candidates(starts)
    if chain_cost != 0:
        chosen = _cheapest(order, starts, chosen, 1.0 if chain_cost is None else chain_cost)
    segments = []
    for index, (start, end) in enumerate(pairwise((0, *chosen, len(order.nodes)))):
        live = order.live(start)
        segments.append(
            Segment(
                index,
                tuple(node.name or "" for node in order.nodes[start:end]),
                sum(order.macs[start:end]),
                tuple(value.name or "" for value in live),
                sum(order.sizes.of_value(value) or 0 for value in live),
            )
        )
    return Cuts(tuple(segments), {name: node.name or "" for name, node in owners(model).items()})


class _Order:
    """The nodes in one order, and what is live between them. Position p is the place in front of the p-th node."""

    def __init__(self, model: ir.Model, nodes: Sequence[ir.Node], sizes: Sizes) -> None:
        self.model, self.nodes, self.sizes = model, tuple(nodes), sizes
        self.position = {node: index for index, node in enumerate(nodes)}
        last: dict[ir.Value, int] = {}
        for index, node in enumerate(nodes):
            last.update(dict.fromkeys(reads(node), index))
        self.spans = [
            (value, index + 1, last[value])
            for index, node in enumerate(nodes)
            for value in node.outputs
            if value in last
        ]
        self.bytes = self._bytes()
        self.macs = self._macs()

    @classmethod
    def best(cls, model: ir.Model, sizes: Sizes) -> "_Order":
        """Return the order with the fewest live bytes in the mean, the file's own where it is as good."""
        import networkx as nx  # type: ignore[import-untyped]  # slow to load, and workers need none of it

        nodes = list(model.graph)
        index = {node: i for i, node in enumerate(nodes)}
        dag = nx.DiGraph()
        dag.add_nodes_from(range(len(nodes)))
        for i, node in enumerate(nodes):
            made = [producer for value in reads(node) if (producer := value.producer()) in index]
            dag.add_edges_from((index[producer], i) for producer in made if producer is not None)
        own = list(nx.lexicographical_topological_sort(dag))
        end = len(nodes)
        dag.add_edges_from([(i, end) for i in own if dag.out_degree(i) == 0])
        deep = [i for i in nx.dfs_postorder_nodes(dag.reverse(copy=False), end) if i != end] if nodes else own
        return min(
            (cls(model, [nodes[i] for i in found], sizes) for found in (own, deep)), key=lambda order: order.weight()
        )

    def weight(self) -> float:
        """Return the live bytes summed over all positions."""
        return sum(size for size in self.bytes if math.isfinite(size))

    def _bytes(self) -> list[float]:
        """Return the live bytes at each position: infinite where something cannot be carried over."""
        sizes = [0.0] * (len(self.nodes) + 1)
        for value, first, last in self.spans:
            size = self.sizes.of_value(value)
            for position in range(first, last + 1):
                sizes[position] += math.inf if size is None else size
        return sizes

    def _macs(self) -> list[int]:
        """Return the multiply-accumulates of each node, bodies included."""
        holders = owners(self.model)
        of_node: defaultdict[str, int] = defaultdict(int)
        for layer, macs in self.sizes.macs.items():
            owner = holders.get(layer)
            of_node[(owner.name or "") if owner is not None else layer] += macs
        return [of_node[node.name or ""] for node in self.nodes]

    def live(self, position: int) -> list[ir.Value]:
        """Return what is live at a position."""
        return [value for value, first, last in self.spans if first <= position <= last]

    def unit_starts(self, space: Space) -> list[tuple[int, bool]]:
        """Return the positions of nodes with units that have a choice, and whether one begins there."""
        holders = owners(self.model)
        by_name = {node.name: index for node, index in self.position.items()} | {
            name: self.position[owner] for name, owner in holders.items()
        }
        places: dict[int, bool] = {}
        for unit in space.units:
            if len(unit.costs) > 1:
                first, *others = sorted({by_name[layer.node] for layer in unit.layers})
                places[first] = True
                places.update((place, places.get(place, False)) for place in others)
        return sorted(places.items())

    def candidates(self, starts: Sequence[tuple[int, bool]]) -> list[int]:
        """Return the position in front of the first unit, and the narrowest between two unless it is wide there."""
        positions = [position for position, _ in starts]
        first = [position for position in positions[:1] if position > 0 and math.isfinite(self.bytes[position])]
        found = [
            best
            for after, before in pairwise(positions)
            if math.isfinite(self.bytes[best := min(range(after + 1, before + 1), key=lambda p: (self.bytes[p], -p))])
        ]
        sizes = [self.bytes[position] for position in found]
        narrow = [
            position
            for i, position in enumerate(found)
            if min(sizes[max(i - _AROUND, 0) : i], default=math.inf) >= _NARROWER * sizes[i]
            or min(sizes[i + 1 : i + 1 + _AROUND], default=math.inf) >= _NARROWER * sizes[i]
        ]
        return first + narrow

    def nanoseconds(self) -> list[float]:
        """Estimate how long each node runs per sample."""
        times = []
        for node, macs in zip(self.nodes, self.macs, strict=True):
            touched = [] if node.op_type in ("Shape", "Size") else [*reads(node), *node.outputs]
            moved = sum(self.sizes.of_value(value) or 0 for value in touched if constant(value) is None)
            times.append(macs * _NANOSECONDS_PER_MAC + moved * _NANOSECONDS_PER_BYTE + _NANOSECONDS_PER_NODE)
        return times


def _cheapest(
    order: _Order, starts: Sequence[tuple[int, bool]], candidates: Sequence[int], chain_cost: float
) -> list[int]:
    """Return the candidates at which cutting makes the sum over all units' variants least."""
    import networkx as nx

    end = len(order.nodes)
    if math.isinf(chain_cost) or not end:
        return []
    behind = [0.0] * (end + 1)  # time from a position to the end
    units = [0] * (end + 1)  # units that begin in front of a position
    begins = {position for position, begin in starts if begin}
    for position, time in reversed(list(enumerate(order.nanoseconds()))):
        behind[position] = behind[position + 1] + time
    for position in range(end):
        units[position + 1] = units[position] + (position in begins)

    def price(position: int) -> float:
        if position in (0, end):
            return 0.0
        return chain_cost * (2 * order.bytes[position] * _NANOSECONDS_PER_BYTE + _NANOSECONDS_PER_CUT)

    paths = nx.DiGraph()
    stops = [0, *candidates, end]
    for i, start in enumerate(stops):
        for stop in stops[i + 1 :]:
            inside = units[stop] - units[start]
            cost = inside * (behind[start] + price(start)) + units[start] * price(start)
            paths.add_edge(start, stop, cost=cost)
    path: list[int] = nx.shortest_path(paths, 0, end, weight="cost")
    return path[1:-1]
