"""The whole way, from a model and samples to a file that its runtime executes: the stages in order."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnxmpq.artifacts import FLOAT, Export, Option, Plan, Space, Verdict
from onnxmpq.budgets.limits import Limit, parse_limits
from onnxmpq.data.samples import Data, Samples, checked_labels
from onnxmpq.disk.files import plan_of, refuse_shared
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.guard.culprits import find
from onnxmpq.guard.damage import Thresholds
from onnxmpq.guard.judge import Judgement, advice, judge_export, judged_heads, kept_finer, ruined
from onnxmpq.lower.calibrated import Numbers
from onnxmpq.machine import give_back, processor
from onnxmpq.methods.named import method as find_method
from onnxmpq.methods.study import Method, check_effort
from onnxmpq.methods.uniform import nearest
from onnxmpq.metrics.losses import Head
from onnxmpq.model.portions import Portions, portions_of, portions_of_file
from onnxmpq.runtimes import get_runtime
from onnxmpq.search.constraints import Constraints, decided, first_choices, uniform_by_hand
from onnxmpq.search.decide import Decision
from onnxmpq.search.decide import to_json as decision_json
from onnxmpq.search.loop import OPTIONS, Search, Wish
from onnxmpq.sensitivity.rescue import Rescue
from onnxmpq.sensitivity.settings import Settings
from onnxmpq.sensitivity.table import Table
from onnxmpq.verification.publish import checked_output, publish, workshop
from onnxmpq.verification.verify import SLOWER_THAN_FLOAT, Accuracy, accuracy, fall, file_bytes
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import Model, Progress, checked_plan, parsed, prepare, silent
from onnxmpq.workspace.workspace import Workspace, workspace


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
    decision: Decision | None = None
    float_portions: Portions | None = None
    portions: Portions | None = None
    judgement: Judgement | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON data."""
        return {
            "path": str(self.path),
            "plan_path": str(self.plan_path),
            "plan": self.plan.to_json(),
            "float_file_bytes": self.float_file_bytes,
            "file_bytes": self.file_bytes,
            "size_share": self.file_bytes / self.float_file_bytes,
            "float_portions": self.float_portions.to_json() if self.float_portions else None,
            "portions": self.portions.to_json() if self.portions else None,
            "accuracy": asdict(self.accuracy) if self.accuracy else None,
            "verdict": self.verdict.to_json(),
            "guard": self.judgement.to_json() if self.judgement else None,
            "notes": list(self.notes),
            "decision": decision_json(self.decision) if self.decision else None,
        }


def inspect(model: Model, target: str = "ort-cpu", progress: Progress = silent) -> Space:
    """Return the units of a model on a target, their options and costs, and what stays float.

    >>> import numpy as np, onnx
    >>> model = onnx.parser.parse_model(
    ...     '<ir_version: 8, opset_import: ["": 17]> g (float[n, 64] x) => (float[n, 64] y) '
    ...     "{ h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }"
    ... )
    >>> weights = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    >>> model.graph.initializer.extend(map(onnx.numpy_helper.from_array, weights, "ab"))
    >>> for unit in inspect(model).units:
    ...     print(unit.name, unit.parameters, [str(option) for option in unit.options][:3])
    MatMul_0 4096 ['float', 'w8a8', 'w7a8']
    MatMul_1 4096 ['float', 'w8a8', 'w7a8']
    """
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
    extra_passes: Sequence[str] = (),
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
    from onnxmpq.sensitivity.engine import Engine

    found = [option if isinstance(option, Option) else Option.parse(option) for option in options]
    prepared = prepare(model, target, progress, extra_passes=extra_passes)
    given = centre if isinstance(centre, Plan) or centre is None else Plan.read(Path(centre))
    choices = checked_plan(given, prepared).choices if given else {}
    with (
        workspace(prepared, calibration, numbers, progress) as opened,
        Engine(opened, settings, store=Path(store) if store else None, executor=executor, ahead=ahead) as engine,
    ):
        table = engine.table(found, choices)
        return engine.pairs(table) if pairs else table


