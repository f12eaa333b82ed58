"""A fixed sample of the fuzzing, and that its bases are sound: undamaged they go through."""

import os
from pathlib import Path

import pytest

from tests.fuzz.bases import LAYERS
from tests.fuzz.kinds import KINDS, Recipe, preload

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")

SAMPLE = 6
"""Mutants of each kind in the test suite; `make fuzz` tries thousands."""


@pytest.fixture(autouse=True, scope="module")
def libraries() -> None:
    """Load once what every child needs."""
    preload()


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_damaged_goes_through(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    base = kind.recipe(0).base if name != "models" else LAYERS[0]
    for command in kind.commands:
        outcome = kind.tried(Recipe(base, (), 1, command), tmp_path / "one")
        assert (outcome.kind, outcome.code) == ("ended", 0), outcome.told


@pytest.mark.parametrize("name", KINDS)
def test_what_is_damaged_ends_in_one_sentence(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    for number in range(SAMPLE):
        outcome = kind.outcome(number, tmp_path / "one")
        assert outcome.good, f"python -m tests.fuzz --kind {name} --only {number}\n{outcome.label}\n{outcome.told}"
