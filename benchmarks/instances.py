"""Problems to time the solver on: generated ones of any size, and ones measured from a model.

A generated problem imitates a network. Sizes of units are log-normal and grow a little with depth. A unit's response
to an option is a vector. Its squared length, the damage, falls by four with every bit. Its direction mixes a signed
chain over depth (neighbours correlate at 0.1 to 0.6 of either sign), a weak factor that all units share, and a part
of the option's own. The Gram matrix of these vectors is the quadratic part.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from onnxmpq.artifacts import FLOAT, Option, Space
from onnxmpq.errors import InputError
from onnxmpq.options import MeasureOptions
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.sensitivity.table import Table, Variant
from onnxmpq.solve.problem import Budget, Implication, Problem
from onnxmpq.solve.reduce import Floats, Integers
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace

Kind = Literal["gram", "indefinite", "linear"]

BITS = {3: (2, 4, 8), 4: (2, 4, 6, 8), 6: (2, 3, 4, 5, 6, 8), 8: (2, 3, 4, 5, 6, 7, 8, 16)}
LATENCY = {2: 0.62, 3: 0.70, 4: 0.72, 5: 0.88, 6: 0.90, 7: 0.97, 8: 1.0, 16: 1.6}
BUDGETS = ("bytes", "bops", "latency")
MIDDLE = 0.35  # of the way from the least that a budget can be to the most
COORDINATES = 512  # of a response
CHAIN = 0.6  # share of a response that follows the chain; the rest is the option's own
SHARED = 0.1  # mean power of the factor that all units share


def generated(
    units: int,
    options: int,
    seed: int,
    kind: Kind = "gram",
    budgets: int = 1,
    *,
    noise: float = 0.02,
    tightness: float = MIDDLE,
    groups: int = 0,
    implications: int = 0,
    forbidden: int = 0,
) -> Problem:
    """Make the problem of a seed, values divided by the largest damage.

    ``gram`` is positive semidefinite. ``indefinite`` has the losses of single options as linear part and interactions
    with errors, both of about ``noise``, as quadratic one. ``linear`` has the losses only. Budgets are bytes and bit
    operations, in integers, and latency. Every group joins three neighbours, an implication keeps two units from
    having the fewest bits together, and what is forbidden are the fewest bits; each of these takes units of its own.
    """
    if options not in BITS or not 0 <= budgets <= len(BUDGETS):
        raise InputError(
            f"There is no generator of {options} options and {budgets} budgets. "
            f"Expected {', '.join(map(str, BITS))} options and up to {len(BUDGETS)} budgets."
        )
    if 3 * groups + 2 * implications + forbidden > units:
        raise InputError(f"{units} units are too few for {groups} groups, {implications} implications and so on.")
    rng = np.random.default_rng(seed)
    bits = np.array(BITS[options])
    sizes = np.exp(rng.normal(11.0, 1.3, units))
    sizes = (np.sort(sizes) + sizes) / 2
    damage = _damage(sizes, bits, rng)
    linear, quadratic = damage, None
    if kind != "linear":
        responses = _directions(units, options, rng) * np.sqrt(damage)
        linear, quadratic = np.zeros_like(damage), responses.T @ responses
        if kind == "indefinite":
            linear, quadratic = _exact_and_noisy(damage, quadratic, options, noise, rng)
        quadratic /= damage.max()
    problem = Problem(
        units=tuple(f"unit{unit}" for unit in range(units)),
        options=(tuple(f"w{width}" for width in bits),) * units,
        linear=linear / damage.max(),
        quadratic=quadratic,
    )
    weights = _weights(sizes, bits, rng)[:budgets]
    problem = _ruled(problem, groups, implications, forbidden, rng)
    rows = [Budget(name, row, limit_at(problem, row, tightness)) for name, row in zip(BUDGETS, weights, strict=False)]
    return replace(problem, budgets=tuple(rows))


def limit_at(problem: Problem, weights: np.ndarray, tightness: float) -> float:
    """Return the limit that far from the least to the most that the allowed options weigh; whole for integers."""
    allowed = np.ones(len(weights), dtype=bool)
    for unit, option in problem.forbidden:
        allowed[problem.starts[unit] + option] = False
    least = np.minimum.reduceat(np.where(allowed, weights, np.inf), problem.starts).sum()
    most = np.maximum.reduceat(np.where(allowed, weights, -np.inf), problem.starts).sum()
    limit = float(least + tightness * (most - least))
    return float(np.floor(limit)) if np.issubdtype(weights.dtype, np.integer) else limit


def measured(
    model: Path,
    calibration: Path,
    kind: Kind = "gram",
    *,
    options: Sequence[str] = ("w8a8", "w4a8", "w3a8", "w2a8"),
    target: str = "ort-cpu",
    samples: int = 64,
    tightness: float = MIDDLE,
) -> Problem:
    """Measure a model around float, and return the problem of its stored bytes.

    ``gram`` takes the first-order part and the Gram matrix, ``linear`` what every option loses alone, ``indefinite``
    that and the losses of all pairs.
    """
    prepared = prepare(model, target)
    with workspace(prepared, calibration) as opened, Engine(opened, MeasureOptions(samples=samples)) as engine:
        table = engine.table([Option.parse(text) for text in options])
        if kind == "indefinite":
            table = engine.pairs(table)
        return of_table(table, prepared.space, kind, tightness)


def of_table(table: Table, space: Space, kind: Kind, tightness: float = MIDDLE) -> Problem:
    """Return the problem of a table around float: float itself is the first option of every unit, and loses nothing."""
    names = tuple(dict.fromkeys(variant.unit for variant in table.variants))
    menus = {name: [FLOAT, *(v.option for v in table.variants if v.unit == name)] for name in names}
    entries = [Variant(name, option) for name in names for option in menus[name]]
    place = {variant: number for number, variant in enumerate(entries)}
    at = np.array([place[variant] for variant in table.variants])
    linear, quadratic = np.zeros(len(entries)), np.zeros((len(entries), len(entries)))
    if kind == "gram":
        linear[at] = table.linear
        quadratic[np.ix_(at, at)] = table.gram / 2
    else:
        linear[at] = table.loss - table.centre_loss.value
    for (first, second), estimate in table.pairs.items() if kind == "indefinite" else ():
        i, j = place[first], place[second]
        quadratic[i, j] = quadratic[j, i] = (estimate.value - table.centre_loss.value - linear[i] - linear[j]) / 2
    stored = np.array([space.unit(entry.unit).cost(entry.option).stored_bytes for entry in entries], np.int64)
    problem = Problem(
        units=names,
        options=tuple(tuple(str(option) for option in menus[name]) for name in names),
        linear=linear,
        quadratic=None if kind == "linear" else quadratic,
        constant=table.centre_loss.value,
    )
    return replace(problem, budgets=(Budget("bytes", stored, limit_at(problem, stored, tightness)),))


def _damage(sizes: Floats, bits: Integers, rng: np.random.Generator) -> Floats:
    """Draw what every option loses alone; large units lose a little more."""
    sensitivity = np.exp(rng.normal(0.0, 1.0, len(sizes))) * (sizes / sizes.mean()) ** 0.35
    spread = np.exp(rng.normal(0.0, 0.1, (len(sizes), len(bits))))
    damage: Floats = (sensitivity[:, None] * 4.0 ** -bits.astype(np.float64) * spread**2).ravel()
    return damage


def _directions(units: int, options: int, rng: np.random.Generator) -> Floats:
    """Draw the direction of every response, in columns of length one."""
    chain = np.empty((units, COORDINATES))
    chain[0] = rng.normal(size=COORDINATES)
    for unit in range(1, units):
        correlation = rng.uniform(0.1, 0.6) * rng.choice([-1.0, 1.0], p=[0.4, 0.6])
        along = float(np.clip(correlation / CHAIN, -0.95, 0.95))
        chain[unit] = along * chain[unit - 1] + np.sqrt(1 - along**2) * rng.normal(size=COORDINATES)
    shared = rng.choice([-1.0, 1.0], units, p=[0.3, 0.7]) * np.sqrt(SHARED * rng.uniform(0.0, 2.0, units))
    common = np.sqrt(CHAIN) * chain + shared[:, None] * rng.normal(size=COORDINATES)
    own = rng.normal(size=(units * options, COORDINATES))
    directions = np.repeat(common, options, axis=0) + np.sqrt(1 - CHAIN) * own
    columns: Floats = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    return columns


def _exact_and_noisy(
    damage: Floats, gram: Floats, options: int, noise: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return single losses and interactions as measuring pairs would give them: well known, and less well."""
    error = np.triu(rng.normal(size=gram.shape), 1)
    floor = 0.002 * float(np.median(damage[::options]))
    interactions = gram + noise * (error + error.T) * (np.sqrt(np.outer(damage, damage)) + floor)
    unit = np.arange(len(damage)) // options
    interactions[unit[:, None] == unit] = 0.0
    return damage * (1 + 0.3 * noise * rng.normal(size=len(damage))), interactions


