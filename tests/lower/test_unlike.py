"""Concats of unlike ranges: an input far below the others keeps a scale of its own, by which its other readers gain.

a ─┬─ Conv ─ z          a of one, b of a hundred: with one scale for a, b and both, a has three codes
   Concat ─ both ─ Conv ─ y
b ─┘
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.api import quantize
from onnxmpq.lower.calibrated import UNLIKE
from onnxmpq.model.load import load
from onnxmpq.options import VerifyOptions
from onnxmpq.runtimes import get_runtime
from tests.graphs import from_text, rng

IMAGE = "float[n, 4, 8, 8]"
TEXT = (
    f"g ({IMAGE} x) => ({IMAGE} y, {IMAGE} z) {{ a = Conv(x, w1) b = Conv(x, w2) both = Concat<axis = 1>(a, b) "
    "y = Conv(both, w3) z = Conv(a, w4) }"
)


def made(times: float) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """Return the model above, in which b has so many times the range of a, and samples."""
    g = rng()
    first = g.normal(size=(4, 4, 1, 1)).astype(np.float32)
    weights = {"w1": first, "w2": first * np.float32(times)}
    weights |= {
        "w3": g.normal(size=(4, 8, 1, 1)).astype(np.float32),
        "w4": g.normal(size=(4, 4, 1, 1)).astype(np.float32),
    }
    return from_text(TEXT, weights), {"x": g.normal(size=(16, 4, 8, 8)).astype(np.float32)}


def scales(model: ir.Model) -> dict[str, float]:
    """Return the scale of what every QuantizeLinear reads, by the name it had."""
    found: dict[str, float] = {}
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            value, scale = node.inputs[0], node.inputs[1]
            assert value is not None
            assert scale is not None
            assert scale.const_value is not None
            found[str(value.name)] = float(scale.const_value.numpy())
    return found


def quantised(times: float, folder: Path) -> tuple[dict[str, float], float, Any]:
    """Quantise with 8 bits; return the scales, the agreement of z with float in dB, and the verdict."""
    model, samples = made(times)
    place = folder / "small.onnx"
    how = VerifyOptions(as_asked=True, allow_slower=True, speed_budget_s=0.0)
    proto = ir.to_proto(model)
    result = quantize(proto, samples, output=place, target="ort-cpu", verify=how, overwrite=True)
    runtime = get_runtime("onnxruntime")
    wanted, got = (
        runtime.session(each, mode="deployed").run(samples)["z"] for each in (proto.SerializeToString(), place)
    )
    noise = 10 * np.log10(float((wanted**2).sum() / ((wanted - got) ** 2).sum()))
    return scales(load(place).model), noise, result.verdict


def test_an_input_far_below_the_others_keeps_a_scale_of_its_own(tmp_path: Path) -> None:
    found, decibel, verdict = quantised(100, tmp_path)
    assert found["b"] == found["both"]
    assert found["a"] == pytest.approx(found["b"] / 100, rel=0.05)
    assert decibel > 30
    assert verdict.ok


def test_its_other_readers_lose_where_one_scale_is_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.lower.calibrated.UNLIKE", np.inf)
    found, decibel, _ = quantised(100, tmp_path)
    assert found["a"] == found["b"] == found["both"]
    assert decibel < 10


@pytest.mark.parametrize("times", [1.0, UNLIKE * 0.9])
def test_inputs_of_like_ranges_share_one_scale(times: float, tmp_path: Path) -> None:
    found, _, _ = quantised(times, tmp_path)
    assert found["a"] == found["b"] == found["both"]


def test_the_join_still_runs_on_codes(tmp_path: Path) -> None:
    alike, unlike = (quantised(times, tmp_path)[2]["kernels"] for times in (1, 100))
    assert unlike.ok
    assert unlike.value == alike.value
