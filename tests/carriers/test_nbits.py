"""Weights in blocks for MatMulNBits and GatherBlockQuantized: what they give is what their codes say."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxmpq
from onnxmpq.artifacts import Option
from onnxmpq.carriers.nbits import packed
from onnxmpq.numerics.weights import quantise_weight
from onnxmpq.options import VerifyOptions
from onnxmpq.runtimes.ort import OnnxRuntime
from tests.asked import asked
from tests.graphs import feeds_for, from_text, layer_chain

OPTIONS = [f"w{bits}b{block}" for bits in (2, 4, 8) for block in (16, 32, 64, 128)]
AS_ASKED = VerifyOptions(allow_slower=True, as_asked=True, speed_budget_s=0.0)


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gather"])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_file_gives_what_its_codes_say(op: str, option: str, tmp_path: Path) -> None:
    model = layer_chain(op, wide=True)
    path = tmp_path / "q.onnx"
    numbers = {"rounding": "nearest", "bias_correction": False}
    onnxmpq.quantize(
        ir.to_proto(model),
        feeds_for(model),
        output=path,
        target="nbits",
        plan=option,
        numbers=numbers,
        verify=AS_ASKED,
    )
    by_hand = ir.from_proto(ir.to_proto(model))
    asked_for = Option.parse(option)
    for node in by_hand.graph:
        for place in (0, 1):
            value = node.inputs[place] if len(node.inputs) > place else None
            if value is None or value.const_value is None or node.op_type == "Add":
                continue
            weight = value.const_value.numpy()
            axis = 1 if node.op_type == "Gather" or node.attributes.get_int("transB", 0) == 1 else 0
            found = quantise_weight(weight, bits=asked_for.weight_bits, axes=None, block=(axis, asked_for.block))
            scale = np.repeat(found.scale, asked_for.block, axis)
            value.const_value = ir.tensor((found.codes * scale).astype(np.float32))
    runtime, feed = OnnxRuntime(), feeds_for(model)[0]
    wanted = runtime.session(ir.to_proto(by_hand).SerializeToString(), mode="plain").run(feed)["y"]
    got = runtime.session(path, mode="deployed").run(feed)["y"]
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert {"Gather": "GatherBlockQuantized"}.get(op, "MatMulNBits") in operators


def test_codes_lie_lowest_first() -> None:
    assert packed(np.array([[-2, -1, 0, 1]]), 2).tolist() == [[0b11100100]]
    assert packed(np.array([[-128, 127]]), 8).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("y = MatMul(w, x)", "not a matrix on the right"),
        ("y = Gemm<alpha = 0.5>(x, w)", "its alpha or beta is not 1"),
        ("y = Gemm<transA = 1>(x, w)", "transposes its input"),
    ],
)
def test_what_the_operators_do_not_take_stays_float_with_the_reason(body: str, why: str) -> None:
    text = f"g (float[64, 64] x) => (float[n, m] y) {{ {body} }}"
    model = from_text(text, {"w": np.ones((64, 64), np.float32)})
    (unit,) = onnxmpq.inspect(ir.to_proto(model), "nbits").units
    assert [str(option) for option in unit.options] == ["float"]
    assert why in unit.reason


def test_a_search_chooses_from_the_menu_of_the_target_and_keeps_what_reads_one_tensor_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(size=(64, 64)).astype(np.float32) for name in ("q", "k", "v", "o")}
    text = """g (float[n, 64] x) => (float[n, 64] y) {
        a = MatMul(x, q) b = MatMul(x, k) c = MatMul(x, v) d = Mul(a, b) e = Add(d, c) f = Relu(e) y = MatMul(f, o)
    }"""
    model = from_text(text, weights)
    result = onnxmpq.quantize(
        ir.to_proto(model),
        feeds_for(model, count=16),
        output=tmp_path / "q.onnx",
        target="nbits",
        **asked(budget=["bits=5"], effort="quick", speed_budget_s=0.0),
    )
    chosen = {unit: str(option) for unit, option in result.plan.choices.items()}
    assert set(chosen.values()) <= {"w8b32", "w4b32", "w2b32"}
    assert len({chosen[unit] for unit in chosen if unit != "MatMul_3"}) == 1
    assert result.verdict["rules"].ok


def test_integers_are_asked_for_by_a_variant(tmp_path: Path) -> None:
    model = layer_chain("MatMul")
    for target, level in (("nbits", 1), ("nbits@level4", 4)):
        path = tmp_path / "q.onnx"
        onnxmpq.quantize(
            ir.to_proto(model),
            feeds_for(model),
            output=path,
            target=target,
            plan="w4b32",
            overwrite=True,
            verify=AS_ASKED,
        )
        nodes = [node for node in onnx.load(path).graph.node if node.op_type == "MatMulNBits"]
        assert {a.i for node in nodes for a in node.attribute if a.name == "accuracy_level"} == {level}
