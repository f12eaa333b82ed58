"""The command line: one file per command, and ``main`` that turns errors into exit codes.

0   done            2   the caller can mend it      3   no plan meets the budgets
4   the export does not hold                        70  our fault
130 interrupted
"""

import sys

import click
from rich.console import Console
from rich.markup import escape

from onnxmpq import __version__
from onnxmpq.cli.apply import apply_command
from onnxmpq.cli.demo import demo_command
from onnxmpq.cli.inspect import inspect_command
from onnxmpq.cli.measure import measure_command
from onnxmpq.cli.overrides import overrides_command
from onnxmpq.cli.pareto import pareto_command
from onnxmpq.cli.quantize import quantize_command
from onnxmpq.cli.store import store_command
from onnxmpq.cli.targets import targets_command
from onnxmpq.cli.verify import verify_command
from onnxmpq.errors import OnnxmpqError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="onnxmpq")
def cli() -> None:
    """Give every layer of an exported ONNX model its own precision.

    \b
    onnxmpq demo                                       try it on an embedded example
    onnxmpq inspect model.onnx                         what could be quantised, and what it would save
    onnxmpq quantize model.onnx -c samples.npz -o small.onnx -b size=30%
    onnxmpq pareto model.onnx -c samples.npz           what it loses at every size
    onnxmpq verify small.onnx --float model.onnx -c samples.npz
    """


for command in (
    quantize_command,
    apply_command,
    inspect_command,
    measure_command,
    pareto_command,
    overrides_command,
    store_command,
    verify_command,
    targets_command,
    demo_command,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line and end with the exit code of what happened."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        Console(stderr=True).print("Interrupted: nothing was written.")
        code = 130
    except OnnxmpqError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        code = error.exit_code
    sys.exit(code)
