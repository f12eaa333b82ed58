"""``onnxmpq quantize``."""

from pathlib import Path
from typing import Any

import click

from onnxmpq.cli import show
from onnxmpq.cli.options import build_options, model_argument
from onnxmpq.compile import quantize


@click.command("quantize")
@model_argument
@click.option(
    "--method", type=click.Choice(["uniform"]), default="uniform", show_default=True, help="How a plan is made."
)
@click.option("--option", default="w8a8", show_default=True, help="For uniform: w8a8, w4a8, w2a8, w8, w4, w4b32 …")
@click.option("--plan", type=click.Path(path_type=Path), help="Use this plan.json instead of a method.")
@click.option("--allow-slower", is_flag=True, help="Keep integer kernels even where they run slower than float.")
@build_options
def quantize_command(model: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Quantise MODEL, write it, and prove what the file does.

    \b
    onnxmpq quantize model.onnx -c samples.npz -o model.int8.onnx
    onnxmpq quantize model.onnx -c samples.npz -o model.w4.onnx --option w4a8 -e labelled.npz
    """
    with show.progress(quiet) as report:
        result = quantize(model, progress=report, **options)
    if as_json:
        show.as_json(result.to_json())
    else:
        show.result(result)
