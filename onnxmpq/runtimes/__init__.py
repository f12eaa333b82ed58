"""The runtimes that execute what onnxmpq writes: sessions, kernels really used, and fair timing."""

from onnxmpq.errors import InputError, nearest
from onnxmpq.runtimes.base import (
    Feed,
    KernelReport,
    LayerKernel,
    Mode,
    Runtime,
    Session,
)
from onnxmpq.runtimes.timing import PairedTiming, paired, runner

RUNTIMES = ("onnxruntime", "openvino")
"""The names ``get_runtime`` knows."""

__all__ = [
    "RUNTIMES",
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
    if name == "onnxruntime":
        from onnxmpq.runtimes.ort import OnnxRuntime

        return OnnxRuntime()
    if name == "openvino":
        from onnxmpq.runtimes.openvino import OpenVino

        return OpenVino()
    raise InputError(f"No runtime is called '{name}'. Known: {', '.join(RUNTIMES)}.{nearest(name, RUNTIMES)}")
