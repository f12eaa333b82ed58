"""The GPUs of this machine, as NVIDIA's driver tells of them; nothing is loaded on any.

The driver counts as onnxruntime does: what ``CUDA_VISIBLE_DEVICES`` hides is not there.
"""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

_LONGEST = 256


@dataclass(frozen=True, slots=True)
class Gpu:
    """The name of a GPU and how much memory it has."""

    name: str
    memory_bytes: int


def gpus(driver: Any = None) -> tuple[Gpu, ...]:
    """Return the GPUs in the order of their numbers; none where there is no driver, or it finds none."""
    driver = driver or _driver()
    count = ctypes.c_int()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_told(driver, number) for number in range(count.value))


def _told(driver: Any, number: int) -> Gpu:
    device, size, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(_LONGEST)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, _LONGEST, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return Gpu(name.value.decode("utf-8", "replace"), size.value)


def _driver() -> Any:
    """Load the driver's library."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
