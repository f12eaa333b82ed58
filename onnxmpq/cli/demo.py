"""``onnxmpq demo``."""

from itertools import product
from pathlib import Path
from typing import Any

import click

from onnxmpq.cli import show
from onnxmpq.cli.shared import json_option, quiet_option, target_option
from onnxmpq.errors import InputError
from onnxmpq.options import SearchOptions

SEARCH: dict[str, Any] = {"budget": ("size=30%",), "search": SearchOptions(effort="quick")}
BUILDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("at w8a8", "w8a8", {}),
    ("within 30% of its size", "small", SEARCH),
)


@click.command("demo")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    help="Folder to write to.",
)
@click.option(
    "--models",
    type=click.Path(path_type=Path),
    default=Path("models"),
    show_default=True,
    help="Folder of the examples.",
)
@target_option
@json_option
@quiet_option
def demo_command(output: Path, models: Path, target: str, as_json: bool, quiet: bool) -> None:
    """Quantise the embedded examples and show what came out."""
    from onnxmpq.api import quantize

    names = ("digits_cnn", "digits_vit")
    if not (models / f"{names[0]}.onnx").is_file():
        raise InputError(f"There are no examples in '{models}'. Run this in a checkout of onnxmpq, or give --models.")
    output.mkdir(parents=True, exist_ok=True)
    results = []
    for name, (title, suffix, search) in product(names, BUILDS):
        with show.progress(quiet) as report:
            results.append(
                quantize(
                    models / f"{name}.onnx",
                    models / "digits_calibration.npz",
                    evaluation=models / "digits_evaluation.npz",
                    output=output / f"{name}.{suffix}.onnx",
                    target=target,
                    overwrite=True,
                    progress=report,
                    **search,
                )
            )
        if not as_json:
            show.out.print(f"[bold]{name}[/] {title} for {target}")
            show.result(results[-1])
            show.out.print()
    if as_json:
        show.as_json([result.to_json() for result in results])
