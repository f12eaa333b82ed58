"""Placing kernels before a plan is made: each unit on the one with which the whole model is measured to be fastest.

    options that units may take ──▶ kernels to choose from ──▶ measured ──▶ of every unit the options of its kernel

Weights in few bits run on float kernels too, so that placing decides of activations alone: a search within a budget
then has of every unit just the options that run on its kernel, and spends the bytes that a Q and a DQ would have taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxmpq.artifacts import FLOAT, Option, Plan, Space
from onnxmpq.data.samples import Data
from onnxmpq.errors import InputError
from onnxmpq.latency.design import Kernels
from onnxmpq.latency.fastest import Placed, fastest, quickest
from onnxmpq.latency.model import Latency
from onnxmpq.latency.notebook import Notebook
from onnxmpq.latency.observe import Keep, Watch
from onnxmpq.methods.study import Menu
from onnxmpq.methods.uniform import nearest
from onnxmpq.numerics.formats import kernel
from onnxmpq.options import MENU, Constraints, Numbers
from onnxmpq.search.constraints import decided
from onnxmpq.targets import Target
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import Model, Progress, parsed, prepare, silent
from onnxmpq.workspace.workspace import workspace


def with_float_kernels(options: Sequence[Option]) -> tuple[Option, ...]:
    """Return options with those that store the same weights and leave activations in float.

    >>> [str(option) for option in with_float_kernels([Option(8, 8), Option(4, 8)])]
    ['w8a8', 'w4a8', 'w8', 'w4']
    """
    plain = [replace(option, activation_bits=0) for option in options if option.weight_bits]
    return tuple(dict.fromkeys((*options, *plain)))


@dataclass(frozen=True, slots=True)
class Timed:
    """A table of latencies, the kernels that it is of, and those that it foresees to be fastest."""

    latency: Latency
    kernels: Kernels
    quickest: Mapping[str, Option]


def timed(
    model: Model,
    calibration: Data,
    *,
    target: str = "ort-cpu",
    options: Sequence[str | Option] = MENU,
    constraints: Constraints = Constraints(),
    threads: int = 1,
    notes: Path | None = None,
    progress: Progress = silent,
) -> Timed:
    """Measure a table of latencies of a model on this machine; ``notes`` keep what was measured of it so far."""
    prepared = prepare(model, target, progress)
    kernels, held = choice(prepared.space, parsed(options), constraints)
    if not kernels.offered:
        raise InputError("Every unit of this model runs on one kernel whatever its option: there is nothing to choose.")
    _measurable(prepared.target)
    with workspace(prepared, calibration, Numbers(), progress) as place:
        exporter = Exporter(place, threads=threads)
        keep = Notebook(notes, prepared.source.sha256)
        latency, _ = Watch(exporter, Plan(prepared.space.target, "", held), kernels, keep).learn()
    return Timed(latency, kernels, quickest(latency, kernels, seed=0))


def placed(
    exporter: Exporter,
    empty: Plan,
    options: Sequence[Option],
    by_hand: Constraints,
    keep: Keep = lambda _, measure: measure(),
) -> Placed | None:
    """Measure on which kernels a model is fastest, of options that units may take; None where there is no choice."""
    kernels, held = choice(exporter.prepared.space, options, by_hand)
    if not kernels.offered:
        return None
    _measurable(exporter.prepared.target)
    found = fastest(Watch(exporter, replace(empty, choices=held), kernels, keep))
    return replace(found, kernels=_tied(_menu(exporter.prepared.space, options, by_hand), found.kernels))


def _measurable(target: Target) -> None:
    """Refuse a target whose files run on machines that nobody knows."""
    if not target.integer_kernels:
        raise InputError(
            f"What is fastest is not measured for '{target.name}': it promises nothing of kernels, since its files run "
            "elsewhere. Leave out --fastest, or bring a --latency-table of the machine that runs them."
        )


def choice(space: Space, options: Sequence[Option], by_hand: Constraints) -> tuple[Kernels, dict[str, Option]]:
    """Return the kernels of units that have a choice, and the options of the others."""
    menu = _menu(space, options, by_hand)
    offered = dict(zip((unit.name for unit in menu.units), menu.options, strict=True))
    kernels = Kernels.of(menu.units, offered)
    held = {unit: own[0] for unit, own in offered.items() if unit not in kernels.offered and own[0] != FLOAT}
    return kernels, held


def _tied(menu: Menu, chosen: Mapping[str, Option]) -> dict[str, Option]:
    """Put tied units on one kernel: that of the one that computes most."""
    found = dict(chosen)
    for tie in menu.ties:
        units = [menu.units[place] for place in tie]
        first = max(units, key=lambda unit: unit.macs)
        if first.name in found:
            found |= {unit.name: found[first.name] for unit in units if unit.name in found}
    return found


def foreseen(latency: Latency, space: Space, options: Sequence[Option], by_hand: Constraints) -> Placed | None:
    """Choose the kernels of the least time that a table foresees, which may be one of another machine."""
    kernels, held = choice(space, options, by_hand)
    others = {unit: kernel(option) for unit, option in held.items()}
    if unknown := [unit for unit, found in kernels.offered.items() if not _knows(latency, unit, found)]:
        raise InputError(
            f"The table of latencies does not know '{unknown[0]}' on every kernel that it may have"
            + (f", nor {len(unknown) - 1} others" if len(unknown) > 1 else "")
            + ": it was measured for another model, target or menu. Measure one with `onnxmpq latency`."
        )
    if not kernels.offered:
        return None
    found = quickest(latency, kernels, seed=0, held=others)
    uniform = {str(each): latency.ratio({**others, **kernels.uniform(each)}) for each in kernels.every}
    ratio = latency.ratio(found)
    return Placed(_tied(_menu(space, options, by_hand), found), ratio, uniform, latency, ratio, measured=False)


def _knows(latency: Latency, unit: str, found: Mapping[Option, Option]) -> bool:
    return unit in latency.regions and set(found) <= set(latency.regions[unit].kernels)


def restricted(menu: Menu, chosen: Mapping[str, Option]) -> Menu:
    """Leave of a menu the options that run on the kernels that were chosen."""
    options = tuple(
        tuple(o for o in own if kernel(o) == chosen[unit.name]) if unit.name in chosen else own
        for unit, own in zip(menu.units, menu.options, strict=True)
    )
    return Menu(menu.units, tuple(left or own for left, own in zip(options, menu.options, strict=True)), menu.ties)


def on_kernels(plan: Plan, space: Space, chosen: Mapping[str, Option]) -> Plan:
    """Return a plan whose units run on the kernels that were chosen, with the same weights."""
    choices = {
        unit: option
        if kernel(option) == chosen.get(unit, kernel(option))
        else nearest(space.unit(unit), replace(option, activation_bits=chosen[unit].activation_bits))
        for unit, option in plan.choices.items()
    }
    return replace(plan, choices=choices)


def told(found: Placed) -> str:
    """Say in a sentence what was placed."""
    codes = sum(bool(each.activation_bits) for each in found.kernels.values())
    others = ", ".join(
        f"{'floats' if name == 'float' else name} everywhere {ratio:.2f}" for name, ratio in found.uniform.items()
    )
    how = "by measurement" if found.measured else f"by a table of {found.latency.about.get('machine', 'a machine')}"
    at = "at" if found.measured else "foreseen at"
    return (
        f"Kernels were placed {how}: {codes} of {len(found.kernels)} units compute on codes, {at} "
        f"{found.ratio:.2f} of float speed ({others})."
    )


def _menu(space: Space, options: Sequence[Option], by_hand: Constraints) -> Menu:
    """Return what units may take, on kernels of every kind."""
    wanted = with_float_kernels(options)
    offered = {unit.name: tuple(dict.fromkeys(nearest(unit, option) for option in wanted)) for unit in space.units}
    return decided(space, offered, by_hand)
