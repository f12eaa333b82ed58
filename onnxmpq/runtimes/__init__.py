"""The runtimes that execute what onnxmpq writes: sessions, kernels really used, and fair timing."""

from onnxmpq.errors import RuntimeMissingError
from onnxmpq.registry import RUNTIMES
from onnxmpq.runtimes.base import (
    Ability,
    Feed,
    KernelReport,
    LayerKernel,
    Mode,
    PerSoc,
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


def get_runtime(name: str, stand_in: str = "", soc: str = "") -> Runtime:
    """Give the runtime of that name, that of a SoC where it has several, or where it is absent the one that stands in.

    Without one, RuntimeMissingError says which command installs it.
    """
    try:
        found: Runtime = RUNTIMES.load(name)()
    except RuntimeMissingError:
        if not stand_in:
            raise
        return get_runtime(stand_in)
    return found.on(soc) if soc and isinstance(found, PerSoc) else found
