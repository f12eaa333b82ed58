"""Lowering: what is written into the graph, node by node and number by number."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from onnxmpq.api import Result, quantize
from onnxmpq.artifacts import FLOAT, Option, Plan
from onnxmpq.lower.bias import tap_means
from onnxmpq.lower.calibrated import corrected_inputs
from onnxmpq.lower.write import Quantised, lower, pair_key
from onnxmpq.model.folded import folded
from onnxmpq.model.layers import all_graphs, all_nodes
from onnxmpq.numerics.ranges import Affine
from onnxmpq.options import ROUNDINGS, Numbers, Rounding
from onnxmpq.runtimes import get_runtime
from onnxmpq.targets import parse_target
from onnxmpq.targets import target as find_target
from onnxmpq.targets.placement import place
from onnxmpq.targets.space import make_space
from onnxmpq.verification.verify import worst_sqnr
from tests.asked import asked
from tests.graphs import Array, feeds_for, from_text, layer_chain, normal, rng

MODELS = Path(__file__).parents[2] / "models"
STEP = np.float32(0.03)


def lowered(model: ir.Model, choices: Mapping[str, str] | str, target: str = "ort-cpu", **more: Any) -> Quantised:
    """Lower a normalised model; every activation gets the same scale. One option is meant for all units."""
    found = find_target(target)
    space = make_space(model, found)
    named = {unit.name: choices for unit in space.units} if isinstance(choices, str) else choices
    options = {name: Option.parse(text) for name, text in named.items()}
    plan = Plan(target, "test", options)
    pairs = place(model, space, found, options).pairs
    affines = {
        pair_key(pair): Affine(STEP, 0, -128, 127) if pair.type == "int8" else Affine(STEP, 128, 0, 255)
        for pair in pairs
    }
    return lower(model, space, found, plan, affines, **more)


def one(op: str, option: str, target: str = "ort-cpu") -> ir.Model:
    """Return a chain of one kind of layer, lowered."""
    return lowered(normal(layer_chain(op)), option, target).model


def constants(model: ir.Model) -> dict[str, Array]:
    """Return the initialisers of the main graph."""
    return {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }


def codes_of(model: ir.Model, weight: str) -> npt.NDArray[np.int64]:
    """Return the codes that a weight is dequantised from."""
    (node,) = [node for node in model.graph if node.name == f"{weight}_dq"]
    codes = folded(node.inputs[0])
    assert codes is not None
    return codes.astype(np.int64)


def names_of(model: ir.Model) -> list[str]:
    """Return the names of all nodes and values, in order; ONNX keeps the two apart, so that one name may be of both."""
    return [
        name
        for graph in all_graphs(model)
        for name in (
            *(f"value {value.name}" for value in (*graph.inputs, *graph.initializers.values())),
            *(f"node {node.name}" for node in graph),
            *(f"value {value.name}" for node in graph for value in node.outputs),
        )
    ]


def run(model: ir.Model, feed: Mapping[str, Array], mode: Any = "deployed") -> list[Array]:
    """Run a model in onnxruntime."""
    return list(
        get_runtime("onnxruntime").session(ir.to_proto(model).SerializeToString(), mode=mode).run(feed).values()
    )


def built(model: ir.Model, path: Path, option: str | Plan, **more: Any) -> Result:
    """Go the whole way on a few random feeds."""
    given: Any = (
        {"plan": option} if isinstance(option, Plan) else {"option": option, "allow_slower": True, "as_asked": True}
    )
    feeds = more.pop("feeds", None) or feeds_for(model)
    return quantize(
        ir.to_proto(model), feeds, **asked(output=path, overwrite=True, speed_budget_s=0.0, **given, **more)
    )


# ---- forms -----------------------------------------------------------------------------------------------------------

DQ, Q = "DequantizeLinear", "QuantizeLinear"
FORMS = {
    "Conv": "g (float[n, 8, 5, 5] x) => (float[n, 8, 5, 5] y) { h = Conv(x, wc, b) y = Relu(h) }",
    "Gemm": "g (float[n, 64] x) => (float[n, 8] y) { y = Gemm<transB = 1>(x, wg, b) }",
    "MatMul": "g (float[n, 64] x) => (float[n, 8] y) { m = MatMul(x, wm) y = Add(m, b) }",
    "LSTM": "g (float[5, n, 4] x) => (float[5, 1, n, 8] y) { y = LSTM<hidden_size = 8>(x, wl, rl) }",
    "Gather": "g (int64[n] i) => (float[n, 64] y) { y = Gather(wg, i) }",
}


def form(op: str) -> ir.Model:
    """Build one layer, normalised."""
    shapes = {"wc": (8, 8, 1, 1), "wg": (8, 64), "wm": (64, 8), "wl": (1, 32, 4), "rl": (1, 32, 8), "b": (8,)}
    used = {name: shape for name, shape in shapes.items() if f"{name}," in FORMS[op] or f"{name})" in FORMS[op]}
    g = rng()
    return normal(from_text(FORMS[op], {name: g.normal(size=shape).astype(np.float32) for name, shape in used.items()}))


@pytest.mark.parametrize(
    ("op", "option", "ops"),
    [
        ("Conv", "w8a8", [DQ, DQ, Q, DQ, "Conv", "Relu", Q, DQ]),  # weight, bias, input, output
        ("Conv", "w4a8", ["Cast", DQ, DQ, Q, DQ, "Conv", "Relu", Q, DQ]),
        ("Conv", "w4", ["Cast", "Mul", "Conv", "Relu"]),
        ("Gemm", "w8a8", [DQ, DQ, Q, DQ, "Gemm"]),
        ("MatMul", "w8a8", [DQ, Q, DQ, "MatMul", DQ, "Add"]),
        ("MatMul", "w2a8", ["Cast", DQ, Q, DQ, "MatMul", DQ, "Add"]),
        ("MatMul", "w4b32", [DQ, "MatMul", "Add"]),
        ("LSTM", "w8", ["Cast", "Mul", "Cast", "Mul", "LSTM"]),
        ("Gather", "w8", ["Gather", "Gather", "Cast", "Mul"]),
        ("Gather", "w4", ["Cast", "Mul", "Gather"]),
        ("Conv", "float", ["Conv", "Relu"]),
    ],
)
def test_a_form_is_written_with_these_operators(op: str, option: str, ops: list[str]) -> None:
    made = lowered(form(op), option).model
    assert [node.op_type for node in made.graph] == ops
    onnx.checker.check_model(ir.to_proto(made), full_check=True)


def test_what_was_replaced_is_gone() -> None:
    before, after = (set(constants(m)) for m in (normal(layer_chain("Conv")), one("Conv", "w8a8")))
    assert before & after == set()
    assert {name.split("_")[0] for name in after} == before | {"x", "r", "y"}


@pytest.mark.parametrize("target", ["ort-cpu", "openvino@vnni", "generic"])
def test_scales_of_activations_have_rank_zero(target: str) -> None:
    for op in ("Conv", "Gemm", "MatMul", "MatMul:product"):
        model = normal(layer_chain(op))
        option = "a8" if op == "MatMul:product" else "w8a8"
        if target == "ort-cpu" and option == "a8":
            continue
        made = lowered(model, option, target).model
        quantises = [node for node in made.graph if node.op_type == Q]
        assert quantises
        for node in quantises:
            for value in node.inputs[1:]:
                assert value is not None
                assert value.const_value is not None
                assert value.const_value.shape.rank() == 0


def test_names_are_unique_and_the_same_every_time() -> None:
    for option in ("w8a8", "w4a8", "w4"):
        first, second = (names_of(one("Conv", option)) for _ in range(2))
        assert first == second
        assert len(set(first)) == len(first)
        assert all(len(name.split()) == 2 for name in first)


def test_names_that_are_taken_are_not_taken_twice() -> None:
    weights = {"w": rng().normal(size=(4, 4)).astype(np.float32), "w_quantized": np.ones(4, np.float32)}
    text = "g (float[n, 4] x) => (float[n, 4] w_scale) { a = MatMul(x, w) w_scale = Mul(a, w_quantized) }"
    made = lowered(normal(from_text(text, weights)), "w8").model
    names = names_of(made)
    assert len(set(names)) == len(names)
    assert [value.name for value in made.graph.outputs] == ["w_scale"]
    np.testing.assert_array_equal(constants(made)["w_quantized"], np.ones(4))


def test_inputs_and_outputs_keep_names_types_and_order() -> None:
    text = "g (float[n, 4, 5, 5] x) => (float[n, 4, 5, 5] m, float[n, 4, 5, 5] y) { m = Conv(x, w) y = Conv(m, w) }"
    model = normal(from_text(text, {"w": rng().normal(size=(4, 4, 1, 1)).astype(np.float32)}))
    made = lowered(model, "w8a8").model

    def public(m: ir.Model) -> list[tuple[Any, ...]]:
        return [(v.name, v.dtype, str(v.shape)) for v in (*m.graph.inputs, *m.graph.outputs)]

    assert public(made) == public(model)
    assert all((value.producer() or made.graph[0]).op_type == DQ for value in made.graph.outputs)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)


def test_the_model_that_is_lowered_stays_as_it_is() -> None:
    model = normal(layer_chain("Conv"))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    lowered(model, "w4a8")
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("option", "opset", "ir_version"),
    [("float", 17, 8), ("w8a8", 17, 8), ("w8", 17, 8), ("w4a8", 21, 10), ("w3", 18, 8), ("w2a8", 25, 13)],
)
def test_the_opset_is_raised_as_far_as_the_types_need(option: str, opset: int, ir_version: int) -> None:
    made = one("Conv", option)
    assert made.opset_imports[""] == opset
    assert made.ir_version == ir_version


def test_a_newer_opset_is_kept() -> None:
    model = from_text(
        "g (float[n, 4] x) => (float[n, 4] y) { y = MatMul(x, w) }", {"w": np.eye(4, dtype=np.float32)}, 22
    )
    assert lowered(normal(model), "w4").model.opset_imports[""] == 22


def test_a_shared_weight_is_stored_once() -> None:
    weights = {"w": rng().normal(size=(16, 16)).astype(np.float32)}
    text = "g (float[n, 16] x) => (float[n, 16] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }"
    for option in ("w8a8", "w4a8", "w4"):
        stored = constants(lowered(normal(from_text(text, weights)), option).model)
        assert [name for name, array in stored.items() if array.size == 256] == ["w_quantized"]
        assert [name for name in stored if name.startswith("w_scale")] == ["w_scale"]


@pytest.mark.parametrize(("bits", "lowest"), [(8, -127), (7, -63), (6, -31), (5, -15), (4, -8), (3, -4), (2, -2)])
def test_a_width_uses_its_own_codes_only(bits: int, lowest: int) -> None:
    codes = codes_of(one("Conv", f"w{bits}a8"), "w1")
    assert lowest <= codes.min()
    assert codes.max() <= 2 ** (bits - 1) - 1
    assert codes.max() > 2 ** (bits - 1) - 1 - max(1, 2 ** (bits - 3)), "the codes there are are used"


# ---- biases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_the_scale_of_a_bias_is_that_of_input_times_weight(op: str) -> None:
    stored = constants(one(op, "w8a8"))
    original = constants(normal(layer_chain(op)))
    for i in "12":
        scale = stored[f"b{i}_scale"]
        assert scale.dtype == np.float32
        np.testing.assert_array_equal(scale, STEP * stored[f"w{i}_scale"])
        assert stored[f"b{i}_quantized"].dtype == np.int32
        np.testing.assert_allclose(stored[f"b{i}_quantized"] * scale, original[f"b{i}"], atol=scale.max() / 2)


def check_bias(stored: Mapping[str, Array], name: str, bias: Array) -> None:
    """Check that a bias is off by at most half a step of its scale."""
    scale = stored[f"{name}_scale"].astype(float)
    assert (np.abs(stored[f"{name}_quantized"] * scale - bias) <= scale / 2 * (1 + 1e-6)).all()


def with_huge_bias() -> dict[str, Array]:
    """Return a tiny weight in channel 0 whose bias does not fit in int32 at its own scale."""
    w = rng().standard_t(2, (4, 4)).astype(np.float32)
    w[:, 0] *= 1e-6
    return {"w": w, "b": np.array([1e3, 1, -1, 0.5], np.float32), "c": np.array([1e6, 1, -1, 0.5], np.float32)}


@pytest.mark.parametrize("option", ["w8a8", "w4a8", "w2a8"])
def test_a_bias_that_would_overflow_widens_the_scale_of_its_channel_alone(option: str) -> None:
    weights = with_huge_bias()
    text = "g (float[n, 4] x) => (float[n, 4] y) { y = Gemm(x, w, b) }"
    stored = constants(lowered(normal(from_text(text, weights)), option).model)
    plain = constants(lowered(normal(from_text(text, {**weights, "b": weights["c"] * 0})), option).model)
    assert stored["w_scale"][0] > plain["w_scale"][0]
    np.testing.assert_array_equal(stored["w_scale"][1:], plain["w_scale"][1:])
    np.testing.assert_array_equal(stored["w_quantized"][:, 1:].astype(int), plain["w_quantized"][:, 1:].astype(int))
    check_bias(stored, "b", weights["b"])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_widened_codes_stay_within_their_type(bits: int) -> None:
    w = rng(5).normal(size=(64, 1)).astype(np.float32)
    w[0] = 5.0  # beyond what the few codes of least error cover
    plain = constants(lowered(normal(from_text(ONE_GEMM, {"w": w, "b": np.zeros(1, np.float32)})), f"w{bits}a8").model)
    scale = float(plain["w_scale"][0])
    bias = np.array([scale * 1.05 * float(STEP) * 2.0**30], np.float32)
    model = lowered(normal(from_text(ONE_GEMM, {"w": w, "b": bias})), f"w{bits}a8").model
    stored, codes = constants(model), codes_of(model, "w")
    assert stored["w_scale"][0] == pytest.approx(scale * 1.05, rel=1e-4)
    assert (np.rint(w / stored["w_scale"]).max() > 2 ** (bits - 1) - 1) == (bits < 8)
    limit = 2 ** (bits - 1) - 1
    expected = np.clip(np.rint(w / stored["w_scale"]), -limit - (bits <= 4), limit)
    np.testing.assert_array_equal(codes, expected)


ONE_GEMM = "g (float[n, 64] x) => (float[n, 1] y) { y = Gemm(x, w, b) }"


def test_layers_that_share_a_weight_widen_it_for_all_their_biases() -> None:
    weights = with_huge_bias()
    text = "g (float[n, 4] x) => (float[n, 4] y, float[n, 4] z) { y = Gemm(x, w, b) z = Gemm(x, w, c) }"
    stored = constants(lowered(normal(from_text(text, weights)), "w8a8").model)
    for name in "bc":
        check_bias(stored, name, weights[name])


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
@pytest.mark.parametrize("option", ["w8a8", "w4a8", "w2", "w4"])
def test_a_float_bias_stands_in_whole_steps_where_sums_have_steps(op: str, option: str) -> None:
    stored = constants(one(op, option, "generic"))
    original = constants(normal(layer_chain(op)))
    for i in "12":
        if not option.endswith("a8"):
            np.testing.assert_array_equal(stored[f"b{i}"], original[f"b{i}"])
            continue
        steps = (STEP * stored[f"w{i}_scale"]).astype(float)
        codes = stored[f"b{i}_corrected"] / steps
        np.testing.assert_allclose(codes, np.rint(codes), rtol=1e-6, atol=0)
        assert (np.abs(stored[f"b{i}_corrected"] - original[f"b{i}"]) <= steps / 2 * (1 + 1e-6)).all()


@pytest.mark.parametrize("bits", [3, 4])
def test_what_onnxruntime_does_to_a_float_bias_changes_nothing(bits: int, tmp_path: Path) -> None:
    """It rounds the bias of what it takes for an integer layer, by up to hundredths of a code at coarse weights."""
    model = layer_chain("Conv")
    result = built(model, tmp_path / "m.onnx", f"w{bits}a8", target="generic", feeds=feeds_for(model, 16))
    simulation = result.verdict["simulation"].value
    assert isinstance(simulation, float)
    assert simulation > 80


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "option"), [("Conv", "w8a8"), ("Gemm", "w4a8"), ("MatMul", "w8"), ("LSTM", "w4")])
def test_the_lowered_model_computes_nearly_the_same(op: str, option: str, tmp_path: Path) -> None:
    model = layer_chain(op)
    result = built(model, tmp_path / "q.onnx", option)
    sqnr = result.verdict["sqnr"].value
    assert isinstance(sqnr, float)
    assert sqnr > (30 if "8" in option.partition("a")[0] else 15)


@pytest.mark.parametrize("middle", ["float", "w8", "w4"])
def test_a_float_convolution_between_integer_ones_stays_float(middle: str, tmp_path: Path) -> None:
    g = rng()
    weights = {f"w{i}": (g.normal(size=(16, 16, 3, 3)) / 12).astype(np.float32) for i in (1, 2, 3)}
    same = "Conv<pads = [1, 1, 1, 1]>"
    body = f"a = {same}(x, w1) r = Relu(a) b = {same}(r, w2) s = Relu(b) y = {same}(s, w3)"
    model = from_text(f"g (float[1, 16, 9, 9] x) => (float[1, 16, 9, 9] y) {{ {body} }}", weights)
    first, inner, last = (unit.name for unit in make_space(normal(model), find_target("ort-cpu")).units)
    options = {first: Option(8, 8), inner: Option.parse(middle), last: Option(8, 8)}
    path = tmp_path / "q.onnx"
    built(model, path, Plan("ort-cpu", "test", options))
    runtime = get_runtime("onnxruntime")
    kernels = {layer.node: layer.low_bit for layer in runtime.kernels(path).layers if "Conv" in layer.kernel}
    assert kernels == {first: True, inner: False, last: True}
    feeds = feeds_for(model)
    deployed, literal = (
        [list(runtime.session(path, mode=mode, outputs=["b"]).run(feed).values()) for feed in feeds]
        for mode in ("deployed", "literal")
    )
    # Seen through the inner value, the first convolution loses no Q; what is float is float to its last bits.
    assert worst_sqnr(literal, deployed) > 40
    alone = [run_layer(path, inner, feed) for feed in feeds]
    assert worst_sqnr([[a] for a, _ in alone], [[b] for _, b in alone]) > 100


def run_layer(path: Path, node: str, feed: Mapping[str, Array]) -> tuple[Array, Array]:
    """Compute one convolution of a file in float64 from what the default session feeds it; give that, and its own."""
    model = onnx.load(str(path))
    found = next(n for n in model.graph.node if n.name == node)
    names = [*found.input[:2], found.output[0]]
    produced = {name for n in model.graph.node for name in n.output}
    seen = (
        get_runtime("onnxruntime").session(path, mode="deployed", outputs=[n for n in names if n in produced]).run(feed)
    )
    seen |= {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in names}
    x, w, got = (seen[name].astype(np.float64) for name in names)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w), got


@pytest.mark.parametrize(
    ("attributes", "shape", "size"),
    [
        ("group = 1", (6, 4, 3, 3), (9, 8)),
        ("pads = [1, 2, 0, 1]", (6, 4, 3, 3), (9, 8)),
        ("strides = [2, 3], pads = [1, 1, 1, 1]", (6, 4, 3, 3), (9, 8)),
        ("dilations = [2, 1], pads = [2, 0, 2, 0]", (6, 4, 3, 3), (9, 8)),
        ("group = 2, pads = [1, 1, 1, 1], strides = [2, 2]", (6, 2, 3, 2), (9, 8)),
        ('auto_pad = "SAME_UPPER", strides = [2, 2]', (6, 4, 3, 3), (9, 8)),
        ('auto_pad = "SAME_LOWER", strides = [2, 2]', (6, 4, 2, 4), (9, 8)),
        ('auto_pad = "SAME_UPPER", strides = [3, 1]', (6, 4, 2, 3), (7, 8)),
        ('auto_pad = "VALID"', (6, 4, 3, 3), (9, 8)),
        ("pads = [2, 1], strides = [2]", (6, 4, 3), (9,)),
        ("pads = [1, 1, 1, 1, 1, 1]", (6, 4, 3, 3, 3), (4, 5, 6)),
    ],
)
def test_taps_see_what_the_convolution_multiplies(
    attributes: str, shape: tuple[int, ...], size: tuple[int, ...]
) -> None:
    channels = 4
    dims = ", ".join(map(str, (channels, *size)))
    out = ", ".join("abcd"[: len(size)])
    model = from_text(
        f"g (float[1, {dims}] x) => (float[1, 6, {out}] y) {{ y = Conv<{attributes}>(x, w) }}",
        {"w": rng().normal(size=shape).astype(np.float32)},
    )
    mean = rng(1).normal(size=(channels, *size)) + 1
    ((y),) = run(model, {"x": mean[None].astype(np.float32)})
    expected = y[0].reshape(6, -1).mean(1)
    taps = tap_means(model.graph[0], mean, shape)
    groups = channels // shape[1]
    w = constants(model)["w"].reshape(groups, 6 // groups, -1)
    np.testing.assert_allclose((w * taps.reshape(groups, 1, -1)).sum(2).reshape(-1), expected, rtol=1e-4, atol=1e-5)


def test_taps_of_inputs_of_many_shapes_see_the_mean_of_their_channel() -> None:
    model = layer_chain("Conv")
    taps = tap_means(model.graph[0], np.arange(16.0), (16, 16, 3, 3))
    np.testing.assert_array_equal(taps, np.broadcast_to(np.arange(16.0)[:, None, None], (16, 3, 3)))


@pytest.mark.parametrize(
    ("op", "option"),
    [("Conv", "w3a8"), ("Conv", "w3"), ("Gemm", "w3a8"), ("Gemm", "w3"), ("MatMul", "w3a8"), ("MatMul", "w3")],
)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_biases_take_up_what_rounding_shifts(op: str, option: str, rounding: Rounding, tmp_path: Path) -> None:
    model = layer_chain(op)
    feeds = [{name: np.abs(array) for name, array in feed.items()} for feed in feeds_for(model, 16)]
    path = tmp_path / "q.onnx"
    errors = []
    for correct in (False, True):
        built(model, path, option, feeds=feeds, numbers=Numbers(bias_correction=correct, rounding=rounding))
        sessions = [get_runtime("onnxruntime").session(m, mode="plain", outputs=["h"]) for m in (raw(model), path)]
        float_h, quantised_h = (np.concatenate([s.run(feed)["h"] for feed in feeds]) for s in sessions)
        axes = (0, 2, 3) if op == "Conv" else tuple(range(float_h.ndim - 1))
        shift = (quantised_h - float_h).mean(axes)
        errors.append((np.abs(shift).max(), ((quantised_h - float_h) ** 2).mean()))
    assert errors[1][0] < errors[0][0] / 10, "the mean of every channel of the first layer is put right"
    assert errors[1][1] < errors[0][1] * (0.9 if rounding == "nearest" else 1), "GPTQ shifts means less by itself"


def raw(model: ir.Model) -> bytes:
    """Return a model as bytes."""
    return bytes(ir.to_proto(model).SerializeToString())


@pytest.mark.parametrize(
    ("text", "bias"),
    [
        ("y = Gemm<transA = 1>(x, w, b)", (8,)),
        ("y = Gemm<alpha = 0.5>(x, w, b)", (8,)),
        ("y = Gemm(x, w, b)", (1,)),
        ("y = Gemm(x, w, b)", (8, 1)),
        ("y = Gemm(x, w, b)", (8, 8)),
        ("m = MatMul(x, v) y = Add(m, b)", (8,)),
    ],
)
def test_unusual_biases_survive_weight_only_options(text: str, bias: tuple[int, ...], tmp_path: Path) -> None:
    g = rng()
    weights = {"w": g.normal(size=(8, 8)), "b": g.normal(size=bias), "v": g.normal(size=(3, 8, 8))}
    used = {
        name: array.astype(np.float32) for name, array in weights.items() if f"{name})" in text or f"{name}," in text
    }
    data = "3, 8, 8" if "v" in used else "8, 8"
    model = from_text(f"g (float[{data}] x) => (float[{data}] y) {{ {text} }}", used)
    verdict = built(model, tmp_path / "q.onnx", "w8").verdict
    sqnr = verdict["sqnr"].value
    assert isinstance(sqnr, float)
    assert sqnr > 40


@pytest.mark.parametrize(
    ("layer", "shapes", "corrected"),
    [
        ("Gemm(x, w, b)", {"w": (8, 6), "b": (6,)}, True),
        ("Gemm<transB = 1>(x, w, b)", {"w": (6, 8), "b": (1, 6)}, True),
        ("Gemm(x, w)", {"w": (8, 6)}, False),
        ("Gemm(x, w, b)", {"w": (8, 6), "b": (1,)}, False),
        ("Gemm<transA = 1>(x, w, b)", {"w": (5, 6), "b": (6,)}, False),
        ("Gemm<alpha = 0.5>(x, w, b)", {"w": (8, 6), "b": (6,)}, False),
        ("Gemm<beta = 0.5>(x, w, b)", {"w": (8, 6), "b": (6,)}, False),
    ],
)
def test_biases_are_corrected_where_they_can_take_it_up(
    layer: str, shapes: dict[str, tuple[int, ...]], corrected: bool
) -> None:
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    model = normal(from_text(f"g (float[5, 8] x) => (float[a, b] y) {{ y = {layer} }}", weights))
    found = corrected_inputs(model, lowered(model, "w8").placement)
    assert found == ({"Gemm_0": ("x", -1)} if corrected else {})


def test_a_bias_that_is_an_output_is_given_as_it_was(tmp_path: Path) -> None:
    g = rng()
    weights = {"w": g.normal(size=(8, 6)).astype(np.float32), "b": g.normal(size=6).astype(np.float32)}
    model = from_text("g (float[5, 8] x) => (float[5, 6] y, float[6] b) { y = Gemm(x, w, b) }", weights)
    built(model, tmp_path / "q.onnx", "w4")
    np.testing.assert_array_equal(constants(ir.load(tmp_path / "q.onnx"))["b"], weights["b"])


def test_weights_in_the_bodies_of_an_if_are_quantised_and_run(tmp_path: Path) -> None:
    text = """g (float[1, 64] x) => (float[1, 64] y) {
        s = ReduceSum<keepdims = 0>(x) c = Greater(s, zero)
        y = If(c) < then_branch = t () => (float[1, 64] p) { p = MatMul(x, outer) },
                    else_branch = e () => (float[1, 64] q) { h = MatMul(x, inner) q = Add(h, x) } >
    }"""
    g = rng()
    outer, inner = (g.normal(size=(64, 64)).astype(np.float32) / 8 for _ in range(2))
    proto = ir.to_proto(from_text(text, {"outer": outer, "zero": np.array(0, np.float32)}))
    branches = next(node for node in proto.graph.node if node.op_type == "If").attribute
    body = next(b.g for b in branches if b.name == "else_branch")
    body.initializer.append(onnx.numpy_helper.from_array(inner, "inner"))
    model = ir.from_proto(proto)
    result = built(model, tmp_path / "q.onnx", "w8a8")
    assert {str(option) for option in result.plan.choices.values()} == {"w8"}
    written = ir.load(tmp_path / "q.onnx")
    codes = [v for graph in all_graphs(written) for v in graph.initializers.values() if v.dtype == ir.DataType.INT8]
    assert len(codes) == 2
    assert "MatMul" in {node.op_type for node in all_nodes(written)}
    positive = {"x": np.full((1, 64), 1.0, np.float32)}
    for sign in (1, -1):  # both bodies
        feed = {"x": sign * positive["x"]}
        assert worst_sqnr([run(model, feed)], [run(written, feed)]) > 35


def test_what_is_looked_up_is_all_that_is_turned_to_float() -> None:
    g = rng()
    table = g.normal(size=(40, 16)).astype(np.float32)
    model = normal(from_text("g (int64[3, 5] i) => (float[3, 5, 16] y) { y = Gather(w, i) }", {"w": table}))
    made = lowered(model, "w8").model
    assert [node.op_type for node in made.graph] == ["Gather", "Gather", "Cast", "Mul"]
    assert made.graph.outputs[0].name == "y"
    indices = g.integers(0, 40, (3, 5))
    stored = constants(made)
    (got,) = run(made, {"i": indices})
    np.testing.assert_array_equal(
        got, stored["w_quantized"][indices] * stored["w_scale"].reshape(-1)[indices][..., None]
    )
    np.testing.assert_allclose(got, table[indices], atol=float(stored["w_scale"].max()) * 2)


HALF = {  # layers in half precision, and their weights
    "MatMul": ("float16[n, 64] x", "float16[n, 64] y", "y = MatMul(x, w)", (64, 64)),
    "Gemm": ("float16[n, 64] x", "float16[n, 32] y", "y = Gemm <transB = 1> (x, w)", (32, 64)),
    "Conv": ("float16[n, 32, 6, 6] x", "float16[n, 64, 4, 4] y", "y = Conv(x, w)", (64, 32, 3, 3)),
    "ConvTranspose": ("float16[n, 32, 4, 4] x", "float16[n, 64, 6, 6] y", "y = ConvTranspose(x, w)", (32, 64, 3, 3)),
}


@pytest.mark.parametrize("target", ["generic", "ort-cpu"])
@pytest.mark.parametrize("op", HALF)
def test_half_precision_weights_are_given_back_in_half_precision(op: str, target: str) -> None:
    given, wanted, step, shape = HALF[op]
    w = rng().normal(size=shape).astype(np.float16)
    model = normal(from_text(f"g ({given}) => ({wanted}) {{ {step} }}", {"w": w}))
    (unit,) = make_space(model, find_target(target)).units
    feed = {"x": rng(1).normal(size=(3, *map(int, re.findall(r", (\d+)", given)))).astype(np.float16)}
    options = [option for option in unit.options if option != FLOAT]
    assert options
    assert not any(option.activation_bits for option in options)
    for option in options:
        made = lowered(model, str(option), target).model
        onnx.checker.check_model(ir.to_proto(made), full_check=True)
        assert worst_sqnr([run(model, feed)], [run(made, feed)]) > {8: 35, 7: 30, 6: 24, 5: 18, 4: 12}.get(
            option.weight_bits, 0
        )


TWO_KINDS = """\
schema = 1
name = "two"
title = "unsigned and signed activations"
runtime = "onnxruntime"
islands = true
limits = { lowest_opset = 13, highest_opset = 26, highest_ir = 13 }
layers = [
    { op = "Conv", options = ["w8a8"], readers = "all" },
    { op = "ConvTranspose", options = ["w8a8"], activation = "signed" },
]
"""


def test_a_tensor_read_as_two_types_gets_a_pair_of_each() -> None:
    g = rng()
    weights = {name: g.normal(size=(4, 4, 1, 1)).astype(np.float32) for name in ("w1", "w2", "w3")}
    text = (
        "g (float[1, 4, 5, 5] x) => (float[1, 4, 5, 5] y, float[1, 4, 5, 5] z, float[1, 4, 5, 5] v) "
        "{ y = ConvTranspose(x, w1) z = Conv(x, w2) v = Conv(x, w3) }"
    )
    model, target = normal(from_text(text, weights)), parse_target(TWO_KINDS, "two")
    space = make_space(model, target)
    choices = {unit.name: option for unit, option in zip(space.units, (Option(8, 8), Option(8, 8), FLOAT), strict=True)}
    pairs = place(model, space, target, choices).pairs
    assert {pair.type for pair in pairs if pair.tensor == "x"} == {"uint8", "int8"}
    affines = {
        pair_key(p): Affine(STEP, 0, -128, 127) if p.type == "int8" else Affine(STEP, 128, 0, 255) for p in pairs
    }
    made = lower(model, space, target, Plan("two", "test", choices), affines)
    onnx.checker.check_model(ir.to_proto(made.model), full_check=True)
    (feed,) = feeds_for(model, 1)
    assert worst_sqnr([run(model, feed)], [run(made.model, feed, "literal")]) > 30
