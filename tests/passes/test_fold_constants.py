"""fold-constants."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq_passes import FoldConstants
from tests.passes.proof import Case, FiveTests, add_weight, initializers, operators, parse

W = "<float[2,3] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}>"
CASES = (
    Case(
        "a transposed weight",
        f"g (float[1,3] x) => (float[1,2] y) {W} {{ v = Transpose(w) y = MatMul(x, v) }}",
        "MatMul",
        rtol=1e-6,
    ),
    Case(
        "a chain",
        "g (float[1,6] x) => (float[1,6] y) <float[2,3] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, int64[2] s = {1, 6}>"
        " { a = Reshape(w, s) b = Neg(a) y = Mul(x, b) }",
        "Mul",
    ),
    Case(
        "a weight in integers",
        "g (float[2] x) => (float[2] y) <int8[2] q = {-3, 100}, float s = {0.5}, int8 z = {1}>"
        " { w = DequantizeLinear(q, s, z) y = Mul(x, w) }",
        "Mul",
    ),
    Case(
        "a weight in float16",
        "g (float[2] x) => (float[2] y) <float16[2] h = {14336, 16384}> { w = Cast<to = 1>(h) y = Mul(x, w) }",
        "Mul",
    ),
    Case(
        "a static shape",
        "g (float[2,3] x, float[1,3] u) => (float[2,3] y) { s = Shape(x) y = Expand(u, s) }",
        "Expand",
    ),
    Case(
        "part of a shape",
        "g (float[2,3] x, float[1] u) => (float[3] y) { s = Shape<start = -1>(x) y = Expand(u, s) }",
        "Expand",
    ),
    Case("a size", "g (int64[2,3] x) => (int64[2,3] y) { s = Size(x) y = Add(x, s) }", "Add"),
    Case(
        "in a body, of an outer weight",
        f"""g (bool c, float[1,3] x) => (float[1,2] y) {W} {{
            y = If (c) <then_branch = t () => (float[1,2] a) {{ v = Transpose(w) a = MatMul(x, v) }},
                        else_branch = e () => (float[1,2] b) {{ v = Transpose(w) n = Neg(v) b = MatMul(x, n) }}>
        }}""",
        "If MatMul MatMul",
    ),
    Case(
        "several outputs, one of them read",
        "g (float[1] x) => (float[1] y) <float[2] w = {1.0, 2.0}> { a, b = Split(w) y = Mul(x, b) }",
        "Mul",
    ),
    Case("what depends on an input", "g (float[2] x) => (float[2] y) { a = Neg(x) y = Exp(a) }", "", fires=False),
    Case(
        "an overridable weight",
        "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}> { a = Neg(w) y = Mul(x, a) }",
        "",
        fires=False,
    ),
    Case(
        "an output",
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1.0, 2.0}> { y = Neg(x) z = Neg(w) }",
        "",
        fires=False,
    ),
    Case(
        "a result far bigger than its inputs",
        "g (float[1] x) => (float[1000,1000] y) <int64[2] s = {1000, 1000}> { z = ConstantOfShape(s) y = Add(x, z) }",
        "",
        fires=False,
    ),
    Case(
        "quantised activations",
        "g (float[2] x) => (float[2] y) <float s = {0.5}, uint8 z = {3}>"
        " { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Exp(d) }",
        "",
        fires=False,
    ),
    Case(
        "a dynamic shape",
        "g (float[N,3] x, float[1,3] u) => (float[N,3] y) { s = Shape(x) y = Expand(u, s) }",
        "",
        False,
    ),
    Case(
        "numbers that no integer can hold",
        "g (int32[2] x) => (int32[2] y) <float[2] w = {1e20, 2.0}> { c = Cast<to = 6>(w) y = Add(x, c) }",
        "",
        fires=False,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestFoldConstants(FiveTests):
    make = FoldConstants()


def test_chance_is_never_folded() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> { r = RandomNormalLike(w) b = Bernoulli(w)"
        " s = Add(r, b) y = Add(x, s) }"
    )
    assert not FoldConstants()(model).modified


def test_the_same_done_twice_to_one_weight_gives_one_weight() -> None:
    model = parse(
        f"g (float[1,3] x) => (float[1,2] y, float[1,2] z) {W}"
        " { a = Transpose(w) b = Transpose(w) y = MatMul(x, a) n = Neg(x) z = MatMul(n, b) }"
    )
    FoldConstants()(model)
    first, _, second = model.graph
    assert first.inputs[1] is second.inputs[1]
    assert list(initializers(model)) == ["w", "a"]


def test_names_are_those_of_the_values_replaced() -> None:
    model = CASES[0].model()
    FoldConstants()(model)
    value = model.graph.initializers["v"]
    assert value.const_value is not None
    assert (value.dtype, value.shape) == (ir.DataType.FLOAT, ir.Shape([3, 2]))
    np.testing.assert_array_equal(value.const_value.numpy(), [[1, 4], [2, 5], [3, 6]])


@pytest.mark.parametrize(
    ("growth", "slack_bytes", "left"), [(1.25, 65536, "Add"), (1.25, 100, "Tile Add"), (50.0, 0, "Add")]
)
def test_how_much_bigger_a_result_may_be_is_an_option(growth: float, slack_bytes: int, left: str) -> None:
    model = parse(
        "g (float[40] x) => (float[40] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}, int64[1] n = {10}>"
        " { t = Tile(w, n) y = Add(x, t) }"
    )
    FoldConstants(growth=growth, slack_bytes=slack_bytes)(model)
    assert operators(model) == left


def test_integers_are_divided_towards_zero() -> None:
    model = parse(
        "g (int64[2] x) => (int64[2] y) <int64[2] a = {-7, 7}, int64[2] b = {2, -2}> { c = Div(a, b) y = Add(x, c) }"
    )
    FoldConstants()(model)
    value = model.graph.initializers["c"].const_value
    assert value is not None
    assert value.numpy().tolist() == [-3, -3]


def test_integers_of_four_bits_are_unpacked() -> None:
    model = parse(
        "g (float[3] x) => (float[3] y) { w = DequantizeLinear(q, s) y = Mul(x, w) }", opset=21, ir_version=10
    )
    node = next(iter(model.graph))
    codes = np.array([-8, 7, 3], np.int8).astype(ir.DataType.INT4.numpy())
    add_weight(node, 0, "q", ir.tensor(codes, ir.DataType.INT4))
    add_weight(node, 1, "s", ir.tensor(np.array(0.5, np.float32)))
    assert FoldConstants()(model).modified
    folded = model.graph.initializers["w"].const_value
    assert folded is not None
    assert folded.numpy().tolist() == [-4.0, 3.5, 1.5]
