"""What QNN's HTP computes wrongly or in half precision is found in files, and is in none that is written for it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq.errors import InputError
from onnxmpq.filerules.base import file_rules
from onnxmpq.filerules.qnn import QnnRules
from onnxmpq.workspace.prepare import prepare
from tests.golden import MODELS, SUBJECTS, lowered, options_of, units, written

SCALES = (
    "float s = {0.1}, float t = {0.2}, uint8 z = {3}, uint16 zw = {3}, int8 zs = {0}, int8 zsn = {5}, int16 zsw = {0}"
)
WEIGHTS = "int8[4, 4] w, float[4] ws, int32[4] b, uint8[4] wn, int8[4] ws8, float[4, 4] wf, float[4] bf"


def codes(source: str, name: str, zero: str = "z", scale: str = "s") -> str:
    """Write Q and DQ."""
    return f"{name}_q = QuantizeLinear({source}, {scale}, {zero}) {name} = DequantizeLinear({name}_q, {scale}, {zero}) "


def model(body: str, inputs: str = "float[4, 4] x", outputs: str = "float y", weights: str = WEIGHTS) -> ir.Model:
    """Parse a graph, between whose codes an operator stands."""
    text = f'<ir_version: 12, opset_import: ["": 25]> g ({inputs}) => ({outputs}) <{SCALES}> {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    for declared in onnx.parser.parse_graph(f"w ({weights}) => () {{ }}").input:
        kind, shape = declared.type.tensor_type.elem_type, [d.dim_value for d in declared.type.tensor_type.shape.dim]
        tensor = onnx.helper.make_tensor(declared.name, kind, shape, np.ones(shape).reshape(-1).tolist())
        proto.graph.initializer.append(tensor)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def broken(found: ir.Model) -> set[str]:
    """Return the names of the rules that a model breaks."""
    return {one.rule.name for one in QnnRules().check(found)}


def layer(body: str, front: str = "z", behind: str = "z", scale: str = "s") -> str:
    """Write an operator that reads ``a`` and gives ``c``, between codes."""
    return codes("x", "a", front) + body + " " + codes("c", "y", behind, scale)


WEIGHT = "wd = DequantizeLinear<axis = 1>(w, ws) "
CLEAN = {
    "a product by a weight": layer(WEIGHT + "c = MatMul(a, wd)"),
    "with a float bias": layer(WEIGHT + "m = MatMul(a, wd) c = Add(m, bf)"),
    "a Gemm with an int32 bias": layer(WEIGHT + "bd = DequantizeLinear<axis = 0>(b, ws) c = Gemm(a, wd, bd)"),
    "a Relu behind it": layer(WEIGHT + "m = MatMul(a, wd) c = Relu(m)"),
    "a converted tensor": codes("x", "a")
    + codes("a", "v", "zw")
    + WEIGHT
    + "c = MatMul(v, wd) "
    + codes("c", "y", "zw"),
    "a product of 8 bits": layer("c = MatMul(a, a)"),
    "a product of 16 bits": codes("x", "a", "zw")
    + codes("a", "v", "zsw")
    + "c = MatMul(a, v) "
    + codes("c", "y", "zw"),
    "a norm": layer(
        "n = DequantizeLinear(wn, s, z) bd = DequantizeLinear(b, s) c = LayerNormalization(a, n, bd)", "zw", "zw"
    ),
    "a Relu on another scale": layer("c = Relu(a)", scale="t"),
    "a float tail": codes("x", "a") + "y = Softmax(a)",
    "a layer in half precision": layer(
        "h = Cast<to = 10>(a) g = Cast<to = 10>(wf) m = MatMul(h, g) c = Cast<to = 1>(m)", "zw", "zw"
    ),
    "a Pad of unsigned codes": layer("c = Pad(a, p)"),
}
CLEAN_WEIGHTS = WEIGHTS + ", int64[4] p"
WRONG = {
    "two-bit-codes": (layer("wd = DequantizeLinear(w2, s) c = MatMul(a, wd)"), "int2[4, 4] w2"),
    "block-zero-points": (
        layer("wd = DequantizeLinear<axis = 0, block_size = 2>(wb, wbs, wbz) c = MatMul(a, wd)", "zw", "zw"),
        "uint4[4, 4] wb, float[2, 4] wbs, uint4[2, 4] wbz",
    ),
    "blocks": (
        layer("wd = DequantizeLinear<axis = 0, block_size = 2>(wb, wbs) c = MatMul(a, wd)", "zw", "zw"),
        "int4[4, 4] wb, float[2, 4] wbs",
    ),
    "signed-pad": (layer("c = Pad(a, p)", "zsn", "zsn"), "int64[4] p"),
    "small-float-product": (layer("c = MatMul(a, wf)", "zw", "zw"), ""),
    "one-type": (layer(WEIGHT + "c = MatMul(a, wd)", "z", "zw"), ""),
    "bias": (layer(WEIGHT + "bd = DequantizeLinear(ws8, s) c = Gemm(a, wd, bd)"), ""),
    "added-bias": (layer(WEIGHT + "bd = DequantizeLinear(b, s) m = MatMul(a, wd) c = Add(m, bd)"), ""),
    "same-scale": (layer("c = Reshape(a, p)", scale="t"), "int64[2] p"),
    "norm-parameters": (
        layer("n = DequantizeLinear(ws8, s) bd = DequantizeLinear(b, s) c = LayerNormalization(a, n, bd)", "zw", "zw"),
        "",
    ),
    "product-types": (codes("x", "a", "zw") + "c = MatMul(a, a) " + codes("c", "y", "zw"), ""),
    "product-zero-point": (
        codes("x", "a", "zw") + codes("a", "v", "zswn") + "c = MatMul(a, v) " + codes("c", "y", "zw"),
        "int16 zswn",
    ),
    "output": (codes("x", "a") + WEIGHT + "y = MatMul(a, wd)", ""),
    "lone-float": (layer("c = Gemm(a, wf, bf)"), ""),
    "static-shapes": ("y = Relu(x)", ""),
    "rank": ("r = Reshape(x, p) y = Relu(r)", "int64[6] p"),
}
MORE_WRONG = {
    "a float Gemm behind what only moves codes": (
        "lone-float",
        layer("r = Transpose<perm = [1, 0]>(a) m = Gemm(r, wf, bf) c = Transpose<perm = [1, 0]>(m)"),
    ),
    "a float product with a bias, which becomes a Gemm": ("lone-float", layer("m = MatMul(a, wf) c = Add(m, bf)")),
    "a product of signed by unsigned codes": (
        "product-types",
        codes("x", "a", "zs") + codes("x", "v") + "c = MatMul(a, v) " + codes("c", "y", "zs"),
    ),
    "two types in one sum": ("one-type", codes("x", "a") + codes("x", "v", "zw") + "c = Add(a, v) " + codes("c", "y")),
    "a norm of int16 codes": (
        "norm-parameters",
        layer(
            "n = DequantizeLinear(wn, s, z) bd = DequantizeLinear(b, s) c = LayerNormalization(a, n, bd)", "zsw", "zsw"
        ),
    ),
    "a norm with a float bias": (
        "norm-parameters",
        layer("n = DequantizeLinear(wn, s, z) c = LayerNormalization(a, n, bf)"),
    ),
    "a norm with float parameters": ("norm-parameters", layer("c = LayerNormalization(a, bf, bf)")),
    "another zero point behind a MaxPool": (
        "same-scale",
        layer("i = Unsqueeze(a, p) m = MaxPool<kernel_shape = [1]>(i) c = Squeeze(m, p)")
        .replace("m = MaxPool", codes("i", "j") + "m = MaxPool")
        .replace("(i) c", "(j) " + codes("m", "k", "zo") + "c")
        .replace("Squeeze(m, p)", "Squeeze(k, p)"),
    ),
}


def case(body: str, more: str = "") -> ir.Model:
    """Parse a case, with further weights."""
    inputs = "float[n, 4] x" if body == "y = Relu(x)" else "float[4, 4] x"
    return model(body, inputs, weights=WEIGHTS + (f", {more}" if more else ""))


@pytest.mark.parametrize("name", CLEAN)
def test_what_runs_in_integers_breaks_no_rule(name: str) -> None:
    assert broken(model(CLEAN[name], weights=CLEAN_WEIGHTS)) == set()


@pytest.mark.parametrize("name", WRONG)
def test_what_is_computed_wrongly_or_in_half_precision_is_refused_by_its_rule(name: str) -> None:
    assert name in broken(case(*WRONG[name]))


@pytest.mark.parametrize("name", MORE_WRONG)
def test_other_forms_of_it_are_refused_too(name: str) -> None:
    rule, body = MORE_WRONG[name]
    assert rule in broken(case(body, "int64[1] p, uint8 zo"))


def test_every_rule_has_a_file_that_breaks_it() -> None:
    assert [rule.name for rule in QnnRules.rules] == [rule.name for rule in file_rules("qnn").rules]
    assert {rule.name for rule in QnnRules.rules} == set(WRONG)


def test_a_broken_rule_is_told_with_its_place() -> None:
    found = [str(one) for one in QnnRules().check(case(*WRONG["one-type"]))]
    assert found == ["one-type at 'c': it reads uint8 and has uint16 codes, too"]


# ---- what is written for the target ----------------------------------------------------------------------------------


OPEN = {"static-shapes"}
"""What the graphs here break before they come to a target, which refuses them then."""


@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_option_of_the_target_breaks_a_rule(subject: str) -> None:
    for option in options_of(units("qnn", subject), SUBJECTS[subject].op):
        assert broken(lowered("qnn", subject, option)) <= OPEN, option


@pytest.mark.parametrize("subject", ["attention", "concat", "outputs", "residual", "digits_cnn", "digits_vit"])
def test_no_mixed_plan_breaks_a_rule(subject: str) -> None:
    random = np.random.default_rng(0)
    for _ in range(6):
        choices = {unit.name: unit.options[random.integers(len(unit.options))] for unit in units("qnn", subject).units}
        assert broken(written("qnn", subject, choices)) <= OPEN, choices


def test_open_shapes_are_refused_before_anything_is_written() -> None:
    with pytest.raises(
        InputError, match=r"'qnn' loads static shapes only; open: 'image' \[batch,1,16,16\]. Add --pass"
    ):
        prepare(str(MODELS / "digits_cnn.onnx"), "qnn")
