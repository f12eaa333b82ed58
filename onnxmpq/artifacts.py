"""What flows between the stages: frozen data classes, and their JSON.

Option    a numeric format: float, w8a8, w4b32 ...
Layer     a compute node whose weight (or operands) can be stored in few bits
Unit      layers that take one decision, and what each option costs
Space     all units of a model for one target, and what stays float
Plan      one option per unit
Estimate  a mean over samples and its error
Accuracy  before and after
Verdict   what an export really does, check by check
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from dataclasses import fields as dataclass_fields
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from onnxmpq.disk.reading import FLAG, NAMED_TEXTS, OBJECT, TEXT, TEXTS, Fields, brief, read_json, refuse, shown
from onnxmpq.errors import InputError, nearest

_COMMON = ("float", "w8a8", "w4a8", "w2a8", "w8", "w4", "w2", "w4b32", "w4b128", "a8")
_NUMBER = "[1-9][0-9]{0,5}"
_OPTION = re.compile(f"(?:w(?P<weight>{_NUMBER})(?:b(?P<block>{_NUMBER}))?)?(?:a(?P<activation>{_NUMBER}))?")


@dataclass(frozen=True, slots=True, order=True)
class Option:
    """A numeric format for a unit. Bits of 0 mean float; a block of 0 means one scale per channel.

    >>> Option.parse("w4b32"), str(Option(8, 8))
    (Option(weight_bits=4, activation_bits=0, block=32), 'w8a8')
    """

    weight_bits: int = 0
    activation_bits: int = 0
    block: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``float``, ``w4``, ``w4b32``, ``w4a8``, ``a8``; refuse anything else."""
        match = _OPTION.fullmatch(text)
        if text == "float":
            return cls()
        weight, block, activation = (int(match[k] or 0) if match else 0 for k in ("weight", "block", "activation"))
        if not match or not text or weight == 1 or weight > 16 or activation == 1 or activation > 16:
            raise InputError(
                f"'{brief(text)}' is not an option. Expected 'float', or w<bits> with an optional b<block> and "
                "a<bits>, bits from 2 to 16: for example w8a8, w4a8, w8, w4b32." + nearest(text, _COMMON)
            )
        return cls(weight, activation, block)

    def __str__(self) -> str:
        """Write the option as it is typed."""
        weight = f"w{self.weight_bits}" + (f"b{self.block}" if self.block else "") if self.weight_bits else ""
        return weight + (f"a{self.activation_bits}" if self.activation_bits else "") or "float"

    @property
    def is_float(self) -> bool:
        """Tell whether nothing is quantised."""
        return not (self.weight_bits or self.activation_bits)


FLOAT = Option()

Grouping = Literal["dense", "depthwise", "grouped"]
Neighbours = Literal["flat", "positions"]
"""Which products of codes a kernel adds in pairs; see ``onnxmpq.numerics.saturation``."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A compute node and what quantising it needs to know; names refer to the normalised graph.

    ``weights`` are the names of constant operands, with ``channel_axes`` the axes that keep a scale of their own.
    ``inputs`` are the indices of activation operands, ``bias`` the constant added to the output (by the node itself,
    or by the Add node ``bias_add``), ``output`` the tensor it ends in.
    """

    node: str
    op: str
    grouping: Grouping
    weights: tuple[str, ...]
    weight_shape: tuple[int, ...]
    weight_type: str
    channel_axes: tuple[int, ...]
    inputs: tuple[int, ...]
    bias: str
    bias_add: str
    output: str
    macs: int
    in_body: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What a unit costs at an option: bytes it stores in the file, and bit operations per sample."""

    option: Option
    stored_bytes: int
    bops: int


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers that take one decision together; ``costs`` lists the options they have, ``float`` first."""

    name: str
    layers: tuple[Layer, ...]
    parameters: int
    macs: int
    costs: tuple[Cost, ...]
    reason: str

    @property
    def options(self) -> tuple[Option, ...]:
        """Return the options in the order of ``costs``."""
        return tuple(cost.option for cost in self.costs)

    def cost(self, option: Option) -> Cost:
        """Return what ``option`` costs, or refuse one that the unit does not have."""
        for cost in self.costs:
            if cost.option == option:
                return cost
        names = [str(known) for known in self.options]
        raise InputError(
            f"Unit '{self.name}' has no option '{option}' on this target. Allowed: {', '.join(names)}."
            + nearest(str(option), names)
        )


