"""Reading a target: TOML into the data classes of ``schema``; all faults are told at once, with their lines."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from onnxmpq.artifacts import Option, parse_options
from onnxmpq.disk.reading import FAULTS, brief, parse_toml, refuse, shown, strangers
from onnxmpq.errors import InputError, InternalError, nearest
from onnxmpq.registry import CARRIERS, DIALECTS, FILE_RULES, RUNTIMES, Registry
from onnxmpq.targets.schema import (
    LAYER_OPS,
    PLAIN,
    CarrierName,
    DialectName,
    FileRulesName,
    FollowerRule,
    LayerRule,
    Target,
)

SCHEMAS = (1, 2)
_HIGHEST = 999  # of opsets and IR versions
_MOST_AXES = 64
_MOST_CHANNELS = 2**31
_LARGEST = 1e30  # of numbers among attributes
_JOINED = ("layers", "followers", "notes")  # what is looked at before that of the target that is extended
_NEW: Mapping[type, tuple[str, ...]] = {  # keys of schema 2
    Target: (
        *("converts", "dialect", "extends", "island", "menu", "passes", "proof", "rounds", "rules", "soc", "stand_in"),
        *("static_shapes", "together", "variants"),
    ),
    LayerRule: ("attributes", "floats", "least_channels", "signed_second", "weight_on"),
    FollowerRule: ("constants", "parameters"),
}
_NAMED: Mapping[Any, Registry] = {CarrierName: CARRIERS, DialectName: DIALECTS, FileRulesName: FILE_RULES}


def parse_target(text: str, where: str, parent: Callable[[str], Target] | None = None) -> Target:
    """Read the TOML text of a target; ``parent`` gives those that it may extend."""
    try:
        data = parse_toml(text)
    except ValueError as error:
        raise InputError(f"Target '{where}' is not TOML: {brief(str(error), 200)}.") from error
    schema = data.pop("schema", None)
    if type(schema) is not int or schema not in SCHEMAS:
        raise InputError(f"Target '{where}' has no 'schema = 2'; this version of onnxmpq reads schemas 1 and 2.")
    reader = _Reader(text, schema)
    extends = data.pop("extends", None) if schema > 1 else None
    found: Target | None = None
    if extends is None:
        found = reader.record(Target, data, "")
    elif not isinstance(extends, str):
        reader.fault("extends", "", f"'extends' must be the name of a target, not {shown(extends)}.")
    elif parent is None:
        reader.fault("extends", "", "what comes as a text alone extends nothing.")
    else:
        found = reader.extended(parent(extends), data)
    if found is not None and not reader.faults:
        reader.check(found)
    refuse(reader.faults, f"Target '{where}',")
    if found is None:
        raise InternalError(f"The target '{where}' was not read.")
    return found


class _Reader:
    """Turn TOML tables into the data classes above; ``faults`` keeps what does not fit, with its line."""

    def __init__(self, text: str, schema: int) -> None:
        self.lines, self.schema = text.splitlines(), schema
        self.faults: list[str] = []

    def fault(self, key: str, table: str, message: str) -> None:
        """Keep a fault with the line of ``key`` in ``table`` (``layers[2]`` is the third ``[[layers]]``)."""
        line = "Line" if self.faults else "line"
        number = self._line(key, table) if len(self.faults) < FAULTS else 0  # the others are counted and not told
        self.faults.append(f"{line} {number}: {message}")

    def _line(self, key: str, table: str) -> int:
        name, _, index = table.rstrip("]").partition("[")
        start, seen = 0, -1
        for number, line in enumerate(self.lines):
            if name and re.match(rf"\s*\[\[?\s*{re.escape(name)}\s*\]", line):
                seen, start = seen + 1, number
                if seen == int(index or 0):
                    break
        for number in range(start, len(self.lines)):
            if re.match(rf"\s*\[?{re.escape(key)}\]?\b", self.lines[number]):
                return number + 1
        return start + 1

    def record(self, kind: Any, data: Any, table: str, given: Mapping[str, Any] | None = None) -> Any:
        """Read one table as the data class ``kind``, which need not say what is ``given``; None if that fails."""
        if not isinstance(data, dict):
            self.fault(table.partition("[")[0], "", f"'{table}' must be a table, not {shown(data)}.")
            return None
        fields = {f.name: f for f in dataclasses.fields(kind)}
        hints = get_type_hints(kind)
        before = len(self.faults)
        for key in [key for key in _NEW.get(kind, ()) if key in data and self.schema == 1]:
            self.fault(key, table, f"'{key}' is a key of schema 2.")
            data = {known: value for known, value in data.items() if known != key}
        for key, hint in strangers(data, fields):
            self.fault(key, table, f"unknown key '{brief(key)}'. Known: {', '.join(fields)}.{hint}")
        values = {key: self.value(hints[key], value, key, table) for key, value in data.items() if key in fields}
        values = {**(given or {}), **values}
        for name, f in fields.items():
            if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                self.fault(table.partition("[")[0], table, f"'{name}' is missing in {table or 'the target'}.")
        return kind(**values) if len(self.faults) == before else None

    def extended(self, parent: Target, data: dict[str, Any]) -> Target | None:
        """Read what is otherwise than in the target that is extended; limits may be given in part.

        Options of the other target that a lower opset has no types for are left out.
        """
        limits = data.get("limits")
        if isinstance(limits, dict):
            data = data | {"limits": dataclasses.asdict(parent.limits) | limits}
        if "name" not in data:
            self.fault("extends", "", "'name' is missing in the target: it is another than the one that it extends.")
        given = {field.name: getattr(parent, field.name) for field in dataclasses.fields(Target)}
        read: Target | None = self.record(Target, data, "", given)
        if read is None:
            return None
        highest = read.limits.highest_opset
        given["layers"] = tuple(
            dataclasses.replace(rule, options=tuple(o for o in rule.options if rule.opset(o) <= highest))
            for rule in parent.layers
        )
        joined: dict[str, Any] = {key: (*(getattr(read, key) if key in data else ()), *given[key]) for key in _JOINED}
        return dataclasses.replace(read, **joined)

    def value(self, hint: Any, value: Any, key: str, table: str) -> Any:
        """Read one value of type ``hint``; None where it does not fit."""
        origin, arguments = get_origin(hint), get_args(hint)
        if hint == tuple[Option, ...]:
            return self._options(value, key, table)
        if origin is tuple:
            if not isinstance(value, list):
                return self.fault(key, table, f"'{key}' must be a list, not {shown(value)}.")
            if dataclasses.is_dataclass(arguments[0]):
                return tuple(self.record(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
            return tuple(self.value(arguments[0], item, key, table) for item in value)
        if origin is Literal:
            if value not in arguments:
                return self.fault(key, table, f"'{key}' is {shown(value)}; allowed: {', '.join(map(repr, arguments))}.")
            return value
        if hint in _NAMED:
            names = tuple(_NAMED[hint].homes())
            if value not in names:
                meant = nearest(value, names) if isinstance(value, str) else ""
                told = f"'{key}' is {shown(value)}; allowed: {', '.join(map(repr, names))}.{meant}"
                return self.fault(key, table, told)
            return value
        if origin is not None and arguments[1] is float:
            return self._attributes(value, key, table)
        if origin is not None:  # a mapping of carriers
            if not isinstance(value, dict):
                return self.fault(key, table, f"'{key}' must be a table such as {{ 8 = \"dq\" }}, not {shown(value)}.")
            if strange := value.keys() - set(map(str, range(2, 9))):
                told = f"'{key}' has '{brief(min(strange))}'; codes have 2 to 8 bits."
                return self.fault(key, table, told)
            return {k: self.value(arguments[1], v, key, table) for k, v in value.items()}
        if dataclasses.is_dataclass(hint):
            return self.record(hint, value, key)
        if type(value) is not hint:
            return self.fault(key, table, f"'{key}' must be of type {hint.__name__}, not {type(value).__name__}.")
        return value

    def _attributes(self, value: Any, key: str, table: str) -> dict[str, float] | None:
        if not isinstance(value, dict):
            self.fault(key, table, f"'{key}' must be a table such as {{ transA = 0 }}, not {shown(value)}.")
            return None
        wrong = [name for name, each in value.items() if type(each) not in (int, float) or not abs(each) < _LARGEST]
        for name in wrong:
            self.fault(key, table, f"'{key}' has {shown(value[name])} for '{brief(name)}'; it must be a number.")
        return None if wrong else dict(value)

    def _options(self, value: Any, key: str, table: str) -> tuple[Option, ...] | None:
        before = len(self.faults)
        texts = self.value(tuple[str, ...], value, key, table)
        try:
            return parse_options(texts) if len(self.faults) == before else None
        except InputError as error:
            self.fault(key, table, str(error))
            return None

    def check(self, result: Target) -> None:
        """Refuse what is well written and cannot work."""
        from onnxmpq.dialects.base import dialect  # help and completion do not wait for onnx

        for key in ("runtime", *(("stand_in",) if result.stand_in else ())):
            self.check_runtime(key, getattr(result, key))
        low, high, highest_ir = result.limits.lowest_opset, result.limits.highest_opset, result.limits.highest_ir
        if not 10 <= low <= high <= _HIGHEST:
            told = f"opsets {shown(low)} to {shown(high)} are not a range that starts at 10 or later."
            self.fault("lowest_opset", "limits", told)
        if not 1 <= highest_ir <= _HIGHEST:
            self.fault("highest_ir", "limits", f"{shown(highest_ir)} is no version of the IR.")
        for variant in result.variants:
            if variant.runtime and variant.runtime not in RUNTIMES.names():
                self.fault("runtime", "variants", f"'runtime' is '{brief(variant.runtime)}', which is not known.")
        rules = [*result.layers, *(rule for variant in result.variants for rule in variant.layers)]
        for index, rule in enumerate(rules):
            self.check_rule(rule, f"layers[{index}]", high, dialect(result.dialect).any_width)
        followers = [*result.followers, *(one for variant in result.variants for one in variant.followers)]
        for index, follower in enumerate(followers):
            self.known("op", (follower.op,), _operators(), f"followers[{index}]")
            self.known("fuses", follower.fuses, _operators(), f"followers[{index}]")
            for key in ("constants", "parameters") if not result.converts else ():
                if getattr(follower, key):
                    self.fault(key, f"followers[{index}]", f"'{key}' counts where 'converts = true'.")
        if result.islands and (result.island == "half") != result.converts:
            self.fault("island", "", "islands are 'half' where 'converts = true', and nowhere else.")
        self.check_passes(result)

    def check_passes(self, result: Target) -> None:
        """Refuse passes that nobody knows."""
        from onnxmpq.model.passes import read_pass  # help and completion do not wait for onnx

        for text in result.passes:
            try:
                read_pass(text)
            except InputError as error:
                self.fault("passes", "", str(error))

    def check_runtime(self, key: str, name: str) -> None:
        """Refuse a runtime that nobody knows."""
        names = RUNTIMES.names()
        if name not in names:
            told = f"'{key}' is '{brief(name)}'; allowed: {', '.join(map(repr, names))}.{nearest(name, names)}"
            self.fault(key, "", told)

    def check_rule(self, rule: LayerRule, table: str, highest_opset: int, any_width: bool) -> None:
        """Refuse what a rule of layers says and nobody can do."""
        for key, most, of in (("weight_rank", _MOST_AXES, "axes"), ("least_channels", _MOST_CHANNELS, "channels")):
            if not 0 <= getattr(rule, key) <= most:
                self.fault(key, table, f"{shown(getattr(rule, key))} is no number of {of}.")
        self.known("op", (rule.op,), LAYER_OPS, table)
        for key in ("fuses", "blocks_not_before"):
            self.known(key, getattr(rule, key), _operators(), table)
        if set(rule.signed_second) - {4, 8, 16}:
            self.fault("signed_second", table, "'signed_second' names widths of activations: 4, 8 or 16.")
        if not rule.floats:
            self.fault("floats", table, "'floats' is empty; allowed: 'f32', 'f16'.")
        numbers = _numbers_of(rule.op) if rule.op in LAYER_OPS and rule.attributes is not PLAIN else rule.attributes
        for name in rule.attributes:
            if name not in numbers:
                has = f"has {', '.join(numbers)}" if numbers else "has none"
                told = f"'attributes' has '{brief(name)}'; of numbers {rule.op} {has}.{nearest(name, numbers)}"
                self.fault("attributes", table, told)
        for option in rule.options:
            key, why = _obstacle(rule, option, highest_opset, any_width)
            if why:
                self.fault(key, table, f"'{option}' {why}")

    def known(self, key: str, names: Sequence[str], known: Collection[str], table: str) -> None:
        """Refuse names of operators that there are not."""
        for name in names:
            if name not in known:
                few = f" Known: {', '.join(known)}." if len(known) <= len(LAYER_OPS) else " ONNX has no such operator."
                self.fault(key, table, f"'{key}' has '{brief(name)}'.{few}{nearest(name, known)}")


@cache
def _operators() -> frozenset[str]:
    """Return the names of all operators that ONNX has; help and completion do not wait for onnx."""
    import onnx

    return frozenset(schema.name for schema in onnx.defs.get_all_schemas())


def _numbers_of(op: str) -> tuple[str, ...]:
    """Return the attributes of an operator that are numbers."""
    import onnx

    known = onnx.defs.get_schema(op.partition(":")[0]).attributes
    kinds = (onnx.defs.OpSchema.AttrType.FLOAT, onnx.defs.OpSchema.AttrType.INT)
    return tuple(sorted(name for name, attribute in known.items() if attribute.type in kinds))


def _obstacle(rule: LayerRule, option: Option, highest_opset: int, any_width: bool) -> tuple[str, str]:
    """Say which key of a rule stands against ``option``, and why; nothing where it can be written."""
    from onnxmpq.carriers.base import carrier  # help and completion do not wait for onnx

    named = rule.carrier(option)
    held = carrier(named) if named else None
    if option.weight_bits > 8:
        return "options", "cannot be written: weights have 2 to 8 bits."
    if not any_width and option.activation_bits not in (0, 4, 8, 16):
        return "options", "cannot be written: activations have 4, 8 or 16 bits in this dialect."
    if (need := rule.opset(option)) > highest_opset:
        return "options", f"needs opset {need}, above highest_opset {highest_opset}."
    if rule.op == "MatMul:product" and option.weight_bits:
        return "options", "cannot be had: a product of two activations has no weight; use a8."
    if held is None:
        return "", ""
    if option.block and not held.blocks:
        return "blocked", f"cannot be carried by '{named}': it holds no blocks; use 'dq'."
    if option.activation_bits and not held.integers:
        return "with_activation", f"with '{named}' would be computed in float; use 'dq' or 'cast8'."
    if held.ops and rule.op not in held.ops:
        return "weight_only", f"cannot be carried by '{named}': that is for {', '.join(held.ops)}, not {rule.op}."
    return "", ""
