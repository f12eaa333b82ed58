"""``onnxmpq quantize``: its function has an argument for every option, or class of options, that it takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from onnxmpq.artifacts import Option, Plan
from onnxmpq.cli import show, words
from onnxmpq.cli.config import config_options
from onnxmpq.cli.fields import taking
from onnxmpq.cli.next_command import comes_next, next_command
from onnxmpq.cli.progress import minutes
from onnxmpq.cli.recording import leave, running, tell
from onnxmpq.cli.resuming import measuring
from onnxmpq.cli.shared import (
    budget_option,
    build_options,
    checked_output,
    checked_report,
    model_argument,
    point_option,
    record_option,
    report_option,
    several_targets,
)
from onnxmpq.errors import InputError
from onnxmpq.options import Constraints, MeasureOptions, SearchOptions, VerifyOptions

if TYPE_CHECKING:
    from onnxmpq.api import Result
    from onnxmpq.report.figures import View
    from onnxmpq.search.dry_run import Forecast

_FORESEEN = ("calibration", "target", "constraints", "numbers", "graph")
_TOLD = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
_SEARCH_ONLY = (
    "method_options",
    "options",
    "effort",
    "store",
    "samples",
    "loss",
    "outputs",
    "blends",
    "dry_run",
)


@click.command("quantize")
@model_argument
@budget_option("Search the best plan within this: size=30%, size=5MB, bits=4.5, bops=25%, memory=40MB, drop=1%.")
@click.option(
    "--option",
    shell_complete=words.complete(words.options),
    help="Without a budget: what every unit gets, w8a8, w4a8, w2a8, w8, w4, w4b32 …  [default: w8a8]",
)
@taking(search=SearchOptions, constraints=Constraints, measure=MeasureOptions, verify=VerifyOptions)
@click.option("--dry-run", is_flag=True, help="Say what a search would take and whether budgets can be met, and stop.")
@click.option("--plan", type=click.Path(path_type=Path), help="Use this plan.json instead of a method.")
@point_option
@report_option
@record_option
@build_options
@config_options
@click.pass_context
def quantize_command(
    context: click.Context,
    /,
    model: Path,
    budget: Sequence[str],
    option: str | None,
    plan: Plan | None,
    search: SearchOptions,
    measure: MeasureOptions,
    verify: VerifyOptions,
    report: Path | None,
    record: Path | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **rest: Any,
) -> None:
    """Quantise MODEL, write it, and prove what the file does.

    \b
    onnxmpq quantize model.onnx -c samples.npz -o model.int8.onnx
    onnxmpq quantize model.onnx -c samples.npz -o model.small.onnx -b size=30% -b bops=25%
    onnxmpq quantize model.onnx -c samples.npz -o model.w4.onnx --option w4a8 -e labelled.npz
    onnxmpq quantize model.onnx -c samples.npz -o model.onnx -b size=30% -t ort-cpu,openvino
    """
    from onnxmpq.api import quantize

    checked_report(report)
    checked_output(record, overwrite, "record")
    if budget and option is not None:
        raise InputError("--option is what every unit gets; with a budget --options names what units may take.")
    if plan is not None and option is not None:
        raise InputError("A plan is applied as it is: leave out --option, or --plan.")
    if not budget:
        _refuse_search_options(context)
    if len(targets := several_targets(rest["target"])) > 1:
        if dry_run or report is not None or record is not None:
            raise InputError("--dry-run, --report and --record are of one target: give one, or leave them out.")
        with measuring(measure.store, quiet, verbose) as told:
            _for_many(
                model,
                targets,
                as_json,
                plan=plan or (Option.parse(option) if option else None),
                **{"budget": budget, "search": search, "measure": measure, "verify": verify},
                **{"overwrite": overwrite, "progress": told, **rest},
            )
        return
    if dry_run:
        _forecast(model, budget, search, measure, quiet, as_json, rest)
        return
    with measuring(measure.store, quiet, verbose) as told:
        result = quantize(
            model,
            plan=plan or (Option.parse(option) if option else None),
            budget=budget,
            search=search,
            measure=measure,
            verify=verify,
            overwrite=overwrite,
            progress=told,
            **rest,
        )
    if report is not None or record is not None:
        leave(_view(result, model), report, record, overwrite)
    if as_json:
        show.as_json(result.to_json())
    else:
        show.result(result)
        tell(report, record)
        comes_next(next_command("verify", str(result.path), "--float", str(model)), "on the machine that will run it")


def _for_many(model: Path, targets: Sequence[str], as_json: bool, **order: Any) -> None:
    """Make a file for each of several targets, and print what came of it."""
    from onnxmpq.cli import many
    from onnxmpq.for_targets import quantize_for

    order.pop("target")
    found = quantize_for(model, targets=targets, **order)
    if as_json:
        show.as_json([one.to_json() for one in found])
    else:
        many.shown(found)
    many.refuse(found)


def _view(result: "Result", model: Path) -> "View":
    """Gather what a report shows of a build: plans that were tried are points of it, too."""
    from onnxmpq.report.plans import Measured
    from onnxmpq.report.view import make_view

    decision = result.decision
    return make_view(
        result,
        table=decision.table if decision else None,
        others=[Measured("tried", loss, choices=plan) for plan, loss in decision.tried] if decision else (),
        title=model.name,
        command=running(),
    )


def _forecast(
    model: Path,
    budget: Sequence[str],
    search: SearchOptions,
    measure: MeasureOptions,
    quiet: bool,
    as_json: bool,
    rest: Mapping[str, Any],
) -> None:
    """Print what a search would take; nothing is measured or written."""
    from onnxmpq.search.dry_run import foresee

    given = {name: rest[name] for name in _FORESEEN}
    with show.progress(quiet) as told:
        found = foresee(model, budget=budget, search=search, measure=measure, progress=told, **given)
    if as_json:
        show.as_json(found.to_json())
        return
    ends = [f"{show.size(end)} ({end / found.float_bytes:.0%})" for end in (found.least_bytes, found.most_bytes)]
    processes = "one process" if found.processes == 1 else f"{found.processes} processes"
    on = f"{found.samples} samples" + (f" and {found.blends} blends" if found.blends else "")
    show.out.print(
        f"{found.units} units, {found.variants} variants: files from {' to '.join(ends)} of float; the budgets can be "
        f"met.\nThe first measurement takes at most {found.full_runs:.1f} runs of the model on all samples ({on}), "
        f"{found.seconds / found.processes:.0f} s; the whole search by {found.method} at most about "
        f"{found.most_runs:.0f} runs, {found.most_seconds / found.processes:.0f} s: in {processes} of "
        f"{show.size(found.memory_bytes)}.\nFrom the beginning to the verified file, likely: {_bought(found)}.\n"
        "Nothing was measured.",
        soft_wrap=True,
    )


def _bought(found: "Forecast") -> str:
    """Say what every effort takes."""
    told = [f"{name} {each.runs:.0f} runs, {minutes(each.seconds)}" for name, each in found.efforts.items()]
    return "; ".join(told)


def _refuse_search_options(context: click.Context) -> None:
    """Refuse options that would change nothing without a budget."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _SEARCH_ONLY and context.get_parameter_source(name) in _TOLD:
            raise InputError(f"{parameter.opts[0]} belongs to a search: give a budget too, for example -b size=30%.")
