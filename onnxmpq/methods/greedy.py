"""What greedy methods share: units that must agree taken as one, and steps down from the finest plan to the budgets."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.errors import InputError
from onnxmpq.methods.study import Choices, Menu, Study
from onnxmpq.sensitivity.table import Variant

Picked = tuple[int, ...]
"""One position in its options for every bundle."""

_FINEST = 32  # bits of float, for comparing precision


@dataclass(frozen=True, slots=True)
class Bundle:
    """Units that take one option together, the options that all of them have, and what each takes in every row."""

    units: tuple[int, ...]
    options: tuple[Option, ...]
    usage: np.ndarray


@dataclass(frozen=True, slots=True)
class Bundles:
    """A study's menu by bundles; without rows, stored bytes are what steps down save."""

    menu: Menu
    bundles: tuple[Bundle, ...]
    limits: np.ndarray
    scales: np.ndarray

    def choices(self, picked: Picked) -> dict[str, Option]:
        """Return the option of every unit; float ones are left out."""
        return {
            self.menu.units[unit].name: option
            for bundle, place in zip(self.bundles, picked, strict=True)
            for unit in bundle.units
            if (option := bundle.options[place]) != FLOAT
        }

    def finest(self) -> Picked:
        """Return where a walk begins: every bundle at its most precise option."""
        return tuple(
            max(range(len(bundle.options)), key=lambda place: precision(bundle.options[place]))
            for bundle in self.bundles
        )

    def usage(self, picked: Picked) -> np.ndarray:
        """Return what a plan takes in every row, as shares of what the finest plan takes."""
        used = np.sum([bundle.usage[:, place] for bundle, place in zip(self.bundles, picked, strict=True)], axis=0)
        shares: np.ndarray = used / self.scales
        return shares

    def overrun(self, usage: np.ndarray) -> float:
        """Return by how much usage exceeds the limits, summed over the rows."""
        return float(np.maximum(usage - self.limits / self.scales, 0.0).sum())

    def figures(self, values: Mapping[Variant, float]) -> list[np.ndarray]:
        """Add figures of variants up over the units of every bundle; float has none."""
        return [
            np.array(
                [
                    sum(values.get(Variant(self.menu.units[unit].name, option), 0.0) for unit in bundle.units)
                    for option in bundle.options
                ]
            )
            for bundle in self.bundles
        ]


def precision(option: Option) -> tuple[int, int, int]:
    """Return a key that is larger for the more precise option: weight bits, then activations, then finer blocks."""
    block = -option.block if option.block else -(2**31)
    return option.weight_bits or _FINEST, option.activation_bits or _FINEST, block


def bundles_of(study: Study) -> Bundles:
    """Return the bundles of a study; raise InputError where units that must agree have no option in common."""
    menu = study.menu
    rows = [(row.weights, float(row.most)) for row in study.rows]
    if not rows:
        stored = [
            unit.cost(option).stored_bytes
            for unit, options in zip(menu.units, menu.options, strict=True)
            for option in options
        ]
        rows = [(np.array(stored), np.inf)]
    starts = np.cumsum([0, *map(len, menu.options)])
    bundles = []
    for units in _joined(menu):
        common = tuple(o for o in menu.options[units[0]] if all(o in menu.options[unit] for unit in units))
        if not common:
            names = ", ".join(f"'{menu.units[unit].name}'" for unit in units)
            raise InputError(f"{names} must agree and have no allowed option in common.")
        taken = np.array(
            [
                [sum(int(weights[starts[u] + menu.options[u].index(o)]) for u in units) for o in common]
                for weights, _ in rows
            ]
        )
        bundles.append(Bundle(units, common, taken.reshape(len(rows), len(common))))
    found = Bundles(menu, tuple(bundles), np.array([most for _, most in rows]), np.ones(len(rows)))
    scales = np.maximum(found.usage(found.finest()), 1.0)
    return Bundles(found.menu, found.bundles, found.limits, scales)


def finish(study: Study, choices: Choices, values: Mapping[Variant, float]) -> tuple[Choices, tuple[str, ...]]:
    """Return choices that meet the rows; where a walk did not get there, those of the least sum of values."""
    if study.feasible(choices):
        return choices, ()
    solution = study.solve(study.problem(study.vector(values)))
    note = "No step down came nearer to all budgets at once; an integer program on the same figures chose the plan."
    return study.menu.choices(solution.choices), (note,)


def _joined(menu: Menu) -> list[tuple[int, ...]]:
    """Return the units of every bundle: ties that share a unit are one."""
    owner = list(range(len(menu.units)))
    for tie in menu.ties:
        roots = {owner[unit] for unit in tie}
        least = min(roots, default=0)
        owner = [least if root in roots else root for root in owner]
    groups: dict[int, list[int]] = {}
    for unit, root in enumerate(owner):
        groups.setdefault(root, []).append(unit)
    return [tuple(units) for units in groups.values()]
