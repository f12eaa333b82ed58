"""onnxruntime's ARM64 build under qemu-user: the kernels of phones and servers with ARM cores, on any machine.

A folder with a Python of that kind, which ONNXMPQ_ARM64 names, is made once by ``python -m benchmarks processors``.
What is emulated sees a /proc/cpuinfo of its own, since detection would crash with another: that takes root.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from onnxmpq.errors import InternalError
from onnxmpq.runtimes.base import Ability, KernelReport, Mode, Session, missing
from onnxmpq.runtimes.child import ChildSession
from onnxmpq.runtimes.ort import OnnxRuntime

VARIABLE = "ONNXMPQ_ARM64"
INSTALL = f"python -m benchmarks processors --arm64 FOLDER, and {VARIABLE}=FOLDER (qemu-user and root are needed)"
Cpu = Literal["cortex-a53", "neoverse-n1"]
CPUS: tuple[Cpu, ...] = ("neoverse-n1", "cortex-a53")
"""With dot products of 8-bit codes, and without."""
_RUNNER = Path(__file__).with_name("arm64_runner.py")
_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
_MORE = "atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_PARTS: dict[Cpu, str] = {"cortex-a53": "0xd03", "neoverse-n1": "0xd0c"}


def folder() -> Path | None:
    """Return the folder with a Python for ARM64, where there is one and it can be run."""
    told = os.environ.get(VARIABLE)
    if not told or not (Path(told) / "site" / "onnxruntime").is_dir():
        return None
    usable = all(shutil.which(tool) for tool in ("qemu-aarch64", "unshare")) and os.geteuid() == 0
    return Path(told).absolute() if usable else None


def emulated(cpu: Cpu, place: Path) -> list[str]:
    """Return what runs a script as a processor."""
    features = f"{_FEATURES} {_MORE}" if cpu == "neoverse-n1" else _FEATURES
    lines = (
        f"processor\t: {core}\nBogoMIPS\t: 100.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {_PARTS[cpu]}\nCPU revision\t: 1\n\n"
        for core in range(2)
    )
    text = place / f"cpuinfo.{cpu}"
    text.write_text("".join(lines), encoding="utf-8")
    python = next((place / "root/usr/bin").glob("python3.*[0-9]"))
    inner = (
        f'mount --bind "{text}" /proc/cpuinfo; export QEMU_LD_PREFIX="{place}/root" PYTHONHOME="{place}/root/usr" '
        f'PYTHONPATH="{place}/site"; exec qemu-aarch64 -cpu {cpu} "{python}" "$@"'
    )
    return ["unshare", "-m", "bash", "-c", inner, "_"]


@dataclass(frozen=True, slots=True)
class Arm64:
    """onnxruntime on an emulated processor with dot products; the processor's own simulates."""

    cpu: ClassVar[Cpu] = "neoverse-n1"
    plain: OnnxRuntime = field(default_factory=OnnxRuntime)

    def __post_init__(self) -> None:
        """Fail early where it cannot be emulated."""
        if folder() is None:
            raise missing(self.name, INSTALL)

    @property
    def name(self) -> str:
        """The name in targets and reports."""
        return "onnxruntime-arm64"

    @property
    def version(self) -> str:
        """The version that is installed for ARM64, and the processor."""
        place = folder()
        found = sorted((place / "site").glob("onnxruntime-*.dist-info")) if place else []
        return f"{found[0].name.split('-')[1].removesuffix('.dist') if found else ''} ({self.cpu})"

    @property
    def abilities(self) -> frozenset[Ability]:
        """It runs files; an emulator's time means nothing."""
        return frozenset(("run",))

    @property
    def float_type(self) -> str:
        """In what it computes."""
        return "f32"

    def session(
        self, model: bytes | Path, *, mode: Mode, threads: int = 1, outputs: Sequence[str] | None = None
    ) -> Session:
        """Load a model; see ``Runtime.session``."""
        plain = self.plain.session(model, mode=mode, threads=threads, outputs=outputs)
        place = folder()
        if mode not in ("deployed", "exact") or outputs is not None or place is None:
            return plain
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
        return ChildSession(self.name, [*emulated(self.cpu, place), str(_RUNNER)], model, plain, environment)

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Refuse: which kernels it takes is not asked for."""
        raise InternalError(f"The runtime '{self.name}' does not tell its kernels.")


@dataclass(frozen=True, slots=True)
class Arm64Plain(Arm64):
    """The same on a processor without dot products."""

    cpu: ClassVar[Cpu] = "cortex-a53"

    @property
    def name(self) -> str:
        """The name in targets and reports."""
        return "onnxruntime-arm64-plain"
