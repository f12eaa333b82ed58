"""``onnxmpq apply``."""

from pathlib import Path
from typing import Any

import click

from onnxmpq.artifacts import Plan
from onnxmpq.cli import show
from onnxmpq.cli.config import config_options
from onnxmpq.cli.fields import taking
from onnxmpq.cli.next_command import comes_next, next_command
from onnxmpq.cli.shared import build_options, model_argument, point_option
from onnxmpq.options import VerifyOptions


@click.command("apply")
@model_argument
@click.argument("plan", type=click.Path(path_type=Path))
@point_option
@build_options
@taking(verify=VerifyOptions, only=("guard", "threads"))
@config_options
def apply_command(model: Path, plan: Plan, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> None:
    """Write MODEL as PLAN says, exactly, and prove what the file does.

    PLAN is what `onnxmpq quantize` wrote beside a file, or a front of `onnxmpq pareto`: nothing is measured again.

    \b
    onnxmpq apply model.onnx model.int8.plan.json -c samples.npz -o again.onnx
    onnxmpq apply model.onnx front.json --point 7 -c samples.npz -o small.onnx
    """
    from onnxmpq.api import quantize

    with show.progress(quiet, verbose) as report:
        result = quantize(model, plan=plan, progress=report, **options)
    if as_json:
        show.as_json(result.to_json())
    else:
        show.result(result)
        comes_next(next_command("verify", str(result.path), "--float", str(model)), "on the machine that will run it")
