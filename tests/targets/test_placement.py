"""Placement: exactly which tensors get Q/DQ, who reads them, what shares a scale, and who is protected."""

import itertools

import numpy as np
import pytest

from onnxmpq.artifacts import FLOAT, Option, Plan
from onnxmpq.targets import Target, parse_target
from onnxmpq.targets import target as find_target
from onnxmpq.targets.placement import Island, Pair, Placement, place
from onnxmpq.targets.space import make_space
from tests.graphs import Array, from_text, normal

IMAGE = "float[n, 4, 8, 8]"
W8A8, A8 = Option(8, 8), Option(0, 8)


def weight(*shape: int) -> Array:
    """Return a weight: placement does not look at its numbers."""
    return np.ones(shape, np.float32)


def convs(*names: str) -> dict[str, Array]:
    """Return weights of 1x1 convolutions."""
    return {name: weight(4, 4, 1, 1) for name in names}


GRAPHS: dict[str, tuple[str, dict[str, Array]]] = {
    "residual": (
        f"g ({IMAGE} x) => ({IMAGE} y) {{ a = Conv(x, w1) r = Relu(a) b = Conv(r, w2) s = Add(b, x) t = Relu(s) "
        "y = Conv(t, w3) }",
        convs("w1", "w2", "w3"),
    ),
    "concat": (
        f"g ({IMAGE} x) => ({IMAGE} y) {{ a = Conv(x, w1) b = Conv(x, w2) c = Concat<axis = 1>(a, b) y = Conv(c, w) }}",
        {**convs("w1", "w2"), "w": weight(4, 8, 1, 1)},
    ),
    "pools": (
        f"g ({IMAGE} x) => (float[n, 10] y) {{ a = Conv(x, w1) r = Relu(a) "
        "m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) b = Conv(m, w2) q = GlobalAveragePool(b) "
        "f = Flatten(q) y = Gemm<transB = 1>(f, w) }",
        {**convs("w1", "w2"), "w": weight(10, 4)},
    ),
    "attention": (
        "g (float[n, 6, 8] x) => (float[n, 6, 8] y) { q = MatMul(x, w1) k = MatMul(x, w2) "
        "t = Transpose<perm = [0, 2, 1]>(k) p = MatMul(q, t) s = Softmax(p) y = MatMul(s, q) }",
        {"w1": weight(8, 8), "w2": weight(8, 8)},
    ),
    "hardswish": (
        f"g ({IMAGE} x) => ({IMAGE} y) {{ a = Conv(x, w1) h = HardSwish(a) y = Conv(h, w2) }}",
        convs("w1", "w2"),
    ),
    "output": (f"g ({IMAGE} x) => ({IMAGE} m, {IMAGE} y) {{ m = Conv(x, w1) y = Conv(m, w2) }}", convs("w1", "w2")),
    "relu6": (
        f"g ({IMAGE} x) => ({IMAGE} y) {{ a = Conv(x, w1) r = Clip(a, l, h) y = Conv(r, w2) }}",
        {**convs("w1", "w2"), "l": np.float32(0), "h": np.float32(6)},  # type: ignore[dict-item]
    ),
    "moving clip": (
        f"g ({IMAGE} x, float h) => ({IMAGE} y) {{ a = Conv(x, w1) r = Clip(a, l, h) y = Conv(r, w2) }}",
        {**convs("w1", "w2"), "l": np.float32(0)},  # type: ignore[dict-item]
    ),
    "branch": (
        f"g ({IMAGE} x) => ({IMAGE} y, {IMAGE} z) {{ a = Conv(x, w1) y = Conv(a, w2) z = Conv(a, w3) }}",
        convs("w1", "w2", "w3"),
    ),
    "constant added": (
        f"g ({IMAGE} x) => ({IMAGE} y) {{ a = Conv(x, w1) s = Add(a, c) y = Conv(s, w2) }}",
        {**convs("w1", "w2"), "c": weight(4, 8, 8)},
    ),
    "side": (
        "g (float[n, 4] x) => (float[n, 4] y, float[n, 4] z, float[n, 4] r) "
        "{ r = Relu(x) y = MatMul(r, w1) z = Gemm(r, w2) }",
        {"w1": weight(4, 4), "w2": weight(4, 4)},
    ),
}
ORT = {  # tensor, what shares its scale, who reads it; "out" is the graph output
    "residual": ["x: Conv_0 Add_0.1", "r: Conv_1", "b: Add_0", "t: Conv_2", "y: out"],
    "concat": ["x: Conv_0 Conv_1", "a=b=c: Concat_0", "b=a=c: Concat_0.1", "c=a=b: Conv_2", "y: out"],
    "pools": ["x: Conv_0", "r=m: MaxPool_0", "m=r: Conv_1", "b: GlobalAveragePool_0", "q=f: Flatten_0", "f=q: Gemm_0"],
    "attention": ["x: MatMul_0 MatMul_1"],
    "hardswish": ["x: Conv_0", "a: HardSwish_0", "h: Conv_1", "y: out"],
    "output": ["x: Conv_0", "m: Conv_1 out", "y: out"],
    "relu6": ["x: Conv_0", "r: Conv_1", "y: out"],
    "moving clip": ["x: Conv_0", "a: Clip_0", "r: Conv_1", "y: out"],
    "branch": ["x: Conv_0", "a: Conv_1 Conv_2", "y: out", "z: out"],
    "constant added": ["x: Conv_0", "a: Add_0", "s: Conv_1", "y: out"],
    "side": ["r: MatMul_0 Gemm_0"],
}
OPENVINO = {
    "residual": ["x: Conv_0", "r: Conv_1", "t: Conv_2"],
    "concat": ["x: Conv_0 Conv_1", "c: Conv_2"],
    "pools": ["x: Conv_0", "m: Conv_1", "f: Gemm_0"],
    "attention": ["x: MatMul_0 MatMul_1", "q int8: MatMul_2 MatMul_3.1", "t int8: MatMul_2.1", "s: MatMul_3"],
    "hardswish": ["x: Conv_0", "h: Conv_1"],
    "output": ["x: Conv_0", "m: Conv_1"],
    "relu6": ["x: Conv_0", "r: Conv_1"],
    "moving clip": ["x: Conv_0", "r: Conv_1"],
    "branch": ["x: Conv_0", "a: Conv_1 Conv_2"],
    "constant added": ["x: Conv_0", "s: Conv_1"],
    "side": ["r: MatMul_0 Gemm_0"],
}


