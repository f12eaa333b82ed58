"""``onnxmpq retarget``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from onnxmpq.artifacts import Plan
from onnxmpq.cli import show, words
from onnxmpq.cli.next_command import comes_next, next_command
from onnxmpq.cli.shared import checked_output, json_option, model_argument, overwrite_option, point_option, quiet_option
from onnxmpq.disk.files import refuse_shared, write_whole

if TYPE_CHECKING:
    from onnxmpq.search.retarget import Moved, Retargeted

_NAMED = 3  # units that a line names


@click.command("retarget")
@model_argument
@click.argument("plan", type=click.Path(path_type=Path))
@point_option
@click.option("--target", "-t", required=True, shell_complete=words.complete_target, help="The target to make it for.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the plan as JSON, for `onnxmpq apply`.")
@overwrite_option
@json_option
@quiet_option
def retarget_command(
    model: Path,
    plan: Path,
    point: int | None,
    target: str,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make of PLAN one for another target, and show what that target cannot keep.

    Every unit of MODEL keeps its option, or takes the nearest there that is no less precise. Nothing is measured.

    \b
    onnxmpq retarget model.onnx model.int8.plan.json -t openvino -o vino.plan.json
    onnxmpq apply model.onnx vino.plan.json -t openvino -c samples.npz -o vino.onnx
    """
    from onnxmpq.search.retarget import retarget

    refuse_shared({"model": model, "plan": plan}, {"output": output})
    checked_output(output, overwrite)
    with show.progress(quiet) as told:
        found = retarget(model, Plan.read(plan, point), target, told)
    if output is not None:
        write_whole(output, found.plan.to_text(), "plan", overwrite=overwrite)
    if as_json:
        show.as_json(found.to_json())
        return
    for line in lines(found):
        show.out.print(escape(line), soft_wrap=True)
    if output is None:
        show.out.print("Keep the plan with -o plan.json; `onnxmpq apply` makes a file of it.")
        return
    show.out.print(f"plan      {escape(str(output))}", soft_wrap=True)
    made = ["-t", target, "-c", "SAMPLES", "-o", f"{output.name.removesuffix('.json').removesuffix('.plan')}.onnx"]
    comes_next(next_command("apply", str(model), str(output), more=made), "writes and verifies the file")


def lines(found: "Retargeted") -> Iterator[str]:
    """Yield what was kept and what moved, those that moved alike in one line."""
    target = found.plan.target
    if not found.moved:
        yield f"{found.source} → {target}: all {found.kept} units keep their option."
        return
    yield f"{found.source} → {target}: {found.kept} units keep their option, {len(found.moved)} do not:"
    for (before, after, why), group in found.groups.items():
        more = sum(one.more_bytes for one in group)
        sign = "−" if more < 0 else "+"
        yield f"  {before} → {after}: {_units(group)}, {sign}{show.size(abs(more))}: {why}"


def _units(group: "list[Moved]") -> str:
    """Name the first units of a group, and count the others."""
    named = ", ".join(one.unit for one in group[:_NAMED])
    return named + (f" and {len(group) - _NAMED} more" if len(group) > _NAMED else "")
