"""Options that several commands share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onnxmpq.artifacts import Plan
from onnxmpq.cli import words
from onnxmpq.cli.fields import Decorator, flagged, option, taking
from onnxmpq.disk.files import checked_page, free_place, refuse_foreign
from onnxmpq.options import GraphOptions, Numbers

model_argument = click.argument("model", type=click.Path(path_type=Path))


def several_targets(text: str) -> list[str]:
    """Take the names of targets apart.

    >>> several_targets("ort-cpu, openvino")
    ['ort-cpu', 'openvino']
    """
    return [part for name in text.split(",") if (part := name.strip())] if not Path(text).is_file() else [text]


def target_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a target, and give them to the command as ``target``."""

    @functools.wraps(command)
    def with_target(*arguments: Any, target: str, isa: str, **rest: Any) -> Any:
        asked = target if isa == words.ISAS[0] else ",".join(f"{one}@{isa}" for one in several_targets(target))
        return command(*arguments, target=asked, **rest)

    return decorated(
        with_target,
        [
            click.option(
                "--target",
                "-t",
                default="ort-cpu",
                show_default=True,
                shell_complete=words.complete_target,
                help="A built-in target, or the path of a .toml file; `quantize` takes several, separated by commas.",
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


def budget_option(help_text: str) -> Decorator:
    """Return the option that takes budgets; the help says what they are for."""
    return click.option(
        "--budget",
        "-b",
        multiple=True,
        metavar="KIND=AMOUNT",
        shell_complete=words.complete_budget,
        help=f"{help_text} Repeatable.",
    )


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")


def numbers_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how values become codes, and give them to the command as ``numbers``.

    Those that are given alone: a plan has its say where an option is not given, else what is usual for what is done. A
    ``point`` that the command takes chooses a plan of a front.
    """

    @functools.wraps(command)
    def with_numbers(**rest: Any) -> Any:
        given = {found.name: rest.pop(found.name) for found in flagged(Numbers)}
        point = rest.pop("point", None)
        found = Plan.read(rest["plan"], point) if rest.get("plan") else None
        told = {key: value for key, value in given.items() if value is not None}
        return command(numbers=told, **rest | ({"plan": found} if "plan" in rest else {}))

    return decorated(with_numbers, [option(found, unset=True) for found in flagged(Numbers)])


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
            taking(graph=GraphOptions),
            overwrite_option,
            json_option,
            quiet_option,
            verbose_option,
        ],
    )


report_option = click.option(
    "--report", type=click.Path(path_type=Path), help="Write report.html and report.json: a folder, or a .html file."
)
record_option = click.option(
    "--record",
    type=click.Path(path_type=Path),
    help="Write what came out as JSON, from which `onnxmpq report` makes the page.",
)


def checked_output(path: Path | None, overwrite: bool, what: str = "output") -> None:
    """Refuse a file that could not be written, before any work."""
    if path is not None:
        free_place(path, overwrite, what)


def checked_report(path: Path | None) -> None:
    """Refuse a report that could not be written, before any work; one that is there is written anew."""
    if path is not None:
        refuse_foreign(checked_page(path))


def decorated(command: Callable[..., Any], decorators: list[Decorator]) -> Callable[..., Any]:
    """Apply decorators; the first one's option is shown first."""
    for decorate in reversed(decorators):
        command = decorate(command)
    return command
