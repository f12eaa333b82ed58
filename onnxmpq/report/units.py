"""Units and options in a report: what each unit may take, what it takes, and what stays float.

    space, or names in a front and a table  ─▶  units in the order of the graph, with what they take at each option
                                     plans  ─▶  the options that are shown, the most precise first

Without a space no more is known of a unit than its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from onnxmpq.api import Result
from onnxmpq.artifacts import FLOAT, Option, Space, Unit
from onnxmpq.report.figures import OptionFigures, PlanFigures, UnitCost, UnitFigures, Unquantised
from onnxmpq.search.front import Front
from onnxmpq.sensitivity.table import Table

Choices: TypeAlias = Mapping[str, Option]


def unit_figures(space: Space | None, front: Front | None, table: Table | None) -> tuple[UnitFigures, ...]:
    """Return the units in graph order; without a space only their names are known."""
    if space is not None:
        return tuple(
            UnitFigures(
                unit.name,
                _op(unit),
                len(unit.layers),
                unit.parameters,
                unit.macs,
                unit.reason,
                tuple(UnitCost(str(cost.option), cost.stored_bytes, cost.bops) for cost in unit.costs),
            )
            for unit in space.units
        )
    names = dict.fromkeys(variant.unit for variant in table.variants) if table else {}
    if front is not None:
        names |= dict.fromkeys(name for plan in front.plans for name in plan.choices)
    return tuple(UnitFigures(name, "", 0, 0, 0, "", ()) for name in names)


def with_costs_of(units: Sequence[UnitFigures], options: set[str]) -> tuple[UnitFigures, ...]:
    """Keep what units take at some options: a target has more than a report shows."""
    return tuple(replace(unit, costs=tuple(cost for cost in unit.costs if cost.option in options)) for unit in units)


def option_figures(
    plans: Sequence[PlanFigures], chosen: Sequence[str], table: Table | None
) -> tuple[OptionFigures, ...]:
    """Return every option that a plan takes or that was measured, the most precise first."""
    seen = {name for plan in plans for name in plan.options} | {str(FLOAT), *chosen}
    seen |= {str(variant.option) for variant in table.variants} if table else set()
    found = sorted(map(Option.parse, seen), key=lambda o: (-(o.weight_bits or 32), -(o.activation_bits or 32), o))
    return tuple(OptionFigures(str(o), o.weight_bits, o.activation_bits, o.block) for o in found)


def options_of(choices: Choices, units: Sequence[UnitFigures]) -> tuple[str, ...]:
    """Return the option of each unit in a plan."""
    return tuple(str(choices.get(unit.name, FLOAT)) for unit in units)


def unquantised(space: Space | None, result: Result | None) -> tuple[Unquantised, ...]:
    """Return what stays float, the largest first."""
    if space is None:
        return ()
    found = [Unquantised(left.node, left.op, left.stored_bytes, left.reason) for left in space.leftovers]
    for unit in space.units:
        alone = len(unit.costs) == 1  # whatever the plan
        if alone or (result is not None and result.plan.choices.get(unit.name, FLOAT) == FLOAT):
            reason = unit.reason if alone else "the plan keeps it float"
            found.append(Unquantised(unit.name, _op(unit), unit.cost(FLOAT).stored_bytes, reason))
    return tuple(sorted(found, key=lambda left: -left.stored_bytes))


def _op(unit: Unit) -> str:
    """Name the operators of a unit."""
    kinds = (layer.op if layer.grouping == "dense" else f"{layer.op}, {layer.grouping}" for layer in unit.layers)
    return " and ".join(dict.fromkeys(kinds))
