"""Running commands in this process."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onnxmpq.cli import cli, main
from onnxmpq.errors import OnnxmpqError
from tests.small import small_model

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
MODEL = str(small_model())
"""What most commands are tried on."""


def run(*arguments: str) -> Result:
    """Run a command that must succeed."""
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: str) -> OnnxmpqError:
    """Run a command that must be refused, and return the error."""
    error = CliRunner().invoke(cli, arguments).exception
    assert isinstance(error, OnnxmpqError), error
    return error


def code_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run ``main`` in this process and return what it ends with."""
    monkeypatch.setattr(sys, "argv", ["onnxmpq", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)
