"""A fixed sample of the fuzzing, and that its bases are sound: undamaged they go through.

Children are forked from a process of its own, which has no threads: of a test runner they might inherit locks.
"""

import os
from pathlib import Path

import pytest

from tests.fuzz.kinds import KINDS
from tests.processes import python

SAMPLE = 6
"""Mutants of each kind in the test suite; `make fuzz` tries thousands."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("name", KINDS)
def test_what_is_damaged_ends_in_one_sentence_and_what_is_not_goes_through(name: str, tmp_path: Path) -> None:
    given = ("--kind", name, "--seed", "0", "--each", str(SAMPLE))
    ended = python("-m", "tests.fuzz", *given, folder=tmp_path, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "nothing is broken" in ended.stdout
