"""``onnxmpq solve``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from onnxmpq.cli import show, words
from onnxmpq.cli.fields import taking
from onnxmpq.cli.next_command import comes_next, next_command
from onnxmpq.cli.shared import budget_option, checked_output, json_option, overwrite_option, quiet_option
from onnxmpq.disk.files import refuse_shared, write_whole
from onnxmpq.options import Constraints

if TYPE_CHECKING:
    from onnxmpq.search.from_table import Planned


@click.command("solve")
@click.argument("table", type=click.Path(path_type=Path))
@budget_option("What the plan may take: size=30%, size=5MB, bits=4.5, bops=25%, memory=40MB.")
@click.option(
    "--options",
    default="",
    show_default="all that were measured",
    shell_complete=words.complete(words.options),
    help="What units may take, separated by commas.",
)
@taking(constraints=Constraints)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the plan as JSON, for `onnxmpq apply`.")
@overwrite_option
@json_option
@quiet_option
def solve_command(
    table: Path,
    budget: Sequence[str],
    options: str,
    constraints: Constraints,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a plan from TABLE alone, which `onnxmpq measure -o` wrote.

    No model, no samples and no runtime are needed. The loss is predicted by the table and the plan proved to be the
    best by that prediction; nothing is measured. `onnxmpq quantize` measures whole plans and goes on from there.

    \b
    onnxmpq measure model.onnx -c samples.npz -o table.json
    onnxmpq solve table.json -b size=30% -b bops=25% -o plan.json
    onnxmpq solve table.json -b size=30% --keep op:Gemm=w8a8 --exclude stem --json
    onnxmpq apply model.onnx plan.json -c samples.npz -o small.onnx
    """
    from onnxmpq.search.from_table import plan_from

    refuse_shared({"table": table}, {"output": output})
    checked_output(output, overwrite)
    wanted = [part.strip() for part in options.split(",") if part.strip()]
    with show.progress(quiet) as told:
        found = plan_from(table, budget=budget, options=wanted, constraints=constraints, progress=told)
    if output is not None:
        write_whole(output, found.plan.to_text(), "plan", overwrite=overwrite)
    if as_json:
        show.as_json(found.to_json())
        return
    _shown(found)
    if output is None:
        show.out.print("Keep the plan with -o plan.json; `onnxmpq apply` makes a file of it.")
        return
    show.out.print(f"plan      {escape(str(output))}", soft_wrap=True)
    made = ["-c", "SAMPLES", "-o", f"{output.name.removesuffix('.json').removesuffix('.plan')}.onnx"]
    comes_next(next_command("apply", "MODEL", str(output), more=made), "writes and verifies the file")


def _shown(found: "Planned") -> None:
    """Print what the plan is, what is predicted for it, and what it takes."""
    grid = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(overflow="fold")
    grid.add_row("units", show.counts(found.counts))
    grid.add_row("loss", f"[bold]{found.predicted:.4g}[/] predicted, not measured  ({escape(found.loss_name)})")
    grid.add_row("proof", show.proof(found.proof))
    share = f"  ({found.file_bytes / found.float_file_bytes:.0%} of float)" if found.float_file_bytes else ""
    sizes = f"{show.size(found.float_file_bytes)} → [bold]{show.size(found.file_bytes)}[/]"
    grid.add_row("size", f"{sizes} foreseen{share}")
    for row, used in zip(found.rows, found.usage, strict=True):
        grid.add_row("budget", f"{escape(str(row.limit))}: {row.written(used)}")
    show.out.print(grid)
    show.notes(found.notes)
