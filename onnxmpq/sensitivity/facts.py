"""What budgets are counted from, as a table keeps it: units with their options and costs, and what a file has besides.

With it a plan is solved from the table alone, without the model.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeVar, get_args

from onnxmpq.artifacts import FLOAT, Cost, Grouping, Layer, Leftover, Option, Plan, Space, Unit
from onnxmpq.disk.reading import COUNT, FLAG, NAMED_TEXTS, OBJECTS, TEXT, TEXTS, Fields, Kind, brief
from onnxmpq.errors import InputError

T = TypeVar("T")

_MOST = 2**60  # of any sum: more than a model has, and whole numbers of 64 bits hold it
_OF_PLAN = ("model_sha256", "ranges", "passes", "keep_metadata")
_BYTES = ("source_bytes", "live_bytes", "float_bytes", "overhead", "beside")


@dataclass(frozen=True, slots=True)
class Facts:
    """The space that was measured, the plan with nothing in it, and bytes.

    ``source_bytes`` are those of the float file, ``overhead`` those of a quantised one that belong to no unit,
    ``live_bytes`` those of the largest activations that are there at once. ``beside`` is what an option adds to the
    graph, for each unit that takes it.
    """

    space: Space
    empty: Plan
    source_bytes: int
    overhead: int
    live_bytes: int
    beside: Mapping[Option, int]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain JSON data."""
        plan = self.empty.to_json()
        return {
            **{name: plan[name] for name in _OF_PLAN},
            "source_bytes": self.source_bytes,
            "live_bytes": self.live_bytes,
            "float_bytes": self.space.float_bytes,
            "overhead": self.overhead,
            "beside": {str(option): count for option, count in self.beside.items()},
            "units": [
                {
                    "name": unit.name,
                    "layers": [asdict(layer) for layer in unit.layers],
                    "parameters": unit.parameters,
                    "macs": unit.macs,
                    "options": {str(c.option): {"bytes": c.stored_bytes, "bops": c.bops} for c in unit.costs},
                    "reason": unit.reason,
                }
                for unit in self.space.units
            ],
            "leftovers": [asdict(leftover) for leftover in self.space.leftovers],
            "together": [list(names) for names in self.space.together],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], target: str, faults: list[str]) -> Self:
        """Read plain JSON data of a table for ``target``; what is wrong with it is added to ``faults``."""
        fields = Fields(data, (*_OF_PLAN, *_BYTES, "units", "leftovers", "together"), "facts.", faults)
        units = tuple(_unit(fields, place, unit) for place, unit in enumerate(fields.take("units", OBJECTS)))
        leftovers = fields.take("leftovers", _LEFTOVERS)
        together = fields.take("together", _TOGETHER, ())
        found = cls(
            space=Space(target, units, leftovers, fields.take("float_bytes", COUNT), together=together),
            empty=Plan(
                target=target,
                method="",
                choices={},
                model_sha256=fields.take("model_sha256", TEXT),
                ranges=fields.take("ranges", NAMED_TEXTS),
                passes=fields.take("passes", TEXTS),
                keep_metadata=fields.take("keep_metadata", FLAG),
            ),
            source_bytes=fields.take("source_bytes", COUNT),
            overhead=fields.take("overhead", _WHOLE),
            live_bytes=fields.take("live_bytes", COUNT),
            beside=fields.take("beside", _BESIDE),
        )
        if len({unit.name for unit in units}) < len(units):
            faults.append("'facts.units' has a name twice.")
        if strange := {name for names in together for name in names} - {unit.name for unit in units}:
            faults.append(f"'facts.together' names '{brief(min(strange))}', which 'facts.units' has not.")
        if max(found._sums()) >= _MOST:
            faults.append("'facts' has figures beyond those of any model.")
        return found

    def missing(self, used: Iterable[tuple[str, Option]]) -> list[str]:
        """Say what is not here of the units and options that a table has."""
        known = {unit.name: unit.options for unit in self.space.units}
        asked = dict.fromkeys(used)
        strange = [f"{brief(unit)}@{option}" for unit, option in asked if option not in known.get(unit, ())]
        unsized = sorted({FLOAT, *(option for _, option in asked)} - self.beside.keys())
        return [f"'facts.units' does not have {name}, which is in the table." for name in strange] + [
            f"'facts.beside' does not have {option}." for option in unsized
        ]

    def _sums(self) -> tuple[int, ...]:
        """Return no less than what any sum over units can come to."""
        units = self.space.units
        graph = abs(self.overhead) + len(units) * max((abs(count) for count in self.beside.values()), default=0)
        return (
            sum(max((cost.stored_bytes for cost in unit.costs), default=0) for unit in units) + graph + self.live_bytes,
            sum(max((cost.bops for cost in unit.costs), default=0) for unit in units),
            64 * sum(unit.parameters for unit in units),
            sum(unit.macs for unit in units),
            self.source_bytes,
        )


