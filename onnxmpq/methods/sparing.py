"""The first table of a search without what is out of question: options that no plan would take, whatever they lose.

    one option of every unit is measured ─▶ others are foreseen, at their best ─▶ what plans take of them is measured
                                            └─────────────────── until they take nothing foreseen ◀──────────────────┘

An option errs where its unit stands; what comes of that behind it is much the same whatever the option. So a response
is foreseen as that of another option of the unit, in the ratio of what the two err by. Such a figure is off by some
factor, and counts as if it were off by that in favour of its option: it decides what to measure, never what to take.
"""

from collections.abc import Mapping, Set
from dataclasses import replace

import numpy as np

from onnxmpq.artifacts import FLOAT
from onnxmpq.methods.models import Models, Near
from onnxmpq.methods.study import Choices, Study
from onnxmpq.sensitivity.table import Table, Variant
from onnxmpq.solve import ROUGH

MANY = 32  # variants from which on some are spared
FAVOUR = 3.0  # by which less is lost than foreseen: half of all are within that, and nine of ten within ten
FAVOUR_NEAR, NEAR = 2.0, 2  # the same of options no more than so many bits away: nine of ten are within that
TURNS = 2  # after which all options of a unit are measured that still asks for one
FAR = 10.0  # how far the prices of two options are apart that are not exchanged
MIDDLE = 4  # bits of weights: the option that is measured of every unit is the one nearest to them


def spared_table(study: Study, near: Near) -> tuple[Table, Near]:
    """Measure around float what plans of a study may take; return the table, and the options that are in it."""
    offered = offers(study, near)
    if not spares(study, near):
        study.known = study.table(near=near, staged=True)
        return study.known, near
    every = {variant for variants in offered for variant in variants}
    asked = {min(variants, key=lambda v: abs(v.option.weight_bits - MIDDLE)) for variants in offered if variants}
    asked |= study.asked & every
    errors = study.engine.local_errors([variant for variants in offered for variant in variants])
    turns = 0
    while True:
        turns += 1
        kept = _kept(study, near, asked)
        table = study.table(near=kept, staged=True)
        wanted = _taken(study, near, _foreseen(table, offered, errors, favoured=True)) - asked
        if not wanted:
            break
        if turns > TURNS:
            units = {variant.unit for variant in wanted}
            wanted = {variant for variant in every if variant.unit in units}
        asked |= wanted
    study.asked |= asked
    study.known = _foreseen(table, offered, errors, favoured=False)
    study.spared = tuple(variant for variants in offered for variant in variants if variant not in asked)
    return table, kept


def spares(study: Study, near: Near) -> bool:
    """Tell whether a search measures only a part of its first table: where that is large, but for the most effort."""
    return study.effort != "extensive" and sum(map(len, offers(study, near))) >= MANY


def offers(study: Study, near: Near) -> list[list[Variant]]:
    """Return for every unit the variants that may be measured around float."""
    pairs = zip(study.menu.units, near, strict=True)
    return [[Variant(unit.name, option) for option in options if option != FLOAT] for unit, options in pairs]


def _kept(study: Study, near: Near, asked: Set[Variant]) -> Near:
    """Return the options that are measured, and float where it is offered."""
    return tuple(
        tuple(option for option in options if option == FLOAT or Variant(unit.name, option) in asked)
        for unit, options in zip(study.menu.units, near, strict=True)
    )


def contested(study: Study, choices: Choices, near: Near) -> Near:
    """Return the options near a plan that may be part of a better one: others are too dear, or save too little.

    What an option saves or costs of the budgets has a price in loss, by what is known around float. No exchange helps
    whose price is further from the best than such figures are off.
    """
    if study.known is None or not study.rows or not spares(study, near):
        return near
    tied = {number for tie in study.menu.ties for number in tie}
    loss = {variant: float(value) for variant, value in zip(study.known.variants, study.known.loss, strict=True)}
    usage = sum((known.weights / max(known.most, 1) for known in study.rows), np.zeros(len(study.rows[0].weights)))
    start, gains, costs = 0, dict[Variant, float](), dict[Variant, float]()
    units = zip(study.menu.units, study.menu.options, study.menu.held(choices), strict=True)
    for number, (unit, options, own) in enumerate(units):
        for option in (option for option in near[number] if option != own and number not in tied):
            before, lost = (0.0 if o == FLOAT else loss.get(Variant(unit.name, o)) for o in (own, option))
            if before is None or lost is None:
                continue
            taken = float(usage[start + options.index(option)] - usage[start + options.index(own)])
            if taken > 0:
                gains[Variant(unit.name, option)] = (before - lost) / taken
            elif taken < 0:
                costs[Variant(unit.name, option)] = (before - lost) / taken
        start += len(options)
    least, most = min(costs.values(), default=0.0), max(gains.values(), default=0.0)
    dear = {variant for variant, gain in gains.items() if gain * FAR < least}
    dear |= {variant for variant, cost in costs.items() if cost > most * FAR}
    return tuple(
        tuple(option for option in options if Variant(unit.name, option) not in dear)
        for unit, options in zip(study.menu.units, near, strict=True)
    )


def _foreseen(table: Table, offered: list[list[Variant]], errors: Mapping[Variant, float], *, favoured: bool) -> Table:
    """Return a table with what is offered and not in it, each from the nearest option of its unit that is.

    ``favoured``: as if every one of them lost less than that, by what such figures are off.
    """
    row = {variant: number for number, variant in enumerate(table.variants)}
    variants, sources, scales = list(table.variants), list(range(len(row))), [1.0] * len(row)
    for of_unit in offered:
        known = [variant for variant in of_unit if variant in row]
        for variant in (variant for variant in of_unit if variant not in row):
            source = min(known, key=lambda other: _apart(variant, other))
            favour = (FAVOUR_NEAR if _apart(variant, source) <= (False, NEAR) else FAVOUR) if favoured else 1.0
            ratio = errors[variant] / errors[source] / favour if errors[source] > 0 else 0.0
            variants.append(variant)
            sources.append(row[source])
            scales.append(float(np.sqrt(ratio)))
    scale, centre = np.array(scales), table.centre_loss.value
    return replace(
        table,
        variants=tuple(variants),
        loss=centre + scale**2 * (table.loss[sources] - centre),
        linear=scale * table.linear[sources],
        gram=scale[:, None] * table.gram[np.ix_(sources, sources)] * scale,
    )


def _apart(variant: Variant, other: Variant) -> tuple[bool, int]:
    a, b = variant.option, other.option
    return a.activation_bits != b.activation_bits, abs(a.weight_bits - b.weight_bits)


def _taken(study: Study, near: Near, table: Table) -> set[Variant]:
    """Return what the best plans take, with every unit's own part by the quadratic model and as its loss says."""
    models = Models.of(study, table, near, superposed=False)
    found = set[Variant]()
    for linear in (models.linear, models.alone - models.own):
        problem = study.problem(linear, models.quadratic, constant=table.centre_loss.value, near=near)
        chosen = study.menu.choices(study.solve(problem, gap=ROUGH, silent=True).choices)
        found |= {Variant(unit, option) for unit, option in chosen.items()}
    return found
