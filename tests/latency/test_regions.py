"""Steps of a runtime belong to units; units stand beside each other across whatever is between them."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.latency.notebook import Notebook
from onnxmpq.latency.regions import borders, regions
from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from onnxmpq.runtimes.base import Step
from onnxmpq.runtimes.ort import OnnxRuntime
from onnxmpq.runtimes.profiles import usual
from onnxmpq.targets import target
from onnxmpq.targets.space import make_space
from onnxmpq.workspace.prepare import prepare
from tests.graphs import feeds_for, from_text, layer_chain

RESIDUAL = """
residual (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, wa)
    b = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(b, wb)
    d = Add(c, b)
    y = Conv<pads = [1, 1, 1, 1]>(d, wc)
}
"""


def residual() -> ir.Model:
    weights = np.random.default_rng(0).normal(size=(3, 4, 4, 3, 3)).astype(np.float32)
    return from_text(RESIDUAL, dict(zip(("wa", "wb", "wc"), weights, strict=True)))


def test_units_stand_beside_each_other_across_activations_and_sums() -> None:
    model = normalise(load(ir.to_proto(residual()))).model
    units = make_space(model, target("ort-cpu")).units
    first, second, third = (unit.name for unit in units)
    found = {(border.before, border.behind): border.numbers for border in borders(model, units)}
    assert found == {(first, second): 256, (first, third): 256, (second, third): 256}


def test_a_step_belongs_to_the_last_unit_before_it_and_else_to_the_first_behind() -> None:
    units = make_space(normalise(load(ir.to_proto(residual()))).model, target("ort-cpu")).units
    first, second, _ = (unit.name for unit in units)
    node = units[0].layers[0].node
    steps = [
        Step("", "QuantizeLinear", ("x",), ("q",), 1.0),
        Step(node, "QLinearConv", ("q",), ("a",), 2.0),
        Step("", "DequantizeLinear", ("a",), ("b",), 3.0),
        Step(units[1].layers[0].node, "Conv", ("b",), ("c",), 4.0),
    ]
    found = regions(steps, units)
    assert found.seconds == {first: 6.0, second: 4.0}
    assert found.steps == {first: 3, second: 1}


def test_the_profile_of_a_model_names_its_layers_and_what_they_take() -> None:
    model = layer_chain("Conv", "dense", 2)
    prepared = prepare(ir.to_proto(model), "ort-cpu")
    named = ir.to_proto(prepared.model).SerializeToString()
    steps = OnnxRuntime().profile(named, feeds_for(model)[0], runs=3)
    layers = {step.layer for step in steps if step.layer}
    assert layers == {layer.node for unit in prepared.space.units for layer in unit.layers}
    assert sum(step.seconds for step in steps) > 0


def test_the_usual_time_leaves_out_what_was_disturbed() -> None:
    assert usual([3.0, 1.0, 2.0, 100.0]) == 2.0
    assert usual([]) == 0.0


def test_what_was_timed_is_read_again_and_damage_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "t.timings"
    assert Notebook(path, "m")("plan", lambda: {"ratio": 1.5}) == {"ratio": 1.5}
    with path.open("a", encoding="utf-8") as file:
        file.write('{"asked": "x", "ans')

    def never() -> dict[str, float]:
        pytest.fail("it was measured before")

    assert Notebook(path, "m")("plan", never) == {"ratio": 1.5}
    assert Notebook(path, "another")("plan", lambda: {"ratio": 2.0}) == {"ratio": 2.0}
