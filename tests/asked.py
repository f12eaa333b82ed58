"""What is asked of a run as flat keywords, for tests that vary one thing: each goes to the class whose field it is."""

from dataclasses import fields, replace
from typing import Any

from onnxmpq.api import Result, quantize
from onnxmpq.artifacts import Option
from onnxmpq.options import Constraints, GraphOptions, MeasureOptions, SearchOptions, VerifyOptions

KINDS = {
    "graph": GraphOptions,
    "constraints": Constraints,
    "search": SearchOptions,
    "measure": MeasureOptions,
    "verify": VerifyOptions,
}


def asked(**flat: Any) -> dict[str, Any]:
    """Return keywords of ``quantize`` and its sisters; ``option`` is a plan that is one option for all.

    >>> asked(option="w4a8", effort="quick", keep=["op:Conv=w8"], overwrite=True)["search"].effort
    'quick'
    """
    made = {name: flat.pop(name) for name in KINDS if name in flat}
    if "option" in flat and "plan" not in flat:
        option = flat.pop("option")
        flat["plan"] = option if isinstance(option, Option) else Option.parse(option)
    for name, kind in KINDS.items():
        own = {field.name: flat.pop(field.name) for field in fields(kind) if field.name in flat}
        if own:
            made[name] = replace(made.get(name, kind()), **own)
    return flat | made


def untimed(*given: Any, **more: Any) -> Result:
    """Quantise as commands do, and spend no time on timing."""
    verify = replace(more.pop("verify", VerifyOptions()), speed_budget_s=0.0)
    return quantize(*given, verify=verify, **more)
