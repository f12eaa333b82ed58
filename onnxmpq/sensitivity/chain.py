"""A model as a chain of sessions: run the centre once per batch, run a variant from where it begins to differ.

The centre's boundary tensors are kept for one batch of samples. A variant replaces some pieces of the chain; pieces
that neither changed nor read anything that did are skipped. All sessions simulate Q/DQ literally. Values lie where the
device has them: nothing is read back between pieces.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from onnxmpq.artifacts import Option, Plan
from onnxmpq.cuts.cutting import cut
from onnxmpq.cuts.segments import Piece
from onnxmpq.cuts.sights import Sights, together
from onnxmpq.cuts.sizes import UNSEEN, Seen
from onnxmpq.cuts.splitting import Splitter
from onnxmpq.lower.calibrated import Calibrated
from onnxmpq.machine import LARGE_BYTES, give_back, large_blocks_apart
from onnxmpq.model.layers import all_nodes, weight_bytes
from onnxmpq.runtimes.bound import Value
from onnxmpq.runtimes.devices import Device, Runs
from onnxmpq.targets.placement import Placement

Values = dict[str, Value]
Choices = Mapping[str, Option]
Name = tuple[tuple[str, str], ...]
RECENT_BYTES = 48_000_000
"""Serialised pieces asked for last that stay at hand, and twice as much of the weights in their sessions."""


_GARBAGE_BYTES = 1 << 26
"""How many bytes plans may have left behind by then; the overhead that is foreseen has room for them."""
_NODE_BYTES = 10_000
"""What a node of a graph takes, with its values and attributes."""


class Chain:
    """Runs plans of one calibrated model, piece by piece."""

    def __init__(self, calibrated: Calibrated, device: Device, threads: int, seen: Seen = UNSEEN) -> None:
        self.calibrated, self.device, self.threads = calibrated, device, threads
        self.cuts = cut(calibrated.model, calibrated.space, seen)
        self.splitter = Splitter(calibrated.model, self.cuts)
        self.sights = Sights(calibrated.model, calibrated.space, self.cuts)
        self._sessions: OrderedDict[str, Runs] = OrderedDict()
        self._session_bytes: dict[str, int] = {}
        self._kept: dict[str, Runs] = {}
        self._pieces: dict[Name, tuple[Piece, ...]] = {}
        self._known: WeakValueDictionary[tuple[int, Placement], Piece] = WeakValueDictionary()
        self._recent: OrderedDict[str, Piece] = OrderedDict()
        self._recent_bytes = 0
        self._graph, self._garbage = _NODE_BYTES * sum(1 for _ in all_nodes(calibrated.model)), 0
        self._large = weight_bytes(calibrated.model) >= LARGE_BYTES

    def pieces(self, choices: Choices, *, keep: bool = False) -> tuple[Piece, ...]:
        """Return the pieces of a plan; ``keep`` holds on to them and to their sessions, as for a centre."""
        name = _name(choices)
        if name in self._pieces:
            return self._pieces[name]
        pieces = self._found(Plan(self.calibrated.target.name, "", dict(choices)))
        if keep:
            for old in [old for old in self._pieces if old]:  # the last centre; float is needed with every one
                del self._pieces[old]
            self._pieces[name] = pieces
            held = {piece.digest for pieces in self._pieces.values() for piece in pieces}
            self._kept = {digest: session for digest, session in self._kept.items() if digest in held}
            self._kept.update((piece.digest, self._load(piece)) for piece in pieces if piece.digest not in self._kept)
        return pieces

    def _found(self, plan: Plan) -> tuple[Piece, ...]:
        """Find the pieces of a plan by what its segments see, and make those that nobody holds."""
        placement = self.calibrated.place(plan)
        seen = dict(enumerate(self.sights.of(placement)))
        found = {index: piece for index, part in seen.items() if (piece := self._known.get((index, part))) is not None}
        missing = [index for index in seen if index not in found]
        if missing:
            part = together(placement, [seen[index] for index in missing])
            plain = not (part.forms or part.pairs)
            model = self.calibrated.model if plain else self.calibrated.lower(plan, part).model
            found |= zip(missing, self.splitter.split(model, missing), strict=True)
            self._known.update(((index, seen[index]), found[index]) for index in missing)
            self._clear_away(0 if plain else sum(len(found[index].data) for index in missing))
        pieces = tuple(found[index] for index in seen)
        self._hold(pieces)
        return pieces

    def _clear_away(self, written: int) -> None:
        """Give back memory behind what was lowered, now and then: a graph, and the bytes that were written."""
        self._garbage += self._graph + written
        if self._large and self._garbage >= _GARBAGE_BYTES:
            give_back()
            self._garbage = 0

    def _hold(self, pieces: Sequence[Piece]) -> None:
        """Keep the pieces that were asked for last at hand."""
        for piece in pieces:
            if piece.digest in self._kept:
                continue
            if self._recent.pop(piece.digest, None) is None:
                self._recent_bytes += len(piece.data)
            self._recent[piece.digest] = piece
        while len(self._recent) > 1 and self._recent_bytes > RECENT_BYTES:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= len(oldest.data)

    def session(self, piece: Piece) -> Runs:
        """Return a session for a piece; a few that are not kept stay loaded."""
        if piece.digest in self._kept:
            return self._kept[piece.digest]
        session = self._sessions.pop(piece.digest, None) or self._load(piece)
        self._sessions[piece.digest] = session
        self._session_bytes[piece.digest] = piece.loaded_bytes
        while len(self._sessions) > 1 and self._too_many():
            oldest, _ = self._sessions.popitem(last=False)
            del self._session_bytes[oldest]
        return session

    def _too_many(self) -> bool:
        """Tell whether more sessions are loaded than memory, or the device, has room for."""
        return sum(self._session_bytes.values()) > 2 * RECENT_BYTES or len(self._sessions) > self.device.sessions

    def _load(self, piece: Piece) -> Runs:
        if not self._large:
            return self.device.session(piece.data, threads=self.threads)
        with large_blocks_apart():
            return self.device.session(piece.data, threads=self.threads)

    def whole(self, pieces: Sequence[Piece], feeds: Sequence[Values]) -> list[Values]:
        """Run a chain on feeds and return everything that crosses a cut, and the outputs, for each feed."""
        values = [dict(feed) for feed in feeds]
        for piece in pieces:
            self.step(piece, values)
        return values

    def step(self, piece: Piece, values: Sequence[Values]) -> None:
        """Run one piece on every feed and put what it gives into the values."""
        session = self.session(piece)
        for held in values:
            given = session.run({name: held[name] for name in piece.inputs})
            held.update(zip(piece.outputs, given.values(), strict=True))

    def changed(
        self, pieces: Sequence[Piece], centre: Sequence[Piece], base: Sequence[Values], start: int = 0
    ) -> list[Values]:
        """Run what differs from the centre, from piece ``start`` on; return only what differs, for each feed."""
        news: list[Values] = [{} for _ in base]
        self.resume(pieces, centre, base, news, start)
        return news

    def resume(
        self,
        pieces: Sequence[Piece],
        centre: Sequence[Piece],
        base: Sequence[Values],
        news: list[Values],
        start: int,
        stop: int | None = None,
    ) -> None:
        """Run pieces ``start`` to ``stop`` where they changed or read what did; ``news`` grows by what they give."""
        for index in range(start, len(pieces) if stop is None else stop):
            piece = pieces[index]
            touched = any(name in news[0] for name in piece.inputs)
            if piece.digest == centre[index].digest and not touched:
                continue
            session = self.session(piece)
            for held, new in zip(base, news, strict=True):
                feed = {name: new[name] if name in new else held[name] for name in piece.inputs}
                new.update(zip(piece.outputs, session.run(feed).values(), strict=True))


def _name(choices: Choices) -> Name:
    """Return what tells plans apart."""
    return tuple(sorted((unit, str(option)) for unit, option in choices.items() if not option.is_float))


def local_error(
    device: Device, base: Sequence[Values], news: Sequence[Values], names: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Return error power and signal power of some values, [feeds, 2]."""
    powers = np.zeros((len(base), 2))
    for row, held, new in zip(powers, base, news, strict=True):
        for name in names:
            if name in new and name in held:
                row += device.powers(new[name], held[name])
    return powers
