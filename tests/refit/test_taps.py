"""Tensors inside a piece, from a model of what they need alone."""

import numpy as np
import onnx
import pytest

from onnxmpq.refit.taps import Taps, part_for
from onnxmpq.runtimes import get_runtime

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 4] x, float[n, 4] z, bool c) => (float[n, 4] y) {
    a = Relu(x)
    b = Mul(a, w)
    d = If(c) <
        then_branch = yes () => (float[n, 4] p) { p = Add(b, z) },
        else_branch = no () => (float[n, 4] q) { q = Identity(b) }
    >
    far = Exp(d)
    y = Add(far, z)
}
"""


@pytest.fixture(name="piece")
def piece_of_text() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full(4, 2, np.float32), "w"))
    return model


def test_inputs_are_given_straight_and_nothing_is_loaded_for_them(piece: onnx.ModelProto) -> None:
    taps = Taps(get_runtime("onnxruntime"), piece, {"x"})
    assert taps.session is None
    assert taps.needs == {"x"}
    x = np.ones((1, 4), np.float32)
    assert taps.run({"x": x})["x"] is x


def test_only_what_a_tensor_needs_is_run(piece: onnx.ModelProto) -> None:
    taps = Taps(get_runtime("onnxruntime"), piece, {"b", "z"})
    assert taps.needs == {"x", "z"}
    found = taps.run({"x": np.full((1, 4), -1.0, np.float32) ** 2, "z": np.zeros((1, 4), np.float32)})
    np.testing.assert_array_equal(found["b"], np.full((1, 4), 2, np.float32))
    assert [node.op_type for node in part_for(piece, ["b"]).graph.node] == ["Relu", "Mul"]


def test_what_bodies_read_is_needed_too(piece: onnx.ModelProto) -> None:
    taps = Taps(get_runtime("onnxruntime"), piece, {"d"})
    assert taps.needs == {"x", "z", "c"}
    feed = {"x": np.ones((1, 4), np.float32), "z": np.full((1, 4), 3, np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(taps.run(feed)["d"], np.full((1, 4), 5, np.float32))
