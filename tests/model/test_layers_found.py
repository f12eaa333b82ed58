"""Layers: every kind of node that can be quantised is seen for what it is, and nothing else is."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq.artifacts import Layer
from onnxmpq.model.layers import (
    all_graphs,
    all_nodes,
    constant,
    dimensions,
    find_layers,
    plain_product,
    sole_use,
    subgraphs,
)
from tests.graphs import Array, from_text, layer_chain, normal, rng


def ones(*shape: int, dtype: type[np.generic] = np.float32) -> Array:
    """Return a weight of that shape: only shapes and types matter here."""
    return np.ones(shape, dtype)


def layers(text: str, **weights: Array) -> tuple[Layer, ...]:
    """Return the layers of a graph in text form."""
    return find_layers(normal(from_text(text, weights)))


def only(text: str, **weights: Array) -> Layer:
    """Return the one layer of a graph in text form."""
    (layer,) = layers(text, **weights)
    return layer


def test_a_convolution_keeps_a_scale_per_output_channel() -> None:
    layer = only(
        "g (float[n, 3, 9, 7] x) => (float[n, 8, 5, 7] y) { y = Conv<strides = [2, 1], pads = [1, 1, 1, 1]>(x, w, b) }",
        w=ones(8, 3, 3, 3),
        b=ones(8),
    )
    assert (layer.op, layer.grouping, layer.weights, layer.weight_shape) == ("Conv", "dense", ("w",), (8, 3, 3, 3))
    assert (layer.channel_axes, layer.inputs, layer.bias, layer.bias_add) == ((0,), (0,), "b", "")
    assert (layer.output, layer.weight_type, layer.in_body) == ("y", "FLOAT", False)
    assert layer.macs == 8 * 5 * 7 * (3 * 3 * 3)


@pytest.mark.parametrize(
    ("shape", "groups", "grouping"),
    [
        ((8, 8, 3, 3), 1, "dense"),
        ((8, 1, 3, 3), 8, "depthwise"),
        ((16, 1, 3, 3), 8, "grouped"),
        ((8, 2, 3, 3), 4, "grouped"),
    ],
)
def test_grouping_of_a_convolution_is_told(shape: tuple[int, ...], groups: int, grouping: str) -> None:
    layer = only(
        f"g (float[n, 8, 5, 5] x) => (float[n, {shape[0]}, 3, 3] y) {{ y = Conv<group = {groups}>(x, w) }}",
        w=ones(*shape),
    )
    assert (layer.grouping, layer.macs) == (grouping, shape[0] * 3 * 3 * shape[1] * 9)


def test_a_convolution_of_one_input_channel_is_dense() -> None:
    assert only("g (float[n, 1, 4] x) => (float[n, 6, 4] y) { y = Conv(x, w) }", w=ones(6, 1, 1)).grouping == "dense"


@pytest.mark.parametrize(("groups", "grouping"), [(1, "dense"), (2, "grouped"), (8, "depthwise")])
def test_a_transposed_convolution_has_its_channels_on_the_second_axis(groups: int, grouping: str) -> None:
    layer = only(
        f"g (float[n, 8, 5, 4] x) => (float[n, a, b, c] y) {{ y = ConvTranspose<group = {groups}>(x, w) }}",
        w=ones(8, 6, 2, 3),
    )
    assert (layer.grouping, layer.channel_axes) == (grouping, (1,))
    assert layer.macs == (8 * 5 * 4) * (6 * 2 * 3)


@pytest.mark.parametrize(("transposed", "axes"), [(0, (1,)), (1, (0,))])
def test_a_gemm_has_its_channels_where_its_weight_is_not_summed_over(transposed: int, axes: tuple[int]) -> None:
    layer = only(
        f"g (float[5, 4] x) => (float[5, 6] y) {{ y = Gemm<transB = {transposed}>(x, w, b) }}",
        w=ones(6, 4) if transposed else ones(4, 6),
        b=ones(6),
    )
    assert (layer.channel_axes, layer.bias, layer.macs) == (axes, "b", 5 * 6 * 4)


@pytest.mark.parametrize("added", ["Add(m, b)", "Add(b, m)"])
def test_a_bias_added_to_a_product_belongs_to_it(added: str) -> None:
    layer = only(
        f"g (float[n, 7, 4] x) => (float[n, 7, 6] y) {{ m = MatMul(x, w) y = {added} }}", w=ones(4, 6), b=ones(6)
    )
    assert (layer.bias, layer.bias_add != "", layer.output) == ("b", True, "y")
    assert (layer.channel_axes, layer.inputs, layer.macs) == ((1,), (0,), 7 * 6 * 4)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("m = MatMul(x, w) y = Add(m, wide)", "float[n, 7, 6] y"),  # not one per channel
        ("m = MatMul(x, w) y = Add(m, m)", "float[n, 7, 6] y"),
        ("m = MatMul(x, w) y = Add(m, b)", "float[n, 7, 6] y, float[n, 7, 6] m"),  # the product itself is wanted
        ("m = MatMul(x, w) y = Mul(m, b)", "float[n, 7, 6] y"),
        ("m = MatMul(x, w) y = Add(m, z)", "float[n, 7, 6] y"),  # not constant
    ],
)
def test_what_is_no_bias_of_the_product_is_left_alone(body: str, outputs: str) -> None:
    layer = only(
        f"g (float[n, 7, 4] x, float[6] z) => ({outputs}) {{ {body} }}", w=ones(4, 6), b=ones(6), wide=ones(7, 1)
    )
    assert (layer.bias, layer.bias_add, layer.output) == ("", "", "m")


def test_a_weight_on_the_left_keeps_a_scale_per_row() -> None:
    layer = only("g (float[9, 5] x) => (float[6, 5] y) { y = MatMul(w, x) }", w=ones(6, 9))
    assert (layer.weights, layer.channel_axes, layer.inputs) == (("w",), (0,), (1,))
    assert layer.macs == 6 * 5 * 9


def test_a_batched_weight_keeps_a_scale_per_batch_and_column() -> None:
    layer = only("g (float[n, 3, 5, 8] x) => (float[n, 3, 5, 6] y) { y = MatMul(x, w) }", w=ones(3, 8, 6))
    assert (layer.channel_axes, layer.macs) == ((0, 2), 3 * 5 * 6 * 8)


def test_a_product_of_activations_has_no_weight() -> None:
    layer = only("g (float[n, 2, 5, 8] q, float[n, 2, 8, 7] k) => (float[n, 2, 5, 7] y) { y = MatMul(q, k) }")
    assert (layer.weights, layer.weight_shape, layer.inputs) == ((), (), (0, 1))
    assert (layer.weight_type, layer.macs) == ("FLOAT", 2 * 5 * 7 * 8)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_a_recurrent_layer_multiplies_all_weights_at_every_step(op: str, gates: int) -> None:
    layer = only(
        f"g (float[5, n, 16] x) => (float[5, 2, n, 8] y) "
        f'{{ y = {op}<hidden_size = 8, direction = "bidirectional">(x, w, r) }}',
        w=ones(2, gates * 8, 16),
        r=ones(2, gates * 8, 8),
    )
    assert (layer.weights, layer.channel_axes) == (("w", "r"), (0, 1))
    assert layer.macs == 5 * 2 * gates * 8 * (16 + 8)


def test_an_embedding_keeps_a_scale_per_row() -> None:
    layer = only("g (int64[n, 5] i) => (float[n, 5, 16] y) { y = Gather(w, i) }", w=ones(40, 16))
    assert (layer.op, layer.weights, layer.channel_axes, layer.inputs, layer.macs) == ("Gather", ("w",), (0,), (), 0)


def test_what_cannot_be_quantised_is_no_layer() -> None:
    assert not layers("g (int64[5] i) => (float[40, 5] y) { y = Gather<axis = 1>(w, i) }", w=ones(40, 16))
    assert not layers("g (int64[5] i) => (float[5] y) { y = Gather(w, i) }", w=ones(40))
    assert not layers("g (int64[n, 4] x) => (int64[n, 4] y) { y = MatMul(x, w) }", w=ones(4, 4, dtype=np.int64))
    assert not layers("g (float[n, 4] x) => (float[n] y) { y = MatMul(x, w) }", w=ones(4))
    assert not layers("g (float[n, 4, 5, 5] x, float[8, 4, 1, 1] w) => (float[n, 8, 5, 5] y) { y = Conv(x, w) }")
    assert not layers("g (int32[3, 4] x, int32[4, 3] z) => (int32[3, 3] y) { y = MatMul(x, z) }")


def test_layers_that_share_a_weight_are_each_found_with_it() -> None:
    found = layers(
        "g (float[n, 4] x) => (float[n, 4] y) { a = MatMul(x, w) r = Relu(a) y = Gemm<transB = 1>(r, w) }",
        w=ones(4, 4),
    )
    assert [(layer.op, layer.weights, layer.channel_axes) for layer in found] == (
        [("MatMul", ("w",), (1,)), ("Gemm", ("w",), (0,))]
    )


def test_half_precision_weights_are_told_by_their_type() -> None:
    text = "g (float16[n, 4] x) => (float16[n, 6] y) { y = MatMul(x, w) }"
    assert only(text, w=ones(4, 6, dtype=np.float16)).weight_type == "FLOAT16"


IN_BODY = """g (bool c, float[n, 4] x) => (float[n, 4] y) {
    a = MatMul(x, outer)
    y = If(c) <
        then_branch = t () => (float[n, 4] p) { p = MatMul(a, inner) },
        else_branch = e () => (float[n, 4] q) { q = MatMul(a, outer) }
    >
}"""


def in_body() -> ir.Model:
    """Build a model with layers in both bodies of an If; one body holds its weight itself."""
    model = ir.to_proto(from_text(IN_BODY, {"outer": ones(4, 4)}))
    branches = model.graph.node[1].attribute
    branches[0].g.initializer.append(onnx.numpy_helper.from_array(ones(4, 4), "inner"))
    return normal(ir.from_proto(model))


def test_layers_in_the_bodies_of_an_if_are_found_and_marked() -> None:
    model = in_body()
    assert [(layer.weights, layer.in_body) for layer in find_layers(model)] == (
        [(("outer",), False), (("inner",), True), (("outer",), True)]
    )
    assert len(list(all_graphs(model))) == 3
    assert sum(len(subgraphs(node)) for node in all_nodes(model)) == 2


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_every_layer_of_a_chain_is_found_in_order(op: str) -> None:
    found = find_layers(normal(layer_chain(op)))
    assert [layer.weights for layer in found] == [("w1",), ("w2",)]


@pytest.mark.parametrize(
    ("attributes", "plain"),
    [("", True), ("<transB = 1>", True), ("<transA = 1>", False), ("<alpha = 0.5>", False), ("<beta = 2.0>", False)],
)
def test_a_gemm_with_factors_is_no_plain_product(attributes: str, plain: bool) -> None:
    model = from_text(f"g (float[4, 4] x) => (float[4, 4] y) {{ y = Gemm{attributes}(x, w) }}", {"w": ones(4, 4)})
    assert plain_product(model.graph[0]) == plain


def test_a_constant_is_what_nobody_can_override() -> None:
    model = from_text("g (float[4] x, float[4] w) => (float[4] y, float[4] z) { y = Add(x, w) z = Add(x, b) }")
    model.graph.inputs[1].const_value = ir.tensor(rng().normal(size=4).astype(np.float32))
    assert [constant(value) for value in model.graph[0].inputs] == [None, None]
    assert constant(None) is None


def test_the_sole_reader_is_none_where_a_value_is_seen_elsewhere() -> None:
    model = from_text(
        "g (float[4] x) => (float[4] y, float[4] b) { a = Relu(x) b = Neg(a) c = Neg(b) d = Add(c, c) y = Abs(d) }"
    )
    reader = {value.name: sole_use(value) for node in model.graph for value in node.outputs}
    assert reader["a"] is model.graph[1]
    assert reader["d"] is model.graph[4]
    assert (reader["b"], reader["c"], reader["y"]) == (None, None, None)


def test_unknown_dimensions_are_none() -> None:
    model = from_text("g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }")
    assert dimensions(model.graph.inputs[0]) == (None, 4)
    assert dimensions(ir.Value(name="v")) is None
    assert dimensions(None) is None