def _unit(facts: Fields, place: int, data: dict[str, Any]) -> Unit:
    """Read one unit."""
    known = ("name", "layers", "parameters", "macs", "options", "reason")
    fields = Fields(data, known, f"{facts.inside}units[{place}].", facts.faults)
    return Unit(
        fields.take("name", TEXT),
        fields.take("layers", _LAYERS),
        fields.take("parameters", COUNT),
        fields.take("macs", COUNT),
        fields.take("options", _COSTS),
        fields.take("reason", TEXT),
    )


def _made(make: Callable[..., T], kinds: Mapping[str, Kind[Any]], value: Any) -> T:
    """Read an object that has exactly these fields."""
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        raise ValueError
    return make(**{name: kind.read(value[name]) for name, kind in kinds.items()})


def _costs(value: Any) -> tuple[Cost, ...]:
    if not isinstance(value, dict) or next(iter(value), "") != str(FLOAT):
        raise ValueError
    kinds = {"bytes": COUNT, "bops": COUNT}
    figures = [(option_of(text), _made(dict[str, int], kinds, given)) for text, given in value.items()]
    return tuple(Cost(option, given["bytes"], given["bops"]) for option, given in figures)


def option_of(text: str) -> Option:
    """Read an option of a file; what is none is a ValueError."""
    try:
        return Option.parse(text)
    except InputError as error:
        raise ValueError from error


def _beside(value: Any) -> dict[Option, int]:
    if not isinstance(value, dict):
        raise ValueError
    return {option_of(text): _whole(count) for text, count in value.items()}


def _whole(value: Any) -> int:
    if type(value) is not int or abs(value) >= _MOST:
        raise ValueError
    return value


def _several(value: Any, read: Callable[[Any], T], least: int = 0) -> tuple[T, ...]:
    if not isinstance(value, list) or len(value) < least:
        raise ValueError
    return tuple(map(read, value))


def _grouping(value: Any) -> Grouping:
    if value not in get_args(Grouping):
        raise ValueError
    found: Grouping = value
    return found


def _names(value: Any) -> tuple[str, ...]:
    if not all(isinstance(name, str) for name in _several(value, lambda name: name)):
        raise ValueError
    return tuple(value)


_TOGETHER: Kind[tuple[tuple[str, ...], ...]] = Kind(
    "a list of lists of names", (), lambda value: _several(value, _names)
)
_WHOLE = Kind("a whole number", 0, _whole)
_WHOLES: Kind[tuple[int, ...]] = Kind("a list of whole numbers", (), lambda value: _several(value, _whole))
_LAYER: dict[str, Kind[Any]] = {
    "node": TEXT,
    "op": TEXT,
    "grouping": Kind("a grouping", "dense", _grouping),
    "weights": TEXTS,
    "weight_shape": _WHOLES,
    "weight_type": TEXT,
    "channel_axes": _WHOLES,
    "inputs": _WHOLES,
    "bias": TEXT,
    "bias_add": TEXT,
    "output": TEXT,
    "macs": COUNT,
    "in_body": FLAG,
}
_LEFTOVER: dict[str, Kind[Any]] = {"node": TEXT, "op": TEXT, "stored_bytes": COUNT, "reason": TEXT}
_LAYERS: Kind[tuple[Layer, ...]] = Kind(
    "a list of layers", (), lambda value: _several(value, lambda layer: _made(Layer, _LAYER, layer), least=1)
)
_LEFTOVERS: Kind[tuple[Leftover, ...]] = Kind(
    "a list of nodes that stay float", (), lambda value: _several(value, lambda one: _made(Leftover, _LEFTOVER, one))
)
_COSTS: Kind[tuple[Cost, ...]] = Kind("an object with 'bytes' and 'bops' of every option, 'float' first", (), _costs)
_BESIDE: Kind[dict[Option, int]] = Kind("an object with a whole number for each option", {}, _beside)
