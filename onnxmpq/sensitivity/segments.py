"""A model as a chain of segments, so that a variant rebuilds and runs only what its change can reach.

    cut(normal, space) ─▶ Cuts          where the normalised model is cut
    Splitter(normal, cuts).split(lowered) ─▶ one Piece, a small model, per segment

The chain is run with one mapping of names to arrays. It begins as the feed; every piece takes its ``inputs`` from it
and puts its ``outputs`` into it, each name once in a chain; at the end it holds the outputs of the model:

    values = dict(feed)
    for piece in pieces:
        values |= session_of(piece).run({name: values[name] for name in piece.inputs})

So that a piece does not depend on how others are quantised, what crosses a cut has a name of the normalised model, and
Q/DQ stand in the segment of their first reader. T is the tensor of that name, or, where nobody behind the cut needs
that, the dequantised T. Where T itself crosses, too, the dequantised one is called ``T#<type>``.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from weakref import WeakValueDictionary

import networkx as nx  # type: ignore[import-untyped]
import onnx
import onnx_ir as ir

from onnxmpq.artifacts import Space
from onnxmpq.errors import InternalError
from onnxmpq.model.layers import all_graphs, all_nodes, constant, dimensions, find_layers, subgraphs

_NANOSECONDS_PER_MAC = 1 / 40
_NANOSECONDS_PER_BYTE = 1 / 8
_NANOSECONDS_PER_NODE = 500
_NANOSECONDS_PER_CUT = 2_000  # about 30 us for one more run of a session, shared by a batch of 16 samples
_AROUND = 8
_NARROWER = 0.8
_CARRIED = frozenset(  # types whose arrays every runtime takes and gives
    {ir.DataType[name] for name in ("FLOAT", "FLOAT16", "DOUBLE", "BOOL")}
    | {ir.DataType[f"{sign}INT{bits}"] for sign in ("", "U") for bits in (8, 16, 32, 64)}
)


@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes of the main graph that run together, and what crosses the cut in front of them.

    ``macs`` counts multiply-accumulates per sample, bodies included; ``live`` names the tensors made in front of the
    cut and read behind it, ``live_bytes`` their size per sample with unknown dimensions as 1.
    """

    index: int
    nodes: tuple[str, ...]
    macs: int
    live: tuple[str, ...] = ()
    live_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Cuts:
    """The segments of a model in the order in which they run; ``bodies`` maps nodes in bodies to the main graph's."""

    segments: tuple[Segment, ...]
    bodies: Mapping[str, str] = field(default_factory=dict)
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the nodes."""
        index = {name: segment.index for segment in self.segments for name in segment.nodes}
        object.__setattr__(self, "_index", index | {name: index[node] for name, node in self.bodies.items()})

    def segment_of(self, node_name: str) -> int:
        """Return the index of the segment in which a node of the normalised model runs, or raise KeyError."""
        return self._index[node_name]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Piece:
    """One segment as a model of its own.

    ``inputs`` and ``outputs`` are those of the model in ``data``. ``digest`` is a SHA-256 of all that it says: pieces
    have the same digest if they have the same bytes, and only then. ``loaded_bytes`` is what its weights take in a
    session, where codes become floats.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data: bytes = field(repr=False)
    digest: str
    loaded_bytes: int = 0


def loaded_bytes(tensors: Iterable[ir.TensorProtocol]) -> int:
    """Return what weights take in a session, where codes and half floats become floats."""
    return sum(max(tensor.nbytes, 4 * tensor.size) for tensor in tensors)


def differing(a: Sequence[Piece], b: Sequence[Piece]) -> tuple[int, ...]:
    """Return the indices of the segments in which two splits by the same cuts differ."""
    return tuple(index for index, (x, y) in enumerate(zip(a, b, strict=True)) if x.digest != y.digest)


def first_change(a: Sequence[Piece], b: Sequence[Piece]) -> int | None:
    """Return the first segment in which two splits by the same cuts differ, None where all are the same."""
    return next(iter(differing(a, b)), None)


# ---- where to cut ----------------------------------------------------------------------------------------------------


