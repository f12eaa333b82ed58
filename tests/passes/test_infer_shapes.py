"""infer-shapes."""

import onnx_ir as ir
import pytest

from onnxmpq_passes import InferShapes
from tests.passes.proof import Case, FiveTests, add_weight, parse

CASES = (
    Case("a chain", "g (float[2,3] x) => (float[2,3] y) { a = Exp(x) y = Neg(a) }", "Exp Neg"),
    Case("symbolic", "g (float[N,3] x) => (float[3,N] y) { a = Transpose(x) y = Neg(a) }", "Transpose Neg"),
    Case(
        "in bodies",
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] a) { m = Exp(x) a = Neg(m) },
                        else_branch = e () => (float[2] b) { b = Neg(x) }>
        }""",
        "If Exp Neg Neg",
    ),
    Case("nothing missing", "g (float[2] x) => (float[2] y) { y = Exp(x) }", "", fires=False),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestInferShapes(FiveTests):
    make = InferShapes()


def _value(model: ir.Model, name: str) -> ir.Value:
    return next(v for node in model.graph.all_nodes() for v in node.outputs if v.name == name)


def test_missing_shapes_are_filled_in_bodies_too() -> None:
    model = CASES[2].model()
    InferShapes()(model)
    assert (_value(model, "m").dtype, _value(model, "m").shape) == (ir.DataType.FLOAT, ir.Shape([2]))


def test_what_is_declared_stays_and_what_is_unknown_is_filled() -> None:
    model = parse("g (float[2,3] x) => (float[A,B] y) { a = Exp(x) y = Neg(a) }")
    _value(model, "a").shape = ir.Shape(["rows", 3])
    InferShapes()(model)
    assert _value(model, "a").shape == ir.Shape([2, 3])
    assert model.graph.outputs[0].shape == ir.Shape(["A", "B"])


def test_unknown_domains_stop_inference_only_there() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["": 17, "mine": 1]> g (float[2] x) => (float[2] y)'
        " { a = mine.Odd(x) b = Exp(a) c = Neg(x) y = Add(b, c) }"
    )
    InferShapes()(model)
    assert _value(model, "b").shape is None
    assert _value(model, "c").shape == ir.Shape([2])


def test_big_weights_are_not_serialised(monkeypatch: pytest.MonkeyPatch) -> None:
    model = parse("g (float[1,1000] x) => (float[1,1000] y) { a = MatMul(x, w) y = Exp(a) }")
    read: list[str] = []

    class Weight(ir.LazyTensor):
        def tobytes(self) -> bytes:
            read.append("bytes")
            return super().tobytes()

    tensor = Weight(lambda: pytest.fail("was read"), ir.DataType.FLOAT, ir.Shape([1000, 1000]), name="w")
    node = next(iter(model.graph))
    add_weight(node, 1, "w", tensor)
    InferShapes()(model)
    assert not read
    assert _value(model, "a").shape == ir.Shape([1, 1000])
