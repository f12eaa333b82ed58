"""equalise-layers."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from onnxmpq_passes import EqualiseLayers
from tests.passes.proof import Case, FiveTests, add_weight, parse, run

X = "float[2,1,4,4] x"
ONE = "float[2,1,1,1] v = {64.0, 0.03}, float[2] b = {3.0, -0.01}"
TWO = "float[1,2,1,1] w = {0.25, 5.0}"
Y = "float[2,1,4,4] y"
ROW = "float[2,2] v = {64.0, 0.03, 7.0, -0.02}"
END = "float[2,1] w = {0.25, 5.0}"
CASES = (
    Case(
        "two Convs with Relu between",
        f"g ({X}) => ({Y}) <{ONE}, {TWO}> {{ a = Conv(x, v, b) r = Relu(a) y = Conv(r, w) }}",
        "Conv Relu Conv",
    ),
    Case(
        "padded Convs and pools",
        f"g ({X}) => (float[2,1,6,6] y) <{ONE}, {TWO}> {{ a = Conv(x, v, b) r = LeakyRelu<alpha = 0.3>(a)"
        " m = MaxPool<kernel_shape = [2, 2], pads = [1, 1, 1, 1]>(r)"
        " p = AveragePool<kernel_shape = [2, 2], count_include_pad = 1>(m) y = Conv<pads = [1, 1, 1, 1]>(p, w) }",
        "Conv LeakyRelu MaxPool AveragePool Conv",
    ),
    Case(
        "a slope for each channel",
        f"g ({X}) => ({Y}) <{ONE}, {TWO}, float[2,1,1] s = {{-0.5, 2.0}}>"
        " { a = Conv(x, v, b) r = PRelu(a, s) y = Conv(r, w) }",
        "Conv PRelu Conv",
    ),
    Case(
        "a depthwise Conv between two others",
        f"g ({X}) => ({Y}) <{ONE}, float[4,1,1,1] d = {{0.5, -40.0, 9.0, 0.1}},"
        " float[1,4,1,1] w = {0.2, 5.0, 1.0, 9.0}>"
        " { a = Conv(x, v, b) r = Relu(a) e = Conv<group = 2>(r, d) q = Relu(e) y = Conv(q, w) }",
        "Conv Relu Conv Relu Conv",
    ),
    Case(
        "a grouped Conv",
        "g (float[2,1,4,4] x) => (float[2,2,4,4] y) <float[4,1,1,1] v = {64.0, 0.03, -7.0, 0.5},"
        " float[2,2,1,1] w = {0.25, 5.0, 1.0, 30.0}> { a = Conv(x, v) y = Conv<group = 2>(a, w) }",
        "Conv Conv",
    ),
    Case(
        "planes that are flattened for a Gemm",
        f"g (float[2,1,1,2] x) => (float[2,1] y) <{ONE}, float[1,4] w = {{0.25, 5.0, 0.1, 8.0}}>"
        " { a = Conv(x, v, b) f = Flatten(a) y = Gemm<alpha = 0.5, transB = 1>(f, w) }",
        "Conv Flatten Gemm",
    ),
    Case(
        "planes whose mean goes to a MatMul",
        f"g ({X}) => (float[2,1] y) <float[2,2,1,1] p, float[2,2] f, {ONE}, {END}, int64[2] s = {{0, -1}}>"
        " { a = Conv(x, v, b) p = GlobalAveragePool(a) f = Reshape(p, s) y = MatMul(f, w) }",
        "Conv GlobalAveragePool Reshape MatMul",
    ),
    Case(
        "means over positions",
        f"g ({X}) => (float[2,1] y) <{ONE}, {END}>"
        " { a = Conv(x, v, b) p = ReduceMean<axes = [-1, 2], keepdims = 0>(a) y = MatMul(p, w) }",
        "Conv ReduceMean MatMul",
    ),
    Case(
        "positions that are squeezed away",
        f"g ({X}) => (float[2,1] y) <{ONE}, {END}, int64[2] s = {{2, 3}}>"
        " { a = Conv(x, v, b) p = GlobalMaxPool(a) f = Squeeze(p, s) y = MatMul(f, w) }",
        "Conv GlobalMaxPool Squeeze MatMul",
    ),
    Case(
        "two MatMuls with an Add behind the first",
        f"g (float[3,5,2] x) => (float[3,5,1] y) <{ROW}, float[2] b = {{3.0, -0.5}}, {END}>"
        " { a = MatMul(x, v) c = Add(b, a) r = Relu(c) y = MatMul(r, w) }",
        "MatMul Add Relu MatMul",
    ),
    Case(
        "two Gemms",
        f"g (float[3,2] x) => (float[3,1] y) <{ROW}, float[1,2] b = {{3.0, -0.5}}, {END}>"
        " { a = Gemm<transB = 1, beta = 2.0>(x, v, b) r = Abs(a) y = Gemm(r, w) }",
        "Gemm Abs Gemm",
    ),
    Case(
        "in a body",
        f"""g (bool f, {X}) => ({Y}) <{ONE}, {TWO}, int64[4] o = {{2, 1, 4, 4}}> {{
            y = If (f) <then_branch = t () => (float[2,1,4,4] k) {{ a = Conv(x, v, b) k = Conv(a, w) }},
                        else_branch = e () => (float[2,1,4,4] l) {{ l = ConstantOfShape(o) }}>
        }}""",
        "If Conv Conv ConstantOfShape",
    ),
    Case(
        "a channel that is not computed",
        f"g ({X}) => ({Y}) <float[2,1,1,1] v = {{0.0, 0.03}}, float[2] b = {{3.0, -0.01}}, {TWO}>"
        " { a = Conv(x, v, b) y = Conv(a, w) }",
        "Conv Conv",
    ),
    Case(
        "read by two",
        f"g ({X}) => ({Y}, float[2,2,4,4] z) <{ONE}, {TWO}> {{ a = Conv(x, v, b) z = Neg(a) y = Conv(a, w) }}",
        "",
        fires=False,
    ),
    Case(
        "a result that is public",
        f"g ({X}) => ({Y}, float[2,2,4,4] a) <{ONE}, {TWO}> {{ a = Conv(x, v, b) y = Conv(a, w) }}",
        "",
        fires=False,
    ),
    Case(
        "Clip between",
        f"g ({X}) => ({Y}) <{ONE}, {TWO}, float l = {{0.0}}, float h = {{6.0}}>"
        " { a = Conv(x, v, b) r = Clip(a, l, h) y = Conv(r, w) }",
        "",
        fires=False,
    ),
    Case(
        "Sigmoid between",
        f"g ({X}) => ({Y}) <{ONE}, {TWO}> {{ a = Conv(x, v, b) r = Sigmoid(a) y = Conv(r, w) }}",
        "",
        fires=False,
    ),
    Case(
        "a shared weight",
        f"g ({X}) => ({Y}, {Y.replace('y', 'z')}) <{ONE}, {TWO}>"
        " { a = Conv(x, v, b) y = Conv(a, w) c = Concat<axis = 1>(x, x) z = Conv(c, w) }",
        "",
        fires=False,
    ),
    Case(
        "a shared bias",
        f"g ({X}) => ({Y}, float[2] z) <{ONE}, {TWO}> {{ a = Conv(x, v, b) y = Conv(a, w) z = Neg(b) }}",
        "",
        fires=False,
    ),
    Case(
        "a public weight",
        f"g ({X}) => ({Y}, float[2,1,1,1] v) <{ONE}, {TWO}> {{ a = Conv(x, v, b) y = Conv(a, w) }}",
        "",
        fires=False,
    ),
    Case(
        "a weight that is computed",
        f"g ({X}, float[1,2,1,1] w) => ({Y}) <{ONE}> {{ a = Conv(x, v, b) y = Conv(a, w) }}",
        "",
        fires=False,
    ),
    Case(
        "a bias that is computed",
        f"g ({X}, float[2] b) => ({Y}) <float[2,1,1,1] v = {{64.0, 0.03}}, {TWO}>"
        " { a = Conv(x, v, b) y = Conv(a, w) }",
        "",
        fires=False,
    ),
    Case(
        "a bias for each row",
        f"g (float[2,2] x) => (float[2,1] y) <{ROW}, float[2,1] b = {{3.0, -0.5}}, {END}>"
        " { a = Gemm(x, v, b) y = Gemm(a, w) }",
        "",
        fires=False,
    ),
    Case(
        "a constant Add that is no bias",
        f"g ({X}) => ({Y}) <{ONE}, {TWO}, float c = {{1.0}}> {{ a = Conv(x, v, b) r = Add(a, c) y = Conv(r, w) }}",
        "",
        fires=False,
    ),
    Case(
        "a Gemm that transposes its input",
        f"g (float[2,2] x) => (float[2,1] y) <{ROW}, {END}> {{ a = MatMul(x, v) y = Gemm<transA = 1>(a, w) }}",
        "",
        fires=False,
    ),
    Case(
        "columns, not channels, multiplied",
        "g (float[1,1,2,2] x) => (float[1,2,2,1] y)"
        f" <float[2,1,1,1] v = {{64.0, 0.03}}, {END}> {{ a = Conv(x, v) y = MatMul(a, w) }}",
        "",
        fires=False,
    ),
    Case(
        "channels joined with samples",
        f"g (float[2,1,2,1] x) => (float[2,2,1] y) <{ONE}, {END}, int64[3] s = {{2, 2, 2}}>"
        " { a = Conv(x, v, b) f = Reshape(a, s) y = MatMul(f, w) }",
        "",
        fires=False,
    ),
    Case(
        "the mean over channels",
        f"g ({X}) => (float[2,1,4,4] y) <{ONE}, float[1,1,1,1] w = {{0.25}}>"
        " { a = Conv(x, v, b) m = ReduceMean<axes = [1]>(a) y = Conv(m, w) }",
        "",
        fires=False,
    ),
    Case(
        "even ranges",
        f"g ({X}) => ({Y}) <float[2,1,1,1] v = {{1.5, -1.0}}, float[1,2,1,1] w = {{1.0, 2.0}}>"
        " { a = Conv(x, v) y = Conv(a, w) }",
        "",
        fires=False,
    ),
    Case(
        "channels that are dead on one side",
        f"g ({X}) => ({Y}) <float[2,1,1,1] v = {{0.0, 1.0}}, float[1,2,1,1] w = {{8.0, 0.0}}>"
        " { a = Conv(x, v) y = Conv(a, w) }",
        "",
        fires=False,
    ),
    Case(
        "numbers that would be denormal",
        f"g ({X}) => ({Y}) <float[2,1,1,2] v = {{1e9, 1e-37, 1e9, 1.0}}, float[2] b = {{0.0, 1e-37}}, {TWO}>"
        " { a = Conv<pads = [0, 0, 0, 1]>(x, v, b) y = Conv(a, w) }",
        "",
        fires=False,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestEqualiseLayers(FiveTests):
    make = EqualiseLayers()


def _weights(model: ir.Model) -> Mapping[str, np.ndarray]:
    return {name: v.const_value.numpy() for name, v in model.graph.initializers.items() if v.const_value is not None}


@pytest.mark.parametrize("case", [case for case in CASES if case.fires], ids=str)
def test_only_powers_of_two_are_multiplied_in(case: Case) -> None:
    model = case.model()
    before = _weights(model)
    EqualiseLayers()(model)
    for name, after in _weights(model).items():
        if after.dtype == np.float32:
            np.testing.assert_array_equal(np.frexp(before[name])[0], np.frexp(after)[0])


def test_ranges_meet_in_the_middle() -> None:
    model = CASES[0].model()
    EqualiseLayers()(model)
    weights = _weights(model)
    np.testing.assert_array_equal(weights["v"].reshape(-1), np.array([4.0, 0.48], np.float32))
    np.testing.assert_array_equal(weights["w"].reshape(-1), np.array([4.0, 0.3125], np.float32))
    np.testing.assert_array_equal(weights["b"], np.array([0.1875, -0.16], np.float32))


def _chain(spread: float) -> ir.Model:
    """Build Conv, depthwise Conv and Conv twice over, with uneven ranges."""
    model = parse(
        "g (float[1,3,9,9] x) => (float[1,5,9,9] y) { a = Conv(x, u) b = Relu(a)"
        " c = Conv<group = 8, pads = [1, 1, 1, 1]>(b, u) d = Relu(c) e = Conv(d, u) f = Relu(e)"
        " h = Conv<group = 8, pads = [1, 1, 1, 1]>(f, u) i = LeakyRelu(h) y = Conv(i, u) }"
    )
    random = np.random.default_rng(1)
    shapes = [(8, 3, 1, 1), (8, 1, 3, 3), (8, 8, 1, 1), (8, 1, 3, 3), (5, 8, 1, 1)]
    for index, node in enumerate(node for node in model.graph if node.op_type == "Conv"):
        uneven = random.standard_normal(shapes[index]) * np.exp(
            spread * random.standard_normal((shapes[index][0], 1, 1, 1))
        )
        add_weight(node, 1, f"w{index}", ir.tensor(uneven.astype(np.float32)))
    return model


@pytest.mark.parametrize("spread", [0.5, 2.0, 5.0])
def test_a_whole_chain_is_balanced_and_gives_the_same_numbers(spread: float) -> None:
    model = _chain(spread)
    feeds, expected = run(model)
    assert EqualiseLayers()(model).modified
    np.testing.assert_array_equal(run(model, feeds)[1][0], expected[0])
    weights = [np.abs(_weights(model)[f"w{index}"]) for index in range(5)]
    for first, second in pairwise(weights):
        taken = second.max((1, 2, 3)) if second.shape[1] == 1 else second.max((0, 2, 3))
        np.testing.assert_array_less(np.abs(np.log2(first.max((1, 2, 3)) / taken)), 1 + 1e-6)


def test_the_source_keeps_its_numbers() -> None:
    source = CASES[0].model()
    copy = source.clone()
    EqualiseLayers()(copy)
    assert not np.array_equal(_weights(source)["v"], _weights(copy)["v"])
    np.testing.assert_array_equal(_weights(source)["v"].reshape(-1), np.array([64.0, 0.03], np.float32))


def test_half_precision_is_left() -> None:
    model = CASES[0].model()
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16))
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    assert not EqualiseLayers()(model).modified


def test_it_is_no_part_of_normalising() -> None:
    records = normalise(load(CASES[0].model())).records
    assert not [record for record in records if record.spec == "equalise-layers"]
