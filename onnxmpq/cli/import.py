"""``onnxmpq import``."""

from pathlib import Path

import click

from onnxmpq.cli import show
from onnxmpq.cli.next_command import comes_next, next_command
from onnxmpq.cli.shared import checked_output, json_option, model_argument, overwrite_option
from onnxmpq.disk.files import refuse_shared, write_whole


@click.command("import")
@model_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="The plan to write, as JSON.")
@overwrite_option
@json_option
def import_command(model: Path, file: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Read the plan out of FILE, a QONNX model that was made of MODEL, by us or by another tool.

    \b
    onnxmpq import model.onnx brevitas.onnx -o brevitas.plan.json
    onnxmpq apply model.onnx brevitas.plan.json -t qonnx -c samples.npz -o again.onnx
    """
    from onnxmpq.exchange.qonnx import plan_of_qonnx

    refuse_shared({"model": model, "file": file}, {"output": output})
    checked_output(output, overwrite)
    plan = plan_of_qonnx(model, file)
    write_whole(output, plan.to_text(), "plan", overwrite=overwrite)
    if as_json:
        show.as_json(plan.to_json())
        return
    show.out.print(f"{len(plan.choices)} units: plan {output}", soft_wrap=True)
    made = ["-t", plan.target, "-c", "SAMPLES", "-o", f"{output.name.removesuffix('.json').removesuffix('.plan')}.onnx"]
    comes_next(next_command("apply", str(model), str(output), more=made), "writes and verifies the file")
