"""Options that several commands share."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onnxmpq.artifacts import Plan
from onnxmpq.cli import words
from onnxmpq.disk.files import page_of, refuse_foreign
from onnxmpq.errors import InputError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

model_argument = click.argument("model", type=click.Path(path_type=Path))


def target_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a target, and give them to the command as ``target``."""

    @functools.wraps(command)
    def with_target(*arguments: Any, target: str, isa: str, **rest: Any) -> Any:
        return command(*arguments, target=target if isa == words.ISAS[0] else f"{target}@{isa}", **rest)

    return decorated(
        with_target,
        [
            click.option(
                "--target",
                "-t",
                default="ort-cpu",
                show_default=True,
                shell_complete=words.complete_target,
                help="A built-in target, or the path of a .toml file.",
            ),
            click.option(
                "--isa",
                type=click.Choice(words.ISAS),
                default=words.ISAS[0],
                show_default=True,
                help="Where the file will run: on any processor, or only on x86 with VNNI, whose sums of 8-bit codes "
                "never saturate: weights need not be kept from it there.",
            ),
        ],
    )


calibration_option = click.option(
    "--calibration",
    "-c",
    required=True,
    type=click.Path(path_type=Path),
    help="Samples: .npz keyed by input name, .npy for one input, a folder of them, or images beside a preprocess.toml.",
)
output_option = click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="The file to write."
)
point_option = click.option(
    "--point", type=click.IntRange(min=1), help="Which plan of a front to take, as `onnxmpq pareto` numbers them."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of tables.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
verbose_option = click.option(
    "--verbose", "-v", is_flag=True, help="Leave a line of every stage, and show what runtimes warn of."
)
keep_metadata_option = click.option(
    "--keep-metadata",
    is_flag=True,
    help="Keep doc strings, metadata of nodes and values, and types that runtimes infer, in the file.",
)
guard_option = click.option(
    "--guard",
    multiple=True,
    metavar="FIGURE",
    help="From where on a file counts as damaged: classes>=80%, loss<=0.1 or sqnr>=10. Repeatable.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")


def numbers_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how ranges are chosen, and give them to the command as ``numbers``.

    A plan that the command takes has its say where an option is not given. Where plans are searched, weights are
    rounded by GPTQ unless told otherwise. A ``point`` that the command takes chooses a plan of a front.
    """

    @functools.wraps(command)
    def with_numbers(
        ranges: str | None,
        weight_ranges: str | None,
        rounding: str | None,
        bias_correction: bool | None,
        **rest: Any,
    ) -> Any:
        from onnxmpq.lower.calibrated import Numbers

        point = rest.pop("point", None)
        found = Plan.read(rest["plan"], point) if rest.get("plan") else None
        searched = {"rounding": "gptq"} if rest.get("budget") or "over" in rest else {}
        given = {
            "activations": ranges,
            "weights": weight_ranges,
            "bias_correction": bias_correction,
            "rounding": rounding,
        }
        told = {key: str(value) for key, value in given.items() if value is not None}
        numbers = Numbers.of({**(found.ranges if found else searched), **told})
        return command(numbers=numbers, **rest | ({"plan": found} if "plan" in rest else {}))

    return decorated(
        with_numbers,
        [
            click.option(
                "--ranges",
                type=click.Choice(words.RANGES),
                help="How the ranges of activations are chosen.  [default: as the plan says, else mse]",
            ),
            click.option(
                "--weight-ranges",
                type=click.Choice(words.WEIGHT_RANGES),
                help="How the scales of weights are chosen.  [default: as the plan says, else mse]",
            ),
            click.option(
                "--rounding",
                type=click.Choice(words.ROUNDINGS),
                help="How weights are rounded to codes: gptq lets later weights make up for earlier ones, judged on "
                "the samples.  [default: as the plan says, else gptq where plans are searched, else nearest]",
            ),
            click.option(
                "--pass",
                "extra_passes",
                multiple=True,
                metavar="NAME",
                shell_complete=words.complete(words.passes),
                help="A further pass over the normalised model: equalise-layers. Repeatable.",
            ),
            click.option(
                "--bias-correction/--no-bias-correction",
                default=None,
                help="Let biases take up what rounding the weights shifts.  [default: as the plan says, else yes]",
            ),
        ],
    )


def build_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what ``quantize`` and ``apply`` have in common."""
    return decorated(
        command,
        [
            target_option,
            calibration_option,
            output_option,
            click.option(
                "--evaluation",
                "-e",
                type=click.Path(path_type=Path),
                help="Samples with 'labels', to measure accuracy on.",
            ),
            numbers_options,
            click.option(
                "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads of the runtime."
            ),
            guard_option,
            keep_metadata_option,
            overwrite_option,
            json_option,
            quiet_option,
            verbose_option,
        ],
    )


report_option = click.option(
    "--report", type=click.Path(path_type=Path), help="Write report.html and report.json: a folder, or a .html file."
)


def checked_output(path: Path | None, overwrite: bool, what: str = "output") -> None:
    """Refuse a file that could not be written, before any work."""
    if path is None:
        return
    from onnxmpq.verification.publish import free_place

    free_place(path, overwrite, what)


def checked_report(path: Path | None) -> None:
    """Refuse a report that could not be written, before any work; one that is there is written anew."""
    if path is None:
        return
    path = page_of(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"The report '{path}' is a page: call it .html, or give a folder that exists.")
    if not os.path.isdir(path.absolute().parent):
        raise InputError(f"The folder '{path.parent}' of the report '{path}' does not exist. Make it first.")
    refuse_foreign(path)


def decorated(command: Callable[..., Any], decorators: list[Decorator]) -> Callable[..., Any]:
    """Apply decorators; the first one's option is shown first."""
    for decorate in reversed(decorators):
        command = decorate(command)
    return command
