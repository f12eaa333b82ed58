"""Python and the command line in processes of their own, which import this tree."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "passes")))}


def python(
    *arguments: str,
    folder: Path | None = None,
    before: tuple[str, ...] = (),
    timeout: float = 300,
    more: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder``, with another program ``before`` it and ``more`` in its environment."""
    return subprocess.run(
        [*before, sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | dict(more or {}),
        cwd=folder,
        timeout=timeout,
        check=False,
    )