def cut(model: ir.Model, space: Space, *, chain_cost: float | None = None) -> Cuts:
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

    ``chain_cost`` multiplies the estimated cost of a cut: 0 takes every candidate, infinity none.
    """
    order = _Order.best(model)
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
                sum(_value_bytes(value) or 0 for value in live),
            )
        )
    return Cuts(tuple(segments), {name: node.name or "" for name, node in _owners(model).items()})


class _Order:
    """The nodes in one order, and what is live between them. Position p is the place in front of the p-th node."""

    def __init__(self, model: ir.Model, nodes: Sequence[ir.Node]) -> None:
        self.model, self.nodes = model, tuple(nodes)
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
    def best(cls, model: ir.Model) -> "_Order":
        """Return the order with the fewest live bytes in the mean, the file's own where it is as good."""
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
        return min((cls(model, [nodes[i] for i in found]) for found in (own, deep)), key=lambda order: order.weight())

    def weight(self) -> float:
        """Return the live bytes summed over all positions."""
        return sum(size for size in self.bytes if math.isfinite(size))

    def _bytes(self) -> list[float]:
        """Return the live bytes at each position: infinite where something cannot be carried over."""
        sizes = [0.0] * (len(self.nodes) + 1)
        for value, first, last in self.spans:
            size = _value_bytes(value)
            for position in range(first, last + 1):
                sizes[position] += math.inf if size is None else size
        return sizes

    def _macs(self) -> list[int]:
        """Return the multiply-accumulates of each node, bodies included."""
        owners = _owners(self.model)
        of_node: defaultdict[str, int] = defaultdict(int)
        for layer in find_layers(self.model):
            owner = owners.get(layer.node)
            of_node[(owner.name or "") if owner is not None else layer.node] += layer.macs
        return [of_node[node.name or ""] for node in self.nodes]

    def live(self, position: int) -> list[ir.Value]:
        """Return what is live at a position."""
        return [value for value, first, last in self.spans if first <= position <= last]

    def unit_starts(self, space: Space) -> list[tuple[int, bool]]:
        """Return the positions of nodes with units that have a choice, and whether one begins there."""
        owners = _owners(self.model)
        by_name = {node.name: index for node, index in self.position.items()} | {
            name: self.position[owner] for name, owner in owners.items()
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
            moved = sum(_value_bytes(value) or 0 for value in touched if constant(value) is None)
            times.append(macs * _NANOSECONDS_PER_MAC + moved * _NANOSECONDS_PER_BYTE + _NANOSECONDS_PER_NODE)
        return times


def _cheapest(
    order: _Order, starts: Sequence[tuple[int, bool]], candidates: Sequence[int], chain_cost: float
) -> list[int]:
    """Return the candidates at which cutting makes the sum over all units' variants least."""
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


def reads(node: ir.Node) -> list[ir.Value]:
    """Return what a node reads, what its bodies take from outside included, each value once."""
    found = dict.fromkeys(value for value in node.inputs if value is not None)
    for body in subgraphs(node):
        found.update(dict.fromkeys(_captured(body)))
    return list(found)


def _captured(body: ir.Graph) -> Iterator[ir.Value]:
    """Yield what a body reads and does not make itself."""
    own = {*body.inputs, *body.initializers.values()}
    for node in body:
        yield from (value for value in reads(node) if value not in own)
        own.update(node.outputs)
    yield from (value for value in body.outputs if value not in own)


def _bodies_below(top: ir.Node) -> Iterator[ir.Graph]:
    """Yield the bodies in a node, and those in their nodes."""
    for body in subgraphs(top):
        yield body
        for node in body:
            yield from _bodies_below(node)


def _owners(model: ir.Model) -> dict[str, ir.Node]:
    """Map the name of every node in a body to the node of the main graph that holds it."""
    return {node.name or "": top for top in model.graph for body in _bodies_below(top) for node in body}


def _value_bytes(value: ir.Value) -> int | None:
    """Return the size of a tensor per sample, unknown dimensions as 1; None for what cannot be carried over a cut."""
    dtype = value.dtype
    shape = dimensions(value)
    if dtype is None or dtype not in _CARRIED or shape is None or not isinstance(value.type, ir.TensorType):
        return None
    return math.prod(dim or 1 for dim in shape) * dtype.bitwidth // 8


# ---- pieces ----------------------------------------------------------------------------------------------------------


def split(lowered: ir.Model, normal: ir.Model, cuts: Cuts) -> tuple[Piece, ...]:
    """Cut a model that was lowered from ``normal``, or ``normal`` itself, into one piece per segment."""
    return Splitter(normal, cuts).split(lowered)


class Splitter:
    """Cuts many lowered forms of one normalised model.

    A piece is known by its digest before its weights are copied; one that somebody still holds is given again. The
    opset is part of every piece: variants share pieces as far as they share the opset, so normalise to the highest
    that any of them needs.
    """

    def __init__(self, normal: ir.Model, cuts: Cuts) -> None:
        self.normal, self.cuts = normal, cuts
        nodes = {node.name or "": node for node in normal.graph}
        self.made = tuple(
            tuple(value.name or "" for name in segment.nodes for value in nodes[name].outputs if value.name)
            for segment in cuts.segments
        )
        self.home = dict.fromkeys((value.name or "" for value in normal.graph.inputs), -1) | {
            name: index for index, names in enumerate(self.made) for name in names
        }
        self.rank = {name: index for index, name in enumerate(self.home)}
        self.values = {value.name or "": value for graph in all_graphs(normal) for value in _values(graph)}
        self.nodes = {node.name for node in all_nodes(normal)}
        self._own = {id(value.const_value) for value in self.values.values()}  # alive, so no other has their ids
        self._digests: dict[int, bytes] = {}
        self._pieces: WeakValueDictionary[str, Piece] = WeakValueDictionary()

    def split(self, lowered: ir.Model) -> tuple[Piece, ...]:
        """Return one piece per segment."""
        return _Split(self, lowered).pieces()

    def piece(self, model: onnx.ModelProto, constants: Mapping[str, ir.TensorProtocol]) -> Piece:
        """Return the piece of a model from which the initialisers are still missing."""
        digest = hashlib.sha256(model.SerializeToString(deterministic=True))
        for name, tensor in constants.items():
            digest.update(self.digest(tensor) + name.encode() + b"\0")
        known = self._pieces.get(digest.hexdigest())
        if known is None:
            model.graph.initializer.extend(_tensor_proto(tensor, name) for name, tensor in constants.items())
            inputs, outputs = (tuple(value.name for value in end) for end in (model.graph.input, model.graph.output))
            data, loaded = model.SerializeToString(deterministic=True), loaded_bytes(constants.values())
            known = Piece(inputs, outputs, data, digest.hexdigest(), loaded)
            self._pieces[known.digest] = known
        return known

    def digest(self, tensor: ir.TensorProtocol) -> bytes:
        """Return a digest of what a tensor holds; those of the normalised model are read once."""
        known = self._digests.get(id(tensor))
        if known is None:
            known = hashlib.sha256(_tensor_proto(tensor, "").SerializeToString(deterministic=True)).digest()
            if id(tensor) in self._own:
                self._digests[id(tensor)] = known
        return known


@dataclass(slots=True)
class _Draft:
    """What goes into one piece: nodes in order, constants, and what it reads of others (see ``_Split.source``)."""

    nodes: list[ir.Node] = field(default_factory=list)
    constants: list[ir.Value] = field(default_factory=list)
    reads: dict[ir.Value, None] = field(default_factory=dict)
    gives: list[ir.Value] = field(default_factory=list)
    seen: set[ir.Value] = field(default_factory=set)


class _Split:
    """Divides one lowered model.

    Its values are of three kinds. One that stands for a tensor of the normalised model is made in the segment of that.
    A pair of Q and DQ behind such a tensor is made in the segment of its first reader, or in that of the tensor if the
    outside reads it. Everything else (weights being dequantised, rows being widened) is made wherever it is read.
    """

    def __init__(self, splitter: Splitter, lowered: ir.Model) -> None:
        self.splitter, self.lowered = splitter, lowered
        graph = lowered.graph
        self.owners = {id(body): top for top in graph for body in _bodies_below(top)}
        self.tensor: dict[ir.Value, str] = {}  # values that stand for tensors of the normalised model
        self.codes: dict[ir.Value, ir.Value] = {}  # DQ -> codes, for pairs
        self.pairs: defaultdict[ir.Value, list[ir.Value]] = defaultdict(list)  # codes -> DQs, of islands too
        self.home: dict[ir.Value, int] = {}
        values = {value.name: value for value in _values(graph)}
        for name, home in splitter.home.items():
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
            own = max(splitter.home[self.tensor[codes]], 0)
            outside = any(value.is_graph_output() for value in results)
            self.home[codes] = own if outside else min(self.reader_segments(codes), default=own)

    def quantised_by(self, value: ir.Value) -> ir.Value | None:
        """Return the value in front of the Q and DQ, both added by lowering, out of which ``value`` comes."""
        for op in ("DequantizeLinear", "QuantizeLinear"):
            node = value.producer()
            if node is None or node.op_type != op or node.name in self.splitter.nodes or node.inputs[0] is None:
                return None
            value = node.inputs[0]
        return value

    def reader_segments(self, value: ir.Value) -> Iterator[int]:
        """Yield the segments of the normalised model's nodes that read ``value``, directly or through added ones."""
        for reader in value.consumers():
            top = self.owners.get(id(reader.graph), reader)
            for output in top.outputs:
                if output in self.home:
                    yield self.home[output]
                else:
                    yield from self.reader_segments(output)

    def source(self, value: ir.Value) -> ir.Value | None:
        """Return what stands for a value that may cross a cut: itself, the codes for any DQ of a pair, else None."""
        return self.codes.get(value, value if value in self.home else None)

    def pieces(self) -> tuple[Piece, ...]:
        """Gather what each piece needs, name what crosses, write the pieces."""
        drafts = [_Draft() for _ in self.splitter.made]
        made = {name: value for value, name in self.tensor.items() if value not in self.pairs}
        for index, names in enumerate(self.splitter.made):
            for name in names:
                if name in made:
                    self.need(made[name], index, drafts[index])
        public = dict.fromkeys(self.source(value) for value in self.lowered.graph.outputs)
        crossing = dict.fromkeys(source for draft in drafts for source in draft.reads)
        for source in crossing | {source: None for source in public if source is not None}:
            home = self.home[source]
            if home >= 0:
                self.need(self.result(source), home, drafts[home])
                drafts[home].gives.append(source)
        for value in self.lowered.graph.outputs:
            if self.source(value) is None:  # a constant
                self.need(value, len(drafts) - 1, drafts[-1])
                drafts[-1].gives.append(value)
        boundary = self.boundary_names(dict.fromkeys(source for d in drafts for source in (*d.reads, *d.gives)), public)
        return tuple(self.piece(draft, boundary) for draft in drafts)

    def need(self, value: ir.Value, segment: int, draft: _Draft) -> None:
        """Make ``value`` available in a piece: read it from another, or make it here with all it needs."""
        if value in draft.seen:
            return
        draft.seen.add(value)
        source = self.source(value)
        if source is not None and self.home[source] != segment:
            if self.home[source] > segment:
                raise InternalError(f"The value '{value.name}' is read before it is made.")
            draft.reads[source] = None
            return
        node = value.producer()
        if node is None:
            draft.constants.append(value)
            return
        draft.seen.update(node.outputs)
        for read in reads(node):
            self.need(read, segment, draft)
        draft.nodes.append(node)

    def result(self, source: ir.Value) -> ir.Value:
        """Return the value that crosses a cut: of several DQ of one pair, all alike, the plainest."""
        return min(self.pairs[source], key=_scale_rank) if source in self.pairs else source

    def boundary_names(
        self, sources: Iterable[ir.Value], public: Mapping[ir.Value | None, None]
    ) -> dict[ir.Value, str]:
        """Name what crosses or leaves: T itself before its dequantised forms, what the outside reads before all."""
        names: dict[ir.Value, str] = {}
        taken = set[str]()
        for source in sorted(sources, key=lambda s: (s not in public, s in self.pairs, self.home.get(s, 0))):
            name = tensor = self.tensor.get(source, source.name or "")
            if name in taken:
                name = f"{tensor}#{source.dtype.name.lower() if source.dtype else ''}"
                while name in taken or name in self.splitter.values:
                    name += "#"
            taken.add(name)
            names[source] = name
        return names

    def piece(self, draft: _Draft, names: Mapping[ir.Value, str]) -> Piece:
        """Write one piece."""
        rank, values = self.splitter.rank, self.splitter.values

        def ends(sources: Iterable[ir.Value]) -> list[tuple[ir.Value, str, ir.Value]]:
            told = [(source, names[source], self.tensor.get(source, names[source])) for source in sources]
            told.sort(key=lambda end: (rank.get(end[2], len(rank)), end[1]))
            return [(source, name, values[tensor]) for source, name, tensor in told]

        inputs, outputs = ends(draft.reads), ends(draft.gives)
        naming = _Naming(self, {source: name for source, name, _ in inputs})
        for source, name, _ in outputs:
            naming.fix(self.result(source), name)
        model = onnx.ModelProto(ir_version=self.lowered.ir_version)
        for domain, version in sorted(self.lowered.opset_imports.items()):
            model.opset_import.add(domain=domain, version=version)
        model.functions.extend(ir.to_proto(function) for function in self.lowered.functions.values())
        model.graph.name = "segment"
        model.graph.node.extend(naming.node(node) for node in draft.nodes)
        model.graph.input.extend(_value_proto(like, name) for _, name, like in inputs)
        model.graph.output.extend(_value_proto(like, name) for _, name, like in outputs)
        return self.splitter.piece(model, {naming.of(value): _content(value) for value in draft.constants})


class _Naming:
    """The names in one piece: those of the normalised model, and numbers for what lowering added.

    Numbers follow the order of appearance, so that they depend on nothing outside the piece.
    """

    def __init__(self, split: _Split, incoming: Mapping[ir.Value, str]) -> None:
        self.split, self.incoming = split, incoming
        self.names: dict[ir.Value, str] = {}
        self.taken = set(incoming.values())
        self.counter = count()

    def fix(self, value: ir.Value, name: str) -> None:
        """Give a value the name under which it leaves the piece."""
        self.names[value] = name
        self.taken.add(name)

    def of(self, value: ir.Value | None) -> str:
        """Return the name of a value; nothing for what is left out."""
        if value is None or not value.name:
            return ""
        known = self.names.get(value) or self.incoming.get(self.split.source(value) or value)
        if known is not None:
            return known
        name = self.split.tensor.get(value, value.name)
        if name in self.taken or name not in self.split.splitter.values or self.split.quantised_by(value):
            name = self.fresh()
        self.fix(value, name)
        return name

    def fresh(self) -> str:
        """Return a name that nothing else has."""
        known = self.split.splitter
        return next(name for n in self.counter if (name := f"#{n}") not in known.values and name not in known.nodes)

    def node(self, node: ir.Node) -> onnx.NodeProto:
        """Write a node."""
        name = node.name if node.name in self.split.splitter.nodes else self.fresh()
        proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain, overload=node.overload, name=name)
        proto.input.extend(self.of(value) for value in node.inputs)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                proto.attribute.add(name=attribute.name, type="GRAPH", g=self.body(attribute.as_graph()))
            elif attribute.type == ir.AttributeType.GRAPHS:
                bodies = [self.body(body) for body in attribute.as_graphs()]
                proto.attribute.add(name=attribute.name, type="GRAPHS", graphs=bodies)
            else:
                proto.attribute.append(ir.serde.serialize_attribute(attribute))  # ir.to_proto takes ten times as long
                proto.attribute[-1].ClearField("doc_string")
        proto.output.extend(self.of(value) for value in node.outputs)
        return proto

    def body(self, graph: ir.Graph) -> onnx.GraphProto:
        """Write the body of an If, Loop or Scan."""
        proto = onnx.GraphProto(name=graph.name or "body")
        proto.input.extend(_value_proto(value, self.of(value)) for value in graph.inputs)
        proto.node.extend(self.node(node) for node in graph)
        proto.output.extend(_value_proto(value, self.of(value)) for value in graph.outputs)
        constants = (value for value in graph.initializers.values() if value not in graph.inputs)
        proto.initializer.extend(_tensor_proto(_content(value), self.of(value)) for value in constants)
        return proto


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield what a graph defines."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _scale_rank(value: ir.Value) -> int:
    """Return the rank of the scale that a DequantizeLinear reads."""
    node = value.producer()
    scale = node.inputs[1] if node is not None else None
    return len(scale.shape or ()) if scale is not None else 0


def _content(value: ir.Value) -> ir.TensorProtocol:
    """Return the tensor of an initialiser."""
    if value.const_value is None:
        raise InternalError(f"The value '{value.name}' is made by nothing.")
    return value.const_value


def _value_proto(like: ir.Value, name: str) -> onnx.ValueInfoProto:
    """Return a type and shape under a name."""
    proto = onnx.ValueInfoProto(name=name)
    if like.type is not None:
        ir.serde.serialize_type_into(proto.type, like.type)
        if like.shape is not None:
            ir.serde.serialize_shape_into(proto.type, like.shape)
    return proto


def _tensor_proto(tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
    """Return a tensor with its bytes inside, wherever they are now."""
    if tensor.dtype != ir.DataType.STRING:
        sizes = tensor.shape.numpy()
        return onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=sizes, raw_data=tensor.tobytes())
    proto = ir.serde.serialize_tensor(tensor)
    proto.name = name
    proto.ClearField("doc_string")
    return proto
