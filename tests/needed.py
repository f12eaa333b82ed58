"""Skips a test where what it needs is not here."""

import pytest

from onnxmpq.targets import target

_PACKAGES = {"qnn": "onnxruntime_qnn"}


def need_runtime(name: str) -> None:
    """Skip a test of a built-in target where no package is here that its runtime comes from."""
    runtime = target(name).runtime.removesuffix("-exact")
    pytest.importorskip(_PACKAGES.get(runtime, runtime))
