"""Skips a test where what it needs is not here."""

import pytest

from onnxmpq.targets import target


def need_runtime(name: str) -> None:
    """Skip a test of a built-in target where no package is here that its runtime comes from."""
    pytest.importorskip(target(name).runtime.removesuffix("-exact"))
