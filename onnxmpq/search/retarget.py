"""A plan for another target: every unit keeps its option, or takes the nearest there that is no less precise.

    plan on one target ──▶ plan on another, and what moved: unit, option before and after, bytes, why

Nothing is measured: what a plan means for another runtime's numbers is seen from the file that is made of it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from onnxmpq.artifacts import FLOAT, Option, Plan, Space, Unit
from onnxmpq.errors import InputError
from onnxmpq.methods.uniform import nearest
from onnxmpq.workspace.prepare import Model, Progress, checked_plan, prepare, silent


@dataclass(frozen=True, slots=True)
class Moved:
    """A unit that has another option than in the plan, how many bytes more it stores for that, and why."""

    unit: str
    before: Option
    after: Option
    more_bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Retargeted:
    """A plan for another target, what moved, and how many units kept their option."""

    plan: Plan
    source: str
    kept: int
    moved: tuple[Moved, ...]

    @property
    def groups(self) -> dict[tuple[Option, Option, str], list[Moved]]:
        """Return what moved in the same way together."""
        found: dict[tuple[Option, Option, str], list[Moved]] = {}
        for one in self.moved:
            found.setdefault((one.before, one.after, one.why), []).append(one)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        moved = [
            {
                "unit": one.unit,
                "before": str(one.before),
                "after": str(one.after),
                "more_bytes": one.more_bytes,
                "why": one.why,
            }
            for one in self.moved
        ]
        return {"plan": self.plan.to_json(), "from": self.source, "kept": self.kept, "moved": moved}


def retarget(model: Model, plan: Plan, target: str, progress: Progress = silent) -> Retargeted:
    """Return a plan of a model for another target than it was made for.

    A product of two activations that the first target knows nothing of takes the activation bits that most layers of
    the plan have: where all around it is in codes, float would be the odd one out.
    """
    if not plan.target:
        raise InputError("The plan does not say for which target it was made: give it a 'target'.")
    before = prepare(model, plan.target, progress, extra_passes=plan.passes)
    checked_plan(plan, before)
    after = prepare(model, target, progress, extra_passes=plan.passes)
    wanted = wishes(plan, before.space, after.space)
    choices = {unit.name: at_hand(unit, wanted[unit.name]) for unit in after.space.units}
    moved = (*_moved(after.space, before.space, wanted, choices), *_lost(after.space, before.space, plan))
    return Retargeted(
        plan=replace(plan, target=after.space.target, choices=choices, model_sha256=after.source.sha256),
        source=before.space.target,
        kept=len(choices) - sum(one.unit in choices for one in moved),
        moved=moved,
    )


def wishes(plan: Plan, before: Space, after: Space) -> dict[str, Option]:
    """Return what every unit of another target would take if it could."""
    known = {unit.name: plan.choices.get(unit.name, FLOAT) for unit in before.units}
    bits = Counter(known[unit.name].activation_bits for unit in before.units if unit.parameters)
    usual = Option(0, bits.most_common(1)[0][0]) if bits else FLOAT
    return {unit.name: known.get(unit.name, FLOAT if unit.parameters else usual) for unit in after.units}


def at_hand(unit: Unit, wanted: Option) -> Option:
    """Return the option of a unit that comes nearest to one without being less precise.

    Scales of blocks are finer than those of channels: where a target has nothing else, the largest block does.
    """
    found = nearest(unit, wanted)
    if found != FLOAT or wanted.is_float:
        return found
    blocked = [
        have
        for have in unit.options
        if have.block and have.weight_bits >= wanted.weight_bits > 0 and not have.activation_bits
    ]
    return min(blocked, key=lambda have: (have.weight_bits, -have.block), default=FLOAT)


def _moved(after: Space, before: Space, wanted: dict[str, Option], choices: dict[str, Option]) -> Iterator[Moved]:
    """Yield the units of a target whose option is another than in the plan."""
    sources = {unit.name: unit for unit in before.units}
    for unit in after.units:
        asked, given = wanted[unit.name], choices[unit.name]
        source = sources.get(unit.name)
        if asked == given and source is not None:
            continue
        if source is None and given.is_float:
            continue
        stored = source.cost(asked).stored_bytes if source is not None else 0
        yield Moved(
            unit.name,
            asked if source else FLOAT,
            given,
            unit.cost(given).stored_bytes - stored,
            _why(unit, asked, source),
        )


def _lost(after: Space, before: Space, plan: Plan) -> Iterator[Moved]:
    """Yield what the plan quantises and the other target knows nothing of."""
    there = {unit.name for unit in after.units}
    for unit in before.units:
        option = plan.choices.get(unit.name, FLOAT)
        if unit.name not in there and not option.is_float:
            yield Moved(unit.name, option, FLOAT, 0, "no unit there: it stays float")


def _why(unit: Unit, asked: Option, source: Unit | None) -> str:
    """Say why a unit does not keep its option."""
    if source is None:
        return "a unit on this target alone"
    if unit.reason:
        return unit.reason
    options = [option for option in unit.options if not option.is_float]
    return f"no '{asked}' there for {unit.layers[0].op}" if options else "nothing but float there"
