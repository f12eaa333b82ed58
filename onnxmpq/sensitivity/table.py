"""The table: what measuring gives, ready for solvers and reports.

loss[a]       loss with unit and option a alone changed from the centre, with its standard error
linear[a]     first-order part, mean z_aᵀ g
gram[a, b]    second-order part, mean y_aᵀ y_b
sqnr_db[a]    signal-to-noise ratio of every output
local[a]      error of the unit's own output on float inputs, relative to its power
pairs         loss with two units changed, for those that were asked for
facts         what budgets are counted from, where it is known: with it `onnxmpq solve` needs nothing else
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from onnxmpq.artifacts import FLOAT, Estimate, Option, Space, options_of, plain
from onnxmpq.disk.files import write_whole
from onnxmpq.disk.reading import COUNT, FIGURE, FLAG, OBJECT, OBJECTS, TEXT, TEXTS, Fields, Kind, read_json, refuse
from onnxmpq.errors import InputError
from onnxmpq.sensitivity.facts import Facts, option_of

Array = npt.NDArray[np.float64]

LARGEST_BYTES = 1 << 30
"""The most that the file of a table may have: that of 4,000 variants, whose products are written out."""
_COLUMNS = ("loss", "loss_error", "linear", "linear_error", "local", "local_error")
_BY_OUTPUT = ("sqnr_db", "sqnr_error_db")
_FIELDS = (
    *("schema", "target", "loss", "samples", "sketched", "outputs", "centre", "centre_loss", "centre_loss_error"),
    *("variants", "gram", "gram_error", "pairs", "cost", "facts"),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What measuring takes: variants, jobs, runs of the whole model they are worth, bytes of one process, seconds."""

    variants: int
    jobs: int
    full_runs: float
    memory: int
    seconds: float


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """One unit at an option other than the centre's."""

    unit: str
    option: Option

    def __str__(self) -> str:
        """Write it as ``unit@option``."""
        return f"{self.unit}@{self.option}"


def variants_of(space: Space, options: Sequence[Option], centre: Mapping[str, Option]) -> tuple[Variant, ...]:
    """Return every unit at every one of the options that it has and that is not the centre's."""
    found = []
    for unit in space.units:
        wanted = [*options, FLOAT] if centre.get(unit.name, FLOAT) != FLOAT else options
        if not unit.parameters:
            wanted = [Option(0, option.activation_bits) for option in wanted]
        for option in dict.fromkeys(wanted):
            if option in unit.options and option != centre.get(unit.name, FLOAT):
                found.append(Variant(unit.name, option))
    return tuple(found)


def pairs_of(variants: Sequence[Variant]) -> Iterator[tuple[Variant, Variant]]:
    """Return all pairs of variants that a plan may have together: those of two units."""
    return ((a, b) for a, b in combinations(variants, 2) if a.unit != b.unit)


