"""The doctor: what it reads of a machine, what it makes of it, and how it ends."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onnxmpq import doctor
from onnxmpq.cli import cli
from onnxmpq.doctor import EXTRAS, remarks
from onnxmpq.errors import RuntimeMissingError, VerifyError
from onnxmpq.machine import Processor, from_cpuinfo, from_sysctl, memory_bytes, processor

ROOT = Path(__file__).parents[1]
XEON = "processor\t: 0\nmodel name\t: Xeon 8488C\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8 amx_bf16\n"
XEON += "\nprocessor\t: 1\nmodel name\t: Other\nflags\t\t: fpu\n"
OLD = "model name : Xeon E5\nflags : fpu sse4_2 avx2\n"
GRAVITON = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd asimddp sve i8mm bf16\n"
MAC = "hw.memsize: 17179869184\nmachdep.cpu.brand_string: Apple M2\nhw.optional.arm.FEAT_DotProd: 1\n"
MAC += "hw.optional.arm.FEAT_I8MM: 1\nhw.optional.arm.FEAT_BF16: 0\n"
INTEL_MAC = "machdep.cpu.brand_string: Intel(R) Core(TM) i7\nmachdep.cpu.features: FPU SSE4.2\n"
INTEL_MAC += "machdep.cpu.leaf7_features: BMI1 AVX2\n"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            from_cpuinfo(XEON, "x86_64"),
            ("Xeon 8488C", "x86", ("avx2", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16")),
        ),
        (from_cpuinfo(OLD, "amd64"), ("Xeon E5", "x86", ("avx2",))),
        (from_cpuinfo(GRAVITON, "aarch64"), ("aarch64", "arm", ("asimddp", "i8mm", "bf16", "sve"))),
        (from_cpuinfo("hart : 0\nisa : rv64gc\n", "riscv64"), ("riscv64", "other", None)),
        (from_sysctl(MAC, "arm64"), ("Apple M2", "arm", ("asimddp", "i8mm"))),
        (from_sysctl(INTEL_MAC, "x86_64"), ("Intel(R) Core(TM) i7", "x86", ("avx2",))),
        (from_sysctl("", "arm64"), ("arm64", "arm", None)),
    ],
)
def test_a_processor_is_read(found: Processor, expected: tuple[str, str, tuple[str, ...] | None]) -> None:
    assert (found.brand, found.family, found.isa) == expected


def test_a_machine_without_cpuinfo_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert processor(tmp_path / "none").isa is None


@pytest.mark.parametrize(
    ("text", "machine", "words", "absent"),
    [
        (XEON, "x86_64", ("With VNNI int8 kernels are fast", "With AMX", "With bf16"), ("saturate",)),
        (
            OLD,
            "x86_64",
            ("Without VNNI int8 kernels are still faster", "in 16 bits", "from saturating"),
            ("With VNNI", "With AMX", "With bf16"),
        ),
        (GRAVITON, "aarch64", ("dot products", "With bf16"), ("VNNI", "saturate")),
        ("Features : fp asimd\n", "aarch64", ("little speed",), ("With ",)),
        ("", "riscv64", ("does not tell",), ("VNNI",)),
    ],
)
def test_what_follows_is_said_in_sentences(
    text: str, machine: str, words: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    told = remarks(from_cpuinfo(text, machine))
    joined = " ".join(told)
    assert all(word in joined for word in words), joined
    assert not any(word in joined for word in absent), joined
    assert all(sentence.endswith(".") for sentence in told)


def test_memory_is_read_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n")
    assert memory_bytes(tmp_path / "meminfo") == (1_024_000, 409_600)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory_bytes(tmp_path / "none", lambda *_: "17179869184\n") == (17179869184, None)
    monkeypatch.setattr(sys, "platform", "win32")
    assert memory_bytes(tmp_path / "none") == (None, None)


def test_extras_are_those_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    users = {name: parts for name, parts in declared.items() if name not in ("test", "lint", "dev", "docs")}
    assert users.keys() == EXTRAS.keys()
    for name, (parts, _) in EXTRAS.items():
        assert [part.partition(">")[0].partition("=")[0] for part in users[name]] == list(parts)


# ---- the command -----------------------------------------------------------------------------------------------------


def asked(*arguments: str) -> Result:
    """Ask the doctor."""
    return CliRunner().invoke(cli, ["doctor", *arguments], env={"COLUMNS": "200"})


def test_a_sound_machine_ends_with_0() -> None:
    shown = asked()
    assert shown.exit_code == 0, shown.output
    for word in (
        "onnxmpq 0",
        "Python 3",
        "onnx-ir",
        "highspy",
        "CPUExecutionProvider",
        "cores",
        "memory",
        "extra dask",
        "devices",
        "GPU",
    ):
        assert word in shown.stdout
    assert "ok  A model of one layer was quantised and ran:" in shown.stdout


def test_json_has_all_of_it() -> None:
    data = json.loads(asked("--json").stdout)
    assert data["ok"] is True
    assert data["faults"] == []
    assert {"onnxmpq", "Python", "onnx", "numpy", "highspy"} <= data["versions"].keys()
    assert [extra["name"] for extra in data["extras"]] == list(EXTRAS)
    assert data["usable_cores"] >= 1
    assert all(name.startswith("cuda:") for name in data["devices"])


def test_gpus_are_told_with_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.runtimes.devices.devices_here", lambda: ({"cuda:0": "H200, 150 GB"}, "Use it."))
    shown = asked().stdout
    assert "cpu, cuda:0 (H200, 150 GB)" in shown
    assert "\nUse it." in shown


def test_a_missing_runtime_ends_with_2_and_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> tuple[str, ...]:
        raise RuntimeMissingError('onnxruntime is not installed. Install it: pip install "onnxmpq[cpu]".')

    monkeypatch.setattr("onnxmpq.runtimes.ort.available_providers", absent)
    shown = asked()
    assert shown.exit_code == 2
    assert 'fault  onnxruntime is not installed. Install it: pip install "onnxmpq[cpu]".' in shown.stdout
    assert json.loads(asked("--json").stdout)["ok"] is False


def test_a_model_that_does_not_hold_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise VerifyError("simulation is 9 dB.")

    monkeypatch.setattr("onnxmpq.api.quantize", fail)
    shown = asked()
    assert shown.exit_code == 2
    assert "could not be quantised and run: simulation is 9 dB." in shown.stdout


def test_two_onnxruntimes_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.31")
    found = doctor.examine()
    assert "both installed" in found.faults[0]
    assert all(extra.installed for extra in found.extras)


def test_what_is_not_installed_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert 'not installed: pip install "onnxmpq[dask]"' in asked().stdout
