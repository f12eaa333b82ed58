"""fold-batch-norm."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq_passes import FoldBatchNorm
from tests.passes.proof import Case, FiveTests, parse, run

RTOL = 1e-5  # scale and shift are rounded into the weights once, instead of once per number
HALF = "float[2] s = {1.5, -0.5}, float[2] b = {0.1, 0.2}, float[2] m = {0.3, -0.4}, float[2] v = {0.9, 1.1}"
CONV = "float[2,1,1,2] w = {1.0, 2.0, -3.0, 0.5}"
SQUARE = "float[2,2] w = {1.0, 2.0, -3.0, 0.5}"
NORM = "BatchNormalization(a, s, b, m, v)"
X = "float[1,1,2,3] x"
Y = "float[1,2,2,2] y"
CASES = (
    Case("a Conv", f"g ({X}) => ({Y}) <{CONV}, {HALF}> {{ a = Conv(x, w) y = {NORM} }}", "Conv", rtol=RTOL),
    Case(
        "a Conv with bias",
        f"g ({X}) => ({Y}) <{CONV}, float[2] c = {{0.5, -0.5}}, {HALF}> {{ a = Conv(x, w, c) z = {NORM} y = Relu(z) }}",
        "Conv Relu",
        rtol=RTOL,
    ),
    Case(
        "a grouped ConvTranspose",
        "g (float[1,4,2,2] x) => (float[1,2,2,3] y) <float[4,1,1,2] w = {1.0, 2.0, -3.0, 0.5, 1.5, -2.0, 3.0, 0.25},"
        f" {HALF}> {{ a = ConvTranspose<group = 2>(x, w) y = {NORM} }}",
        "ConvTranspose",
        rtol=RTOL,
    ),
    Case(
        "a ConvTranspose",
        "g (float[1,2,2,2] x) => (float[1,2,2,3] y) <float[2,2,1,2] w = {1.0, 2.0, -3.0, 0.5, 1.5, -2.0, 3.0, 0.25},"
        f" {HALF}> {{ a = ConvTranspose(x, w) y = {NORM} }}",
        "ConvTranspose",
        rtol=RTOL,
    ),
    Case(
        "a Gemm",
        f"g (float[3,2] x) => (float[3,2] y) <{SQUARE}, float[2] c = {{0.5, -0.5}}, {HALF}>"
        f" {{ a = Gemm<alpha = 0.5, beta = 2.0>(x, w, c) y = {NORM} }}",
        "Gemm",
        rtol=RTOL,
    ),
    Case(
        "a transposed Gemm with one number as bias",
        f"g (float[3,2] x) => (float[3,2] y) <{SQUARE}, float[1] c = {{0.5}}, {HALF}>"
        f" {{ a = Gemm<transB = 1>(x, w, c) y = {NORM} }}",
        "Gemm",
        rtol=RTOL,
    ),
    Case(
        "Mul and Add per channel",
        f"g ({X}) => ({Y}) <{CONV}, float[2,1,1] p = {{2.0, -1.0}}, float[1,2,1,1] q = {{0.5, 1.5}}>"
        " { a = Conv(x, w) n = Mul(a, p) z = Add(q, n) y = Relu(z) }",
        "Conv Relu",
        rtol=RTOL,
    ),
    Case(
        "Mul by one number",
        f"g ({X}) => ({Y}) <{CONV}, float p = {{2.0}}> {{ a = Conv(x, w) y = Mul(p, a) }}",
        "Conv",
        rtol=RTOL,
    ),
    Case(
        "in a body",
        f"""g (bool f, {X}) => ({Y}) <{CONV}, {HALF}> {{
            y = If (f) <then_branch = t () => (float[1,2,2,2] k) {{ a = Conv(x, w) k = {NORM} }},
                        else_branch = e () => (float[1,2,2,2] l) {{ l = ConstantOfShape(o) }}>
        }}""".replace("v = {0.9, 1.1}", "v = {0.9, 1.1}, int64[4] o = {1, 2, 2, 2}"),
        "If Conv ConstantOfShape",
        rtol=RTOL,
    ),
    Case(
        "read by somebody else",
        f"g ({X}) => ({Y}, float[1,2,2,2] z) <{CONV}, {HALF}> {{ a = Conv(x, w) y = {NORM} z = Neg(a) }}",
        "",
        fires=False,
    ),
    Case(
        "a layer whose result is public",
        f"g ({X}) => ({Y}, float[1,2,2,2] a) <{CONV}, {HALF}> {{ a = Conv(x, w) y = {NORM} }}",
        "",
        fires=False,
    ),
    Case(
        "a shared weight",
        f"g ({X}) => ({Y}, float[1,2,2,2] z) <{CONV}, {HALF}> {{ a = Conv(x, w) y = {NORM} z = Conv(x, w) }}",
        "",
        fires=False,
    ),
    Case(
        "a weight that is computed",
        f"g ({X}, float[2,1,1,2] w) => ({Y}) <{HALF}> {{ a = Conv(x, w) y = {NORM} }}",
        "",
        fires=False,
    ),
    Case(
        "numbers per column, not per channel",
        f"g ({X}) => ({Y}) <{CONV}, float[2] p = {{2.0, -1.0}}> {{ a = Conv(x, w) y = Mul(a, p) }}",
        "",
        fires=False,
    ),
    Case(
        "a constant that makes the result bigger",
        f"g ({X}) => (float[2,2,2,2] y) <{CONV}, float[2,1,1,1] p = {{2.0, -1.0}}> {{ a = Conv(x, w) y = Mul(a, p) }}",
        "",
        fires=False,
    ),
    Case(
        "a Gemm with a bias per row",
        f"g (float[2,2] x) => (float[2,2] y) <{SQUARE}, float[2,1] c = {{0.5, 1.0}}, {HALF}>"
        f" {{ a = Gemm(x, w, c) y = {NORM} }}",
        "",
        fires=False,
    ),
    Case(
        "scales that overflow",
        f"g ({X}) => ({Y}) <{CONV}, float[2,1,1] p = {{3e38, 1.0}}> {{ a = Conv(x, w) y = Mul(a, p) }}",
        "",
        fires=False,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestFoldBatchNorm(FiveTests):
    make = FoldBatchNorm()


def test_training_mode_is_left() -> None:
    model = parse(
        f"g ({X}) => ({Y}) <{CONV}, {HALF}>"
        " { a = Conv(x, w) y, mm, vv = BatchNormalization<training_mode = 1>(a, s, b, m, v) }"
    )
    assert not FoldBatchNorm()(model).modified


def test_the_weight_keeps_its_name_and_the_source_its_numbers() -> None:
    source = CASES[1].model()
    copy = source.clone()
    FoldBatchNorm()(copy)
    before, after = (model.graph.initializers["w"].const_value for model in (source, copy))
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before.numpy().reshape(-1), [1.0, 2.0, -3.0, 0.5])
    assert not np.array_equal(before.numpy(), after.numpy())


def test_a_shared_bias_is_not_changed_for_the_other_reader() -> None:
    model = parse(
        f"g ({X}) => ({Y}, float[2] z) <{CONV}, float[2] c = {{0.5, -0.5}}, {HALF}>"
        f" {{ a = Conv(x, w, c) y = {NORM} z = Neg(c) }}"
    )
    feeds, expected = run(model)
    assert FoldBatchNorm()(model).modified
    for one, other in zip(expected, run(model, feeds)[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=RTOL, atol=RTOL)


def test_float16_is_folded_in_float64() -> None:
    model = parse(f"g ({X}) => ({Y}) <{CONV}, {HALF}> {{ a = Conv(x, w) y = {NORM} }}")
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16))
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    assert FoldBatchNorm()(model).modified
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    variance = np.array([0.9, 1.1], np.float16).astype(np.float64)
    exact = np.array([1.5, 1.5]) / np.sqrt(variance + 1e-5)
    np.testing.assert_array_equal(weight.numpy()[:, 0, 0, 0], exact.astype(np.float16))
