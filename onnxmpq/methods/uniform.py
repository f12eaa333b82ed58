"""``uniform``: every unit at one option, or at the nearest one that it has.

Nearest means: as many weight bits and activations left float, then more weight bits, then float; of blocks, one of no
more weights. Precision is never taken below what was asked.
"""

from collections.abc import Sequence

from onnxmpq.artifacts import FLOAT, Option, Plan, Space, Unit
from onnxmpq.errors import InputError


def nearest(unit: Unit, option: Option) -> Option:
    """Return the option of ``unit`` that comes nearest to ``option`` without being less precise."""
    return no_coarser(unit, option)[0]


def no_coarser(unit: Unit, option: Option) -> tuple[Option, ...]:
    """Return the options of ``unit`` that are no less precise than ``option``: the nearest first, float last.

    Of a product of two activations only the activation bits count.
    """
    if not unit.parameters:
        products = Option(0, option.activation_bits)
        return tuple(dict.fromkeys([products, FLOAT] if products in unit.options else [FLOAT]))

    def fits(have: Option) -> bool:
        return (
            have.weight_bits >= option.weight_bits > 0
            and (not have.activation_bits or have.activation_bits >= option.activation_bits > 0)
            and (not have.block or have.block <= option.block)
        )

    def distance(have: Option) -> tuple[bool, bool, int, bool, int]:
        loses_activation = bool(option.activation_bits) and not have.activation_bits
        return (have != option, have.weight_bits != option.weight_bits, have.weight_bits, loses_activation, -have.block)

    finer = [have for have in unit.options if have != FLOAT and (have == option or fits(have))]
    return (*sorted(finer, key=distance), FLOAT)


def uniform(space: Space, option: Option) -> Plan:
    """Make the plan that puts every unit at ``option`` or at the nearest it has."""
    if not any(len(unit.options) > 1 for unit in space.units):
        reasons = "; ".join(dict.fromkeys(unit.reason for unit in space.units if unit.reason))
        raise InputError(
            f"Nothing in this model can be quantised for target '{space.target}': "
            + (reasons or "it has no layer with a constant weight")
            + ". `onnxmpq inspect` lists every layer."
        )
    choices = nearest_choices(space, option)
    if all(choice.is_float for choice in choices.values()):
        names = ", ".join(str(known) for known in dict.fromkeys(o for unit in space.units for o in unit.options))
        raise InputError(f"No unit of this model takes '{option}' on target '{space.target}'. Options there: {names}.")
    return Plan(target=space.target, method="uniform", choices=choices)


def nearest_choices(space: Space, option: Option) -> dict[str, Option]:
    """Return ``option`` for every unit, or the nearest that it has; float where it has none."""
    return {unit.name: nearest(unit, option) for unit in space.units}


def uniform_choices(units: Sequence[Unit], menu: Sequence[Sequence[Option]], option: Option) -> dict[str, Option]:
    """Return the choices of a uniform plan on a menu: the option, or the nearest that is no less precise."""
    choices = {}
    for unit, options in zip(units, menu, strict=True):
        wanted = nearest(unit, option) if unit.parameters else Option(0, option.activation_bits)
        fitting = [o for o in options if o.is_float or not option.weight_bits or o.weight_bits >= wanted.weight_bits]
        cheapest = min(fitting or options, key=lambda o: (o.is_float, o.weight_bits, o != wanted))
        choices[unit.name] = wanted if wanted in options else cheapest
    return {unit: chosen for unit, chosen in choices.items() if chosen != FLOAT}
