"""Files for ARM64: under emulation, with dot products of 8-bit codes and without, they are as they are simulated."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.errors import RuntimeMissingError
from onnxmpq.options import VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.runtimes.arm64 import VARIABLE, folder
from tests.small import MODELS, small_model

DATA = MODELS / "digits_calibration.npz"
AS_ASKED = VerifyOptions(as_asked=True, allow_slower=True, speed_budget_s=0.0)


def samples(count: int = 4) -> dict[str, np.ndarray]:
    with np.load(DATA) as data:
        return {name: data[name][:count] for name in data.files}


@pytest.mark.emulated
@pytest.mark.skipif(folder() is None, reason=f"{VARIABLE} names no Python for ARM64 that can be emulated")
@pytest.mark.parametrize("target", ["ort-arm64", "ort-arm64@dotprod"])
@pytest.mark.parametrize("option", ["w8a8", "w4a8", "w8"])
def test_a_file_gives_under_emulation_what_its_simulation_gives(target: str, option: str, tmp_path: Path) -> None:
    for model in (small_model(), MODELS / "digits_vit.onnx"):
        path = tmp_path / "q.onnx"
        result = onnxmpq.quantize(
            model, samples(), output=path, target=target, plan=option, verify=AS_ASKED, overwrite=True
        )
        assert result.verdict["proof"].value == "emulated"
        agreement = result.verdict["simulation"].value
        assert isinstance(agreement, float)
        assert agreement >= 40
        assert result.verdict["speed"].value is None


@pytest.mark.parametrize("target", ["ort-arm64", "ort-arm64@dotprod"])
def test_without_an_emulator_files_are_simulated_and_the_verdict_says_so(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(RuntimeMissingError, match="qemu-user and root are needed"):
        get_runtime("onnxruntime-arm64")
    result = onnxmpq.quantize(
        small_model(), samples(), output=tmp_path / "q.onnx", target=target, plan="w8a8", verify=AS_ASKED
    )
    assert result.verdict["proof"].value == "simulated"


def test_no_weight_has_the_code_that_overflows_there(tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    onnxmpq.quantize(small_model(), samples(), output=path, target="ort-arm64", plan="w8a8", verify=AS_ASKED)
    codes = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.data_type == 3]
    assert codes
    assert all(array.min(initial=0) >= -127 for array in codes if array.ndim > 1)
