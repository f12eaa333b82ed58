"""``--config`` and ``--save-config``: the options of a command in a TOML file.

    calibration = "samples.npz"
    budget = ["size=30%", "bops=25%"]
    weight-ranges = "mse"
    bias-correction = false

Keys are the long names of options. What is given on the command line wins over the file.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnxmpq.cli.shared import checked_output, decorated
from onnxmpq.disk.files import data_of, journal_of, page_of, plan_of, refuse_shared, spare_of, write_whole
from onnxmpq.disk.reading import brief, read_toml, refuse, shown, strangers

_NOT_KEPT = ("config", "save-config", "overwrite", "json", "quiet", "verbose", "help", "dry-run")
_TAKEN = "onnxmpq.cli.config.taken"
_KINDS = {bool: "true or false", int: "a whole number", str: "a text in quotation marks"}


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add both options; the file is written before the command begins."""

    @functools.wraps(command)
    def with_config(*arguments: Any, save_config: Path | None, **rest: Any) -> Any:
        context, overwrite = click.get_current_context(), bool(rest.get("overwrite"))
        refuse_shared(*_paths(context))
        if save_config is not None:
            checked_output(save_config, overwrite, "configuration")
            write_whole(save_config, written(told(context)), "configuration", overwrite=overwrite)
        return command(*arguments, **rest)

    return decorated(
        with_config,
        [
            click.option(
                "--config",
                type=click.Path(path_type=Path),
                is_eager=True,
                expose_value=False,
                callback=_take,
                help="Take options from this TOML file; the command line wins over it.",
            ),
            click.option(
                "--save-config", type=click.Path(path_type=Path), help="Write the options of this run as a TOML file."
            ),
        ],
    )


def _paths(context: click.Context) -> tuple[dict[str, Path | None], dict[str, Path | None]]:
    """Return all files that a run reads, and all that it writes, by what they are."""
    given = context.params
    reads = {
        "model": given.get("model"),
        "calibration data": given.get("calibration"),
        "evaluation data": given.get("evaluation"),
        "plan": given.get("plan"),
        "configuration": context.meta.get(_TAKEN),
    }
    output, page = given.get("output"), given.get("report")
    writes = {"output": output, "store": given.get("store"), "configuration to be saved": given.get("save_config")}
    writes["record"] = given.get("record")
    if (store := given.get("store")) is not None:
        writes |= {"journal of the store": journal_of(store)}
    if output is not None and context.command.name in ("quantize", "apply"):
        writes |= {"plan of the output": plan_of(output), "data of the output": data_of(output)}
        writes["other data of the output"] = spare_of(output)
    if page is not None:
        page = page_of(page)
        writes |= {"report": page, "file of the report's numbers": page.with_suffix(".json")}
    return reads, writes


def keys(command: click.Command) -> dict[str, click.Option]:
    """Return the options that a file may hold, by their long names without dashes."""
    found = {}
    for option in command.params:
        if isinstance(option, click.Option):
            name = max(option.opts, key=len).lstrip("-")
            if name not in _NOT_KEPT:
                found[name] = option
    return found


def told(context: click.Context) -> dict[str, Any]:
    """Return what a run was told, on its command line or by a file, besides what a file does not hold."""
    return {
        name: context.params[option.name]
        for name, option in keys(context.command).items()
        if option.name is not None and context.get_parameter_source(option.name) not in (None, ParameterSource.DEFAULT)
    }


def written(options: Mapping[str, Any]) -> str:
    """Write options as TOML.

    >>> print(written({"calibration": Path("s.npz"), "budget": ("size=30%",), "seed": 3, "allow-slower": True}), end="")
    calibration = "s.npz"
    budget = ["size=30%"]
    seed = 3
    allow-slower = true
    """
    return "".join(f"{name} = {_value(value)}\n" for name, value in options.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _take(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    """Let the options of a file stand in for those that the command line does not give."""
    if path is not None:
        context.meta[_TAKEN] = path
        context.default_map = {**(context.default_map or {}), **read(path, context)}


def read(path: Path, context: click.Context) -> dict[str, Any]:
    """Read a file for a command; every fault is told at once."""
    known = keys(context.command)
    data = read_toml(path, "configuration")
    command = f"`onnxmpq {context.command.name}`"
    faults = [f"{command} has no option '{brief(key)}'.{hint}" for key, hint in strangers(data, known)]
    found = {}
    for key, option in known.items():
        if key not in data:
            continue
        if fault := _fault(option, data[key], context):
            faults.append(f"'{key}' {fault}")
        else:
            found[str(option.name)] = data[key]
    refuse(faults, f"The configuration '{path}' cannot be used.")
    return found


def _fault(option: click.Option, value: Any, context: click.Context) -> str:
    """Say what is wrong with a value; nothing where it fits."""
    kind = bool if option.is_flag else int if isinstance(option.type, click.types.IntParamType) else str
    if option.multiple:
        if not isinstance(value, list) or not all(type(item) is str for item in value):
            return f'must be an array of texts, for example ["{_example(value)}"], not {_value_of(value)}.'
    elif type(value) is not kind:
        return f"must be {_KINDS[kind]}, not {_value_of(value)}."
    if any("\0" in text for text in (value if isinstance(value, list) else [str(value)])):
        return "has a NUL character, which no option can have."
    try:
        option.type_cast_value(context, value)
    except click.BadParameter as error:
        return f"does not fit: {brief(error.message, 300)}"
    return ""


def _example(value: Any) -> str:
    return brief(value) if isinstance(value, str) else "..."


def _value_of(value: Any) -> str:
    return _value(brief(value)) if isinstance(value, str) else shown(value)
