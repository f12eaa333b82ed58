"""Agreement with the simulation, where a machine's own arithmetic rounds to neighbouring codes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.api import quantize
from onnxmpq.model.save import save
from onnxmpq.options import VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.targets import Rounds
from onnxmpq.verification.moved import with_moved_codes
from onnxmpq.verification.verify import run_all, simulation_check
from tests.graphs import Array, feeds_for, from_text, layer_chain

STEP = 0.03


def one_tensor(path: Path) -> Path:
    """Write a model that gives a tensor in codes."""
    text = "g (float[1000] x) => (uint8[1000] y) { y = QuantizeLinear(x, s, z) }"
    save(from_text(text, {"s": np.array(STEP, np.float32), "z": np.array(100, np.uint8)}), path)
    return path


@pytest.mark.parametrize("towards", [1, -1])
def test_one_in_eight_codes_moves_and_none_further_than_to_its_neighbour(towards: int, tmp_path: Path) -> None:
    path, reference = one_tensor(tmp_path / "m.onnx"), get_runtime("onnxruntime")
    feed = {"x": np.random.default_rng(0).normal(size=1000).astype(np.float32)}
    with with_moved_codes(path, towards) as moved:
        assert moved is not None
        codes, others = (reference.session(file, mode="literal").run(feed)["y"].astype(int) for file in (path, moved))
    assert np.abs(codes - others).max() == 1
    assert 0.09 < np.mean(codes != others) < 0.16
    assert abs(np.mean(codes - others)) < 0.03  # as many up as down


def test_zeros_stay_zeros(tmp_path: Path) -> None:
    with with_moved_codes(one_tensor(tmp_path / "m.onnx"), 1) as moved:
        assert moved is not None
        session = get_runtime("onnxruntime").session(moved, mode="literal")
        assert set(session.run({"x": np.zeros(1000, np.float32)})["y"]) == {100}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two layers in 8 bits."""
    model, path = layer_chain("Conv"), tmp_path_factory.mktemp("rounding") / "q.onnx"
    quantize(ir.to_proto(model), feeds_for(model), output=path, verify=VerifyOptions(as_asked=True, speed_budget_s=0.0))
    return path


def agreement(file: Path, noise: float, rounds: Rounds) -> bool | None:
    """Check outputs with some noise on them, as a part of what they are."""
    reference, feeds = get_runtime("onnxruntime"), feeds_for(layer_chain("Conv"))
    simulated: list[list[Array]] = run_all(reference.session(file, mode="literal"), feeds)
    random = np.random.default_rng(0)
    got: Sequence[list[Array]] = [
        [x + noise * np.std(x) * random.normal(size=x.shape).astype(x.dtype) for x in one] for one in simulated
    ]
    return simulation_check(reference, file, feeds, simulated, list(got), rounds).ok


@pytest.mark.parametrize(
    ("decibel", "exactly", "to_neighbours"), [(45, True, True), (38, False, True), (25, False, False)]
)
def test_it_may_be_as_far_off_as_its_codes_and_no_further(
    decibel: float, exactly: bool, to_neighbours: bool, file: Path
) -> None:
    noise = 10 ** (-decibel / 20)
    assert agreement(file, noise, "exactly") is exactly
    assert agreement(file, noise, "to-neighbours") is to_neighbours
