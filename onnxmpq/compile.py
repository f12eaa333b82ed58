"""The whole way, from a model and samples to a file that its runtime executes: the stages in order."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Option, Plan, Space, Verdict
from onnxmpq.build import Builder, Export, Prepared, Progress
from onnxmpq.calibrated import Numbers
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.graph.load import load
from onnxmpq.measure.settings import Settings
from onnxmpq.measure.table import Table
from onnxmpq.methods.uniform import nearest, uniform
from onnxmpq.normalise import normalise
from onnxmpq.runtime import get_runtime
from onnxmpq.samples import Data
from onnxmpq.space import make_space
from onnxmpq.target import Target
from onnxmpq.target import target as find_target
from onnxmpq.verify import SLOWER_THAN_FLOAT, Accuracy, accuracy, file_bytes

Model = str | os.PathLike[str] | onnx.ModelProto | ir.Model


@dataclass(frozen=True, slots=True)
class Result:
    """What came out: the file, the plan in it, what it does, and what was noticed on the way."""

    path: Path
    plan_path: Path
    plan: Plan
    space: Space
    verdict: Verdict
    accuracy: Accuracy | None
    float_file_bytes: int
    file_bytes: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON data."""
        return {
            "path": str(self.path),
            "plan_path": str(self.plan_path),
            "plan": self.plan.to_json(),
            "float_file_bytes": self.float_file_bytes,
            "file_bytes": self.file_bytes,
            "size_share": self.file_bytes / self.float_file_bytes,
            "accuracy": asdict(self.accuracy) if self.accuracy else None,
            "verdict": self.verdict.to_json(),
            "notes": list(self.notes),
        }


def silent(_what: str, _done: int, _of: int) -> None:
    """Show no progress."""


def prepare(model: Model, target: str, progress: Progress = silent) -> Prepared:
    """Load and normalise a model and find its space on a target."""
    found = find_target(target)
    progress("load", 0, 0)
    source = load(Path(model) if isinstance(model, str | os.PathLike) else model)
    normal = normalise(source, progress=lambda name: progress(f"normalise: {name}", 0, 0))
    _check_limits(normal.model, found)
    return Prepared(source, normal.model, found, make_space(normal.model, found), target)


def inspect(model: Model, target: str = "ort-cpu", progress: Progress = silent) -> Space:
    """Return the units of a model on a target, their options and costs, and what stays float."""
    return prepare(model, target, progress).space


def measure(
    model: Model,
    calibration: Data,
    *,
    target: str = "ort-cpu",
    options: Sequence[str | Option] = ("w8a8", "w4a8", "w2a8"),
    centre: Plan | str | os.PathLike[str] | None = None,
    pairs: bool = False,
    numbers: Numbers | None = None,
    settings: Settings | None = None,
    store: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    ahead: int = 8,
    progress: Progress = silent,
) -> Table:
    """Measure what every unit costs at each of ``options``, alone and together, around ``centre`` (float by default).

    ``pairs`` adds the exact loss of every pair. With ``store`` every finished job is kept in that file: a run that was
    killed goes on where it was. ``executor`` is any ``concurrent.futures.Executor``; results do not depend on it.
    """
    from onnxmpq.measure.engine import Engine

    found = [option if isinstance(option, Option) else Option.parse(option) for option in options]
    prepared = prepare(model, target, progress)
    given = centre if isinstance(centre, Plan) or centre is None else Plan.read(Path(centre))
    choices = _checked_plan(given, prepared).choices if given else {}
    with Engine(
        prepared,
        calibration,
        numbers=numbers,
        settings=settings,
        store=Path(store) if store else None,
        executor=executor,
        ahead=ahead,
        progress=progress,
    ) as engine:
        table = engine.table(found, choices)
        return engine.pairs(table) if pairs else table


def quantize(
    model: Model,
    calibration: Data,
    *,
    output: str | os.PathLike[str],
    target: str = "ort-cpu",
    method: str = "uniform",
    option: str | Option = "w8a8",
    plan: Plan | str | os.PathLike[str] | None = None,
    numbers: Numbers | None = None,
    evaluation: Data | None = None,
    overwrite: bool = False,
    allow_slower: bool = False,
    threads: int = 1,
    speed_budget_s: float = 2.0,
    progress: Progress = silent,
) -> Result:
    """Quantise a model for a target, write it to ``output`` and prove what it does.

    With ``plan`` that plan is applied as it is, and so are its ranges where no ``numbers`` are given; otherwise
    ``method`` makes one, and unless ``allow_slower`` it gives way to the same weights on float kernels where its
    integer kernels run slower than float. Nothing is left behind when anything fails: InputError is for what the
    caller can mend, VerifyError for an export that does not hold.
    """
    path = _checked_output(Path(output), overwrite)
    if method != "uniform":
        raise InputError(f"There is no method '{method}'. Known: uniform.")
    given = plan if isinstance(plan, Plan) or plan is None else Plan.read(Path(plan))
    wanted = option if isinstance(option, Option) else Option.parse(option)
    prepared = prepare(model, target, progress)
    numbers = numbers or Numbers.of(given.ranges if given else {})
    chosen = _checked_plan(given, prepared) if given else uniform(prepared.space, wanted)
    chosen = replace(
        chosen, model_sha256=prepared.source.sha256, ranges={k: str(v) for k, v in asdict(numbers).items()}
    )
    runtime, reference = get_runtime(prepared.target.runtime), get_runtime("onnxruntime")
    notes: list[str] = []
    with _workshop(path) as folder:
        builder = Builder(
            prepared,
            runtime,
            reference,
            folder,
            calibration,
            numbers,
            threads=threads,
            speed_budget_s=speed_budget_s,
            progress=progress,
        )
        graded = builder.open(evaluation, "evaluation") if evaluation is not None else None
        export = builder.build(chosen, path.name)
        if given is None and not allow_slower:
            export = _faster(builder, export, path.name, notes)
        _refuse_failure(export)
        notes += builder.calibrated.notes(export.plan)
        grade = None
        if graded is not None and graded.labels is not None:
            progress("accuracy", 0, 0)
            grade = accuracy(runtime, reference, builder.float_model, export.path, graded, graded.labels)
        elif graded is not None:
            notes.append("The evaluation data has no 'labels': accuracy was not measured.")
        size = file_bytes(export.path)
        plan_path = _publish(export, path)
    if size >= prepared.source.size_bytes:
        notes.append("The file is not smaller than the original: what Q/DQ adds outweighs what its weights save.")
    notes += [note for samples in (builder.samples, graded) if samples is not None and (note := samples.note)]
    return Result(
        path,
        plan_path,
        export.plan,
        prepared.space,
        export.verdict,
        grade,
        prepared.source.size_bytes,
        size,
        tuple(notes),
    )