def quantize(
    model: Model,
    calibration: Data,
    *,
    output: str | os.PathLike[str],
    target: str = "ort-cpu",
    method: str | Method | None = None,
    option: str | Option = "w8a8",
    budget: Mapping[str, object] | Sequence[str] = (),
    options: Sequence[str | Option] = OPTIONS,
    keep: Sequence[str] = (),
    exclude: Sequence[str] = (),
    ties: Sequence[str] = (),
    effort: str = "default",
    seed: int = 0,
    settings: Settings | None = None,
    store: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    ahead: int = 8,
    plan: Plan | str | os.PathLike[str] | None = None,
    numbers: Numbers | None = None,
    extra_passes: Sequence[str] = (),
    evaluation: Data | None = None,
    keep_metadata: bool = False,
    overwrite: bool = False,
    allow_slower: bool = False,
    as_asked: bool = False,
    guard: Sequence[str] = (),
    threads: int = 1,
    speed_budget_s: float = 2.0,
    progress: Progress = silent,
) -> Result:
    """Quantise a model for a target, write it to ``output`` and prove what it does.

    With ``plan`` that plan is applied as it is, and so are its ranges where no ``numbers`` are given. With ``budget``
    (``{"size": "30%"}``, ``["bops=25%", "drop=1%"]``) ``method`` (``gram`` unless named) searches a plan among
    ``options`` and the uniform ones, decided on measured loss, and weights are rounded by GPTQ unless ``numbers`` say
    otherwise. Without either every unit gets ``option``, or the nearest finer one that it has. ``keep``, ``exclude``
    and ``ties`` are decisions by hand, for both. Doc strings, metadata of nodes and values, and types that follow are
    left out of the file unless ``keep_metadata``.

    A result that is ruined says so: ``guard`` (``["classes>=80%", "loss<=0.1", "sqnr>=10"]``) tells from where on.
    Units that ruin a uniform plan are kept finer unless ``as_asked``.

    Unless ``allow_slower`` a plan gives way to the same weights on float kernels where its integer kernels run slower
    than float. No half-written model is left when anything fails: InputError is for what the caller can fix,
    InfeasibleError for budgets that nothing meets, VerifyError for an export that does not hold. What a search has
    found by then, its plan and its measurements, is kept beside ``output``, and a note of the error says where.

    >>> import numpy as np, onnx, tempfile
    >>> model = onnx.parser.parse_model(
    ...     '<ir_version: 8, opset_import: ["": 17]> g (float[n, 64] x) => (float[n, 64] y) '
    ...     "{ h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }"
    ... )
    >>> weights = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    >>> model.graph.initializer.extend(map(onnx.numpy_helper.from_array, weights, "ab"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     samples = {"x": weights[0]}
    ...     result = quantize(model, samples, output=f"{folder}/small.onnx", option="w8a8", speed_budget_s=0.0)
    ...     result.verdict.ok, result.file_bytes < 0.4 * result.float_file_bytes
    (True, True)
    """
    path = Path(output)
    refuse_shared(
        {
            "model": _file(model),
            "calibration data": _file(calibration),
            "evaluation data": _file(evaluation),
            "plan": _file(plan),
        },
        {"output": path, "plan of the output": plan_of(path), "store": _file(store)},
    )
    checked_output(path, overwrite)
    limits, thresholds = parse_limits(budget), Thresholds.parse(guard)
    given = plan if isinstance(plan, Plan) or plan is None else Plan.read(Path(plan))
    by_hand = Constraints(tuple(keep), tuple(exclude), tuple(ties))
    wish: Wish | None = None
    if given is None and (limits or method not in (None, "uniform")):
        wish = Wish(
            find_method(method or "gram") if isinstance(method, str | None) else method,
            parsed(options),
            by_hand,
            check_effort(effort),
            seed,
            settings or Settings(threads=threads),
            Path(store) if store else None,
            executor,
            ahead,
        )
        if not limits:
            raise InputError("A search needs a budget: size=30%, bits=4, bops=25%, memory=40MB or drop=1%.")
    elif given is not None and limits:
        raise InputError("A plan is applied as it is, whatever it takes: leave out the budget, or the plan.")
    elif given is not None and by_hand != Constraints():
        raise InputError("A plan is applied as it is: leave out keep, exclude and ties, or the plan.")
    wanted = option if isinstance(option, Option) else Option.parse(option)
    prepared = prepare(model, target, progress, extra_passes=extra_passes or (given.passes if given else ()))
    numbers = numbers or Numbers.of(given.ranges if given else {"rounding": "gptq"} if wish else {})
    chosen = Plan(target=prepared.space.target, method="", choices={})
    if given:
        chosen = checked_plan(given, prepared)
    elif wish is None:
        chosen = uniform_by_hand(prepared.space, wanted, by_hand)
    chosen = replace(
        chosen,
        model_sha256=prepared.source.sha256,
        ranges=numbers.told(),
        passes=prepared.passes,
        keep_metadata=keep_metadata or chosen.keep_metadata,
    )
    decision: Decision | None = None
    get_runtime(prepared.target.runtime)  # which must be here
    notes: list[str] = []
    with workshop(path) as folder, ExitStack() as stack:
        opened = Workspace(prepared, calibration, numbers, folder, progress)
        exporter = Exporter(opened, threads=threads, speed_budget_s=speed_budget_s)
        graded = opened.open(evaluation, "evaluation") if evaluation is not None else None
        if graded is not None and graded.labels is not None:
            checked_labels(graded.labels)
        if wish is not None:
            kept = stack.enter_context(Rescue(path, wish.store, folder))
            wish = replace(wish, store=kept.store)
            chosen, decision = _searched(exporter, chosen, wish, limits, graded, notes)
            kept.plan = chosen
        export = exporter.build(chosen, path.name)
        heads = judged_heads(prepared.model)
        judgement: Judgement | None = None
        if heads:
            may_change = given is None and wish is None and not as_asked
            export, judgement = _guarded(exporter, export, path.name, heads, thresholds, by_hand, may_change, notes)
        if given is None and not allow_slower:
            faster = _faster(exporter, export, path.name, notes, limits, by_hand)
            if judgement is not None and faster is not export:
                judgement = replace(judgement, damage=judge_export(exporter, faster.path, heads))
            export = faster
        _refuse_failure(export)
        notes += opened.calibrated.notes(export.plan)
        grade = None
        if graded is not None and graded.labels is not None:
            progress("accuracy", 0, 0)
            grade = accuracy(exporter.runtime, opened.reference, opened.float_model, export.path, graded, graded.labels)
        elif graded is not None:
            notes.append("The evaluation data has no 'labels': accuracy was not measured.")
        size = file_bytes(export.path)
        plan_path = publish(export, path, overwrite=overwrite)
    if size >= prepared.source.size_bytes:
        notes.append("The file is not smaller than the original: what Q/DQ adds outweighs what its weights save.")
    notes += [note for samples in (opened.samples, graded) if samples is not None and (note := samples.note)]
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
        decision,
        portions_of(prepared.source),
        portions_of_file(path),
        judgement,
    )