def _weights(sizes: Floats, bits: Integers, rng: np.random.Generator) -> list[np.ndarray]:
    """Return what every option costs in bytes, bit operations at 8-bit activations, and latency."""
    stored = np.outer(sizes, bits) / 8
    macs = sizes * np.exp(rng.normal(5.0, 1.0, len(sizes))) * np.sqrt(sizes.mean() / sizes)
    kernel = np.array([LATENCY[int(width)] for width in bits])
    latency = np.outer(macs**0.9, kernel) * np.exp(rng.normal(0.0, 0.03, (len(sizes), len(bits))))
    bops = np.outer(macs, bits * 8)
    return [np.rint(stored).astype(np.int64).ravel(), np.rint(bops).astype(np.int64).ravel(), latency.ravel()]


def _ruled(problem: Problem, groups: int, implications: int, forbidden: int, rng: np.random.Generator) -> Problem:
    """Add rules on disjoint units; the first option has the fewest bits."""
    count = len(problem.units)
    joined = [tuple(range(3 * place, 3 * place + 3)) for place in rng.permutation(count // 3)[:groups]]
    grouped = {unit for group in joined for unit in group}
    free = [int(unit) for unit in rng.permutation(count) if unit not in grouped]
    more = tuple(range(1, len(problem.options[0])))
    pairs = [(free.pop(), free.pop()) for _ in range(implications)]
    return replace(
        problem,
        groups=tuple(joined),
        implications=tuple(Implication(unit, 0, other, more) for unit, other in pairs),
        forbidden=tuple((free.pop(), 0) for _ in range(forbidden)),
    )
