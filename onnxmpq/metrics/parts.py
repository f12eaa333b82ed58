"""Find outputs that are judged beside scores, and the parts of one that holds both, by the graph alone.

    boxes in pixels ──────────┐
                              Concat ─ output   ->   two heads, each judged by its own power
    logits ─ Sigmoid ─ scores ┘

Detectors end like this, or have both as outputs of the same places. Scores are below one and pixels in the hundreds, so
that of an error over the whole output next to nothing is the scores'; and boxes stand where their places are, so that
over their own power next to nothing is theirs. Each is judged by its power around the mean of samples. What a Sigmoid
or a Softmax gives is taken for scores, and so are products of those; anything else is not. Concats of one kind, as
those of several scales, do not part an output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import onnx_ir as ir

from onnxmpq.metrics.losses import Head, Part
from onnxmpq.model.layers import dimensions, is_standard

_BOUNDED = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
_SAME_PLACES = frozenset({"Identity", "Cast"})
_SOME_PLACES = frozenset({"Slice", "Split", "Gather", "Expand", "Tile"})
_RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, slots=True)
class _Kinds:
    """What a value holds along an axis, counted from the end: runs of so many places, scores or not.

    One run of no size is a value of one kind.
    """

    axis: int
    runs: tuple[tuple[int, bool], ...]

    @classmethod
    def one(cls, bounded: bool) -> "_Kinds":
        """Return those of a value of one kind."""
        return cls(-1, ((0, bounded),))

    @property
    def bounded(self) -> bool | None:
        """Tell whether the whole value is scores; None where parts of it are."""
        return self.runs[0][1] if len(self.runs) == 1 else None


Known = dict[ir.Value, _Kinds | None]
"""The kinds of every value so far; None where they cannot be told."""


def parted(model: ir.Model, heads: Sequence[Head]) -> tuple[Head, ...]:
    """Return heads, one for each part where an output of power joins unlike ones; what is beside scores is centred."""
    if all(head.kind != "power" for head in heads):
        return tuple(heads)
    known: Known = {}
    for node in model.graph:
        found = _kinds(node, known)
        known |= dict.fromkeys(node.outputs, found)
    values = {value.name: value for value in model.graph.outputs}
    outputs = [(head, values[head.name], known.get(values[head.name])) for head in heads]
    scores = [value for head, value, kinds in outputs if _are_scores(head, kinds)]
    others = [value for head, value, kinds in outputs if not _are_scores(head, kinds)]
    found_parts = list[Head]()
    for head, value, kinds in outputs:
        across = others if _are_scores(head, kinds) else scores
        beside = head.kind == "power" and any(_same_places(value, other) for other in across)
        found_parts += _parts(replace(head, centred=beside), kinds)
    return tuple(found_parts)


def _parts(head: Head, kinds: _Kinds | None) -> list[Head]:
    """Return a head for each part of an output, or just the head."""
    if head.kind != "power" or kinds is None or len(kinds.runs) == 1:
        return [head]
    found, start = [], 0
    for size, _ in kinds.runs:
        found.append(replace(head, part=Part(kinds.axis, start, start + size), centred=True))
        start += size
    return found


def _are_scores(head: Head, kinds: _Kinds | None) -> bool:
    """Tell whether a whole output is scores."""
    return head.kind != "power" or (kinds is not None and kinds.bounded is True)


def _same_places(a: ir.Value, b: ir.Value) -> bool:
    """Tell whether two outputs are of the same places: as many along all axes but one, of three at least."""
    one, other = dimensions(a), dimensions(b)
    if one is None or other is None or not 2 < len(one) == len(other):
        return False
    apart = [x != y for x, y in zip(one[1:], other[1:], strict=True)]
    return None not in one[1:] and sum(apart) <= 1


def _kinds(node: ir.Node, known: Known) -> _Kinds | None:
    """Return the kinds of things that a node gives."""
    if not is_standard(node):
        return _Kinds.one(False)
    inputs = [_Kinds.one(False) if value is None else known.get(value, _Kinds.one(False)) for value in node.inputs]
    match node.op_type:
        case op if op in _BOUNDED:
            return _Kinds.one(True)
        case "Concat":
            return _joined(node, inputs)
        case "Mul":
            return _Kinds.one(all(kinds is not None and kinds.bounded is True for kinds in inputs))
        case op if op in _SOME_PLACES:
            return inputs[0] if inputs[0] is None or inputs[0].bounded is not None else None
        case op if op in _SAME_PLACES:
            return inputs[0]
        case "Transpose":
            return _transposed(node, inputs[0])
        case op if op in _RESHAPING:
            return _reshaped(node, inputs[0])
        case _:
            return _Kinds.one(False)


def _joined(node: ir.Node, inputs: Sequence[_Kinds | None]) -> _Kinds | None:
    """Return the kinds of a Concat: runs one behind the other, or along another axis those that all inputs have."""
    shape = dimensions(node.outputs[0])
    inner = [kinds for kinds in inputs if kinds is not None]
    if shape is None or not inner or len(inner) < len(inputs):
        return None
    axis = node.attributes.get_int("axis", 0)
    axis = axis if axis < 0 else axis - len(shape)
    if len(set(inner)) == 1 and (inner[0].bounded is not None or inner[0].axis != axis):
        return inner[0]
    runs = list[tuple[int, bool]]()
    for value, kinds in zip(node.inputs, inner, strict=True):
        size = (dimensions(value) or (None,) * len(shape))[axis]
        if kinds.bounded is None and kinds.axis == axis:
            runs += kinds.runs
        elif kinds.bounded is None or size is None:
            return None
        else:
            runs.append((size, kinds.bounded))
    merged = groupby(runs, key=lambda run: run[1])
    found = tuple((sum(size for size, _ in some), bounded) for bounded, some in merged)
    return _Kinds(axis, found) if axis > -len(shape) else None  # the first axis counts samples


def _transposed(node: ir.Node, kinds: _Kinds | None) -> _Kinds | None:
    """Follow the axis of the runs to where it goes."""
    shape, order = dimensions(node.outputs[0]), list(node.attributes.get_ints("perm", ()))
    if kinds is None or kinds.bounded is not None:
        return kinds
    if shape is None or len(order) != len(shape):
        return None
    return replace(kinds, axis=order.index(kinds.axis + len(order)) - len(order))


def _reshaped(node: ir.Node, kinds: _Kinds | None) -> _Kinds | None:
    """Keep the runs where their axis and all behind it stay as they are."""
    before, after = (dimensions(value) for value in (node.inputs[0], node.outputs[0]))
    if kinds is None or kinds.bounded is not None:
        return kinds
    if before is None or after is None or len(after) <= -kinds.axis:
        return None
    tail = before[kinds.axis :]
    return kinds if None not in tail and after[kinds.axis :] == tail else None
