"""Integer kernels that run slower than float: the same weights on float kernels take their place."""

from collections.abc import Sequence
from dataclasses import replace

from onnxmpq.artifacts import FLOAT, Export, Option
from onnxmpq.budgets.limits import Limit
from onnxmpq.machine import processor
from onnxmpq.methods.uniform import nearest
from onnxmpq.options import Constraints
from onnxmpq.search.constraints import decided, first_choices
from onnxmpq.verification.verify import SLOWER_THAN_FLOAT, file_bytes
from onnxmpq.workspace.export import Exporter


def no_slower(
    exporter: Exporter, export: Export, limits: Sequence[Limit], by_hand: Constraints, notes: list[str]
) -> Export:
    """Return ``export``, or float kernels with the same weights where its integer kernels are slower than float.

    Within budgets a file must not grow for it, and where bit operations are limited float is none of the options. What
    was decided by hand stays. So does everything on a target that promises no integer kernels: others run its files.
    """
    space, taken = exporter.prepared.space, export.plan.choices
    offered: dict[str, tuple[Option, ...]] = {unit.name: (FLOAT,) for unit in space.units}
    for unit, option in taken.items():
        plain = nearest(space.unit(unit), replace(option, activation_bits=0)) if option.weight_bits else FLOAT
        offered[unit] = (plain, option)
    found = first_choices(decided(space, offered, by_hand))
    choices = {unit: found[unit] for unit in taken}
    counted = any(limit.budget.computed for limit in limits)
    promised = exporter.prepared.target.integer_kernels
    timed = "time" in exporter.runtime.abilities
    if not promised or not timed or export.speed >= SLOWER_THAN_FLOAT or choices == taken or counted:
        return export
    other = exporter.build(replace(export.plan, choices=choices), export.path.name)
    if other.speed <= export.speed or not other.verdict.ok:
        return export
    if limits and file_bytes(other.path) > file_bytes(export.path):
        return export
    notes.append(
        f"Integer kernels do not pay for this model here ({processor().brand}): they ran at {export.speed:.2f} of "
        "float speed. The weights are stored in few bits and computed in float instead, at "
        f"{other.speed:.2f}; --allow-slower keeps the integer kernels, for other machines."
        + (" The loss told here was measured with them." if limits else "")
    )
    return other
