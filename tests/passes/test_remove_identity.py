"""remove-identity."""

import onnx_ir as ir
import pytest

from onnxmpq_passes import RemoveIdentity
from tests.passes.proof import Case, FiveTests, operators, parse

BODY = """g (bool c, float[2] x) => (float[2] y) {
    z = Relu(x)
    y = If (c) <then_branch = t () => (float[2] a) { a = Identity(z) },
                else_branch = e () => (float[2] b) { m = Identity(z) n = Exp(m) b = Identity(n) }>
}"""
CASES = (
    Case("in a chain", "g (float[2] x) => (float[2] y) { a = Relu(x) b = Identity(a) y = Exp(b) }", "Relu Exp"),
    Case("before an output", "g (float[2] x) => (float[2] y) { a = Relu(x) y = Identity(a) }", "Relu"),
    Case("after an input", "g (float[2] x) => (float[2] y) { a = Identity(x) y = Relu(a) }", "Relu"),
    Case("two in a row", "g (float[2] x) => (float[2] y) { a = Relu(x) b = Identity(a) y = Identity(b) }", "Relu"),
    Case(
        "of an initialiser",
        "g (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> { v = Identity(w) y = Mul(x, v) }",
        "Mul",
    ),
    Case("in bodies", BODY, "Relu If Identity Exp"),
    Case("input joined to output", "g (float[2] x) => (float[2] y) { y = Identity(x) }", "", fires=False),
    Case(
        "initialiser joined to output",
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1.0, 2.0}> { y = Identity(w) z = Relu(x) }",
        "",
        fires=False,
    ),
    Case(
        "output joined to output",
        "g (float[2] x) => (float[2] a, float[2] y) { a = Relu(x) y = Identity(a) }",
        "",
        fires=False,
    ),
    Case(
        "two names of one value",
        "g (float[2] x) => (float[2] y, float[2] z) { a = Relu(x) y = Identity(a) z = Identity(a) }",
        "Relu Identity",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestRemoveIdentity(FiveTests):
    make = RemoveIdentity()


def test_a_name_given_in_keep_is_kept() -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Relu(x) [mark] b = Identity(a) y = Exp(b) }")
    assert not RemoveIdentity(keep=("mark",))(model).modified
    assert operators(model) == "Relu Identity Exp"


def test_type_and_shape_move_to_the_value_that_stays() -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Relu(x) y = Identity(a) }")
    RemoveIdentity()(model)
    value = model.graph.outputs[0]
    assert (value.name, value.dtype, value.shape) == ("y", ir.DataType.FLOAT, ir.Shape([2]))
