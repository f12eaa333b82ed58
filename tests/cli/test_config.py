"""``--save-config`` and ``--config``: a run told again by a file."""

import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from onnxmpq.artifacts import Plan
from onnxmpq.cli import cli
from onnxmpq.cli.config import keys, written
from tests.cli.running import MODEL, refused, run

TOLD = ("--option", "w4a8", "--weight-ranges", "minmax", "--no-bias-correction", "--allow-slower", "--threads", "2")


@pytest.fixture(autouse=True)
def _desk(desk: Path) -> None:
    """Every test here is at the desk."""


def test_a_run_told_by_the_file_it_saved_gives_the_same_plan(desk: Path) -> None:
    arguments = ("quantize", MODEL, "-c", "s.npz", "-o", "q.onnx", "-q", "--overwrite")
    run(*arguments, *TOLD, "--save-config", "c.toml")
    first, plan = (desk / "q.onnx").read_bytes(), Plan.read(desk / "q.plan.json")
    (desk / "q.onnx").unlink()
    run("quantize", MODEL, "--config", "c.toml", "-q", "--overwrite")
    assert (desk / "q.onnx").read_bytes() == first
    assert Plan.read(desk / "q.plan.json") == plan
    assert plan.ranges["weights"] == "minmax"


def test_what_was_told_is_saved_and_nothing_else(desk: Path) -> None:
    run("quantize", MODEL, "-c", "s.npz", "-o", "q.onnx", "-q", "--overwrite", *TOLD, "--save-config", "told.toml")
    assert tomllib.loads((desk / "told.toml").read_text()) == {
        "calibration": "s.npz",
        "output": "q.onnx",
        "option": "w4a8",
        "weight-ranges": "minmax",
        "bias-correction": False,
        "allow-slower": True,
        "threads": 2,
    }


def test_a_search_is_told_by_its_file(desk: Path) -> None:
    search = (
        "--effort",
        "quick",
        "--tie",
        "stage.*",
        "-b",
        "size=30%",
        "-b",
        "bops=30%",
        "--no-blends",
        "--store",
        "s",
    )
    run("quantize", MODEL, "-c", "s.npz", "-o", "s.onnx", "-q", *search, "--save-config", "s.toml")
    assert tomllib.loads((desk / "s.toml").read_text())["budget"] == ["size=30%", "bops=30%"]
    first = Plan.read(desk / "s.plan.json")
    run("quantize", MODEL, "--config", "s.toml", "-q", "--overwrite")
    assert Plan.read(desk / "s.plan.json") == first


def test_the_command_line_wins(desk: Path) -> None:
    (desk / "c.toml").write_text('calibration = "none.npz"\noption = "w8a8"\noutput = "w.onnx"\n')
    run("quantize", MODEL, "--config", "c.toml", "-c", "s.npz", "--option", "w2", "--as-asked", "-q")
    assert {str(option) for option in Plan.read(desk / "w.plan.json").choices.values()} == {"w2"}


@pytest.mark.parametrize("command", ["measure", "pareto", "apply"])
def test_other_commands_take_a_file_too(command: str, desk: Path) -> None:
    (desk / "m.toml").write_text('calibration = "s.npz"\nthreads = 2\n')
    more = {"measure": ["--dry-run"], "pareto": ["--over", "none"], "apply": ["none.json", "-o", "a.onnx"]}[command]
    done = CliRunner().invoke(cli, [command, MODEL, *more, "--config", "m.toml", "--save-config", f"{command}.toml"])
    assert "Missing option" not in done.output
    if command != "apply":  # whose plan is read before
        assert tomllib.loads((desk / f"{command}.toml").read_text())["threads"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('optoin = "w8"', "`onnxmpq quantize` has no option 'optoin'. Did you mean 'option'?"),
        ('weight_ranges = "mse"', "has no option 'weight_ranges'. Did you mean 'weight-ranges'?"),
        ("overwrite = true", "has no option 'overwrite'."),
        ('threads = "2"', "'threads' must be a whole number, not \"2\"."),
        ("threads = true", "'threads' must be a whole number, not true."),
        ("threads = 0", "'threads' does not fit: 0 is not in the range x>=1."),
        ("option = 8", "'option' must be a text in quotation marks, not 8."),
        ('bias-correction = "no"', "'bias-correction' must be true or false, not \"no\"."),
        ('budget = "size=30%"', "'budget' must be an array of texts, for example [\"size=30%\"]"),
        ("[budget]\nsize = 3", "'budget' must be an array of texts"),
        ('ranges = "mes"', "'ranges' does not fit: 'mes' is not one of"),
        ("option = ", "is not TOML"),
        ('optoin = "w8"\nthreads = "2"', "'threads' must be"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_file_and_the_key(text: str, message: str, desk: Path) -> None:
    (desk / "bad.toml").write_text(text)
    error = refused("quantize", MODEL, "-c", "s.npz", "-o", "b.onnx", "--config", "bad.toml")
    assert error.exit_code == 2
    assert str(error).startswith("The configuration 'bad.toml'")
    assert message in str(error)


def test_a_file_that_is_not_there_is_refused() -> None:
    assert "'no.toml' cannot be read" in str(refused("quantize", MODEL, "--config", "no.toml"))


def test_search_options_of_a_file_need_a_budget_too(desk: Path) -> None:
    (desk / "e.toml").write_text('effort = "quick"\n')
    error = refused("quantize", MODEL, "-c", "s.npz", "-o", "b.onnx", "--config", "e.toml")
    assert "--effort belongs to a search" in str(error)


def test_a_file_that_is_there_is_replaced_with_overwrite_only(desk: Path) -> None:
    (desk / "there.toml").write_text("")
    arguments = ("measure", MODEL, "-c", "s.npz", "--dry-run", "--save-config", "there.toml", "-q")
    assert "The configuration 'there.toml' exists" in str(refused(*arguments))
    run(*arguments, "--overwrite")
    assert "s.npz" in (desk / "there.toml").read_text()


@pytest.mark.parametrize(
    "value", ['a "b" \\ c', "tab\tand\nline", "\x7f\x00ü€😀", "", ("x", 'y"'), True, False, 3, 2.5]
)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    read = tomllib.loads(written({"key": value}))["key"]
    assert read == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("command", ["quantize", "pareto", "measure", "apply"])
def test_every_option_that_a_file_may_hold_can_be_written_and_read(command: str) -> None:
    context = click.Context(cli)
    found = cli.get_command(context, command)
    assert found is not None
    for name, option in keys(found).items():
        assert f"--{name}" in option.opts
        assert option.nargs == 1
        assert (
            isinstance(option.type, click.Choice | click.Path | click.types.IntParamType)
            or option.is_flag
            or (option.type is click.STRING)
        )