def _file(given: object) -> Path | None:
    """Return the path of what was given, if it is one."""
    return Path(given) if isinstance(given, str | os.PathLike) else None


def _searched(
    exporter: Exporter, empty: Plan, wish: Wish, limits: Sequence[Limit], graded: Samples | None, notes: list[str]
) -> tuple[Plan, Decision]:
    """Search a plan within budgets, and note what is to be said."""
    opened = exporter.workspace
    judged = graded if graded is not None and graded.labels is not None else opened.samples
    with Search(exporter, replace(empty, method=wish.method.name), wish) as search:
        _rehearse(search, notes)
        classes = search.engine.heads[0].kind != "power"

        def metric(choices: Mapping[str, Option]) -> tuple[float, float]:
            path = exporter.written(search.plan(choices), "tried.onnx")
            runs = (exporter.runtime, opened.reference, opened.float_model, path)
            return fall(*runs, judged, judged.labels, classes=classes)

        if any(limit.budget.bisected for limit in limits):
            decision, (drop, error) = search.within_drop(limits, metric)
            notes.append(
                f"The metric falls by {100 * drop:.2f} ± {100 * error:.2f} points on the data it was judged on."
            )
        else:
            decision = search.decide(limits)
        notes += decision.notes
        plan = search.plan(decision.choices)
    give_back()  # what jobs held makes room for the export
    return plan, decision


