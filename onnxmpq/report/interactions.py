"""What units do to the outputs together: maps of correlations, and the pairs that interact most.

    Gram matrix of the variants ─┬▶ one map for each option, alike rows together
                                 └▶ the largest entries between two units

A page has to hold them all: maps keep the most sensitive units where there are too many.
"""

from collections.abc import Mapping

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from onnxmpq.artifacts import Estimate, Option
from onnxmpq.report.figures import Map, Pair
from onnxmpq.sensitivity.table import Array, Table, Variant

STRONGEST = 20  # pairs that are named
# What a page can hold: a map of 300 units has 44,850 cells of some 4 bytes.
LARGEST_MAP = 400
CELLS = 300_000
BAND = 1_000_000  # entries of the Gram matrix that are looked at together: of 8,000 variants it has 64 million


def correlations(gram: Array) -> Array:
    """Return a Gram matrix with every row scaled to length 1; a row of zeros has no direction and stays zero."""
    scale = _scale(np.diag(gram))
    found: Array = np.clip(gram * scale[:, None] * scale, -1.0, 1.0)
    return found


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


def maps(table: Table, own: Array, ops: Mapping[str, str], chosen: Mapping[str, str]) -> list[Map]:
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


def strongest_pairs(table: Table, own: Array) -> tuple[Pair, ...]:
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


def _scale(own: Array) -> Array:
    """Return what brings rows of a Gram matrix with this diagonal to length 1."""
    lengths = np.sqrt(np.maximum(own, 0.0))
    scale: Array = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return scale


def _largest_map(maps: int) -> int:
    """Return how many units a map may have, so that all maps together have no more than CELLS.

    >>> _largest_map(1), _largest_map(5)
    (400, 346)
    """
    return min(LARGEST_MAP, int((1 + np.sqrt(1 + 8 * CELLS / max(maps, 1))) / 2))


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
