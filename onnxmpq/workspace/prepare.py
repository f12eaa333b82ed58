"""Load a model, normalise it and find its space on a target; check what is to be done with it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxmpq.artifacts import Option, Plan, Space, parse_options
from onnxmpq.disk.leftovers import temporary_folder
from onnxmpq.errors import InfeasibleError, InputError, RuntimeMissingError, VerifyError
from onnxmpq.model.layers import dimensions
from onnxmpq.model.load import Source, load
from onnxmpq.model.normalise import normalise
from onnxmpq.model.save import save
from onnxmpq.runtimes import get_runtime
from onnxmpq.runtimes.base import one_line
from onnxmpq.targets import Target, split_variant
from onnxmpq.targets import target as find_target
from onnxmpq.targets.space import make_space

Model = str | os.PathLike[str] | onnx.ModelProto | ir.Model

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0 where that is not known)."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that was loaded, normalised and looked at for one target; ``smoothed`` is its digest where it was."""

    source: Source
    model: ir.Model
    target: Target
    space: Space
    passes: tuple[str, ...] = ()
    smoothed: str = ""


def silent(_what: str, _done: int, _of: int) -> None:
    """Show no progress."""


def prepare(
    model: Model,
    target: str,
    progress: Progress = silent,
    *,
    extra_passes: Sequence[str] = (),
    to_be_written: bool = True,
) -> Prepared:
    """Load and normalise a model and find its space on a target.

    Where nothing is ``to_be_written``, shapes may be open that the target's runtime wants fixed.
    """
    found = find_target(target)
    extra = tuple(dict.fromkeys((*found.passes, *extra_passes)))
    progress("load", 0, 0)
    source = load(Path(model) if isinstance(model, str | os.PathLike) else model)
    with _blaming_what_no_runtime_takes(source):
        normal = normalise(source, progress=lambda name: progress(f"normalise: {name}", 0, 0), extra_passes=extra)
        _check_opset(normal.model, found)
        if to_be_written:
            _check_shapes(normal.model, found)
        space = make_space(normal.model, found)
    return Prepared(source, normal.model, found, space, extra)


@contextmanager
def _blaming_what_no_runtime_takes(source: Source) -> Iterator[None]:
    """Where a stage trips over a model, ask its runtime: what that refuses is the model's fault, the rest is ours."""
    try:
        yield
    except (InputError, InfeasibleError, VerifyError, MemoryError):
        raise
    except Exception as error:
        _refuse_what_is_refused(source, error)
        raise


def _refuse_what_is_refused(source: Source, error: Exception) -> None:
    """Raise InputError if onnxruntime, where it is installed, does not load the model."""
    try:
        with temporary_folder() as folder:
            path = source.path
            if path is None:
                path = Path(folder) / "model.onnx"
                save(source.model, path)
            get_runtime("onnxruntime").session(path, mode="deployed")
    except RuntimeMissingError:
        return
    except Exception as refusal:  # it cannot be written, or it cannot be loaded
        raise InputError(f"The model is broken: {one_line(refusal)} Fix it, or export it again.") from error


def _check_opset(model: ir.Model, target: Target) -> None:
    """Refuse a model whose opset the target's runtime does not load."""
    opset = model.opset_imports.get("", 0)
    if opset > target.limits.highest_opset:
        raise InputError(
            f"The model is written in opset {opset}; target '{target.name}' loads up to {target.limits.highest_opset}. "
            "Export it with a lower opset."
        )


def _check_shapes(model: ir.Model, target: Target) -> None:
    """Refuse a model with open shapes where the target's runtime wants them fixed."""
    open_inputs = [value for value in model.graph.inputs if None in (dimensions(value) or (None,))]
    if target.static_shapes and open_inputs:
        shown = ", ".join(f"'{value.name}' {value.shape or '[?]'}" for value in open_inputs)
        raise InputError(
            f"Target '{target.name}' loads static shapes only; open: {shown}. Add --pass fix-shapes for batches of "
            "one, and name other dimensions there: --pass 'fix-shapes{sizes=length:128}'."
        )


def checked_plan(plan: Plan, prepared: Prepared) -> Plan:
    """Refuse a plan that was made for something else; tell all faults at once."""
    space = prepared.space
    faults = []
    if plan.model_sha256 and plan.model_sha256 != prepared.source.sha256:
        faults.append("it was made for another model (the digests differ)")
    if plan.target and plan.target != space.target:
        (base, isa), here = split_variant(plan.target), split_variant(space.target)[0]
        hint = f": give --isa {isa}" if base == here else ""
        faults.append(f"it was made for target '{plan.target}', not '{space.target}'{hint}")
    units = {unit.name: unit for unit in space.units}
    for name, option in plan.choices.items():
        if name not in units:
            faults.append(f"there is no unit '{name}'")
        elif option not in units[name].options:
            allowed = ", ".join(map(str, units[name].options))
            faults.append(f"unit '{name}' has no option '{option}' (allowed: {allowed})")
    if faults:
        raise InputError(f"The plan does not fit: {'; '.join(faults)}. `onnxmpq inspect` lists units and options.")
    return plan


def parsed(options: Sequence[str | Option]) -> tuple[Option, ...]:
    """Read options, each once."""
    found = [option for item in options for option in ([item] if isinstance(item, Option) else parse_options([item]))]
    return tuple(dict.fromkeys(found))