def _faster(
    exporter: Exporter, export: Export, name: str, notes: list[str], limits: Sequence[Limit], by_hand: Constraints
) -> Export:
    """Return ``export``, or float kernels with the same weights where its integer kernels are slower than float.

    Within budgets a file must not grow for it, and where bit operations are limited float is none of the options. What
    was decided by hand stays. So does everything on a target that promises no integer kernels: others run its files.
    """
    space, taken = exporter.prepared.space, export.plan.choices
    offered: dict[str, tuple[Option, ...]] = {unit.name: (FLOAT,) for unit in space.units}
    for unit, option in taken.items():
        plain = nearest(space.unit(unit), replace(option, activation_bits=0)) if option.weight_bits else FLOAT
        offered[unit] = (plain, option)
    found = first_choices(decided(space, offered, by_hand))
    choices = {unit: found[unit] for unit in taken}
    counted = any(limit.budget.computed for limit in limits)
    promised = exporter.prepared.target.integer_kernels
    timed = "time" in exporter.runtime.abilities
    if not promised or not timed or export.speed >= SLOWER_THAN_FLOAT or choices == taken or counted:
        return export
    other = exporter.build(replace(export.plan, choices=choices), name)
    if other.speed <= export.speed or not other.verdict.ok:
        return export
    if limits and file_bytes(other.path) > file_bytes(export.path):
        return export
    notes.append(
        f"Integer kernels do not pay for this model here ({processor().brand}): they ran at {export.speed:.2f} of "
        "float speed. The weights are stored in few bits and computed in float instead, at "
        f"{other.speed:.2f}; --allow-slower keeps the integer kernels, for other machines."
        + (" The loss told here was measured with them." if limits else "")
    )
    return other


def _rehearse(search: Search, notes: list[str]) -> None:
    """Build the smallest plan on offer before anything is searched: what does not hold here is told at once.

    Where few bits are what it fails at, the largest plan still shows whether the target's kernels do what they should.
    """
    exporter, (smallest, largest) = search.exporter, search.ends()
    told = failures(exporter.tried(search.plan(smallest)))
    if not told:
        return
    if failures(exporter.tried(search.plan(largest))):
        raise VerifyError(
            "Before the search was begun the smallest file was tried, and it does not hold in "
            f"{exporter.runtime.name}: {told}. Neither does the largest. No model was written. Give other --options, "
            "or another --target."
        )
    notes.append(f"The smallest file that was on offer does not hold in {exporter.runtime.name}: {told}.")


def failures(verdict: Verdict) -> str:
    """Say which checks failed; nothing where all hold."""
    return "; ".join(
        f"{check.name} is {check.value} (expected {check.expected}; {check.detail})"
        for check in verdict.checks
        if check.ok is False
    )


def _guarded(
    exporter: Exporter,
    export: Export,
    name: str,
    heads: Sequence[Head],
    thresholds: Thresholds,
    by_hand: Constraints,
    may_change: bool,
    notes: list[str],
) -> tuple[Export, Judgement]:
    """Judge a file; where it is ruined, say by what, and keep that finer where the plan was nobody's own."""
    damage = judge_export(exporter, export.path, heads)
    if not thresholds.broken(damage):
        return export, Judgement(damage, thresholds)
    exporter.workspace.progress("guard: culprits", 0, 0)
    finding = find(exporter.workspace, export.plan, heads, thresholds, by_hand)
    if finding is None or not may_change:
        notes += [ruined(damage, thresholds, finding), *([advice(finding)] if finding else [])]
        return export, Judgement(damage, thresholds, None, finding)
    notes.append(ruined(damage, thresholds, finding, "the option that was asked for"))
    other = exporter.build(finding.plan, name)
    after = judge_export(exporter, other.path, heads)
    sizes, speeds = (file_bytes(export.path), file_bytes(other.path)), (export.speed, other.speed)
    notes.append(kept_finer(finding, after, sizes, speeds, usable=not thresholds.broken(after)))
    return other, Judgement(after, thresholds, damage, finding)


def _refuse_failure(export: Export) -> None:
    """Raise VerifyError if a check failed."""
    if told := failures(export.verdict):
        raise VerifyError(f"The export does not hold in {export.verdict.runtime}: {told}. No model was written.")
