"""A model as a chain of segments, so that a variant rebuilds and runs only what its change can reach.

    cut(normal, space) ─▶ Cuts                                        ``cutting``: where the normalised model is cut
    Splitter(normal, cuts).split(lowered) ─▶ one Piece per segment    ``splitting``: each a small model

The chain is run with one mapping of names to arrays. It begins as the feed; every piece takes its ``inputs`` from it
and puts its ``outputs`` into it, each name once in a chain; at the end it holds the outputs of the model:

    values = dict(feed)
    for piece in pieces:
        values |= session_of(piece).run({name: values[name] for name in piece.inputs})
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir


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

    @property
    def macs(self) -> int:
        """What running one sample takes, in multiply-accumulates."""
        return sum(segment.macs for segment in self.segments)

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
