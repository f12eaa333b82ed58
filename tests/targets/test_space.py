"""Space: what may be chosen for each unit, why not more, and exact bytes, before anything is written."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq.api import quantize
from onnxmpq.artifacts import FLOAT, Leftover, Option, Plan, Space, Unit
from onnxmpq.errors import InputError
from onnxmpq.lower.write import lower, pair_key
from onnxmpq.model.layers import find_layers
from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from onnxmpq.model.save import save
from onnxmpq.numerics.ranges import Affine
from onnxmpq.options import Constraints, VerifyOptions
from onnxmpq.targets import Target, builtin_names, parse_target
from onnxmpq.targets import target as find_target
from onnxmpq.targets.placement import place
from onnxmpq.targets.schema import fewest_channels
from onnxmpq.targets.sizes import stored_bytes
from onnxmpq.targets.space import make_space
from onnxmpq.verification.verify import file_tensor_bytes
from tests.graphs import Array, from_text, layer_chain, normal, rng

MODELS = Path(__file__).parents[2] / "models"
ORT = find_target("ort-cpu")


def ones(*shape: int, dtype: type[np.generic] = np.float32) -> Array:
    """Return a weight of that shape."""
    return np.ones(shape, dtype)


def units(text: str, **weights: Array) -> tuple[Unit, ...]:
    """Return the units of a graph in text form."""
    return make_space(normal(from_text(text, weights)), ORT).units


def names(unit: Unit) -> set[str]:
    """Return the options of a unit as text."""
    return {str(option) for option in unit.options}


def affines(model: ir.Model, space: Space, target: Target, plan: Plan) -> dict[str, Affine]:
    """Make up numbers for every pair: sizes do not depend on them."""
    pairs = place(model, space, target, plan.choices).pairs
    return {pair_key(pair): Affine(np.float32(0.5), 0, 0, 255) for pair in pairs}


def check_bytes(model: ir.Model, target: Target, plan: Plan, path: Path) -> int:
    """Write a plan; what the file stores must be what was predicted. Return it."""
    space = make_space(model, target)
    lowered = lower(model, space, target, plan, affines(model, space, target, plan))
    save(lowered.model, path, overwrite=True)
    assert lowered.stored_bytes == stored_bytes(model, lowered.placement) == file_tensor_bytes(path)
    return lowered.stored_bytes


CONV = "g (float[n, 16, 9, 9] x) => (float[n, 16, 9, 9] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w, b) }"
APART = {  # what planes take besides: middle, lanes and masks of each width, places
    7: 4 + (2 + 1 + 1) + (4 + 1) + 8,  # the mask of 2 bits is the place of 4, that of 1 bit the place of 2
    6: 4 + (2 + 1 + 1) + (4 + 1),
    5: 4 + (2 + 1 + 1) + 8,
    3: 4 + (4 + 1 + 1) + 8,
}
CONV_BYTES = {  # 16 channels of 144 weights
    "float": 4 * 2304 + 4 * 16,
    "w8a8": 2304 + 4 * 16 + 16 + 8 * 16,  # codes, scales, zero points, bias codes and scales
    **{f"w{bits}a8": bits * 288 + apart + 8 * 4 + 4 * 16 + 16 + 8 * 16 for bits, apart in APART.items()},
    "w4a8": 2304 // 2 + 4 * 16 + 16 + 8 * 16,
    "w2a8": 2304 // 4 + 4 * 16 + 16 + 8 * 16,
    "w8": 2304 + 4 * 16 + 4 * 16,  # codes, scales, float bias
    **{f"w{bits}": bits * 288 + apart + 8 * 4 + 4 * 16 + 4 * 16 for bits, apart in APART.items()},
    "w4": 2304 // 2 + 4 * 16 + 4 * 16,
    "w2": 2304 // 4 + 4 * 16 + 4 * 16,
}
MATMUL = "g (float[n, 7, 256] x) => (float[n, 7, 3] y) { m = MatMul(x, w) y = Add(b, m) }"
MATMUL_BYTES = {  # 3 channels of 256 weights
    "float": 4 * 768 + 4 * 3,
    "w8a8": 768 + 4 * 3 + 3 + 8 * 3,
    **{f"w{bits}a8": bits * 96 + apart + 8 * 2 + 4 * 3 + 3 + 8 * 3 for bits, apart in APART.items()},
    "w4a8": 384 + 4 * 3 + 3 + 8 * 3,
    "w2a8": 192 + 4 * 3 + 3 + 8 * 3,
    "w8": 768 + 4 * 3 + 4 * 3,
    **{f"w{bits}": bits * 96 + apart + 8 * 2 + 4 * 3 + 4 * 3 for bits, apart in APART.items()},
    "w4": 384 + 4 * 3 + 4 * 3,
    "w2": 192 + 4 * 3 + 4 * 3,
    "w4b32": 384 + 4 * 24 + 24 // 2 + 4 * 3,  # one scale and one 4-bit zero point for each block
    "w4b128": 384 + 4 * 6 + 6 // 2 + 4 * 3,
}


@pytest.mark.parametrize(
    ("text", "shapes", "expected"),
    [(CONV, ((16, 16, 3, 3), (16,)), CONV_BYTES), (MATMUL, ((256, 3), (3,)), MATMUL_BYTES)],
    ids=["Conv", "MatMul"],
)
def test_a_unit_costs_the_bytes_that_one_counts_by_hand(
    text: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], expected: dict[str, int], tmp_path: Path
) -> None:
    w, b = (rng().normal(size=shape).astype(np.float32) for shape in shapes)
    model = normal(from_text(text, {"w": w, "b": b}))
    (unit,) = make_space(model, ORT).units
    assert {str(cost.option): cost.stored_bytes for cost in unit.costs} == expected
    assert unit.costs[0].option == FLOAT
    for cost in unit.costs:
        plan = Plan("ort-cpu", "test", {unit.name: cost.option})
        pairs = place(model, make_space(model, ORT), ORT, plan.choices).pairs
        assert check_bytes(model, ORT, plan, tmp_path / "q.onnx") == cost.stored_bytes + 5 * len(pairs)


def test_bit_operations_are_those_of_both_operands() -> None:
    (unit,) = units(CONV, w=ones(16, 16, 3, 3), b=ones(16))
    macs = 16 * 9 * 9 * 144
    bops = {str(cost.option): cost.bops for cost in unit.costs}
    assert unit.macs == macs
    assert (bops["float"], bops["w4a8"], bops["w4"]) == (macs * 32 * 32, macs * 4 * 8, macs * 4 * 32)
    model = normal(from_text("g (float[n, 5, 8] q, float[n, 8, 5] k) => (float[n, 5, 5] y) { y = MatMul(q, k) }"))
    (product,) = make_space(model, find_target("generic")).units
    assert product.cost(Option(0, 8)).bops == 5 * 5 * 8 * 8 * 8


@pytest.mark.parametrize("target", builtin_names())
@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit"])
def test_any_plan_stores_the_bytes_that_were_predicted(name: str, target: str, tmp_path: Path) -> None:
    found = find_target(target)
    model = normalise(load(MODELS / f"{name}.onnx")).model
    space = make_space(model, found)
    g = rng(11)
    for _ in range(4):
        choices = {unit.name: unit.options[g.integers(len(unit.options))] for unit in space.units}
        check_bytes(model, found, Plan(target, "random", choices), tmp_path / "q.onnx")
    smallest = {unit.name: min(unit.costs, key=lambda cost: cost.stored_bytes).option for unit in space.units}
    least = check_bytes(model, found, Plan(target, "least", smallest), tmp_path / "q.onnx")
    smaller = {u.name for u in space.units if min(c.stored_bytes for c in u.costs) < u.cost(FLOAT).stored_bytes}
    left = sum(4 * unit.parameters for unit in space.units if unit.name not in smaller)
    assert least < left + space.float_bytes / (4 if any(0 < o.weight_bits < 8 for o in smallest.values()) else 3)
    assert check_bytes(model, found, Plan(target, "none", {}), tmp_path / "q.onnx") == space.float_bytes


CUSTOM = """\
schema = 1
name = "wide"
title = "16-bit activations, islands"
runtime = "onnxruntime"
islands = true
limits = { lowest_opset = 13, highest_opset = 26, highest_ir = 13 }
[[layers]]
op = "Conv"
options = ["w8a16", "w8a8", "a8", "w8"]
output = "quantised"
readers = "all"
fuses = ["Relu"]
bias = "int32"
"""


@pytest.mark.parametrize("option", ["w8a16", "w8a8", "a8", "w8"])
def test_islands_and_wide_activations_are_counted_too(option: str, tmp_path: Path) -> None:
    target = parse_target(CUSTOM, "wide")
    model = normal(layer_chain("Conv"))
    first, _ = make_space(model, target).units
    plan = Plan("wide", "test", {first.name: Option.parse(option)})
    islands = place(model, make_space(model, target), target, plan.choices).islands
    kind = {"w8a16": ["uint16"], "w8": []}.get(option, ["uint8"])
    assert [island.type for island in islands] == kind
    check_bytes(model, target, plan, tmp_path / "q.onnx")


SHARED = "g (float[n, 64] x) => (float[n, 64] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }"


def test_layers_that_share_a_weight_are_one_unit_and_store_it_once(tmp_path: Path) -> None:
    model = normal(from_text(SHARED, {"w": ones(64, 64)}))
    (unit,) = make_space(model, ORT).units
    assert len(unit.layers) == 2
    assert unit.parameters == 4096
    assert unit.macs == 2 * 4096
    assert unit.cost(Option(4, 8)).stored_bytes == 2048 + 4 * 64 + 64
    assert unit.cost(Option(4, 0)).stored_bytes == 2048 + 4 * 64
    for option in unit.options:
        check_bytes(model, ORT, Plan("ort-cpu", "test", {unit.name: option}), tmp_path / "q.onnx")


def test_an_embedding_tied_to_the_last_layer_is_one_unit(tmp_path: Path) -> None:
    text = "g (int64[n] i) => (float[n, 40] y) { e = Gather(w, i) r = Relu(e) y = Gemm<transB = 1>(r, w) }"
    model = normal(from_text(text, {"w": ones(40, 16)}))
    (unit,) = make_space(model, ORT).units
    assert [layer.op for layer in unit.layers] == ["Gather", "Gemm"]
    assert not any(option.activation_bits for option in unit.options)
    assert unit.cost(Option(8)).stored_bytes == 640 + 2 * 4 * 40  # each form has its own shape of scales
    for option in unit.options:
        check_bytes(model, ORT, Plan("ort-cpu", "test", {unit.name: option}), tmp_path / "q.onnx")


def test_a_shared_weight_with_scales_along_different_axes_stays_float() -> None:
    (unit,) = units(
        "g (float[n, 4] x) => (float[n, 4] y) { a = MatMul(x, w) y = Gemm<transB = 1>(a, w) }", w=ones(4, 4)
    )
    assert unit.options == (FLOAT,)
    assert "its weight is shared by layers that want scales along different axes" in unit.reason


@pytest.mark.parametrize(
    "text",
    [
        "g (float[n, 4, 4] x) => (float[n, 4, 4] y) { m = MatMul(x, w) y = Add(m, w) }",
        "g (float[n, 4] x, float[4, 4] c) => (float[n, 4] y, float[4, 4] z) { y = MatMul(x, w) z = Mul(c, w) }",
    ],
)
def test_a_weight_that_is_read_as_something_else_stays_float(text: str) -> None:
    (unit,) = units(text, w=ones(4, 4))
    assert unit.options == (FLOAT,)
    assert "its weight 'w' is also read as something else than a weight" in unit.reason


def test_a_weight_that_is_an_output_stays_float() -> None:
    (unit,) = units("g (float[n, 4] x) => (float[n, 4] y, float[4, 4] w) { y = MatMul(x, w) }", w=ones(4, 4))
    assert unit.options == (FLOAT,)


@pytest.mark.parametrize(("inner", "blocks"), [(256, {"w4b32", "w4b128"}), (96, {"w4b32"}), (100, set())])
def test_blocks_are_offered_where_they_divide(inner: int, blocks: set[str]) -> None:
    (unit,) = units(f"g (float[n, {inner}] x) => (float[n, 3] y) {{ y = MatMul(x, w) }}", w=ones(inner, 3))
    assert {name for name in names(unit) if "b" in name} == blocks


def test_blocks_are_not_offered_in_front_of_what_keeps_them_slow() -> None:
    text = "g (float[n, 64] x) => (float[n, 3] y) {{ m = MatMul(x, w) y = {}(m) }}"
    for op, offered in (("Relu", False), ("Sigmoid", True)):
        (unit,) = units(text.format(op), w=ones(64, 3))
        assert ("w4b32" in names(unit)) == offered
        assert ("blocked weights have no fast kernel in front of Relu" in unit.reason) == (not offered)


def test_half_precision_takes_weight_only_options(tmp_path: Path) -> None:
    text = "g (float16[n, 64] x) => (float16[n, 64] y) { y = MatMul(x, w) }"
    model = normal(from_text(text, {"w": ones(64, 64, dtype=np.float16)}))
    (unit,) = make_space(model, ORT).units
    assert unit.costs[0].stored_bytes == 2 * 4096
    assert not any(option.activation_bits for option in unit.options)
    assert {"w8", "w4", "w2"} <= names(unit)
    assert "it computes in float16: integer kernels here need float32 around them" in unit.reason
    for option in unit.options:
        check_bytes(model, ORT, Plan("ort-cpu", "test", {unit.name: option}), tmp_path / "q.onnx")


@pytest.mark.parametrize(
    ("text", "shapes", "reason"),
    [
        (
            "g (float[n, 8, 5, 5] x) => (float[n, 8, 5, 5] y) { y = Conv<group = 4>(x, w) }",
            {"w": (8, 2, 1, 1)},
            "grouped convolutions have no fast integer kernel here",
        ),
        (
            "g (float[n, 3, 5, 8] x) => (float[n, 3, 5, 8] y) { y = MatMul(x, w) }",
            {"w": (3, 8, 8)},
            "only weights of rank 2 have integer kernels",
        ),
        (
            "g (float[8, 5] x) => (float[6, 5] y) { y = MatMul(w, x) }",
            {"w": (6, 8)},
            "its weight is the left factor: integer kernels want it on the right",
        ),
        ("g (float[8, 5] x) => (float[5, 7] y) { y = Gemm<transA = 1>(x, w) }", {"w": (8, 7)}, "transposes its input"),
        ("g (float[5, 8] x) => (float[5, 7] y) { y = Gemm<alpha = 2.0>(x, w) }", {"w": (8, 7)}, "alpha or beta is not"),
        (
            "g (float[5, 8] x) => (float[5, 7] y) { y = Gemm<beta = 2.0>(x, w, b) }",
            {"w": (8, 7), "b": (7,)},
            "alpha or beta is not 1",
        ),
        (
            "g (float[5, 8] x) => (float[5, 7] y) { y = Gemm(x, w, b) }",
            {"w": (8, 7), "b": (1,)},
            "its bias is not one float32 for each of its 7 channels",
        ),
        (
            "g (float[5, 8] x, float[7] b) => (float[5, 7] y) { y = Gemm(x, w, b) }",
            {"w": (8, 7)},
            "its bias is not a constant",
        ),
    ],
)
def test_a_layer_without_an_integer_kernel_says_why(text: str, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    (unit,) = units(text, **{name: ones(*shape) for name, shape in shapes.items()})
    assert reason in unit.reason
    assert "w8" in names(unit)
    assert not any(option.activation_bits for option in unit.options)


def offered(text: str, rules: str, **weights: Array) -> tuple[set[str], str]:
    """Return options of the only unit of a graph, and reasons, on a target of its own rules."""
    target = parse_target(f"{OWN}\n{rules}", "t")
    (unit,) = make_space(normal(from_text(text, weights)), target).units
    return names(unit) - {"float"}, unit.reason


OWN = """
schema = 2
name = "own"
title = "t"
runtime = "onnxruntime"
integer_kernels = false
[limits]
lowest_opset = 13
highest_opset = 26
highest_ir = 13
"""
GEMM = '[[layers]]\nop = "Gemm"\noptions = ["w8a8", "w8"]\n'
DENSE = "g (float[5, 8] x) => (float[5, 7] y) { y = Gemm(x, w) }"
SCALED = "g (float[5, 8] x) => (float[5, 7] y) { y = Gemm<alpha = 2.0>(x, w) }"
HALF = "g (float16[5, 8] x) => (float16[5, 7] y) { y = Gemm(x, w) }"
LEFT = "g (float[8, 5] x) => (float[7, 5] y) { y = MatMul(w, x) }"
MATMUL_RULE = GEMM.replace("Gemm", "MatMul")


@pytest.mark.parametrize(
    ("text", "rules", "dtype", "shape", "integers", "reason"),
    [
        (DENSE, GEMM + "attributes = { alpha = 2.0 }", np.float32, (8, 7), False, "its alpha is 1: integer kernels"),
        (SCALED, GEMM + "attributes = { alpha = 2.0 }", np.float32, (8, 7), True, ""),
        (SCALED, GEMM + "attributes = {}", np.float32, (8, 7), True, ""),
        (SCALED, GEMM + "attributes = { transB = 0 }", np.float32, (8, 7), True, ""),
        (DENSE, GEMM + "attributes = { transB = 1 }", np.float32, (8, 7), False, "its transB is 0: integer kernels"),
        (HALF, GEMM + 'floats = ["f32", "f16"]', np.float16, (8, 7), True, ""),
        (
            DENSE,
            GEMM + 'floats = ["f16"]',
            np.float32,
            (8, 7),
            False,
            "it computes in float: integer kernels here need",
        ),
        (LEFT, MATMUL_RULE + 'weight_on = "any"', np.float32, (7, 8), True, ""),
        (LEFT, MATMUL_RULE, np.float32, (7, 8), False, "its weight is the left factor: integer kernels want it on"),
    ],
)
def test_what_integer_kernels_need_is_what_the_target_says(
    text: str, rules: str, dtype: type[np.generic], shape: tuple[int, ...], integers: bool, reason: str
) -> None:
    found, why = offered(text, rules, w=ones(*shape, dtype=dtype))
    assert found == ({"w8a8", "w8"} if integers else {"w8"})
    assert reason in why
    assert bool(why) == (not integers)


@pytest.mark.parametrize(("least", "fits"), [(7, True), (8, False)])
def test_a_rule_is_for_layers_of_enough_channels(least: int, fits: bool) -> None:
    found, _ = offered(DENSE, f"{GEMM}least_channels = {least}\n" + GEMM.replace('"w8a8", ', ""), w=ones(8, 7))
    assert found == ({"w8a8", "w8"} if fits else {"w8"})


@pytest.mark.parametrize(
    ("text", "shape", "count"),
    [
        ("g (float[n, 3, 5, 5] x) => (float[n, 8, 5, 5] y) { y = Conv(x, w) }", (8, 3, 1, 1), 3),
        ("g (float[n, 8, 5, 5] x) => (float[n, 8, 5, 5] y) { y = Conv<group = 8>(x, w) }", (8, 1, 1, 1), 8),
        ("g (float[n, 8, 5, 5] x) => (float[n, 12, 5, 5] y) { y = Conv<group = 4>(x, w) }", (12, 2, 1, 1), 2),
        ("g (float[n, 8, 5, 5] x) => (float[n, 4, 5, 5] y) { y = ConvTranspose(x, w) }", (8, 4, 1, 1), 4),
        ("g (float[8, 5] x) => (float[3, 5] y) { y = MatMul(w, x) }", (3, 8), 3),
        ("g (float[2, 5, 6] x) => (float[2, 5, 4] y) { y = MatMul(x, w) }", (2, 6, 4), 4),
    ],
)
def test_channels_are_the_fewer_of_those_read_and_given(text: str, shape: tuple[int, ...], count: int) -> None:
    (layer,) = find_layers(normal(from_text(text, {"w": ones(*shape)})))
    assert fewest_channels(layer) == count


def test_half_activations_are_cast_around_their_codes(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    weights = {name: g.normal(size=(16, 32)).astype(np.float16) for name in ("v", "w")}
    text = "g (float16[n, 16] x) => (float16[n, 32] y, float16[n, 32] z) { y = Gemm(x, w) z = Gemm(x, v) }"
    path, rule = tmp_path / "own.toml", 'floats = ["f32", "f16"]\nreaders = "all"\n'
    path.write_text(OWN.replace("[limits]", "islands = true\n[limits]") + GEMM + rule, "utf-8")
    feeds = [{"x": np.random.default_rng(k).normal(size=(1, 16)).astype(np.float16)} for k in range(4)]
    result = quantize(
        ir.to_proto(from_text(text, weights)),
        feeds,
        output=tmp_path / "q.onnx",
        target=str(path),
        plan="w8a8",
        constraints=Constraints(exclude=["Gemm_1"]),
        verify=VerifyOptions(as_asked=True, speed_budget_s=0.0),
    )
    assert result.verdict.ok
    ops = [node.op_type for node in load(result.path).model.graph]
    assert ops[ops.index("QuantizeLinear") - 1] == "Cast"
    assert (ops.count("DequantizeLinear"), ops.count("Cast")) == (3, 4)


def test_a_factor_on_no_bias_does_not_matter() -> None:
    (unit,) = units("g (float[5, 8] x) => (float[5, 7] y) { y = Gemm<beta = 2.0>(x, w) }", w=ones(8, 7))
    assert unit.reason == ""
    assert "w8a8" in names(unit)


def test_a_layer_without_a_rule_says_so() -> None:
    (unit,) = units(
        "g (float[5, n, 4] x) => (float[5, 1, n, 8] y) { y = RNN<hidden_size = 8>(x, w, r) }",
        w=ones(1, 8, 4),
        r=ones(1, 8, 8),
    )
    assert (unit.options, unit.reason) == ((FLOAT,), "target 'ort-cpu' has no rule for RNN")


def test_layers_in_a_body_take_weight_only_options() -> None:
    text = """g (bool c, float[n, 4] x) => (float[n, 4] y) {
        y = If(c) < then_branch = t () => (float[n, 4] p) { p = MatMul(x, w) },
                    else_branch = e () => (float[n, 4] q) { q = Relu(x) } >
    }"""
    (unit,) = units(text, w=ones(4, 4))
    assert "it stands in the body of an If, Loop or Scan, whose activations are not calibrated" in unit.reason
    assert "w8" in names(unit)
    assert not any(option.activation_bits for option in unit.options)


def test_a_big_constant_outside_all_units_is_named() -> None:
    text = "g (float[n, 32, 32] x) => (float[n, 32, 32] y) { a = Add(x, t) b = Mul(a, s) y = MatMul(b, w) }"
    weights = {"t": ones(32, 32), "s": ones(32), "w": ones(32, 32)}
    space = make_space(normal(from_text(text, weights)), ORT)
    (left,) = space.leftovers
    assert left == Leftover(left.node, "Add", 4096, "operator Add is not one that onnxmpq quantises")
    assert space.float_bytes == 4096 + 4 * 32 + 4096
    assert space.notes == ORT.notes


def test_an_option_that_a_unit_does_not_have_is_refused_with_those_it_has() -> None:
    (unit,) = units("g (float[n, 4] x) => (float[n, 4] y) { y = Gemm<alpha = 2.0>(x, w) }", w=ones(4, 4))
    with pytest.raises(InputError, match=r"has no option 'w8a8' on this target\. Allowed: float, w8, w7"):
        unit.cost(Option(8, 8))


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(InputError, match="There is no unit 'nothing'"):
        make_space(normal(layer_chain("Gemm")), ORT).unit("nothing")


def test_a_weight_in_a_body_counts_where_it_is_stored(tmp_path: Path) -> None:
    text = """g (bool c, float[n, 64] x) => (float[n, 64] y) {
        y = If(c) < then_branch = t () => (float[n, 64] p) { p = MatMul(x, w) },
                    else_branch = e () => (float[n, 64] q) { q = Relu(x) } >
    }"""
    proto = ir.to_proto(from_text(text))
    proto.graph.node[0].attribute[0].g.initializer.append(onnx.numpy_helper.from_array(ones(64, 64), "w"))
    model = normal(ir.from_proto(proto))
    (unit,) = make_space(model, ORT).units
    for option in unit.options:
        check_bytes(model, ORT, Plan("ort-cpu", "test", {unit.name: option}), tmp_path / "q.onnx")


def test_a_recurrent_weight_that_is_a_matrix_stays_float() -> None:
    text = "g (float[5, 1, 4] x) => (float[n, m] y) { y, h = GRU<hidden_size = 2>(x, w, r) }"
    (unit,) = units(text, w=ones(6, 4), r=ones(6, 2))
    assert unit.options == (FLOAT,)
    assert unit.reason == "its weight has no axis that is summed over"
