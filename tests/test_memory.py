"""Peaks of memory are in proportion to the model: measured in processes of their own, beside one on a tiny model."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks.memory import Peak, peak_of, write_stack
from tests.small import MODELS, small_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process takes is read from /proc")
MOST = 2.5
"""Times the bytes of the model: the most that quantising takes above what it takes for a tiny one."""
FITTED = 160
"""Bytes for each pair of inputs of the widest layer that fitting takes besides, at most."""


def peak(folder: Path, width: int, option: str, rounding: str, *, external: bool) -> Peak:
    """Quantise a stack of six layers; nothing is judged, which would hunt for culprits."""
    model = folder / f"stack{width}.onnx"
    data = write_stack(model, 6, width, external=external, samples=4)
    command = ["quantize", str(model), "-c", str(data), "-o", str(folder / f"{width}.onnx"), "--option", option]
    command += ["--rounding", rounding]
    found = peak_of([*command, "--guard", "classes>=0%", "--guard", "loss<=1000000", "--weight-ranges", "minmax"])
    assert found.exit_code == 0, found.errors
    return found


@pytest.mark.parametrize(
    ("option", "rounding", "external"),
    [("w4b128", "nearest", False), ("w8a8", "nearest", True), ("w4b128", "sequential", False)],
)
def test_quantising_takes_little_more_than_twice_the_model(
    tmp_path: Path, option: str, rounding: str, external: bool
) -> None:
    base = peak(tmp_path, 64, option, rounding, external=external)
    large = peak(tmp_path, 1024, option, rounding, external=external)
    assert base.resident_bytes > 50e6  # it was the process that works that was watched
    most = MOST * 6 * 4 * 1024**2 + (FITTED * 1024**2 if rounding == "sequential" else 0)
    assert large.resident_bytes <= base.resident_bytes + most


def searched(folder: Path, ceiling: str) -> Peak:
    """Search on a part of an embedded model within a ceiling."""
    model, data = small_model(), MODELS / "digits_calibration.npz"
    command = ["quantize", str(model), "-c", str(data), "-o", str(folder / "small.onnx"), "-b", "size=40%"]
    return peak_of([*command, "--effort", "quick", "--samples", "8", "--allow-slower", "--memory", ceiling])


def test_a_ceiling_is_held_or_refused_with_one_that_is_held(tmp_path: Path) -> None:
    refused = searched(tmp_path, "100MB")
    assert refused.exit_code == 2
    told = re.search(r"the ceiling is 100MB\. Give --memory (\d+)MB or more\.", " ".join(refused.errors.split()))
    assert told, refused.errors
    held = searched(tmp_path, f"{told[1]}MB")
    assert held.exit_code == 0, held.errors
    assert held.resident_bytes <= 1.05e6 * int(told[1])
