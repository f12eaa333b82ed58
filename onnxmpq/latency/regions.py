"""Which unit every step of a runtime belongs to, and which units stand beside each other in the graph.

A step that stands for no unit belongs to the last one before it; what stands before all of them, to the first behind.
Q and DQ between two units, layout changes, pads and whatever is not fused are counted where they are seen in that way.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from onnxmpq.artifacts import Unit
from onnxmpq.model.layers import dimensions
from onnxmpq.runtimes.base import Step

_MOST_SOURCES = 2
"""Units in front of a tensor that are looked at: a long residual stream has been written to by all before it."""


@dataclass(frozen=True, slots=True)
class Border:
    """A unit that reads, through whatever stands between, what another gives, and the numbers of that tensor."""

    before: str
    behind: str
    numbers: int


@dataclass(frozen=True, slots=True)
class Regions:
    """Seconds and steps by unit; under an empty name those of no unit."""

    seconds: Mapping[str, float]
    steps: Mapping[str, int]


def borders(model: ir.Model, units: Sequence[Unit]) -> tuple[Border, ...]:
    """Find the units of a normalised model that stand beside each other."""
    place = {unit.name: index for index, unit in enumerate(units)}
    by_node = {layer.node: unit.name for unit in units for layer in unit.layers}
    found: dict[tuple[str, str], int] = {}
    sources: dict[ir.Value, dict[str, int]] = {}
    for node in model.graph:
        before: dict[str, int] = {}
        for value in node.inputs:
            before |= sources.get(value, {}) if value is not None else {}
        unit = by_node.get(node.name or "")
        if unit is None:
            before = dict(sorted(before.items(), key=lambda item: place[item[0]])[-_MOST_SOURCES:])
        else:
            for source, numbers in before.items():
                if source != unit:
                    found[source, unit] = max(found.get((source, unit), 0), numbers)
        for value in node.outputs:
            sources[value] = before if unit is None else {unit: _numbers(value)}
    return tuple(Border(before, behind, numbers) for (before, behind), numbers in found.items())


def _numbers(value: ir.Value) -> int:
    """Return how many numbers a tensor has for one sample, as far as its shape is known."""
    return prod(size for size in (dimensions(value) or ()) if isinstance(size, int))


def regions(steps: Sequence[Step], units: Sequence[Unit]) -> Regions:
    """Sum the time of steps, which come in the order of the runtime's graph, by unit."""
    place = {unit.name: index for index, unit in enumerate(units)}
    by_node = {layer.node: unit.name for unit in units for layer in unit.layers}
    owners = _downwards([by_node.get(step.layer, "") for step in steps], steps, place)
    seconds: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for step, owner in zip(steps, owners, strict=True):
        seconds[owner] += step.seconds
        counts[owner] += 1
    return Regions(dict(seconds), dict(counts))


def _downwards(own: list[str], steps: Sequence[Step], place: Mapping[str, int]) -> list[str]:
    """Give every step without a unit the last one before it, or else the first one behind it."""
    owners = list(own)
    given: dict[str, str] = {}
    for index, step in enumerate(steps):
        before = [given[name] for name in step.inputs if given.get(name)]
        owners[index] = owners[index] or max(before, key=place.__getitem__, default="")
        given.update(dict.fromkeys(step.outputs, owners[index]))
    wanted: dict[str, str] = {}
    for index in range(len(steps) - 1, -1, -1):
        behind = [wanted[name] for name in steps[index].outputs if wanted.get(name)]
        owners[index] = owners[index] or min(behind, key=place.__getitem__, default="")
        if owners[index]:
            wanted.update(dict.fromkeys(steps[index].inputs, owners[index]))
    return owners
