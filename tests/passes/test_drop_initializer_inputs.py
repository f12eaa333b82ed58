"""drop-initializer-inputs."""

import pytest

from onnxmpq_passes import DropInitializerInputs
from tests.passes.proof import Case, FiveTests, parse

OVERRIDABLE = "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Mul(x, w) }"
CASES = (
    Case("a weight", '<ir_version: 3, opset_import: ["": 9]> ' + OVERRIDABLE, "Mul"),
    Case("a weight of IR 8", OVERRIDABLE, "Mul"),
    Case(
        "first of the inputs",
        "g (float[2] w, float[2] x, float[2] v) => (float[2] y) <float[2] w = {1.0, 2.0}, float[2] v = {1.0, 2.0}>"
        " { a = Mul(x, w) y = Add(a, v) }",
        "Mul Add",
    ),
    Case(
        "nothing to drop",
        "g (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Mul(x, w) }",
        "Mul",
        fires=False,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestDropInitializerInputs(FiveTests):
    make = DropInitializerInputs()


def test_order_of_the_other_inputs_stays() -> None:
    model = parse(
        "g (float[2] a, float[2] w, float[2] b) => (float[2] y) <float[2] w = {1.0, 2.0}>"
        " { c = Mul(a, w) y = Add(c, b) }"
    )
    DropInitializerInputs()(model)
    assert [value.name for value in model.graph.inputs] == ["a", "b"]
    assert list(model.graph.initializers) == ["w"]


def test_inputs_of_bodies_are_left() -> None:
    model = parse(
        """g (float[2] x) => (float[2] y) <int64 n = {2}, bool t = {1}> {
            y = Loop (n, t, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] r)
                { d = Identity(c) r = Exp(s) }>
        }"""
    )
    assert not DropInitializerInputs()(model).modified
