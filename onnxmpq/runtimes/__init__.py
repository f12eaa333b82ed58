"""The runtimes that execute what onnxmpq writes: sessions, kernels really used, and fair timing."""

from onnxmpq.registry import RUNTIMES
from onnxmpq.runtimes.base import (
    Ability,
    Feed,
    KernelReport,
    LayerKernel,
    Mode,
    Runtime,
    Session,
)
from onnxmpq.runtimes.timing import PairedTiming, paired, runner

__all__ = [
    "Ability",
    "Feed",
    "KernelReport",
    "LayerKernel",
    "Mode",
    "PairedTiming",
    "Runtime",
    "Session",
    "get_runtime",
    "paired",
    "runner",
]


def get_runtime(name: str) -> Runtime:
    """Give the runtime of that name; where it is absent, RuntimeMissingError says which command installs it."""
    found: Runtime = RUNTIMES.load(name)()
    return found
