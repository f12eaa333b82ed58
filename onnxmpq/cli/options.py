"""Options that several commands share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onnxmpq.build import Numbers
from onnxmpq.ranges import Method
from onnxmpq.weights import Method as WeightMethod

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

model_argument = click.argument("model", type=click.Path(path_type=Path))
target_option = click.option(
    "--target", "-t", default="ort-cpu", show_default=True, help="A built-in target, or the path of a .toml file."
)
calibration_option = click.option(
    "--calibration",
    "-c",
    required=True,
    type=click.Path(path_type=Path),
    help="Samples: .npz keyed by input name, .npy for one input, or a folder of them.",
)
output_option = click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="The file to write."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of tables.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show no progress.")


def build_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what ``quantize`` and ``apply`` have in common."""

    @functools.wraps(command)
    def with_numbers(ranges: Method, weight_ranges: WeightMethod, bias_correction: bool, **rest: Any) -> Any:
        return command(numbers=Numbers(ranges, weight_ranges, bias_correction), **rest)

    decorators: list[Decorator] = [
        target_option,
        calibration_option,
        output_option,
        click.option(
            "--evaluation", "-e", type=click.Path(path_type=Path), help="Samples with 'labels', to measure accuracy on."
        ),
        click.option(
            "--ranges",
            type=click.Choice(["mse", "minmax", "percentile", "entropy"]),
            default="mse",
            show_default=True,
            help="How the ranges of activations are chosen.",
        ),
        click.option(
            "--weight-ranges",
            type=click.Choice(["mse", "minmax"]),
            default="mse",
            show_default=True,
            help="How the scales of weights are chosen.",
        ),
        click.option(
            "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads of the runtime."
        ),
        click.option("--overwrite", is_flag=True, help="Replace the output if it exists."),
        json_option,
        quiet_option,
    ]
    wrapped: Callable[..., Any] = with_numbers
    for decorate in reversed(decorators):
        wrapped = decorate(wrapped)
    return wrapped
