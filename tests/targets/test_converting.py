"""Placement where every operator computes in one type: what is given in which, and what is converted for whom."""

from collections.abc import Mapping

import numpy as np
import pytest

from onnxmpq.artifacts import Option
from onnxmpq.targets import Target
from onnxmpq.targets import target as find_target
from onnxmpq.targets.placed import Constant, Placement
from onnxmpq.targets.placement import place
from onnxmpq.targets.space import make_space
from tests.graphs import Array, from_text, normal

TOKENS = "float[1, 6, 8]"


def weights(*names: str) -> dict[str, Array]:
    """Return weights: placement does not look at their numbers."""
    return {name: np.ones((8, 8), np.float32) for name in names}


def placed(text: str, arrays: Mapping[str, Array], plan: Mapping[str, str], target: Target | None = None) -> Placement:
    """Place a plan on a graph in ONNX text form."""
    model, target = normal(from_text(text, arrays)), target or find_target("qnn")
    space = make_space(model, target)
    return place(model, space, target, {name: Option.parse(option) for name, option in plan.items()})


def told(placement: Placement) -> list[str]:
    """Write pairs: tensor, type, what it is made of, what shares its scale, who reads it."""
    lines = []
    for pair in placement.pairs:
        group = "".join(f"={name}" for name in pair.group if name != pair.tensor)
        behind = f" of {pair.behind}" if pair.behind else ""
        readers = [name if index == 0 else f"{name}.{index}" for name, index in pair.readers]
        lines.append(f"{pair.tensor}{group} {pair.type}{behind}: {' '.join([*readers, *['out'] * pair.public])}")
    return lines


CHAIN = f"g ({TOKENS} x) => ({TOKENS} y) {{ a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2) }}"


def test_a_layer_reads_and_gives_codes_of_its_bits() -> None:
    assert told(placed(CHAIN, weights("w1", "w2"), {"MatMul_0": "w8a8", "MatMul_1": "w8a8"})) == [
        "x uint8: MatMul_0",
        "a uint8: Relu_0",
        "r uint8: MatMul_1",
        "y uint8: out",
    ]


def test_a_follower_computes_in_the_type_in_which_it_is_read_and_its_input_is_converted() -> None:
    assert told(placed(CHAIN, weights("w1", "w2"), {"MatMul_0": "w8a8", "MatMul_1": "w8a16"})) == [
        "x uint8: MatMul_0",
        "a uint8: ",
        "a uint16 of uint8: Relu_0",
        "r uint16: MatMul_1",
        "y uint16: out",
    ]


def test_a_follower_that_is_read_in_two_types_computes_in_the_wider_one() -> None:
    text = (
        f"g ({TOKENS} x) => ({TOKENS} y, {TOKENS} z) {{ r = Relu(x) h = MatMul(r, w0) s = Sigmoid(h) "
        "y = MatMul(s, w1) z = MatMul(s, w2) }"
    )
    plan = {"MatMul_0": "w8a8", "MatMul_1": "w8a8", "MatMul_2": "w8a16"}
    assert told(placed(text, weights("w0", "w1", "w2"), plan)) == [
        "r uint8: MatMul_0",
        "h uint8: ",
        "h uint16 of uint8: Sigmoid_0",
        "s uint16: MatMul_2",
        "s uint8 of uint16: MatMul_1",
        "y uint8: out",
        "z uint16: out",
    ]


def test_an_input_that_nobody_gives_in_codes_is_quantised_for_each_of_its_readers() -> None:
    text = f"g ({TOKENS} x) => ({TOKENS} y, {TOKENS} z) {{ y = MatMul(x, w1) z = MatMul(x, w2) }}"
    assert told(placed(text, weights("w1", "w2"), {"MatMul_0": "w8a8", "MatMul_1": "w8a16"}))[:2] == [
        "x uint8: MatMul_0",
        "x uint16: MatMul_1",
    ]


PRODUCT = (
    f"g ({TOKENS} x) => (float[1, 6, 6] y) {{ q = MatMul(x, w1) k = MatMul(x, w2) "
    "t = Transpose<perm = [0, 2, 1]>(k) y = MatMul(q, t) }"
)


def test_the_second_operand_of_a_16_bit_product_is_made_signed_right_in_front_of_it() -> None:
    plan = {"MatMul_0": "w8a16", "MatMul_1": "w8a16", "MatMul_2": "a16"}
    assert told(placed(PRODUCT, weights("w1", "w2"), plan)) == [
        "x uint16: MatMul_0 MatMul_1",
        "q uint16: MatMul_2",
        "k=t uint16: Transpose_0",
        "t=k uint16: ",
        "t=k int16 of uint16: MatMul_2.1",
        "y uint16: out",
    ]


def test_that_of_an_8_bit_product_stays_unsigned() -> None:
    plan = {"MatMul_0": "w8a8", "MatMul_1": "w8a8", "MatMul_2": "a8"}
    assert "t=k uint8: MatMul_2.1" in told(placed(PRODUCT, weights("w1", "w2"), plan))


def test_a_bias_that_is_added_belongs_to_its_product() -> None:
    text = f"g ({TOKENS} x) => ({TOKENS} y) {{ a = MatMul(x, w1) y = Add(a, b) }}"
    arrays = {**weights("w1"), "b": np.ones(8, np.float32)}
    assert told(placed(text, arrays, {"MatMul_0": "w8a8"})) == ["x uint8: MatMul_0", "y uint8: out"]