@dataclass(frozen=True, slots=True)
class Table:
    """All that was measured around one centre."""

    schema: ClassVar[int] = 1
    target: str
    loss_name: str
    centre: Mapping[str, Option]
    variants: tuple[Variant, ...]
    samples: int
    centre_loss: Estimate
    loss: Array
    loss_error: Array
    linear: Array
    linear_error: Array
    gram: Array
    gram_error: Array
    local: Array
    local_error: Array
    sqnr_db: Array
    sqnr_error_db: Array
    outputs: tuple[str, ...]
    sketched: bool
    pairs: Mapping[tuple[Variant, Variant], Estimate] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    facts: Facts | None = None

    def index(self, variant: Variant) -> int:
        """Return the row of a variant."""
        return self.variants.index(variant)

    def predict(self, plan: Mapping[str, Option]) -> float:
        """Predict the loss of a plan from the linear and quadratic parts."""
        rows = self._rows(plan)
        return float(self.centre_loss.value + self.linear[rows].sum() + 0.5 * self.gram[np.ix_(rows, rows)].sum())

    def predict_alone(self, plan: Mapping[str, Option]) -> float:
        """Predict the loss of a plan as if units did not interact: the sum of what each adds alone."""
        rows = self._rows(plan)
        return float(self.centre_loss.value + (self.loss[rows] - self.centre_loss.value).sum())

    def _rows(self, plan: Mapping[str, Option]) -> list[int]:
        """Return the rows of what a plan changes from the centre."""
        known = {variant: row for row, variant in enumerate(self.variants)}
        changed = [Variant(u, o) for u, o in plan.items() if self.centre.get(u, Option()) != o]
        missing = [str(variant) for variant in changed if variant not in known]
        if missing:
            raise InputError(f"The plan takes what was not measured: {', '.join(missing)}. Measure these options too.")
        return [known[variant] for variant in changed]

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain JSON data; a value that JSON has no number for as text."""
        rows = [
            {
                "unit": variant.unit,
                "option": str(variant.option),
                "loss": self.loss[i],
                "loss_error": self.loss_error[i],
                "linear": self.linear[i],
                "linear_error": self.linear_error[i],
                "local": self.local[i],
                "local_error": self.local_error[i],
                "sqnr_db": dict(zip(self.outputs, self.sqnr_db[i], strict=True)),
                "sqnr_error_db": dict(zip(self.outputs, self.sqnr_error_db[i], strict=True)),
            }
            for i, variant in enumerate(self.variants)
        ]
        pairs = [
            {"first": _pair(a), "second": _pair(b), "loss": x.value, "loss_error": x.error}
            for (a, b), x in self.pairs.items()
        ]
        data: dict[str, Any] = {
            "schema": self.schema,
            "target": self.target,
            "loss": self.loss_name,
            "samples": self.samples,
            "sketched": self.sketched,
            "outputs": list(self.outputs),
            "centre": {unit: str(option) for unit, option in self.centre.items()},
            "centre_loss": self.centre_loss.value,
            "centre_loss_error": self.centre_loss.error,
            "variants": rows,
            "gram": self.gram.tolist(),
            "gram_error": self.gram_error.tolist(),
            "pairs": pairs,
            "cost": dict(self.cost),
        }
        if self.facts is not None:
            data["facts"] = self.facts.to_json()
        return {name: plain(value) for name, value in data.items()}

    def write(self, path: Path, *, overwrite: bool = True) -> None:
        """Write the table as JSON, whole or not at all."""
        write_whole(path, json.dumps(self.to_json()) + "\n", "table", overwrite=overwrite)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what ``write`` wrote."""
        return cls.from_json(read_json(path, "table", LARGEST_BYTES), str(path))

    @classmethod
    def from_json(cls, data: Any, where: str = "table") -> Self:
        """Read plain JSON data; every fault is told at once."""
        if not isinstance(data, dict) or type(data.get("schema")) is not int or data["schema"] != cls.schema:
            raise InputError(f"'{where}' is not a table of schema {cls.schema}. Measure again.")
        fields = Fields(data, _FIELDS)
        outputs = fields.take("outputs", TEXTS)
        rows = [
            Fields(row, ("unit", "option", *_COLUMNS, *_BY_OUTPUT), f"variants[{index}].", fields.faults)
            for index, row in enumerate(fields.take("variants", OBJECTS))
        ]
        columns = {name: np.array([row.take(name, FIGURE) for row in rows], np.float64) for name in _COLUMNS}
        by_output = {
            name: np.array([_by_output(row, name, outputs) for row in rows], np.float64).reshape(
                len(rows), len(outputs)
            )
            for name in _BY_OUTPUT
        }
        square, target = _square(len(rows)), fields.take("target", TEXT)
        facts = Facts.from_json(fields.take("facts", OBJECT), target, fields.faults) if "facts" in data else None
        read = cls(
            target=target,
            loss_name=fields.take("loss", TEXT),
            centre=options_of(fields, "centre", "unit"),
            variants=tuple(Variant(row.take("unit", TEXT), row.take("option", OPTION)) for row in rows),
            samples=fields.take("samples", COUNT),
            centre_loss=Estimate(fields.take("centre_loss", FIGURE), fields.take("centre_loss_error", FIGURE)),
            gram=fields.take("gram", square),
            gram_error=fields.take("gram_error", square),
            outputs=outputs,
            sketched=fields.take("sketched", FLAG),
            pairs=dict(_estimated(fields, index, pair) for index, pair in enumerate(fields.take("pairs", OBJECTS))),
            cost=fields.take("cost", FIGURES),
            facts=facts,
            **columns,
            **by_output,
        )
        known = set(read.variants)
        if len(known) < len(rows):
            fields.faults.append("'variants' has one of them twice.")
        if not known.issuperset(variant for pair in read.pairs for variant in pair):
            fields.faults.append("'pairs' has what is not in 'variants'.")
        if facts is not None:
            fields.faults += facts.missing([*((v.unit, v.option) for v in read.variants), *read.centre.items()])
        refuse(fields.faults, f"The table '{where}' is damaged.", " Measure again.")
        return read


def _by_output(row: Fields, name: str, outputs: tuple[str, ...]) -> list[float]:
    """Read what a variant has of every output."""
    figures = row.take(name, FIGURES)
    if tuple(figures) != outputs:
        row.faults.append(f"'{row.inside}{name}' does not have the outputs of the table.")
        return [0.0] * len(outputs)
    return list(figures.values())


def _estimated(table: Fields, index: int, pair: dict[str, Any]) -> tuple[tuple[Variant, Variant], Estimate]:
    """Read one pair of variants and its loss."""
    fields = Fields(pair, ("first", "second", "loss", "loss_error"), f"pairs[{index}].", table.faults)
    estimate = Estimate(fields.take("loss", FIGURE), fields.take("loss_error", FIGURE))
    return (fields.take("first", VARIANT), fields.take("second", VARIANT)), estimate


def _square(count: int) -> Kind[Array]:
    """Return what reads a matrix of ``count`` rows and columns."""

    def read(value: Any) -> Array:
        if not isinstance(value, list) or len(value) != count:
            raise ValueError
        if not all(isinstance(row, list) and len(row) == count for row in value):
            raise ValueError
        return np.array([[FIGURE.read(x) for x in row] for row in value], np.float64).reshape(count, count)

    return Kind(f"{count} lists of {count} numbers", np.zeros((count, count)), read)


def _figures(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError
    return {name: FIGURE.read(x) for name, x in value.items()}


def _variant(value: Any) -> Variant:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError
    return Variant(TEXT.read(value[0]), option_of(TEXT.read(value[1])))


OPTION = Kind("an option such as 'w8a8'", Option(), lambda value: option_of(TEXT.read(value)))
FIGURES: Kind[dict[str, float]] = Kind("an object with numbers", {}, _figures)
VARIANT = Kind("a unit and an option", Variant("", Option()), _variant)


def _pair(variant: Variant) -> list[str]:
    return [variant.unit, str(variant.option)]
