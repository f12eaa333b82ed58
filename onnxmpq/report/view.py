"""What a report shows, as numbers: from results, fronts and tables to plain data.

Everything but the subject may be absent: a uniform build has no table, a front has no verdict.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from onnxmpq.api import Result
from onnxmpq.artifacts import FLOAT, Check, Option, Space, Unit, plain
from onnxmpq.errors import InputError
from onnxmpq.search.decide import Decision
from onnxmpq.search.front import Front
from onnxmpq.sensitivity.table import Array, Estimate, Table, Variant
from onnxmpq.verification.verify import Accuracy
from onnxmpq.version import __version__

STRONGEST = 20  # pairs that are named
# What a page can hold: a map of 300 units has 44,850 cells of some 4 bytes, and all pairs of 100 units are 4,950.
LARGEST_MAP = 400
CELLS = 300_000
PAIRS = 1000
BAND = 1_000_000  # entries of the Gram matrix that are looked at together: of 8,000 variants it has 64 million

Choices = Mapping[str, Option]


@dataclass(frozen=True, slots=True)
class Measured:
    """Another plan that was measured: one that a search tried, another method's, or another tool's.

    Where its size is not known it follows from its choices; one of the two must be given.
    """

    name: str
    loss: Estimate
    file_bytes: int | None = None
    choices: Choices | None = None


@dataclass(frozen=True, slots=True)
class OptionFigures:
    """An option and its bits; 0 means float."""

    name: str
    weight_bits: int
    activation_bits: int
    block: int


@dataclass(frozen=True, slots=True)
class UnitCost:
    """What a unit takes at an option."""

    option: str
    stored_bytes: int
    bops: int


@dataclass(frozen=True, slots=True)
class UnitFigures:
    """A unit in the order of the graph, and what it may take."""

    name: str
    op: str
    layers: int
    parameters: int
    macs: int
    reason: str
    costs: tuple[UnitCost, ...]


@dataclass(frozen=True, slots=True)
class PlanFigures:
    """A plan that was measured: ``options`` follow the units and are empty where they are not known.

    ``kind`` is ``chosen``, ``searched``, ``uniform`` or ``other``; a size is exact where the file was written.
    """

    name: str
    kind: str
    file_bytes: int
    size_is_exact: bool
    loss: Estimate
    predicted: float | None
    bound: float | None
    gap: float | None
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alone:
    """What one unit loses at one option while all others stay at the centre."""

    unit: str
    option: str
    loss: Estimate
    predicted: float
    local: float
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Map:
    """Correlations of responses between units, one option each, in graph order.

    ``units`` and ``options`` name the rows, of the most sensitive units where there are too many; ``clustered`` is the
    order that puts alike rows together. ``thousandths`` are the upper triangle without the diagonal, row by row.
    """

    name: str
    units: tuple[str, ...]
    options: tuple[str, ...]
    clustered: tuple[int, ...]
    thousandths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two units that act together: ``extra`` is the loss that the model adds to the sum of both alone.

    ``measured`` is the same where the pair was measured.
    """

    first: str
    first_option: str
    second: str
    second_option: str
    correlation: float
    extra: float
    measured: Estimate | None


@dataclass(frozen=True, slots=True)
class Guess:
    """A loss as the model of the loss foresaw it, and as it was measured; ``kind`` is pair or plan."""

    name: str
    kind: str
    predicted: float
    measured: Estimate