NORM = (
    f"g ({TOKENS} x) => ({TOKENS} y) {{ a = MatMul(x, w1) p = Add(a, position) n = LayerNormalization(p, g, b) "
    "y = MatMul(n, w2) }"
)
NORM_ARRAYS = {
    **weights("w1", "w2"),
    "position": np.ones((1, 6, 8), np.float32),
    "g": np.ones(8, np.float32),
    "b": np.ones(8, np.float32),
}


@pytest.mark.parametrize(("bits", "kind"), [(8, "uint8"), (16, "uint16")])
def test_constants_of_followers_have_codes_of_their_own(bits: int, kind: str) -> None:
    found = placed(NORM, NORM_ARRAYS, {"MatMul_0": "w8a8", "MatMul_1": f"w8a{bits}"})
    assert found.constants == (
        Constant("LayerNormalization_0", 1, "g", "uint8"),
        Constant("LayerNormalization_0", 2, "b", "int32", scaled=True),
        Constant("Add_0", 1, "position", kind),
    )


@pytest.mark.parametrize("inputs", ["p, g", "p, g, moving"])
def test_a_norm_without_a_constant_bias_stays_float(inputs: str) -> None:
    text = NORM.replace("p, g, b", inputs).replace(f"({TOKENS} x)", f"({TOKENS} x, float[8] moving)")
    found = placed(text, NORM_ARRAYS, {"MatMul_0": "w8a8", "MatMul_1": "w8a8"})
    assert not found.constants
    assert told(found) == ["x uint8: MatMul_0", "a uint8: Add_0", "n uint8: MatMul_1", "y uint8: out"]


def test_a_follower_joins_though_one_of_its_inputs_comes_from_a_float_layer() -> None:
    text = f"g ({TOKENS} x) => ({TOKENS} y) {{ a = MatMul(x, w1) b = MatMul(x, w2) s = Add(a, b) y = MatMul(s, w3) }}"
    found = told(placed(text, weights("w1", "w2", "w3"), {"MatMul_0": "w8a8", "MatMul_2": "w8a16"}))
    assert "a uint16 of uint8: Add_0" in found
    assert "b uint16: Add_0.1" in found


MASKED = (
    "g (float[1, 6, 6] x, float[1, 6, 6] mask) => (float[1, 6, 6] y) { a = MatMul(x, w1) s = Add(a, MASK) "
    "p = Softmax(s) y = MatMul(p, w2) }"
)
SQUARE = {name: np.ones((6, 6), np.float32) for name in ("w1", "w2")}


@pytest.mark.parametrize(
    ("mask", "joins"), [("hiding", False), ("mask", False), ("a", True), ("position", True)], ids=str
)
def test_scores_stay_float_where_some_of_them_are_hidden(mask: str, joins: bool) -> None:
    """By a constant that would take all codes, or by what somebody computes in float."""
    arrays = {**SQUARE, "hiding": np.full((1, 6, 6), -10000.0, np.float32), "position": np.ones((1, 6, 6), np.float32)}
    found = told(placed(MASKED.replace("MASK", mask), arrays, {"MatMul_0": "w8a8", "MatMul_1": "w8a8"}))
    assert any(line.startswith("s uint8") for line in found) is joins
    assert "p uint8: MatMul_1" in found


def test_a_follower_between_float_layers_stays_float() -> None:
    text = f"g ({TOKENS} x) => ({TOKENS} y) {{ a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2) y = MatMul(b, w3) }}"
    assert told(placed(text, weights("w1", "w2", "w3"), {"MatMul_2": "w8a8"})) == ["b uint8: MatMul_2", "y uint8: out"]


def test_what_is_behind_the_last_layer_stays_float() -> None:
    text = f"g ({TOKENS} x) => ({TOKENS} y) {{ a = MatMul(x, w1) y = Softmax(a) }}"
    assert told(placed(text, weights("w1"), {"MatMul_0": "w8a8"})) == ["x uint8: MatMul_0", "a uint8: Softmax_0"]


@pytest.mark.parametrize("between", ["b = MatMul(a, a)", "r = Relu(a) b = MatMul(r, w0)", "b = MatMul(a, w0)"])
def test_a_float_layer_is_an_island_wherever_codes_come_from(between: str) -> None:
    text = f"g (float[1, 8, 8] x) => (float[1, 8, 8] y) {{ a = MatMul(x, w1) {between} y = MatMul(b, w2) }}"
    islands = placed(text, weights("w0", "w1", "w2"), {"MatMul_0": "w8a8", "MatMul_2": "w8a8"}).islands
    assert [(island.node, island.half) for island in islands] == [("MatMul_1", True)]


def test_a_float_plan_is_left_as_it_is() -> None:
    assert placed(CHAIN, weights("w1", "w2"), {}) == Placement((), (), (), find_target("qnn").dialect)


def test_a_fused_activation_is_no_follower_of_its_own() -> None:
    image = "float[1, 4, 8, 8]"
    text = f"g ({image} x) => ({image} y) {{ a = Conv(x, w1) r = Relu(a) s = Add(r, x) t = Relu(s) y = Conv(t, w2) }}"
    arrays = {name: np.ones((4, 4, 1, 1), np.float32) for name in ("w1", "w2")}
    assert told(placed(text, arrays, {"Conv_0": "w8a8", "Conv_1": "w8a8"})) == [
        "x uint8: Conv_0 Add_0.1",
        "r uint8: Add_0",
        "t uint8: Conv_1",
        "y uint8: out",
    ]
