"""The command line: one file per command, and ``main`` that turns errors into exit codes.

0   done            2   the caller can fix it      3   no plan meets the budgets
4   the export does not hold                        70  our fault
130 interrupted         143 terminated             141 nobody reads the output any more

Commands are loaded when they are asked for, and load what is heavy when they run: help and completion take no time.
"""

import signal
import sys
from contextlib import suppress

import click

from onnxmpq.cli.groups import LazyGroup
from onnxmpq.errors import InputError, OnnxmpqError
from onnxmpq.version import __version__

COMMANDS = {
    "quantize": "Quantise MODEL, write it, and prove what the file does.",
    "pareto": "Show what MODEL loses at every size, from one measurement.",
    "apply": "Write MODEL as PLAN says, exactly, and prove what the file does.",
    "retarget": "Make of PLAN one for another target, and show what that cannot keep.",
    "inspect": "Show the units of MODEL, their options and costs, and what stays float.",
    "measure": "Measure what every unit of MODEL costs at each option.",
    "latency": "Measure how long every unit of MODEL takes on each kernel.",
    "solve": "Make a plan from TABLE alone: predicted and proved, not measured.",
    "verify": "Show what a file does in its runtime, beside its float model.",
    "report": "Make the page of a report from RECORD, without running anything.",
    "diagnose": "Say what quantising does to MODEL, and which layers are to blame.",
    "import": "Read the plan out of FILE, a QONNX model that was made of MODEL.",
    "overrides": "Write PLAN as onnxruntime's TensorQuantOverrides, or read such a file.",
    "store": "Look at a store of measurements, check it, or make it smaller.",
    "targets": "List the targets, or explain the one called NAME.",
    "doctor": "Say what this machine has and what it is good for.",
    "completion": "Print the script that completes commands in a shell.",
    "demo": "Quantise the embedded examples and show what came out.",
}
"""What each command does; its file is of the same name."""

EXIT_CODES = """\b
Exit codes:
  0    done
  2    something that was given must be fixed: a file, a name, an option
  3    no plan meets the budgets; the message says what would
  4    the file does not do what was predicted, or misses a requirement
  70   a fault of ours: please report it
  130  interrupted
  141  nobody reads the output any more
  143  terminated
"""


@click.group(cls=LazyGroup, lines=COMMANDS, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
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


def entry() -> None:
    """Run the command line as a program: in a process of its own, whose death by a signal is told."""
    from onnxmpq.cli.own_process import supervised

    supervised(main)


class Terminated(BaseException):
    """Somebody ended the process (SIGTERM): a time limit, a batch system, ``docker stop``."""


def main() -> None:
    """Run the command line and end with the exit code of what happened."""
    from onnxmpq.cli.console import told_streams

    with told_streams():
        code = _run()
    sys.exit(code)


def _run() -> int | str | None:
    """Run the command line, tell what happened and return the exit code."""
    from onnxmpq.cli.console import Unread, literal

    signal.signal(signal.SIGTERM, _terminate)
    code: int | str | None
    try:
        code = cli.main(prog_name="onnxmpq", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except Unread:
        code = 141
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort as error:
        _tell("Interrupted: no model was written.")
        _tell_notes(error.__cause__ or error.__context__)
        code = 130
    except Terminated as error:
        _tell("Terminated: no model was written.")
        _tell_notes(error)
        code = 143
    except MemoryError as error:
        _tell("[bold red]Error:[/] There is not enough memory for this. No model was written.")
        _tell_notes(error)
        code = 2
    except OnnxmpqError as error:
        _tell(f"[bold red]Error:[/] {literal(str(error))}")
        _tell_notes(error)
        if error.exit_code == 70:
            _tell("This is a fault of onnxmpq. Please report it with this message and the output of `onnxmpq doctor`.")
        code = error.exit_code
    return code


def _terminate(_number: int, _frame: object) -> None:
    """Leave as after an interrupt, so that nothing half-written stays; a second signal ends at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise Terminated


def _tell(text: str) -> None:
    """Print on standard error; where that cannot be written, the exit code has to do."""
    from onnxmpq.cli.console import Unread, tell

    with suppress(InputError, Unread):
        tell(text)


def _tell_notes(error: BaseException | None) -> None:
    """Print what was kept of the work, which stands in the notes of an error."""
    from onnxmpq.cli.console import literal

    for note in getattr(error, "__notes__", ()):
        _tell(literal(note))