@dataclass(frozen=True, slots=True)
class Leftover:
    """A node with a constant that stays float whatever the plan, and why."""

    node: str
    op: str
    stored_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Space:
    """Everything that can be decided about one model on one target; ``together`` names units that read one tensor."""

    target: str
    units: tuple[Unit, ...]
    leftovers: tuple[Leftover, ...]
    float_bytes: int
    notes: tuple[str, ...] = ()
    together: tuple[tuple[str, ...], ...] = ()

    def unit(self, name: str) -> Unit:
        """Return the unit called ``name``."""
        for unit in self.units:
            if unit.name == name:
                return unit
        hint = nearest(name, [unit.name for unit in self.units])
        raise InputError(f"There is no unit '{name}'. `onnxmpq inspect` lists the units of a model.{hint}")


@dataclass(frozen=True, slots=True)
class Plan:
    """One option per unit; units that are not named stay float. ``passes`` ran on the model besides the usual ones.

    ``keep_metadata``: the file carries doc strings, metadata and inferred types, which no runtime reads.

    >>> plan = Plan("ort-cpu", "by hand", {"first": Option(8, 8), "last": Option(4)})
    >>> plan.to_json()["choices"]
    {'first': 'w8a8', 'last': 'w4'}
    >>> Plan.from_json(plan.to_json()) == plan
    True
    """

    schema: ClassVar[int] = 1
    target: str
    method: str
    choices: Mapping[str, Option]
    model_sha256: str = ""
    ranges: Mapping[str, str] = field(default_factory=dict)
    passes: tuple[str, ...] = ()
    keep_metadata: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON data."""
        return {
            "schema": self.schema,
            "target": self.target,
            "method": self.method,
            "model_sha256": self.model_sha256,
            "ranges": dict(self.ranges),
            "passes": list(self.passes),
            "keep_metadata": self.keep_metadata,
            "choices": {unit: str(option) for unit, option in self.choices.items()},
        }

    def to_text(self) -> str:
        """Return the plan as a JSON file has it."""
        return json.dumps(self.to_json(), indent=2) + "\n"

    @classmethod
    def from_json(cls, data: Any, where: str = "plan") -> Self:
        """Read a plan; every fault is told at once."""
        if not isinstance(data, dict) or not isinstance(data.get("choices"), dict):
            raise InputError(f"'{where}' is not a plan: expected a JSON object with 'schema', 'target' and 'choices'.")
        _check_schema(data, cls.schema, where)
        fields = Fields(data, ("schema", *(known.name for known in dataclass_fields(cls))))
        read = cls(
            target=fields.take("target", TEXT, ""),
            method=fields.take("method", TEXT, ""),
            choices=options_of(fields, "choices", "unit"),
            model_sha256=fields.take("model_sha256", TEXT, ""),
            ranges=fields.take("ranges", NAMED_TEXTS, {}),
            passes=fields.take("passes", TEXTS, ()),
            keep_metadata=fields.take("keep_metadata", FLAG, False),
        )
        refuse(fields.faults, f"'{where}' cannot be used.")
        return read

    @classmethod
    def read(cls, path: Path, point: int | None = None) -> Self:
        """Read a plan from a JSON file, or one ``point`` of a front, counted from 1."""
        return cls.from_json(_point(read_json(path, "plan"), point, path), str(path))


def options_of(fields: Fields, name: str, what: str) -> dict[str, Option]:
    """Read a field that has an option by each name; ``what`` it is that has it is told where one cannot be read."""
    found: dict[str, Option] = {}
    for key, text in fields.take(name, OBJECT).items():
        try:
            found[key] = Option.parse(text if isinstance(text, str) else shown(text))
        except InputError as error:
            fields.faults.append(f"{what} '{brief(key)}': {error}")
    return found


def _check_schema(data: Mapping[str, Any], schema: int, where: str) -> None:
    told = data.get("schema")
    if type(told) is not int or told != schema:
        raise InputError(
            f"'{where}' has schema {'None' if told is None else shown(told)}; this version of onnxmpq reads schema "
            f"{schema}."
        )


def _point(data: Any, point: int | None, path: Path) -> Any:
    """Return the plan of a point of a front; what is no front is returned as it is."""
    points = data.get("points") if isinstance(data, dict) else None
    if not isinstance(points, list):
        if point is not None:
            raise InputError(f"'{path}' is one plan and no front: leave --point out.")
        return data
    _check_schema(data, 1, str(path))
    if point is None or not 1 <= point <= len(points):
        asked = "" if point is None else f", and none of them is {point}"
        raise InputError(
            f"'{path}' is a front of {len(points)} plans{asked}: choose one with --point 1 to {len(points)}."
        )
    chosen = points[point - 1]
    return chosen.get("plan") if isinstance(chosen, dict) else None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over samples and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of samples whose first output points at the label, and what quantising changed, sample by sample."""

    before: float
    after: float
    difference_error: float
    samples: int


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified: ``ok`` is None where it is a figure without a pass mark."""

    name: str
    ok: bool | None
    value: float | int | str | None
    expected: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an export does in its runtime."""

    runtime: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Tell whether no check failed."""
        return all(check.ok is not False for check in self.checks)

    @property
    def failures(self) -> str:
        """Say which checks failed; nothing where all hold."""
        return "; ".join(
            f"{check.name} is {check.value} (expected {check.expected}; {check.detail})"
            for check in self.checks
            if check.ok is False
        )

    def __getitem__(self, name: str) -> Check:
        """Return the check called ``name``."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def timed_as(self, other: Self) -> Self:
        """Return the verdict with the speeds of another, of the same kernels."""
        speeds = {check.name: check for check in other.checks if check.name.startswith("speed")}
        return replace(self, checks=tuple(speeds.get(check.name, check) for check in self.checks))

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON data; a value that JSON has no number for (no noise at all) as text."""
        return {"runtime": self.runtime, "ok": self.ok, "checks": [plain(check) for check in self.checks]}


def plain(value: Any) -> Any:
    """Return JSON data in which numbers that are not finite are text, and data classes are their fields.

    >>> plain({"noise": float("-inf"), "parts": (1, 2.5), "estimate": Estimate(3.0, 0.5)})
    {'noise': '-inf', 'parts': [1, 2.5], 'estimate': {'value': 3.0, 'error': 0.5}}
    """
    if value is None or type(value) in (int, str, bool):  # most of all there is
        return value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if isfinite(value) else str(value)
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in dataclass_fields(value)}
    return plain(value.item()) if hasattr(value, "item") else value


def parse_options(texts: Sequence[str]) -> tuple[Option, ...]:
    """Read options, with ranges of weight bits written out.

    >>> [str(option) for option in parse_options(["w8-7a8", "w4b32"])]
    ['w8a8', 'w7a8', 'w4b32']
    """
    options: list[Option] = []
    for text in texts:
        if match := re.fullmatch(f"w({_NUMBER})-({_NUMBER})(.*)", text):
            first, last = int(match[1]), int(match[2])
            step = -1 if first > last else 1
            options += [Option.parse(f"w{bits}{match[3]}") for bits in range(first, last + step, step)]
        else:
            options.append(Option.parse(text))
    return tuple(dict.fromkeys(options))


@dataclass(frozen=True, slots=True)
class Export:
    """A plan that was built, written to a temporary place and verified.

    One that is ``rough`` has codes that are quick to find, and was built for its speed.
    """

    plan: Plan
    path: Path
    verdict: Verdict
    rough: bool = False

    @property
    def speed(self) -> float:
        """Return how many times faster than float it ran."""
        value = self.verdict["speed"].value
        return value if isinstance(value, float) else 0.0
