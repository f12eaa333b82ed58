"""What users decide by hand: which options a unit may take, and which units take the same.

    keep     NODE=OPTION      these units take that option
    exclude  NODE             these units stay float
    ties     NODE,NODE,...    these units take one option together
             inputs           so do all that read one tensor, which is stored in one width then

NODE is the name of a unit or of one of its nodes, a regular expression that matches such a name from end to end, or
``op:Conv`` for all units of an operator. A search takes its plans from the menu that decisions leave; a uniform plan
takes of every unit's menu the first.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from onnxmpq import errors
from onnxmpq.artifacts import FLOAT, Option, Plan, Space, Unit
from onnxmpq.errors import InputError
from onnxmpq.methods.study import Menu
from onnxmpq.methods.uniform import nearest, nearest_choices, no_coarser, uniform
from onnxmpq.options import MENU, Constraints
from onnxmpq.targets import Target
from onnxmpq.workspace.prepare import parsed

INPUTS = "inputs"
"""What ties all units that read one tensor."""


def matching(space: Space, pattern: str) -> tuple[Unit, ...]:
    """Return the units that a pattern names; refuse one that names none."""
    kind, colon, op = pattern.partition(":")
    if colon and kind == "op":
        found = [unit for unit in space.units if any(layer.op == op for layer in unit.layers)]
        known = sorted({layer.op for unit in space.units for layer in unit.layers})
        if not found:
            raise InputError(
                f"No unit has the operator '{op}'. There are: {', '.join(known)}.{errors.nearest(op, known)}"
            )
        return tuple(found)
    names = {unit.name: (unit.name, *(layer.node for layer in unit.layers)) for unit in space.units}
    exact = [unit for unit in space.units if pattern in names[unit.name]]
    if exact:
        return tuple(exact)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"'{pattern}' is neither the name of a unit nor a regular expression: {error}.") from error
    found = [unit for unit in space.units if any(expression.fullmatch(name) for name in names[unit.name])]
    if not found:
        hint = errors.nearest(pattern, [name for known in names.values() for name in known])
        raise InputError(f"No unit is called '{pattern}', nor matches it.{hint or ' `onnxmpq inspect` lists them.'}")
    return tuple(found)


def menu_of(asked: Sequence[str | Option], target: Target) -> tuple[Option, ...]:
    """Return the options to choose from: those that were asked for, and unless any were those of the target."""
    return target.menu if target.menu and tuple(asked) == MENU else parsed(asked)


def held_together(constraints: Constraints, target: Target) -> Constraints:
    """Tie units that read one tensor, where the target wants that."""
    if not target.together or INPUTS in constraints.ties:
        return constraints
    return replace(constraints, ties=(*constraints.ties, INPUTS))


def make_menu(space: Space, options: Sequence[Option], constraints: Constraints = Constraints()) -> Menu:
    """Return what every unit may take: the options, or the nearest it has that are no less precise."""
    menu = {unit.name: _offered(unit, options) for unit in space.units}
    if not any(option != FLOAT for offered in menu.values() for option in offered):
        known = list(dict.fromkeys(str(option) for unit in space.units for option in unit.options))
        raise InputError(
            f"No unit of this model takes any of {', '.join(map(str, options))} on target '{space.target}'. "
            f"Options there: {', '.join(known)}." + errors.nearest(str(options[0]) if options else "", known)
        )
    return decided(space, menu, constraints)


def uniform_by_hand(space: Space, option: Option, constraints: Constraints) -> Plan:
    """Make the plan that puts every unit at ``option``, or the nearest finer one that it has and decisions allow."""
    if not option.is_float or constraints == Constraints():
        uniform(space, option)  # refuses a model, or an option, of which nothing comes
    menu = {unit.name: no_coarser(unit, option) for unit in space.units}
    choices = first_choices(decided(space, menu, constraints))
    if all(choice.is_float for choice in choices.values()):
        raise InputError(
            f"With option '{option}' and these decisions by hand every unit stays float. Exclude fewer units, or keep "
            "some at an option: --keep op:Conv=w8a8."
        )
    return Plan(target=space.target, method="uniform", choices=choices)


def decided(space: Space, offered: Mapping[str, tuple[Option, ...]], constraints: Constraints) -> Menu:
    """Return of what units are offered, by their names, what decisions leave; refuse ties with nothing in common."""
    menu = dict(offered)
    for text in constraints.exclude:
        menu |= {unit.name: (FLOAT,) for unit in matching(space, text)}
    for text in constraints.keep:
        pattern, equals, told_option = text.rpartition("=")
        if not equals:
            raise InputError(f"'{text}' keeps nothing. Expected NODE=OPTION, for example conv1=w8a8 or op:Gemm=float.")
        option = Option.parse(told_option)
        for unit in matching(space, pattern):
            unit.cost(option)  # refuses an option that the unit does not have
            menu[unit.name] = (option,)
    order = [unit.name for unit in space.units]
    ties = tuple(
        tuple(sorted(order.index(name) for name in names))
        for text in constraints.ties
        for names in (_by_inputs(space, menu) if text == INPUTS else [_named(space, text)])
    )
    found = Menu(space.units, tuple(menu[name] for name in order), ties)
    for tie in ties:
        _shared(found, tie)
    return found


def tried(space: Space) -> dict[str, Option]:
    """Return the choices at which it is measured whether smoothing helps a search: as near to w8a8 as units have it."""
    return nearest_choices(space, Option(8, 8))


def _named(space: Space, text: str) -> set[str]:
    """Return the names of the units that a tie names."""
    return {unit.name for part in text.split(",") for unit in matching(space, part.strip())}


def _by_inputs(space: Space, menu: Mapping[str, tuple[Option, ...]]) -> Iterator[set[str]]:
    """Yield the units that read one tensor, as far as they may take the same: it has one width for all of them."""
    for names in space.together:
        alike: defaultdict[tuple[Option, ...], set[str]] = defaultdict(set)
        for name in names:
            alike[menu[name]].add(name)
        yield from (found for found in alike.values() if len(found) > 1)


def first_choices(menu: Menu) -> dict[str, Option]:
    """Return the first option of every unit, float ones too; tied units take the first that all of them have."""
    chosen = [options[0] for options in menu.options]
    for tie in _joined(menu.ties):
        shared = _shared(menu, tie)
        for unit in tie:
            chosen[unit] = shared[0]
    return {unit.name: option for unit, option in zip(menu.units, chosen, strict=True)}


def _shared(menu: Menu, tie: Sequence[int]) -> list[Option]:
    """Return the options that all tied units have, in the order of the first one; refuse where there are none."""
    shared = [option for option in menu.options[tie[0]] if all(option in menu.options[unit] for unit in tie)]
    if not shared:
        told = "; ".join(f"'{menu.units[unit].name}' takes {', '.join(map(str, menu.options[unit]))}" for unit in tie)
        raise InputError(f"Tied units have no option in common: {told}.")
    return shared


def _joined(ties: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
    """Join ties that have a unit in common."""
    joined: list[tuple[int, ...]] = []
    for tie in ties:
        met = [other for other in joined if set(other) & set(tie)]
        joined = [other for other in joined if other not in met]
        joined.append(tuple(sorted({*tie, *(unit for other in met for unit in other)})))
    return joined


def _offered(unit: Unit, options: Iterable[Option]) -> tuple[Option, ...]:
    return tuple(dict.fromkeys(nearest(unit, option) for option in options))