@dataclass(frozen=True, slots=True)
class Unquantised:
    """Something that stays float, what it takes and why."""

    name: str
    op: str
    stored_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Proof:
    """How good the plan is in the model of the loss."""

    objective: float
    bound: float
    gap: float
    status: str
    solver: str
    seed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What was given, and what came out; a front has no file of its own."""

    target: str
    runtime: str
    method: str
    float_file_bytes: int | None
    file_bytes: int | None
    loss: Estimate | None
    predicted: float | None
    loss_name: str
    samples: int | None
    accuracy: Accuracy | None
    speeds: tuple[Check, ...]
    full_runs: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class PortionFigures:
    """Bytes of one kind, in the float file and in the one that was written."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class View:
    """All numbers of a report."""

    schema: ClassVar[int] = 1
    title: str
    version: str
    command: str
    summary: Summary
    portions: tuple[PortionFigures, ...]
    options: tuple[OptionFigures, ...]
    units: tuple[UnitFigures, ...]
    chosen: tuple[str, ...]
    plans: tuple[PlanFigures, ...]
    alone: tuple[Alone, ...]
    maps: tuple[Map, ...]
    pairs: tuple[Pair, ...]
    guesses: tuple[Guess, ...]
    unquantised: tuple[Unquantised, ...]
    verified: bool | None
    checks: tuple[Check, ...]
    proof: Proof | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; what JSON has no number for (no noise at all) is text."""
        found: dict[str, Any] = plain({"schema": self.schema, **asdict(self)})
        return found

    def to_text(self) -> str:
        """Return the numbers as a JSON file has them."""
        return json.dumps(self.to_json(), allow_nan=False) + "\n"


def make_view(
    result: Result | None = None,
    *,
    front: Front | None = None,
    table: Table | None = None,
    space: Space | None = None,
    others: Sequence[Measured] = (),
    title: str = "",
    command: str = "",
) -> View:
    """Gather what a report shows of a build, of a front, or of both.

    ``table`` is what was measured for them, ``space`` the units of a front without a build, ``others`` plans to
    compare with, ``command`` what reproduces it all.
    """
    space = result.space if result else space
    decision = result.decision if result else None
    units = _units(space, front, table)
    chosen = _options(result.plan.choices, units) if result else ()
    searched = _options(decision.choices, units) if decision else chosen
    plans = _plans(result, front, others, units)
    options = _option_figures(plans, chosen, table)
    units = _with_costs_of(units, {option.name for option in options})
    own = np.array(np.diag(table.gram)) if table else np.zeros(0)
    named = {unit.name: unit.op for unit in units}
    return View(
        title=title or (result.path.name if result else f"Front over {front.over}" if front else "Report"),
        version=__version__,
        command=command,
        summary=_summary(result, front, table),
        portions=_portions(result),
        options=options,
        units=units,
        chosen=chosen,
        plans=plans,
        alone=tuple(_alone(table, own)) if table else (),
        maps=tuple(_maps(table, own, named, dict(zip(named, searched, strict=False)))) if table else (),
        pairs=_pairs(table, own) if table else (),
        guesses=_guesses(table, own, plans),
        unquantised=_unquantised(space, result),
        verified=result.verdict.ok if result else None,
        checks=result.verdict.checks if result else (),
        proof=_proof(decision),
        notes=_notes(result, front, space, table),
    )


def _portions(result: Result | None) -> tuple[PortionFigures, ...]:
    if result is None or result.float_portions is None or result.portions is None:
        return ()
    before, after = dict(result.float_portions.parts()), dict(result.portions.parts())
    return tuple(PortionFigures(n, before.get(n, 0), after.get(n, 0)) for n in dict.fromkeys((*before, *after)))


def _summary(result: Result | None, front: Front | None, table: Table | None) -> Summary:
    decision = result.decision if result and _is_as_searched(result) else None
    plan = result.plan if result else front.plans[0] if front and front.plans else None
    method = result.decision.chosen if result and result.decision else plan.method if plan else ""
    return Summary(
        target=plan.target if plan else table.target if table else "",
        runtime=result.verdict.runtime if result else "",
        method=method,
        float_file_bytes=result.float_file_bytes if result else front.float_file_bytes if front else None,
        file_bytes=result.file_bytes if result else None,
        loss=decision.loss if decision else None,
        predicted=decision.predicted if decision else None,
        loss_name=table.loss_name if table else "",
        samples=table.samples if table else None,
        accuracy=result.accuracy if result else None,
        speeds=tuple(c for c in result.verdict.checks if c.name.startswith("speed")) if result else (),
        full_runs=result.decision.runs if result and result.decision else None,
        seconds=result.decision.seconds if result and result.decision else None,
    )


def _units(space: Space | None, front: Front | None, table: Table | None) -> tuple[UnitFigures, ...]:
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


def _op(unit: Unit) -> str:
    kinds = (layer.op if layer.grouping == "dense" else f"{layer.op}, {layer.grouping}" for layer in unit.layers)
    return " and ".join(dict.fromkeys(kinds))


def _with_costs_of(units: Sequence[UnitFigures], options: set[str]) -> tuple[UnitFigures, ...]:
    """Keep what units take at some options: a target has more than a report shows."""
    return tuple(replace(unit, costs=tuple(cost for cost in unit.costs if cost.option in options)) for unit in units)


def _option_figures(
    plans: Sequence[PlanFigures], chosen: Sequence[str], table: Table | None
) -> tuple[OptionFigures, ...]:
    """Return every option that a plan takes or that was measured, the most precise first."""
    seen = {name for plan in plans for name in plan.options} | {str(FLOAT), *chosen}
    seen |= {str(variant.option) for variant in table.variants} if table else set()
    found = sorted(map(Option.parse, seen), key=lambda o: (-(o.weight_bits or 32), -(o.activation_bits or 32), o))
    return tuple(OptionFigures(str(o), o.weight_bits, o.activation_bits, o.block) for o in found)


def _options(choices: Choices, units: Sequence[UnitFigures]) -> tuple[str, ...]:
    return tuple(str(choices.get(unit.name, FLOAT)) for unit in units)


# ---- plans -----------------------------------------------------------------------------------------------------------


def _plans(
    result: Result | None, front: Front | None, others: Sequence[Measured], units: Sequence[UnitFigures]
) -> tuple[PlanFigures, ...]:
    """Return all plans with a measured loss, each once: the chosen one first, then by size."""
    found: list[PlanFigures] = []
    if result is not None and (decision := result.decision) is not None:
        found += _decided(result, decision, units)
    if front is not None:
        for point in front.points:
            kind = "uniform" if point.source.startswith("uniform") else "searched"
            found.append(
                PlanFigures(
                    *(point.source, kind, point.file_bytes, True, point.loss),
                    *(point.predicted, point.bound, point.gap, _options(point.choices, units)),
                )
            )
    for other in others:
        options = _options(other.choices, units) if other.choices is not None else ()
        size, exact = other.file_bytes, True
        if size is None:
            if result is None or other.choices is None:
                raise InputError(f"The plan '{other.name}' needs its size, or its choices and a result beside it.")
            size, exact = _size(result, other.choices)
        found.append(PlanFigures(other.name, "other", size, exact, other.loss, None, None, None, options))
    kept: dict[tuple[str, ...], PlanFigures] = {}
    for number, plan in enumerate(found):
        key = plan.options or (str(number),)
        if key not in kept or (plan.size_is_exact and not kept[key].size_is_exact):
            kept[key] = plan
    return tuple(sorted(kept.values(), key=lambda plan: (plan.kind != "chosen", plan.file_bytes)))


def _decided(result: Result, decision: Decision, units: Sequence[UnitFigures]) -> list[PlanFigures]:
    """Return the plans that a decision names."""

    def plan(name: str, kind: str, choices: Choices, loss: Estimate, predicted: float | None = None) -> PlanFigures:
        proof = decision.proof if choices is decision.choices else None
        bound, gap = (proof.bound, proof.gap) if proof else (None, None)
        return PlanFigures(name, kind, *_size(result, choices), loss, predicted, bound, gap, _options(choices, units))

    kind = "chosen" if _is_as_searched(result) else "searched"
    found = [plan(decision.chosen, kind, decision.choices, decision.loss, decision.predicted)]
    found.append(plan("the method's first", "searched", decision.proposed, decision.proposed_loss))
    found += [plan(f"uniform {name}", "uniform", *measured) for name, measured in decision.uniforms.items()]
    return found


def _size(result: Result, choices: Choices) -> tuple[int, bool]:
    """Return the bytes of the file that choices lead to, and whether they are exact: only one file was written.

    Of others it is known what their units store; graph and names are taken to be the same.
    """
    plan = result.plan.choices
    if _taken(choices) == _taken(plan):
        return result.file_bytes, True
    change = sum(
        unit.cost(choices.get(unit.name, FLOAT)).stored_bytes - unit.cost(plan.get(unit.name, FLOAT)).stored_bytes
        for unit in result.space.units
    )
    return result.file_bytes + change, False


def _taken(choices: Choices) -> dict[str, Option]:
    return {unit: option for unit, option in choices.items() if option != FLOAT}


def _is_as_searched(result: Result) -> bool:
    """Tell whether the file holds the plan that was measured: its kernels may have been made float."""
    return result.decision is not None and _taken(result.plan.choices) == _taken(result.decision.choices)


def _notes(result: Result | None, front: Front | None, space: Space | None, table: Table | None) -> tuple[str, ...]:
    """Return what was noticed on the way, then what is always so on this target."""
    found = [*(result.notes if result else ()), *(front.notes if front else ())]
    if result is not None and result.decision is not None and not _is_as_searched(result):
        found.append(
            "The losses are those of the plan as it was searched; the file computes the same weights in float."
        )
    if table is not None and (shown := len(_spaced(table))) < len(table.pairs):
        found.append(
            f"Of {len(table.pairs):,} pairs that were measured, prediction against measurement shows {shown:,}, evenly "
            "from the smallest loss to the largest."
        )
    return tuple(dict.fromkeys([*found, *(space.notes if space else ())]))


def _proof(decision: Decision | None) -> Proof | None:
    proof = decision.proof if decision else None
    if proof is None:
        return None
    return Proof(
        proof.objective, proof.bound, proof.gap, str(proof.status), proof.solver, proof.seed, float(proof.seconds)
    )


def _unquantised(space: Space | None, result: Result | None) -> tuple[Unquantised, ...]:
    """Return what stays float, the largest first."""
    if space is None:
        return ()
    found = [Unquantised(left.node, left.op, left.stored_bytes, left.reason) for left in space.leftovers]
    for unit in space.units:
        if result is not None and result.plan.choices.get(unit.name, FLOAT) == FLOAT:
            reason = unit.reason if len(unit.costs) == 1 else "the plan keeps it float"
            found.append(Unquantised(unit.name, _op(unit), unit.cost(FLOAT).stored_bytes, reason))
    return tuple(sorted(found, key=lambda left: -left.stored_bytes))


# ---- the table -------------------------------------------------------------------------------------------------------


def _alone(table: Table, own: Array) -> list[Alone]:
    predicted = table.centre_loss.value + table.linear + 0.5 * own
    return [
        Alone(
            variant.unit,
            str(variant.option),
            Estimate(float(table.loss[row]), float(table.loss_error[row])),
            float(predicted[row]),
            float(table.local[row]),
            float(table.sqnr_db[row].min()),
        )
        for row, variant in enumerate(table.variants)
    ]


def correlations(gram: Array) -> Array:
    """Return a Gram matrix with every row scaled to length 1; a row of zeros has no direction and stays zero."""
    scale = _scale(np.diag(gram))
    found: Array = np.clip(gram * scale[:, None] * scale, -1.0, 1.0)
    return found


def _scale(own: Array) -> Array:
    """Return what brings rows of a Gram matrix with this diagonal to length 1."""
    lengths = np.sqrt(np.maximum(own, 0.0))
    scale: Array = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return scale


def clustered(correlation: Array) -> tuple[int, ...]:
    """Return an order that puts alike rows together, whatever their sign."""
    count = len(correlation)
    if count < 3:
        return tuple(range(count))
    distance = 1.0 - np.abs(0.5 * (correlation + correlation.T))
    np.fill_diagonal(distance, 0.0)
    condensed = squareform(np.maximum(distance, 0.0), checks=False)
    tree = linkage(condensed, "average")
    return tuple(int(leaf) for leaf in leaves_list(optimal_leaf_ordering(tree, condensed)))


def _maps(table: Table, own: Array, ops: Mapping[str, str], chosen: Mapping[str, str]) -> list[Map]:
    """Return the map of the plan's own options, then one for every option, in graph order."""
    place = {name: number for number, name in enumerate(ops)}
    rows = sorted(range(len(table.variants)), key=lambda row: place.get(table.variants[row].unit, len(place)))
    of_option: dict[str, list[int]] = {}
    for row in rows:
        variant = table.variants[row]
        of_option.setdefault(str(variant.option), []).append(row)
        if chosen.get(variant.unit) == str(variant.option):
            of_option.setdefault("plan", []).append(row)
    finest = sorted((name for name in of_option if name != "plan"), key=lambda name: -Option.parse(name).weight_bits)
    most = _largest_map(len(of_option))
    found: list[Map] = []
    for name in ["plan", *finest]:
        every = np.array(of_option.get(name, []), dtype=np.int64)
        kept = every[np.sort(np.argsort(-own[every], kind="stable")[:most])]
        if len(kept) < 2:
            continue
        values = correlations(table.gram[np.ix_(kept, kept)])
        upper = np.rint(1000 * values[np.triu_indices(len(kept), 1)]).astype(int)
        units = tuple(table.variants[row].unit for row in kept)
        options = tuple(str(table.variants[row].option) for row in kept)
        found.append(Map(name, units, options, clustered(values), tuple(upper.tolist())))
    return found


