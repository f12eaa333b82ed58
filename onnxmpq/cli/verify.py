"""``onnxmpq verify``: its function has an argument for every option, or class of options, that it takes."""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from onnxmpq.artifacts import Verdict
from onnxmpq.cli import show
from onnxmpq.cli.shared import calibration_option, json_option, quiet_option, target_option
from onnxmpq.data.samples import open_samples
from onnxmpq.disk.files import free_place
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.model.load import load
from onnxmpq.runtimes import get_runtime
from onnxmpq.runtimes.base import Compiles
from onnxmpq.targets import target as find_target
from onnxmpq.verification.readings import promised, read, with_readings
from onnxmpq.verification.requirements import MEASURED, Finding, hold, parse_requirements
from onnxmpq.verification.verify import verify
from onnxmpq.workspace.export import VERIFY_SAMPLES


@click.command("verify")
@click.argument("quantised", type=click.Path(path_type=Path))
@click.option(
    "--float", "float_model", required=True, type=click.Path(path_type=Path), help="The float model it came from."
)
@calibration_option
@target_option
@click.option(
    "--require",
    "-r",
    "required",
    multiple=True,
    metavar="BOUND",
    help="What must hold: size<=5MB, size<=30%, drop<=1%, loss<=0.01, sqnr>=30, agreement>=40 or speed>=1.2. "
    "Repeatable; exit code 4 where one does not.",
)
@click.option(
    "--evaluation",
    "-e",
    type=click.Path(path_type=Path),
    help="Samples, best with 'labels', that drop and loss are judged on.  [default: those of --calibration]",
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads of the runtime.")
@click.option(
    "--read",
    "readings",
    multiple=True,
    type=click.Path(path_type=Path),
    help="What trtexec wrote of the file on another machine, by --exportLayerInfo or --exportProfile. Repeatable.",
)
@click.option(
    "--context",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what the target's machine loads without preparing it anew: for qnn an .onnx with a context binary.",
)
@json_option
@quiet_option
def verify_command(
    quantised: Path,
    float_model: Path,
    calibration: Path,
    target: str,
    required: tuple[str, ...],
    evaluation: Path | None,
    threads: int,
    readings: tuple[Path, ...],
    context: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show what QUANTISED does in its runtime: simulation, kernels, size, speed against the float model.

    With --require it must also do what is asked of it: drop and loss are judged with their standard error added.
    """
    requirements = parse_requirements(required)
    if evaluation is not None and not any(one.kind in MEASURED for one in requirements):
        raise InputError("--evaluation is what drop and loss are judged on. Add --require 'drop<=1%', or leave it out.")
    read_back = [read(path) for path in readings]
    if not os.path.isfile(quantised):
        raise InputError(f"There is no file '{quantised}'.")
    source = load(float_model)  # says better than a runtime what is wrong with it
    with show.progress(quiet) as report:
        reference = get_runtime("onnxruntime")
        found_target = find_target(target)
        runtime = get_runtime(found_target.runtime, found_target.stand_in, found_target.soc)
        if context is not None and not isinstance(runtime, Compiles):
            raise InputError(f"The runtime '{runtime.name}' prepares no files for a machine. Leave out --context.")
        if context is not None:
            free_place(context, overwrite=False)
        inputs = reference.session(float_model, mode="deployed").inputs
        samples = open_samples(calibration, inputs)
        judged = open_samples(evaluation, inputs) if evaluation is not None else samples
        feeds = list(islice(samples, VERIFY_SAMPLES))
        verdict = verify(
            *(runtime, reference, float_model, quantised, feeds),
            target=found_target,
            threads=threads,
            progress=report,
        )
        verdict = with_readings(verdict, read_back, promised(quantised) if read_back else ())
        report("requirements", 0, 0)
        found = hold(requirements, verdict, source, quantised, runtime, reference, judged)
    ok = verdict.ok and all(finding.ok for finding in found)
    if ok and context is not None and isinstance(runtime, Compiles):
        runtime.compile(quantised, context)
    if as_json:
        show.as_json(verdict.to_json() | {"ok": ok, "requirements": [finding.to_json() for finding in found]})
    else:
        show.verdict_table(verdict)
        _print(found)
    if not ok:
        raise VerifyError(_refusal(quantised, verdict, found))


def _print(found: Sequence[Finding]) -> None:
    """Print requirements with what was seen of them."""
    if not found:
        return
    table = Table("required", "", "seen", "limit", "detail", title="requirements", title_justify="left")
    for finding in found:
        mark = "[green]ok[/]" if finding.ok else "[red]failed[/]"
        table.add_row(escape(finding.requirement.text), mark, finding.told, finding.told_limit, escape(finding.detail))
    show.out.print(table)


def _refusal(quantised: Path, verdict: Verdict, found: Sequence[Finding]) -> str:
    """Say all that does not hold."""
    lines = []
    failed = [check.name for check in verdict.checks if check.ok is False]
    if failed:
        lines.append(f"'{quantised}' does not hold: {', '.join(failed)}.")
    missed = [finding for finding in found if not finding.ok]
    if missed:
        lines.append(f"'{quantised}' misses {len(missed)} of {len(found)} requirements:")
        lines += [f"  {finding}" for finding in missed]
    return "\n".join(lines)
