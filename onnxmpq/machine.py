"""The machine: its processor and what that can do, its cores and its memory. Nothing is loaded to find out.

Linux tells by /proc/cpuinfo and /proc/meminfo, a Mac by ``sysctl``; elsewhere little is known.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

    from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")

ISA = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve"),
)
"""Instruction sets that matter, as Linux names them."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, as <malloc.h> numbers them
_MAC_NAMES = {"AVX2": "avx2", "AVX512F": "avx512f", "AVX512VNNI": "avx512_vnni"}
_MAC_ARM = {"FEAT_DotProd": "asimddp", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16"}


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor: its name, its family (x86, arm or other), and those of ``ISA`` that it has, None where unknown."""

    brand: str
    family: str
    isa: tuple[str, ...] | None

    def has(self, *names: str) -> bool:
        """Tell whether it has any of these."""
        return any(name in (self.isa or ()) for name in names)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Return what the processor says of itself."""
    machine = platform.machine().lower()
    if cpuinfo.is_file():
        return from_cpuinfo(cpuinfo.read_text("utf-8", "replace"), machine)
    if sys.platform == "darwin" and shutil.which("sysctl"):
        return from_sysctl(_sysctl("-a"), machine)
    return Processor(platform.processor() or machine or "unknown", _family(machine), None)


def from_cpuinfo(text: str, machine: str) -> Processor:
    """Read /proc/cpuinfo: ``flags`` on x86, ``Features`` on Arm."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            facts.setdefault(name.strip(), value.strip())
    flags = facts.get("flags", facts.get("Features"))
    brand = facts.get("model name") or facts.get("Hardware") or machine or "unknown"
    return Processor(brand, _family(machine), None if flags is None else _sorted(set(flags.split())))


def from_sysctl(text: str, machine: str) -> Processor:
    """Read what ``sysctl -a`` prints on a Mac."""
    facts = dict(re.findall(r"^([\w.]+): (.*)$", text, re.MULTILINE))
    features = " ".join(facts.get(f"machdep.cpu.{name}", "") for name in ("features", "leaf7_features")).split()
    found = {_MAC_NAMES[name] for name in features if name in _MAC_NAMES}
    found |= {name for key, name in _MAC_ARM.items() if facts.get(f"hw.optional.arm.{key}") == "1"}
    known = bool(features) or any(key.startswith("hw.optional.arm.") for key in facts)
    brand = facts.get("machdep.cpu.brand_string", machine or "unknown")
    return Processor(brand, _family(machine), _sorted(found) if known else None)


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(name for name in ISA if name in names)


def _family(machine: str) -> str:
    if machine in ("x86_64", "amd64", "i386", "i686"):
        return "x86"
    return "arm" if machine.startswith(("arm", "aarch64")) else "other"


def _sysctl(*arguments: str) -> str:
    try:
        return subprocess.run(["sysctl", *arguments], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def wanted_cores() -> float:
    """Return how many cores others want, by the load of the last minute without this process; 0 where nobody tells."""
    try:
        return max(os.getloadavg()[0] - 1.0, 0.0)
    except (AttributeError, OSError):  # not on Windows
        return 0.0


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


RUN_AHEAD = 2
"""Items that ``run_ahead`` runs while one is looked at, and whose results are held then."""


def run_ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield what a function returns for each item, in their order, while it runs on the next two in other threads.

    It must let other threads run meanwhile, as what computes in a library does.
    """
    from concurrent.futures import ThreadPoolExecutor  # which commands that run nothing need not load

    with ThreadPoolExecutor(RUN_AHEAD) as pool:
        flying: deque[Future[R]] = deque()
        try:
            for item in items:
                if len(flying) == RUN_AHEAD:
                    yield flying.popleft().result()
                flying.append(pool.submit(function, item))
            while flying:
                yield flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()


def memory_bytes(
    meminfo: Path = Path("/proc/meminfo"), run: Callable[..., str] = _sysctl
) -> tuple[int | None, int | None]:
    """Return the memory there is, and what of it is free; None where that is not known."""
    if meminfo.is_file():
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", meminfo.read_text("utf-8"), re.MULTILINE))
        total, free = (int(found[name]) * 1024 if name in found else None for name in ("MemTotal", "MemAvailable"))
        return total, free
    text = run("-n", "hw.memsize").strip() if sys.platform == "darwin" else ""
    return (int(text) if text.isdigit() else None), None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep linear algebra on one thread while the context lasts.

    Several threads of BLAS make an eigendecomposition of a few hundred rows slower, many times so on a busy machine,
    and may sum in another order: with one, a seed gives one answer, and processes side by side stay out of each
    other's way.
    """
    with _controller().limit(limits=1):
        yield


@functools.cache
def _controller() -> "ThreadpoolController":
    """Find the libraries that have threads: only what is loaded is found, and scipy brings one of its own."""
    from threadpoolctl import ThreadpoolController  # ships no types

    importlib.import_module("scipy.linalg")
    return ThreadpoolController()


LARGE_BYTES = 1 << 24
"""Weights from which on memory is given back behind plans: graphs refer to themselves, and wait for it."""


def resident_bytes() -> int | None:
    """Return what this process holds of the memory, where the system says so."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Give memory back: that of graphs, which refer to themselves, and what the C library keeps for later."""
    gc.collect()
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@contextlib.contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Take blocks from a quarter of a megabyte on from the system, which has them back as soon as they are freed.

    glibc does so by itself up to 32 MB, but raises that limit to the largest block that was ever freed; among the
    weights of a model, copied and laid out anew while it is loaded, its heap then grows by holes. Afterwards the limit
    is where it would have risen to: arrays that come and go are quicker so.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, 1 << 18)
    yield
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_TRIM_THRESHOLD, 64 << 20)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library where it is one that can be told what to keep."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if library is not None and hasattr(library, "malloc_trim") else None
