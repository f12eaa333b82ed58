"""Bits of activations are decided with those of weights: a search finds the few tensors that need sixteen."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.planted import CALIBRATION, EVALUATION, planted
from onnxmpq.api import Result
from onnxmpq.artifacts import Option
from onnxmpq.options import Numbers
from onnxmpq.runtimes import get_runtime
from onnxmpq.workspace.prepare import prepare
from tests.asked import asked, untimed
from tests.small import part

NORMS = ("blocks.1.norm1", "blocks.2.norm2")
READERS = {
    *(f"blocks.1.attention.{name}/MatMul" for name in ("query", "key", "value")),
    "blocks.2.mlp.widen/MatMul",
}
NUMBERS = Numbers(smooth="off", rounding="nearest")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the vision transformer with outliers behind two of its LayerNorms."""
    return planted(tmp_path_factory.mktemp("planted") / "two.onnx", norms=NORMS, between=(200.0, 500.0))


def fall(result: Result) -> float:
    """Return by how much accuracy falls."""
    assert result.accuracy is not None
    return result.accuracy.before - result.accuracy.after


def test_a_search_gives_sixteen_bits_to_what_reads_outliers(model: Path, tmp_path: Path) -> None:
    given = {"target": "generic", "numbers": NUMBERS, "evaluation": EVALUATION}
    uniform = untimed(model, CALIBRATION, output=tmp_path / "u.onnx", **given, **asked(option="w8a8", as_asked=True))
    assert fall(uniform) > 0.1
    search = asked(options=("w8a8", "w8a16"), ties=["inputs"], effort="quick", samples=64, blends=False)
    found = untimed(model, CALIBRATION, output=tmp_path / "m.onnx", budget=["bops=7.5%"], **given, **search)
    wide = {name for name, option in found.plan.choices.items() if option.activation_bits == 16}
    assert wide >= READERS
    assert len(wide) <= 10 < len(found.plan.choices) == 34
    assert fall(found) < 0.01


def test_bit_operations_count_activations(model: Path) -> None:
    for unit in prepare(model, "generic").space.units:
        narrow, wide = (Option(8, bits) if unit.parameters else Option(0, bits) for bits in (8, 16))
        ratio = 2 if unit.parameters else 4  # both factors of a product are activations
        assert unit.cost(wide).bops == ratio * unit.cost(narrow).bops


def test_units_that_read_one_tensor_are_known(model: Path) -> None:
    together = prepare(model, "generic").space.together
    assert len(together) == 4
    assert {name for name in together[1]} == {name for name in READERS if "attention" in name}


FOUR = """
schema = 2
extends = "generic"
name = "four"
title = "a target with activations of 4, 8 and 16 bits"

[[layers]]
op = "MatMul"
weight_rank = 2
options = ["w8a16", "w8a8", "w8a4"]
"""


def test_a_target_may_have_activations_of_four_bits(tmp_path: Path) -> None:
    (tmp_path / "four.toml").write_text(FOUR, "utf-8")
    given = {"target": str(tmp_path / "four.toml"), "numbers": NUMBERS, "evaluation": EVALUATION}
    result = untimed(
        part("digits_attention"),
        CALIBRATION,
        output=tmp_path / "four.onnx",
        **given,
        **asked(option="w8a4", as_asked=True),
    )
    zeros = [t for t in onnx.load(result.path).graph.initializer if t.data_type == onnx.TensorProto.UINT4]
    assert len(zeros) == 4  # what query, key and value read is one tensor
    assert result.verdict.ok
    assert fall(result) < 0.03


def test_sixteen_bits_are_not_rounded_to_eight_where_a_file_is_checked(model: Path, tmp_path: Path) -> None:
    given = {"target": "generic", "numbers": NUMBERS}
    result = untimed(model, CALIBRATION, output=tmp_path / "a16.onnx", **given, **asked(option="w8a16"))
    feed = {"image": np.load(CALIBRATION)["image"]}
    places = (("onnxruntime", model), ("onnxruntime-exact", result.path))
    sessions = [get_runtime(name).session(path, mode="deployed") for name, path in places]
    want, got = (next(iter(session.run(feed).values())) for session in sessions)
    assert result.verdict.ok
    assert result.verdict.runtime.startswith("onnxruntime-exact ")
    assert ((got - want) ** 2).sum() < 0.02 * (want**2).sum()