def shown(pair: Pair) -> str:
    """Write a pair as above."""
    others = sorted(set(pair.group) - {pair.tensor})
    assert pair.tensor in pair.group
    kind = "" if pair.type == "uint8" else f" {pair.type}"
    readers = [f"{node}.{index}" if index else node for node, index in pair.readers]
    return "=".join((pair.tensor, *others)) + f"{kind}: " + " ".join([*readers, *["out"] * pair.public])


def placed(name: str, target: Target, *stays_float: str, option: Option = W8A8) -> Placement:
    """Place 8 bits everywhere, but for the layers with the weights ``stays_float``."""
    text, weights = GRAPHS[name]
    model = normal(from_text(text, weights))
    space = make_space(model, target)
    choices = {
        unit.name: next((o for o in (option, A8) if o in unit.options), FLOAT)
        for unit in space.units
        if not set(unit.layers[0].weights) & set(stays_float)
    }
    return place(model, space, target, Plan(target.name, "test", choices).choices)


@pytest.mark.parametrize("name", GRAPHS)
def test_pairs_stand_where_onnxruntime_fuses_them(name: str) -> None:
    placement = placed(name, find_target("ort-cpu"))
    assert sorted(map(shown, placement.pairs)) == sorted(ORT[name])
    assert not placement.islands


@pytest.mark.parametrize("name", GRAPHS)
def test_pairs_stand_only_at_inputs_of_layers_for_openvino(name: str) -> None:
    placement = placed(name, find_target("openvino@vnni"))
    assert sorted(map(shown, placement.pairs)) == sorted(OPENVINO[name])
    assert not placement.islands


def test_each_tensor_has_one_pair_of_a_kind() -> None:
    for name in GRAPHS:
        pairs = placed(name, find_target("ort-cpu")).pairs
        assert len({(pair.tensor, pair.type, pair.bits) for pair in pairs}) == len(pairs)


def test_a_float_convolution_beside_an_integer_one_gets_a_pair_of_its_own() -> None:
    placement = placed("branch", find_target("ort-cpu"), "w3")
    assert sorted(map(shown, placement.pairs)) == ["a: Conv_1 Conv_2", "x: Conv_0", "y: out"]
    assert placement.islands == (Island("Conv_2", 0, "a", "uint8", axis=1, channels=4),)


def test_a_float_convolution_between_integer_ones_is_an_island() -> None:
    placement = placed("residual", find_target("ort-cpu"), "w2")
    assert placement.islands == (Island("Conv_1", 0, "r", "uint8", axis=1, channels=4),)
    assert sorted(map(shown, placement.pairs)) == ["r: Conv_1", "t: Conv_2", "x: Conv_0 Add_0.1", "y: out"]


def test_a_weight_only_convolution_between_integer_ones_is_an_island_too() -> None:
    text, weights = GRAPHS["residual"]
    model, target = normal(from_text(text, weights)), find_target("ort-cpu")
    choices = {"Conv_0": W8A8, "Conv_1": Option(4), "Conv_2": W8A8}
    placement = place(model, make_space(model, target), target, choices)
    assert [island.node for island in placement.islands] == ["Conv_1"]


def test_the_residual_is_added_in_float_unless_both_sides_are_integers() -> None:
    placement = placed("residual", find_target("ort-cpu"), "w2", "w3")
    assert sorted(map(shown, placement.pairs)) == ["r: Conv_1", "x: Conv_0 Add_0.1"]


