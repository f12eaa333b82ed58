"""Commands killed at some of their calls that change a file; ``python -m tests.killed`` tries every one."""

import shutil
from pathlib import Path

import pytest

from tests.killed import COMMANDS, Command, points, prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the commands read, once."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_killed_at_any_call_there_are_whole_files_and_the_next_run_goes_through(
    command: Command, prepared: Path, tmp_path: Path
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    assert len(list(points(tmp_path, command, step=29))) >= 1
