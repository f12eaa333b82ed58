"""A fixed sample of the fuzzing, and that its bases are sound: undamaged they go through.

Children are forked from a process of its own, which has no threads: of a test runner they might inherit locks.
"""

import os
import re
import subprocess

import pytest

from tests.fuzz.kinds import KINDS
from tests.processes import python

SAMPLE = 6
"""Mutants of each kind in the test suite; `make fuzz` tries thousands."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    """Try all kinds in one process, which loads once what commands need."""
    given = ("--seed", "0", "--each", str(SAMPLE))
    return python("-m", "tests.fuzz", *given, folder=tmp_path_factory.mktemp("fuzz"), timeout=1800)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("name", KINDS)
def test_what_is_damaged_ends_in_one_sentence_and_what_is_not_goes_through(
    name: str, told: "subprocess.CompletedProcess[str]"
) -> None:
    counts = re.search(rf"^{name} +(\d+) mutants +(.+)$", told.stdout, re.MULTILINE)
    assert counts, told.stdout + told.stderr
    assert int(counts[1]) == SAMPLE + len(KINDS[name].commands)
    assert "broken" not in counts[2], told.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_nothing_is_broken(told: "subprocess.CompletedProcess[str]") -> None:
    assert told.returncode == 0, told.stdout + told.stderr
    assert "nothing is broken" in told.stdout