def _largest_map(maps: int) -> int:
    """Return how many units a map may have, so that all maps together have no more than CELLS.

    >>> _largest_map(1), _largest_map(5)
    (400, 346)
    """
    return min(LARGEST_MAP, int((1 + np.sqrt(1 + 8 * CELLS / max(maps, 1))) / 2))


def _pairs(table: Table, own: Array) -> tuple[Pair, ...]:
    """Return the pairs of units that interact most in loss, each at the options where it is strongest."""
    scale = _scale(own)
    found: dict[frozenset[str], Pair] = {}
    for first, second, extra in _strongest(table):
        if len(found) == STRONGEST:
            break
        a, b = table.variants[first], table.variants[second]
        found.setdefault(
            frozenset((a.unit, b.unit)),
            Pair(
                *(a.unit, str(a.option), b.unit, str(b.option)),
                float(np.clip(extra * scale[first] * scale[second], -1.0, 1.0)),
                extra,
                _measured_extra(table, a, b),
            ),
        )
    return tuple(found.values())


def _strongest(table: Table) -> list[tuple[int, int, float]]:
    """Return the largest entries of the Gram matrix between two units, with their rows, the largest first.

    They are enough for STRONGEST pairs of units, each of which has one entry for every two of its options.
    """
    count = len(table.variants)
    number = {name: at for at, name in enumerate(dict.fromkeys(variant.unit for variant in table.variants))}
    unit = np.array([number[variant.unit] for variant in table.variants], dtype=np.int64)
    most = STRONGEST * int(np.bincount(unit).max(initial=0)) ** 2
    extra, places, least = np.zeros(0), np.zeros(0, dtype=np.int64), -1.0
    step = max(BAND // max(count, 1), 1)
    for start in range(0, count, step):
        band = table.gram[start : start + step]
        rows = np.arange(start, start + len(band))[:, None]
        sizes = np.where((unit[rows] != unit) & (rows < np.arange(count)), np.abs(band), -1.0).ravel()
        larger = np.flatnonzero(sizes > least)
        extra = np.concatenate([extra, band.ravel()[larger]])
        places = np.concatenate([places, start * count + larger])
        order = np.argsort(-np.abs(extra), kind="stable")[:most]
        extra, places = extra[order], places[order]
        if len(order) == most:
            least = float(np.abs(extra[-1]))
    return [(int(place) // count, int(place) % count, float(value)) for place, value in zip(places, extra, strict=True)]


def _measured_extra(table: Table, a: Variant, b: Variant) -> Estimate | None:
    """Return the loss of a pair beyond that of both alone, with the error of the pair's own loss."""
    pair = table.pairs.get((a, b)) or table.pairs.get((b, a))
    if pair is None:
        return None
    alone = table.loss[table.index(a)] + table.loss[table.index(b)] - table.centre_loss.value
    return Estimate(float(pair.value - alone), pair.error)


def _guesses(table: Table | None, own: Array, plans: Sequence[PlanFigures]) -> tuple[Guess, ...]:
    """Return predictions beside what was measured, of whole plans and of pairs from the smallest to the largest."""
    found: list[Guess] = []
    if table is not None and table.pairs:
        row = {variant: number for number, variant in enumerate(table.variants)}
        alone = table.linear + 0.5 * own
        for (a, b), measured in _spaced(table):
            i, j = row[a], row[b]
            predicted = float(table.centre_loss.value + alone[i] + alone[j] + table.gram[i, j])
            found.append(Guess(f"{a} with {b}", "pair", predicted, measured))
    found += [Guess(plan.name, "plan", plan.predicted, plan.loss) for plan in plans if plan.predicted is not None]
    return tuple(found)


def _spaced(table: Table) -> list[tuple[tuple[Variant, Variant], Estimate]]:
    """Return no more pairs that were measured than a page shows, evenly from the smallest loss to the largest."""
    ordered = sorted(table.pairs.items(), key=lambda item: item[1].value)
    return ordered[:: max(-(-len(ordered) // PAIRS), 1)]
