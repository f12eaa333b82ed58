"""The table: what measuring gives, ready for solvers and reports.

loss[a]       loss with unit and option a alone changed from the centre, with its standard error
linear[a]     first-order part, mean z_aᵀ g
gram[a, b]    second-order part, mean y_aᵀ y_b
sqnr_db[a]    signal-to-noise ratio of every output
local[a]      error of the unit's own output on float inputs, relative to its power
pairs         loss with two units changed, for those that were asked for
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from onnxmpq.artifacts import Option
from onnxmpq.errors import InputError
from onnxmpq.files import write_whole

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """One unit at an option other than the centre's."""

    unit: str
    option: Option

    def __str__(self) -> str:
        """Write it as ``unit@option``."""
        return f"{self.unit}@{self.option}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over samples and its standard error."""

    value: float
    error: float


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
        """Return the table as plain JSON data."""
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
                "sqnr_db": dict(zip(self.outputs, map(_number, self.sqnr_db[i]), strict=True)),
                "sqnr_error_db": dict(zip(self.outputs, self.sqnr_error_db[i], strict=True)),
            }
            for i, variant in enumerate(self.variants)
        ]
        pairs = [
            {"first": _pair(a), "second": _pair(b), "loss": x.value, "loss_error": x.error}
            for (a, b), x in self.pairs.items()
        ]
        return {
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

    def write(self, path: Path, *, overwrite: bool = True) -> None:
        """Write the table as JSON, whole or not at all."""
        write_whole(path, json.dumps(self.to_json()) + "\n", "table", overwrite=overwrite)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what ``write`` wrote."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"The table '{path}' cannot be read: {error}.") from error
        if not isinstance(data, dict) or data.get("schema") != cls.schema:
            raise InputError(f"'{path}' is not a table of schema {cls.schema}. Measure again.")
        try:
            return cls._of(data)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The table '{path}' is damaged: {error!r}. Measure again.") from error

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> Self:
        """Read plain JSON data."""
        rows = data["variants"]

        def column(key: str) -> Array:
            return np.array([row[key] for row in rows], np.float64)

        return cls(
            target=data["target"],
            loss_name=data["loss"],
            centre={unit: Option.parse(text) for unit, text in data["centre"].items()},
            variants=tuple(Variant(row["unit"], Option.parse(row["option"])) for row in rows),
            samples=data["samples"],
            centre_loss=Estimate(data["centre_loss"], data["centre_loss_error"]),
            loss=column("loss"),
            loss_error=column("loss_error"),
            linear=column("linear"),
            linear_error=column("linear_error"),
            gram=np.array(data["gram"], np.float64).reshape(len(rows), len(rows)),
            gram_error=np.array(data["gram_error"], np.float64).reshape(len(rows), len(rows)),
            local=column("local"),
            local_error=column("local_error"),
            sqnr_error_db=np.array([list(row["sqnr_error_db"].values()) for row in rows], np.float64),
            sqnr_db=np.array([[float(x) for x in row["sqnr_db"].values()] for row in rows], np.float64),
            outputs=tuple(data["outputs"]),
            sketched=data["sketched"],
            pairs={
                (_variant(item["first"]), _variant(item["second"])): Estimate(item["loss"], item["loss_error"])
                for item in data["pairs"]
            },
            cost=data["cost"],
        )


def _number(value: float) -> float | str:
    return value if np.isfinite(value) else str(value)


def _pair(variant: Variant) -> list[str]:
    return [variant.unit, str(variant.option)]


def _variant(pair: Sequence[str]) -> Variant:
    return Variant(pair[0], Option.parse(pair[1]))
