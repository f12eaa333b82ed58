"""``onnxmpq verify``."""

from itertools import islice
from pathlib import Path

import click

from onnxmpq.build import VERIFY_SAMPLES
from onnxmpq.cli import show
from onnxmpq.cli.options import calibration_option, json_option, quiet_option, target_option
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.graph.load import load
from onnxmpq.runtime import get_runtime
from onnxmpq.samples import open_samples
from onnxmpq.target import target as find_target
from onnxmpq.verify import verify


@click.command("verify")
@click.argument("quantised", type=click.Path(path_type=Path))
@click.option(
    "--float", "float_model", required=True, type=click.Path(path_type=Path), help="The float model it came from."
)
@calibration_option
@target_option
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads of the runtime.")
@json_option
@quiet_option
def verify_command(
    quantised: Path, float_model: Path, calibration: Path, target: str, threads: int, as_json: bool, quiet: bool
) -> None:
    """Show what QUANTISED does in its runtime: simulation, kernels, size, speed against the float model."""
    if not quantised.is_file():
        raise InputError(f"There is no file '{quantised}'.")
    load(float_model)  # says better than a runtime what is wrong with it
    with show.progress(quiet) as report:
        reference = get_runtime("onnxruntime")
        runtime = get_runtime(find_target(target).runtime)
        samples = open_samples(calibration, reference.session(float_model, mode="deployed").inputs)
        feeds = list(islice(samples, VERIFY_SAMPLES))
        verdict = verify(runtime, reference, float_model, quantised, feeds, threads=threads, progress=report)
    if as_json:
        show.as_json(verdict.to_json())
    else:
        show.verdict_table(verdict)
    if not verdict.ok:
        failed = ", ".join(check.name for check in verdict.checks if check.ok is False)
        raise VerifyError(f"'{quantised}' does not hold: {failed}.")
