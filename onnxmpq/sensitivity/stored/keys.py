"""Jobs as text, and the keys that results are stored under.

    Job("conv_1", (8, 4))  ─▶  {"Job":{"bits":[8,4],"unit":"conv_1"}}  ─▶  its sha256

Equal jobs have the same text on every machine, any other job has another one. What has no single spelling is refused.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from enum import Enum
from math import isfinite
from typing import Any

from onnxmpq.errors import InternalError


def job_json(job: object) -> str:
    """Write a job, a frozen data class, as canonical JSON: the same text for equal jobs, another for any other.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Job:
    ...     unit: str
    ...     bits: tuple[int, ...]
    >>> job_json(Job("conv_1", (8, 4)))
    '{"Job":{"bits":[8,4],"unit":"conv_1"}}'
    """
    if not getattr(getattr(type(job), "__dataclass_params__", None), "frozen", False):
        raise InternalError(f"A job must be a frozen data class, not {type(job).__name__}.")
    return canonical(_plain(job))


def key(job: object) -> str:
    """Return the key of a job: the sha256 of its canonical JSON, in hexadecimal digits."""
    return hashlib.sha256(job_json(job).encode()).hexdigest()


def canonical(value: Any) -> str:
    """Write plain data as JSON in the one form that keys are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: object) -> Any:
    """Turn a job into plain data; refuse what has no single spelling."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {type(value).__name__: fields}
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(item) for name, item in value.items()}
    raise InternalError(f"A job cannot hold {value!r} ({type(value).__name__}): its key would not be certain.")


def function_name(function: Callable[..., object] | None) -> str:
    """Return what tells a user's loss from another: where it is, and its code."""
    if function is None:
        return ""
    code = getattr(function, "__code__", None)
    digest = hashlib.sha256(code.co_code + repr(code.co_names).encode()).hexdigest() if code else ""
    return f" {getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))} {digest}"
