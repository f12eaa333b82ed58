"""Completion in a shell: the script, and what is offered."""

import os
import subprocess
import sys

import click
import pytest
from click.shell_completion import BashComplete, ShellComplete

from onnxmpq.budgets.limits import budget
from onnxmpq.cli import COMMANDS, cli, words
from onnxmpq.model import passes
from onnxmpq.registry import BUDGETS, METHODS
from onnxmpq.targets import names
from tests.cli.running import ROOT, run


def offered(*words: str) -> list[str]:
    """Return what is offered for the last word."""
    return [
        item.value
        for item in ShellComplete(cli, {}, "onnxmpq", "_ONNXMPQ_COMPLETE").get_completions([*words[:-1]], words[-1])
    ]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["qu"], ["quantize"]),
        (["store", ""], ["compact", "show", "verify"]),
        (["quantize", "--eff"], ["--effort"]),
        (["quantize", "--effort", "d"], ["default"]),
        (["quantize", "--method", "clado"], ["clado", "clado-star"]),
        (["quantize", "-t", "o"], ["openvino", "ort-arm64", "ort-cpu", "ort-web"]),
        (["quantize", "--pass", "eq"], ["equalise-layers"]),
        (["quantize", "-b", "b"], ["bits=", "bops="]),
        (["quantize", "--options", "w8a8,w4"], ["w8a8,w4a8"]),
        (["pareto", "--over", "m"], ["memory"]),
        (["measure", "--loss", "k"], ["kl"]),
        (["targets", "g"], ["generic"]),
        (["completion", "f"], ["fish"]),
    ],
)
def test_names_are_completed(typed: list[str], expected: list[str]) -> None:
    assert offered(*typed) == expected


def test_a_target_may_be_a_file() -> None:
    found = ShellComplete(cli, {}, "onnxmpq", "_ONNXMPQ_COMPLETE").get_completions(["inspect", "-t"], "mine.t")
    assert [item.type for item in found] == ["file"]


def test_words_are_those_of_the_parts_they_stand_for() -> None:
    assert words.targets() == list(names())
    assert words.methods() == sorted(METHODS.homes())
    assert words.passes() == sorted(passes.passes())
    assert words.budgets() == list(BUDGETS.homes())
    assert [*words.OVER] == [name for name in BUDGETS.own if budget(name).rows]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_onnxmpq(shell: str) -> None:
    script = run("completion", shell).stdout
    assert f"_ONNXMPQ_COMPLETE={shell}_complete" in script


def test_an_unknown_shell_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="'csh' is not one of"):
        cli.main(["completion", "csh"], standalone_mode=False)


def started(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "passes")))
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths} | environment,
        timeout=60,
        check=False,
    )


def test_a_shell_asks_through_the_environment() -> None:
    asked = {"_ONNXMPQ_COMPLETE": "bash_complete", "COMP_WORDS": "onnxmpq inspect --target op", "COMP_CWORD": "3"}
    ended = started("from onnxmpq.cli import main; main()", **asked)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "plain,openvino\n", "")
    source = started("from onnxmpq.cli import main; main()", _ONNXMPQ_COMPLETE="bash_source")
    assert source.returncode == 0
    assert source.stdout.strip() == BashComplete(cli, {}, "onnxmpq", "_ONNXMPQ_COMPLETE").source().strip()


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "verify"])
def test_completing_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys\nfrom click.shell_completion import ShellComplete\nfrom onnxmpq.cli import cli, words\n"
        f"ShellComplete(cli, {{}}, 'onnxmpq', '_X').get_completions(['{command}'], '--')\n"
        "words.passes(), words.methods(), words.targets()\n"
        "heavy = ('numpy', 'onnx', 'onnx_ir', 'scipy', 'networkx', 'onnxruntime')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    ended = started(code)
    assert ended.stdout == "[]\n", ended.stderr


def test_help_loads_no_command() -> None:
    code = (
        "import sys\nfrom onnxmpq.cli import cli\ntry:\n    cli.main(['--help'], standalone_mode=False)\nfinally:\n"
        "    print([name for name in sys.modules if name.startswith('onnxmpq.cli.')], file=sys.stderr)"
    )
    assert started(code).stderr == "['onnxmpq.cli.groups']\n"