def _checked_output(path: Path, overwrite: bool) -> Path:
    """Refuse an output that could not be written, before any work is done."""
    if not path.parent.is_dir():
        raise InputError(f"The folder '{path.parent}' of the output '{path}' does not exist. Make it first.")
    if path.is_dir():
        raise InputError(f"The output '{path}' is a folder. Give the name of a file.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"The folder '{path.parent}' of the output '{path}' cannot be written to.")
    for there in (path, path.with_suffix(".plan.json"), path.with_name(path.name + ".data")):
        if there.exists() and not overwrite:
            raise InputError(f"The output '{there}' exists. Choose another name, or give --overwrite.")
    return path


def _check_limits(model: ir.Model, target: Target) -> None:
    """Refuse a model whose opset the target's runtime does not load."""
    opset = model.opset_imports.get("", 0)
    if opset > target.limits.highest_opset:
        raise InputError(
            f"The model is written in opset {opset}; target '{target.name}' loads up to {target.limits.highest_opset}. "
            "Export it with a lower opset."
        )


def _checked_plan(plan: Plan, prepared: Prepared) -> Plan:
    """Refuse a plan that was made for something else; tell all faults at once."""
    space = prepared.space
    faults = []
    if plan.model_sha256 and plan.model_sha256 != prepared.source.sha256:
        faults.append("it was made for another model (the digests differ)")
    if plan.target and plan.target != space.target:
        faults.append(f"it was made for target '{plan.target}', not '{space.target}'")
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


def _faster(builder: Builder, export: Export, name: str, notes: list[str]) -> Export:
    """Return ``export``, or float kernels with the same weights where its integer kernels are slower than float."""
    space = builder.prepared.space
    choices = {
        unit: nearest(space.unit(unit), replace(option, activation_bits=0)) if option.weight_bits else FLOAT
        for unit, option in export.plan.choices.items()
    }
    if export.speed >= SLOWER_THAN_FLOAT or choices == export.plan.choices:
        return export
    other = builder.build(replace(export.plan, choices=choices), name)
    if other.speed <= export.speed or not other.verdict.ok:
        return export
    notes.append(
        f"Integer kernels do not pay for this model here: they ran at {export.speed:.2f} of float speed. The weights "
        f"are stored in few bits and computed in float instead, at {other.speed:.2f}; --allow-slower keeps the integer "
        "kernels."
    )
    return other


def _refuse_failure(export: Export) -> None:
    """Raise VerifyError if a check failed."""
    failed = [check for check in export.verdict.checks if check.ok is False]
    if failed:
        told = "; ".join(
            f"{check.name} is {check.value} (expected {check.expected}; {check.detail})" for check in failed
        )
        raise VerifyError(f"The export does not hold in {export.verdict.runtime}: {told}. Nothing was written.")


@contextmanager
def _workshop(path: Path) -> Iterator[Path]:
    """Give a folder beside the output, on the same disk; it is gone afterwards, whatever happens."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=".onnxmpq-", dir=path.parent)
    except OSError as error:
        raise InputError(f"The folder '{path.parent}' of the output cannot be written to: {error.strerror}.") from error
    with folder as name:
        yield Path(name)


def _publish(export: Export, path: Path) -> Path:
    """Move a verified export, its data and its plan to where the caller wants them: all, or none of them."""
    plan_path = path.with_suffix(".plan.json")
    draft, kept = export.path.parent / plan_path.name, export.path.parent / "replaced"
    moved: list[Path] = []
    try:
        draft.write_text(json.dumps(export.plan.to_json(), indent=2) + "\n", encoding="utf-8")
        new = sorted(export.path.parent.iterdir(), key=lambda file: file == export.path)  # the model comes last
        kept.mkdir()
        for file in new:
            final = path.parent / file.name
            if final.exists():
                os.replace(final, kept / file.name)
            moved.append(final)
            os.replace(file, final)
    except BaseException as error:
        for final in moved:
            final.unlink(missing_ok=True)
        for file in kept.iterdir() if kept.is_dir() else ():
            os.replace(file, path.parent / file.name)
        if isinstance(error, OSError):
            raise InputError(f"The output '{path}' cannot be written: {error.strerror}.") from error
        raise
    return plan_path
