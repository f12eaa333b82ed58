"""The whole way, from a model and samples to a file that its runtime executes: the stages in order."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from onnxmpq.artifacts import Accuracy, Export, Option, Plan, Space, Verdict
from onnxmpq.budgets.limits import Limit, parse_limits
from onnxmpq.data.samples import Data, Samples, checked_labels
from onnxmpq.disk.files import plan_of, refuse_shared
from onnxmpq.disk.reading import read_json
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.guard.damage import Thresholds
from onnxmpq.guard.judge import Judgement, guarded, judge_export
from onnxmpq.guard.kernels import build_no_slower, no_slower
from onnxmpq.latency.fastest import Placed
from onnxmpq.latency.model import Latency
from onnxmpq.latency.notebook import Notebook, beside
from onnxmpq.machine import LARGE_BYTES, give_back
from onnxmpq.methods.named import chosen
from onnxmpq.metrics.compared import accuracy
from onnxmpq.metrics.heads import judged_heads
from onnxmpq.model.portions import Portions, portions_of, portions_of_file
from onnxmpq.options import (
    MENU,
    Constraints,
    GraphOptions,
    MeasureOptions,
    Numbers,
    NumbersAsked,
    SearchOptions,
    VerifyOptions,
)
from onnxmpq.runtimes import get_runtime
from onnxmpq.search.budgeted import plan_within
from onnxmpq.search.constraints import menu_of, tried, uniform_by_hand
from onnxmpq.search.decide import Decision
from onnxmpq.search.decide import to_json as decision_json
from onnxmpq.search.loop import Search
from onnxmpq.search.placing import foreseen, on_kernels, placed, told
from onnxmpq.search.sizing import with_facts
from onnxmpq.sensitivity.rescue import Rescue
from onnxmpq.sensitivity.table import Table
from onnxmpq.sensitivity.workers.executors import opened
from onnxmpq.targets import Target
from onnxmpq.verification.publish import checked_output, publish, workshop
from onnxmpq.verification.verify import file_bytes
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import Model, Prepared, Progress, checked_plan, prepare, silent
from onnxmpq.workspace.workspace import Workspace, workspace


@dataclass(frozen=True, slots=True)
class Result:
    """What came out: the file, the plan in it, what it does, and what was noticed on the way.

    ``decided`` is the plan before kernels that are slower than float here gave way.
    """

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
    decided: Plan | None = None

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
    return prepare(model, target, progress, to_be_written=False).space


def measure(
    model: Model,
    calibration: Data,
    *,
    target: str = "ort-cpu",
    options: Sequence[str | Option] = MENU,
    centre: Plan | str | os.PathLike[str] | None = None,
    pairs: bool = False,
    numbers: NumbersAsked = None,
    graph: GraphOptions = GraphOptions(),
    measure: MeasureOptions = MeasureOptions(),
    progress: Progress = silent,
) -> Table:
    """Measure what every unit costs at each of ``options``, alone and together, around ``centre`` (float by default).

    ``pairs`` adds the exact loss of every pair. With a store every finished job is kept: a run that was killed goes on
    where it was. Results do not depend on the executor. The table has what budgets are counted from, so that
    ``plan_from`` makes plans of it. Every keyword is what one stage needs to know.
    """
    from onnxmpq.sensitivity.engine import Engine

    prepared = prepare(model, target, progress, extra_passes=graph.passes)
    given = centre if isinstance(centre, Plan) or centre is None else Plan.read(Path(centre))
    choices = checked_plan(given, prepared).choices if given else {}
    with (
        opened(measure) as measuring,
        workspace(prepared, calibration, Numbers.asked(numbers, Numbers()), progress, tried(prepared.space)) as place,
        Engine(place, measuring) as engine,
    ):
        table = engine.table(menu_of(options, prepared.target), choices)
        table = engine.pairs(table) if pairs else table
        return with_facts(table, engine, keep_metadata=graph.keep_metadata)


def quantize(
    model: Model,
    calibration: Data,
    *,
    output: str | os.PathLike[str],
    target: str = "ort-cpu",
    budget: Mapping[str, object] | Sequence[str] = (),
    plan: Plan | Option | str | os.PathLike[str] | None = None,
    numbers: NumbersAsked = None,
    graph: GraphOptions = GraphOptions(),
    constraints: Constraints = Constraints(),
    search: SearchOptions = SearchOptions(),
    measure: MeasureOptions = MeasureOptions(),
    verify: VerifyOptions = VerifyOptions(),
    evaluation: Data | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Result:
    """Quantise a model for a target, write it to ``output`` and prove what it does.

    With a ``plan``, or the file of one, that is applied as it is, and so are its ranges where no ``numbers`` are given.
    With ``budget`` (``{"size": "30%"}``, ``["bops=25%", "drop=1%"]``) a plan is searched as ``search`` says, among its
    options and the uniform ones, decided on losses that are measured as ``measure`` says. Without either every unit
    gets one option, ``plan="w4a8"`` or w8a8, or the nearest finer one that it has. Weights of a search and of an option
    below 8 bits are fitted in the order of the network unless ``numbers`` say otherwise. ``constraints`` are decisions
    by hand, for both.

    A result that is ruined says so: ``verify`` tells from where on. Units that ruin a uniform plan are kept finer
    unless it is wanted as asked. Every keyword is what one stage needs to know, and all stages stand here in order.

    Unless slower files are allowed a plan gives way to the same weights on float kernels where its integer kernels run
    slower than float. No half-written model is left when anything fails: InputError is for what the caller can fix,
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
    ...     result = quantize(model, samples, output=f"{folder}/small.onnx")
    ...     result.verdict.ok, result.file_bytes < 0.4 * result.float_file_bytes
    (True, True)
    """
    path = Path(output)
    reads = {"model": model, "calibration data": calibration, "evaluation data": evaluation, "plan": plan}
    writes = {"output": path, "plan of the output": plan_of(path), "store": _file(measure.store)}
    refuse_shared({what: _file(given) for what, given in reads.items()}, writes)
    checked_output(path, overwrite)
    order = Order.of(budget, plan, search, constraints, verify)
    prepared = prepare(model, target, progress, extra_passes=graph.passes or (order.plan.passes if order.plan else ()))
    settled = Numbers.asked(numbers, order.numbers(prepared))
    first = replace(
        order.first_plan(prepared, constraints),
        model_sha256=prepared.source.sha256,
        passes=prepared.passes,
    )
    if graph.keep_metadata:
        first = replace(first, keep_metadata=True)
    get_runtime(prepared.target.runtime, prepared.target.stand_in)  # one of which must be here
    notes: list[str] = []
    with workshop(path) as folder, ExitStack() as kept_until_written:
        place = Workspace(prepared, calibration, settled, folder, progress, first.choices or tried(prepared.space))
        prepared, first = place.prepared, replace(first, ranges=place.calibrated.numbers.told())
        exporter = Exporter(place, threads=verify.threads, speed_budget_s=verify.speed_budget_s)
        graded = _graded(place, evaluation)
        kernels: Mapping[str, Option] | None = None
        if found_kernels := _placed(
            exporter, first, order.offered(search, prepared.target), constraints, verify, measure
        ):
            kernels = found_kernels.kernels
            first = first if order.searches else on_kernels(first, prepared.space, kernels)
            notes.append(told(found_kernels))
        final, decision = first, None
        if order.searches:
            kept = kept_until_written.enter_context(Rescue(path, _file(measure.store), folder))
            with (
                opened(replace(measure, store=kept.store)) as measuring,
                Search(exporter, first, search, measuring, constraints, graded, kernels) as found,
            ):
                final, decision = plan_within(found, order.limits, notes)
            kept.keep(final)
            del found
            if prepared.source.size_bytes >= LARGE_BYTES:
                give_back()  # what jobs held makes room for the export
        export, judgement = _exported(exporter, final, path.name, order, constraints, verify, notes)
        notes += place.notes(export.plan)
        if decision is not None and place.is_fitted(export.plan):
            notes.append("Losses that the search tells are those before fitting.")
        grade = _grade(exporter, export, graded, notes)
        size = file_bytes(export.path)
        plan_path = publish(export, path, overwrite=overwrite)
    if size >= prepared.source.size_bytes:
        notes.append("The file is not smaller than the original: what Q/DQ adds outweighs what its weights save.")
    notes += [note for samples in (place.samples, graded) if samples is not None and (note := samples.note)]
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
        final,
    )


@dataclass(frozen=True, slots=True)
class Order:
    """What a plan is to come from: one that is given, one option for all, or a search within limits."""

    limits: tuple[Limit, ...]
    plan: Plan | None
    option: Option | None
    searches: bool
    thresholds: Thresholds

    @classmethod
    def of(
        cls,
        budget: Mapping[str, object] | Sequence[str],
        plan: Plan | Option | str | os.PathLike[str] | None,
        search: SearchOptions,
        constraints: Constraints,
        verify: VerifyOptions,
    ) -> Self:
        """Read what was asked for; refuse what excludes each other."""
        limits, thresholds = parse_limits(budget), Thresholds.parse(verify.guard)
        given = _plan_or_option(plan)
        if isinstance(given, Plan) and verify.fastest:
            raise InputError(
                "A plan is applied as it is, on the kernels that it names: leave out --fastest, or the plan."
            )
        if isinstance(given, Plan) and limits:
            raise InputError("A plan is applied as it is, whatever it takes: leave out the budget, or the plan.")
        if isinstance(given, Plan) and constraints != Constraints():
            raise InputError("A plan is applied as it is: leave out keep, exclude and ties, or the plan.")
        if isinstance(given, Option) and limits:
            raise InputError("An option is what every unit gets: leave it out, or the budget.")
        searches = not isinstance(given, Plan) and (bool(limits) or search.method not in ("", "uniform"))
        if searches:
            chosen(search)
        if searches and not limits:
            raise InputError("A search needs a budget: size=30%, bits=4, bops=25%, memory=40MB or drop=1%.")
        option = given if isinstance(given, Option) else None
        return cls(tuple(limits), given if isinstance(given, Plan) else None, option, searches, thresholds)

    def numbers(self, prepared: Prepared) -> Numbers:
        """How values become codes unless somebody says so."""
        if self.plan is not None:
            return Numbers.of(self.plan.ranges)
        size = prepared.source.size_bytes
        return Numbers.searched() if self.searches else Numbers.uniform(self.uniform(prepared.target), size)

    def uniform(self, target: Target) -> Option:
        """Return what every unit gets where nothing is searched."""
        return self.option or (target.menu[0] if target.menu else Option.parse("w8a8"))

    def offered(self, search: SearchOptions, target: Target) -> tuple[Option, ...]:
        """Return the options that units may take."""
        return menu_of(search.options, target) if self.searches else (self.uniform(target),)

    def first_plan(self, prepared: Prepared, constraints: Constraints) -> Plan:
        """Return the plan to be applied, or for a search an empty one."""
        if self.plan is not None:
            return checked_plan(self.plan, prepared)
        if self.searches:
            return Plan(target=prepared.space.target, method="", choices={})
        return uniform_by_hand(prepared.space, self.uniform(prepared.target), constraints)


def _plan_or_option(given: Plan | Option | str | os.PathLike[str] | None) -> Plan | Option | None:
    """Read what stands for a plan: a text that reads as an option is one, any other names a file."""
    if given is None or isinstance(given, Plan | Option):
        return given
    if isinstance(given, str) and not os.path.exists(given) and not os.path.splitext(given)[1]:
        return Option.parse(given)
    return Plan.read(Path(given))


def _file(given: object) -> Path | None:
    """Return the path of what was given, if it is one."""
    return Path(given) if isinstance(given, str | os.PathLike) else None


def _graded(place: Workspace, evaluation: Data | None) -> Samples | None:
    """Open what accuracy is measured on, and look at its labels before any work."""
    graded = place.open(evaluation, "evaluation") if evaluation is not None else None
    if graded is not None and graded.labels is not None:
        checked_labels(graded.labels)
    return graded


def _placed(
    exporter: Exporter,
    empty: Plan,
    options: Sequence[Option],
    by_hand: Constraints,
    verify: VerifyOptions,
    measure: MeasureOptions,
) -> Placed | None:
    """Place kernels, by measurement or by a table, where that is wanted."""
    prepared = exporter.prepared
    if verify.latency_table:
        latency = Latency.from_json(read_json(Path(verify.latency_table), "table of latencies"), verify.latency_table)
        return foreseen(latency, prepared.space, options, by_hand)
    if not verify.fastest:
        return None
    return placed(exporter, empty, options, by_hand, Notebook(beside(measure.store), prepared.source.sha256))


def _exported(
    exporter: Exporter,
    chosen: Plan,
    name: str,
    order: Order,
    constraints: Constraints,
    verify: VerifyOptions,
    notes: list[str],
) -> tuple[Export, Judgement | None]:
    """Build the file of a plan, judge it, and take what is better where nobody decided; refuse what does not hold."""
    timed = order.plan is None and not verify.allow_slower and not (verify.fastest or verify.latency_table)
    if timed:
        export = build_no_slower(exporter, chosen, name, order.limits, constraints, notes)
    else:
        export = exporter.build(chosen, name)
    heads = judged_heads(exporter.prepared.model)
    judgement: Judgement | None = None
    if heads:
        may_change = order.plan is None and not order.searches and not verify.as_asked
        kept, judgement = guarded(exporter, export, heads, order.thresholds, constraints, notes, may_change=may_change)
        if timed and kept is not export:
            faster = no_slower(exporter, kept, order.limits, constraints, notes)
            if faster is not kept:
                judgement = replace(judgement, damage=judge_export(exporter, faster.path, heads))
            kept = faster
        export = kept
    if told := export.verdict.failures:
        raise VerifyError(f"The export does not hold in {export.verdict.runtime}: {told}. No model was written.")
    return export, judgement


def _grade(exporter: Exporter, export: Export, graded: Samples | None, notes: list[str]) -> Accuracy | None:
    """Measure accuracy where there are labels for it."""
    if graded is None:
        return None
    if graded.labels is None:
        notes.append("The evaluation data has no 'labels': accuracy was not measured.")
        return None
    exporter.workspace.progress("accuracy", 0, 0)
    return accuracy(*exporter.sessions(export.path), graded, graded.labels)