def test_a_float_product_beside_an_integer_one_reads_the_float_values() -> None:
    for name in ("ort-cpu", "openvino"):
        placement = placed("side", find_target(name), "w2")
        assert [shown(pair) for pair in placement.pairs] == ["r: MatMul_0"]
        assert not placement.islands


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("option", ["float", "w8", "w4"])
def test_without_activation_bits_nothing_is_placed(name: str, option: str) -> None:
    placement = placed(name, find_target("ort-cpu"), option=Option.parse(option))
    assert (placement.pairs, placement.islands) == ((), ())


WIDE = """\
schema = 1
name = "wide"
title = "islands at every kind of layer"
runtime = "onnxruntime"
islands = true
limits = { lowest_opset = 13, highest_opset = 26, highest_ir = 13 }
layers = [
    { op = "Conv", options = ["w8a8", "w8a16"], readers = "all" },
    { op = "ConvTranspose", options = ["w8a8"], readers = "all" },
    { op = "MatMul", options = ["w8a8"], readers = "all" },
    { op = "Gemm", options = ["w8a8"], readers = "all" },
]
"""


@pytest.mark.parametrize(
    ("integer", "shape", "floating", "float_shape", "data", "axis", "channels"),
    [
        ("Conv<group = 2>", (6, 3, 1, 1), "Conv<group = 2>", (6, 3, 1, 1), "n, 6, 5, 5", 1, 6),
        ("Conv", (6, 6, 1, 1), "ConvTranspose", (6, 2, 1, 1), "n, 6, 5, 5", 1, 6),
        ("MatMul", (6, 3), "MatMul", (6, 3), "n, 5, 6", 2, 6),
        ("MatMul", (6, 3), "MatMul", (6, 3), "6", 0, 6),
        ("Gemm", (6, 3), "Gemm", (6, 3), "5, 6", 1, 6),
        ("Gemm", (6, 3), "Gemm<transB = 1>", (3, 6), "5, 6", 1, 6),
        ("Gemm", (6, 3), "Gemm<transA = 1>", (5, 3), "5, 6", 0, 5),
    ],
)
def test_an_island_has_a_scale_for_each_channel_it_reads(
    integer: str,
    shape: tuple[int, ...],
    floating: str,
    float_shape: tuple[int, ...],
    data: str,
    axis: int,
    channels: int,
) -> None:
    out = ", ".join("abcd"[: data.count(",") + 1]) if "," in data else "3"
    body = f"y = {integer}(x, w1) z = {floating}(x, w2)"
    model = normal(
        from_text(
            f"g (float[{data}] x) => (float[{out}] y, float[{out}] z) {{ {body} }}",
            {"w1": weight(*shape), "w2": weight(*float_shape)},
        )
    )
    target = parse_target(WIDE, "wide")
    space = make_space(model, target)
    one, other = space.units
    (island,) = place(model, space, target, {one.name: W8A8}).islands
    assert island == Island(other.layers[0].node, 0, "x", "uint8", axis, channels)


TWO_WIDTHS = """
schema = 1
name = "two"
title = "two widths of activations"
runtime = "onnxruntime"
integer_kernels = false
[limits]
lowest_opset = 21
highest_opset = 22
highest_ir = 10
[[layers]]
op = "MatMul"
options = ["w8a8", "w8a16"]
readers = "all"
output = "{output}"
fuses = ["Relu"]
[[followers]]
op = "Add"
pull = true
"""


@pytest.mark.parametrize("output", ["free", "quantised"])
def test_two_widths_on_one_tensor_are_two_pairs(output: str) -> None:
    graph = from_text(
        "g (float[n, 8] x) => (float[n, 8] y, float[n, 8] r) { h = MatMul(x, a) r = Relu(h) p = MatMul(r, b) "
        "q = MatMul(r, c) s = Add(p, q) t = Add(s, r) y = MatMul(t, d) }",
        {name: weight(8, 8) for name in "abcd"},
    )
    model = normal(graph)
    found = parse_target(TWO_WIDTHS.format(output=output), "two.toml")
    space = make_space(model, found)
    names = [unit.name for unit in space.units]
    assert len(names) == 4
    for drawn in itertools.product(("w8a8", "w8a16", "float"), repeat=len(names)):
        choices = {name: Option.parse(text) for name, text in zip(names, drawn, strict=True)}
        placement = place(model, space, found, choices)
        seen = [(pair.tensor, reader) for pair in placement.pairs for reader in pair.readers]
        assert len(seen) == len(set(seen))  # nobody sees a tensor in two types
        assert all(pair.readers or pair.public for pair in placement.pairs)
        assert len([pair for pair in placement.pairs if pair.public and pair.tensor == "r"]) <= 1
        bits = {reader: pair.bits for pair in placement.pairs for reader in pair.readers}
        for form in placement.forms:
            assert bits[form.layer.node, 0] == form.option.activation_bits
