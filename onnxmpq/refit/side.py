"""Two networks side by side at some layers: what these meet in either, and what their outputs lack besides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx
import onnx_ir as ir

from onnxmpq.cuts.segments import Piece
from onnxmpq.numerics.hessians import Reading, View
from onnxmpq.refit.moments import Array
from onnxmpq.refit.order import Fit
from onnxmpq.refit.taps import Taps
from onnxmpq.runtimes import Runtime


@dataclass(frozen=True, slots=True)
class Seat:
    """Under which names a layer's input, and what its output is added to, if anything, are found in both pieces."""

    names: tuple[str, str]
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Side:
    """Layers of one segment that are fitted at once, with what gives their tensors in both networks."""

    seats: Mapping[Fit, Seat]
    own: Taps
    plain: Taps

    @classmethod
    def of(cls, step: Sequence[Fit], own: Piece, plain: Piece, runtime: Runtime) -> Self:
        """Look at two pieces of one segment."""
        pieces = [onnx.ModelProto.FromString(piece.data) for piece in (own, plain)]
        seats = {fit: seat for fit in step if (seat := _seat(fit, *pieces)) is not None}
        ends = [
            {name for seat in seats.values() for name in (seat.names[place], *(seat.beside[place : place + 1]))}
            for place in range(2)
        ]
        return cls(seats, *(Taps(runtime, piece, names) for piece, names in zip(pieces, ends, strict=True)))

    def columns(
        self, fit: Fit, met: Mapping[str, Array], wanted: Mapping[str, Array], most: float, turn: int
    ) -> Iterator[tuple[Array, Array, Array | None]]:
        """Yield what a layer's columns meet in both networks, and what its output lacks, a part at a time."""
        seat = self.seats[fit]
        own, plain = met[seat.names[0]], wanted[seat.names[1]]
        lacking = None
        if seat.beside:
            lacking = _laid_out(fit, wanted[seat.beside[1]] - met[seat.beside[0]], own, most, turn)
        start = 0
        for part, other in zip(*(fit.reading.columns(x, most, turn) for x in (own, plain)), strict=True):
            end = start + part.shape[2]
            yield part, other, None if lacking is None else lacking[:, :, start:end]
            start = end


def _seat(fit: Fit, own: onnx.ModelProto, plain: onnx.ModelProto) -> Seat | None:
    """Find a layer in two pieces; None where lowering has made another node of it."""
    name, index = fit.layer.node, fit.layer.inputs[0]
    nodes = [{node.name: node for node in piece.graph.node} for piece in (own, plain)]
    if any(name not in known or known[name].op_type != fit.layer.op for known in nodes):
        return None
    names = nodes[0][name].input[index], nodes[1][name].input[index]
    beside = tuple(_found(fit.beside, piece) for piece in (own, plain)) if fit.beside else ()
    return Seat(names, beside if all(beside) else ())


def _found(tensor: str, piece: onnx.ModelProto) -> str:
    """Return under which name a piece has a tensor: its own, or that of its codes turned back; else nothing."""
    there = {value.name for value in piece.graph.input} | {name for node in piece.graph.node for name in node.output}
    return next((name for name in (tensor, f"{tensor}#int8", f"{tensor}#uint8") if name in there), "")


def _laid_out(fit: Fit, lacking: Array, met: Array, most: float, turn: int) -> Array:
    """Lay out what an output lacks as [groups, rows, how many], at the places where the columns are taken."""
    groups, rows = fit.reading.view.groups, fit.rows
    if fit.reading.node.op_type != "Conv":
        spread = np.broadcast_to(lacking, (*met.shape[:-1], rows))
        return np.moveaxis(spread, -1, 0).reshape(1, rows, -1)
    channels = groups * rows
    view = View((channels, channels, *[1] * (lacking.ndim - 2)), 1, channels, swapped=False)
    parts = list(Reading("", ir.node("Conv", []), view).columns(lacking, most, turn))
    return np.concatenate(parts, axis=2).reshape(groups, rows, -1)
