"""The numbers of a report as plain data, one class for each thing that is shown.

    View ─┬─ summary, portions, notes, command            what came out
          ├─ options, units, chosen, plans, unquantised   plans, and who takes what
          ├─ alone, maps, pairs, guesses                  what was measured of units, and of pairs
          └─ verified, checks, proof                      what is known of the file and of the plan

They are made in the modules beside this one, drawn by ``onnxmpq.report.page``, and written as they are to a record,
which is read by the fields of these classes.
"""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxmpq.artifacts import Accuracy, Check, Estimate, plain


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
    """What was given, and what came out; a front has no file, and what was only measured no method."""

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
        return {"schema": self.schema, **plain(self)}

    def to_text(self) -> str:
        """Return the numbers as a JSON file has them."""
        return json.dumps(self.to_json(), allow_nan=False) + "\n"
