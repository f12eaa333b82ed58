"""Integer kernels that run slower than float: the same weights on float kernels take their place.

    build_no_slower(plan)     time it, roughly where codes take long to find   ->  the file of what is faster
    no_slower(export)         a file that is there already                     ->  itself, or that file

Within budgets a file must not grow for it, and where bit operations are limited float is none of the options. What was
decided by hand stays. So does everything on a target that promises no integer kernels: others run its files.
"""

from collections.abc import Sequence
from dataclasses import replace

from onnxmpq.artifacts import FLOAT, Export, Option, Plan
from onnxmpq.budgets.limits import Limit
from onnxmpq.machine import processor
from onnxmpq.methods.uniform import nearest
from onnxmpq.options import Constraints
from onnxmpq.search.constraints import decided, first_choices
from onnxmpq.verification.verify import SLOWER_THAN_FLOAT, file_bytes
from onnxmpq.workspace.export import Exporter


def build_no_slower(
    exporter: Exporter, plan: Plan, name: str, limits: Sequence[Limit], by_hand: Constraints, notes: list[str]
) -> Export:
    """Build a plan, on float kernels where its integer kernels are slower than float."""
    other = _on_float_kernels(exporter, plan, limits, by_hand)
    if other is None:
        return exporter.build(plan, name)
    return exporter.finished(_faster(exporter, exporter.timed(plan, name), other, limits, notes))


def no_slower(
    exporter: Exporter, export: Export, limits: Sequence[Limit], by_hand: Constraints, notes: list[str]
) -> Export:
    """Return ``export``, or float kernels with the same weights where its integer kernels are slower than float."""
    other = _on_float_kernels(exporter, export.plan, limits, by_hand)
    return exporter.finished(_faster(exporter, export, other, limits, notes)) if other else export


def _on_float_kernels(exporter: Exporter, plan: Plan, limits: Sequence[Limit], by_hand: Constraints) -> Plan | None:
    """Return a plan with the same weights on float kernels, if that may take its place and is another."""
    counted = any(limit.budget.computed for limit in limits)
    promised = exporter.prepared.target.integer_kernels
    if counted or not promised or "time" not in exporter.runtime.abilities:
        return None
    space = exporter.prepared.space
    offered: dict[str, tuple[Option, ...]] = {unit.name: (FLOAT,) for unit in space.units}
    for unit, option in plan.choices.items():
        plain = nearest(space.unit(unit), replace(option, activation_bits=0)) if option.weight_bits else FLOAT
        offered[unit] = (plain, option)
    found = first_choices(decided(space, offered, by_hand))
    choices = {unit: found[unit] for unit in plan.choices}
    return replace(plan, choices=choices) if choices != plan.choices else None


def _faster(exporter: Exporter, export: Export, plain: Plan, limits: Sequence[Limit], notes: list[str]) -> Export:
    """Return a build, or that of the plan on float kernels where this one is slower than float and than that."""
    if export.speed >= SLOWER_THAN_FLOAT:
        return export
    other = exporter.timed(plain, export.path.name)
    if other.speed <= export.speed or not other.verdict.ok:
        return export
    if limits and file_bytes(other.path) > file_bytes(export.path):
        return export
    notes.append(
        f"Integer kernels do not pay for this model here ({processor().brand}): they ran at {export.speed:.2f} of "
        "float speed. The weights are stored in few bits and computed in float instead, at "
        f"{other.speed:.2f}; --allow-slower keeps the integer kernels, for other machines; --fastest finds which gain."
        + (" The loss told here was measured with them." if limits else "")
    )
    return other
