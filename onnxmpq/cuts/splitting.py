"""Lowered forms of one model as pieces, one small model for each segment.

    segment        0      │       1         │       2
    piece        x ─▶ T   │  T ─▶ U, T#int8 │  U, T#int8 ─▶ y

So that a piece does not depend on how others are quantised, what crosses a cut has a name of the normalised model, and
Q/DQ stand in the segment of their first reader. T is the tensor of that name, or, where nobody behind the cut needs
that, the dequantised T. Where T itself crosses, too, the dequantised one is called ``T#<type>``.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import onnx
import onnx_ir as ir

from onnxmpq.cuts.naming import Naming, content, tensor_proto, value_proto
from onnxmpq.cuts.origins import Original, Origins
from onnxmpq.cuts.segments import Cuts, Piece, loaded_bytes
from onnxmpq.errors import InternalError
from onnxmpq.model.bodies import reads


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
        self.cuts = cuts
        self.original = Original(normal, cuts)
        self._own = {id(value.const_value) for value in self.original.values.values()}  # alive: no other has their ids
        self._digests: dict[int, bytes] = {}
        self._pieces: WeakValueDictionary[str, Piece] = WeakValueDictionary()

    def split(self, lowered: ir.Model, segments: Collection[int] | None = None) -> tuple[Piece, ...]:
        """Return one piece per segment, or for some of the segments alone."""
        return _Split(self, Origins(self.original, lowered)).pieces(segments)

    def piece(self, model: onnx.ModelProto, constants: Mapping[str, ir.TensorProtocol]) -> Piece:
        """Return the piece of a model from which the initialisers are still missing."""
        digest = hashlib.sha256(model.SerializeToString(deterministic=True))
        for name, tensor in constants.items():
            digest.update(self.digest(tensor) + name.encode() + b"\0")
        known = self._pieces.get(digest.hexdigest())
        if known is None:
            model.graph.initializer.extend(tensor_proto(tensor, name) for name, tensor in constants.items())
            inputs, outputs = (tuple(value.name for value in end) for end in (model.graph.input, model.graph.output))
            data, loaded = model.SerializeToString(deterministic=True), loaded_bytes(constants.values())
            known = Piece(inputs, outputs, data, digest.hexdigest(), loaded)
            self._pieces[known.digest] = known
        return known

    def digest(self, tensor: ir.TensorProtocol) -> bytes:
        """Return a digest of what a tensor holds; those of the normalised model are read once."""
        known = self._digests.get(id(tensor))
        if known is None:
            known = hashlib.sha256(tensor_proto(tensor, "").SerializeToString(deterministic=True)).digest()
            if id(tensor) in self._own:
                self._digests[id(tensor)] = known
        return known


@dataclass(slots=True)
class _Draft:
    """What goes into one piece: nodes in order, constants, and what it reads of others (see ``Origins.source``)."""

    nodes: list[ir.Node] = field(default_factory=list)
    constants: list[ir.Value] = field(default_factory=list)
    reads: dict[ir.Value, None] = field(default_factory=dict)
    gives: list[ir.Value] = field(default_factory=list)
    seen: set[ir.Value] = field(default_factory=set)


class _Split:
    """Divides one lowered model."""

    def __init__(self, splitter: Splitter, origins: Origins) -> None:
        self.splitter, self.origins = splitter, origins

    def pieces(self, segments: Collection[int] | None = None) -> tuple[Piece, ...]:
        """Gather what each piece needs, name what crosses, write those of ``segments``, or all."""
        origins = self.origins
        drafts = [_Draft() for _ in origins.original.made]
        made = {name: value for value, name in origins.tensor.items() if value not in origins.pairs}
        for index, names in enumerate(origins.original.made):
            for name in names:
                if name in made:
                    self.need(made[name], index, drafts[index])
        public = dict.fromkeys(origins.source(value) for value in origins.lowered.graph.outputs)
        crossing = dict.fromkeys(source for draft in drafts for source in draft.reads)
        for source in crossing | {source: None for source in public if source is not None}:
            home = origins.home[source]
            if home >= 0:
                self.need(origins.result(source), home, drafts[home])
                drafts[home].gives.append(source)
        for value in origins.lowered.graph.outputs:
            if origins.source(value) is None:  # a constant
                self.need(value, len(drafts) - 1, drafts[-1])
                drafts[-1].gives.append(value)
        boundary = self.boundary_names(dict.fromkeys(source for d in drafts for source in (*d.reads, *d.gives)), public)
        wanted = (draft for index, draft in enumerate(drafts) if segments is None or index in segments)
        return tuple(self.piece(draft, boundary) for draft in wanted)

    def need(self, value: ir.Value, segment: int, draft: _Draft) -> None:
        """Make ``value`` available in a piece: read it from another, or make it here with all it needs."""
        if value in draft.seen:
            return
        draft.seen.add(value)
        origins, source = self.origins, self.origins.source(value)
        if source is not None and origins.home[source] != segment:
            if origins.home[source] > segment:
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

    def boundary_names(
        self, sources: Iterable[ir.Value], public: Mapping[ir.Value | None, None]
    ) -> dict[ir.Value, str]:
        """Name what crosses or leaves: T itself before its dequantised forms, what the outside reads before all."""
        origins, names = self.origins, dict[ir.Value, str]()
        taken = set[str]()
        for source in sorted(sources, key=lambda s: (s not in public, s in origins.pairs, origins.home.get(s, 0))):
            name = tensor = origins.tensor.get(source, source.name or "")
            if name in taken:
                name = f"{tensor}#{source.dtype.name.lower() if source.dtype else ''}"
                while name in taken or name in origins.original.values:
                    name += "#"
            taken.add(name)
            names[source] = name
        return names

    def piece(self, draft: _Draft, names: Mapping[ir.Value, str]) -> Piece:
        """Write one piece."""
        origins = self.origins
        rank, values = origins.original.rank, origins.original.values

        def ends(sources: Iterable[ir.Value]) -> list[tuple[ir.Value, str, ir.Value]]:
            told = [(source, names[source], origins.tensor.get(source, names[source])) for source in sources]
            told.sort(key=lambda end: (rank.get(end[2], len(rank)), end[1]))
            return [(source, name, values[tensor]) for source, name, tensor in told]

        inputs, outputs = ends(draft.reads), ends(draft.gives)
        naming = Naming(origins, {source: name for source, name, _ in inputs})
        for source, name, _ in outputs:
            naming.fix(origins.result(source), name)
        model = onnx.ModelProto(ir_version=origins.lowered.ir_version)
        for domain, version in sorted(origins.lowered.opset_imports.items()):
            model.opset_import.add(domain=domain, version=version)
        model.functions.extend(ir.to_proto(function) for function in origins.lowered.functions.values())
        model.graph.name = "segment"
        model.graph.node.extend(naming.node(node) for node in draft.nodes)
        model.graph.input.extend(value_proto(like, name) for _, name, like in inputs)
        model.graph.output.extend(value_proto(like, name) for _, name, like in outputs)
        return self.splitter.piece(model, {naming.of(value): content(value) for value in draft.constants})
