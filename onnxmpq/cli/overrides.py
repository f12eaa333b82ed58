"""``onnxmpq overrides``."""

import json
from pathlib import Path

import click

from onnxmpq.cli import show
from onnxmpq.cli.shared import (
    checked_output,
    model_argument,
    output_option,
    overwrite_option,
    quiet_option,
    target_option,
)
from onnxmpq.disk.files import refuse_shared, write_whole
from onnxmpq.errors import InputError


@click.command("overrides")
@model_argument
@click.argument("plan", type=click.Path(path_type=Path))
@target_option
@click.option("--calibration", "-c", type=click.Path(path_type=Path), help="Samples, to write scales from.")
@output_option
@click.option("--read", "reading", is_flag=True, help="Turn overrides into a plan instead.")
@overwrite_option
@quiet_option
def overrides_command(
    model: Path,
    plan: Path,
    target: str,
    calibration: Path | None,
    output: Path,
    reading: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write PLAN for MODEL as onnxruntime's TensorQuantOverrides, or with --read turn such a file into a plan.

    \b
    onnxmpq overrides model.onnx model.small.plan.json -c samples.npz -o overrides.json
    onnxmpq overrides model.onnx overrides.json --read -o again.plan.json
    """
    from onnxmpq.exchange.plans import export_overrides, import_overrides

    refuse_shared({"model": model, "plan": plan, "calibration data": calibration}, {"output": output})
    checked_output(output, overwrite)
    with show.progress(quiet) as report:
        if reading:
            made = import_overrides(model, plan, target=target, progress=report).to_json()
        elif calibration is None:
            raise InputError("Overrides hold scales, which come from samples. Give them with --calibration.")
        else:
            made = export_overrides(model, plan, calibration, target=target, progress=report)
    write_whole(output, json.dumps(made, indent=2) + "\n", "output", overwrite=overwrite)
