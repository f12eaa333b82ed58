"""inline-functions."""

import pytest

from onnxmpq.errors import InputError
from onnxmpq_passes import InlineFunctions
from tests.passes.proof import Case, FiveTests, operators, parse, public

HEAD = '<ir_version: 8, opset_import: ["": 17, "mine": 1]> '


def _function(text: str, opset: int = 17) -> str:
    return f' <domain: "mine", opset_import: ["": {opset}, "mine": 1]> {text}'


TWICE = _function("twice (a) => (b) { b = Add(a, a) }")
CASES = (
    Case("one call", HEAD + "g (float[2] x) => (float[2] y) { a = mine.twice(x) y = Exp(a) }" + TWICE, "Add Exp"),
    Case(
        "two calls", HEAD + "g (float[2] x) => (float[2] y) { a = mine.twice(x) y = mine.twice(a) }" + TWICE, "Add Add"
    ),
    Case(
        "calls within calls",
        HEAD
        + "g (float[2] x) => (float[2] y) { y = mine.fourfold(x) }"
        + TWICE
        + _function("fourfold (a) => (b) { c = mine.twice(a) b = mine.twice(c) }"),
        "Add Add",
    ),
    Case(
        "an attribute",
        HEAD
        + "g (float[2] x) => (float[2] y) { y = mine.leaky<slope = 0.3>(x) }"
        + _function("leaky <slope> (a) => (b) { b = LeakyRelu<alpha: float = @slope>(a) }"),
        "LeakyRelu",
    ),
    Case(
        "an attribute left to its default",
        HEAD
        + "g (float[2] x) => (float[2] y) { y = mine.leaky(x) }"
        + _function("leaky <slope: float = 0.4> (a) => (b) { b = LeakyRelu<alpha: float = @slope>(a) }"),
        "LeakyRelu",
    ),
    Case(
        "an input that is left out",
        HEAD
        + "g (float[2] x) => (float[2] y) <float h = {1.0}> { y = mine.upto(x, , h) }"
        + _function("upto (a, low, high) => (b) { b = Clip(a, low, high) }"),
        "Clip",
    ),
    Case(
        "in a body",
        HEAD
        + """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] a) { a = mine.twice(x) },
                        else_branch = e () => (float[2] b) { m = mine.twice(x) b = mine.twice(m) }>
        }"""
        + TWICE,
        "If Add Add Add",
    ),
    Case(
        "an If within the function",
        HEAD
        + "g (bool c, float[2] x) => (float[2] y) { y = mine.choose(c, x) }"
        + _function(
            """choose (c, a) => (b) {
                b = If (c) <then_branch = t () => (float[2] m) { m = Neg(a) },
                            else_branch = e () => (float[2] n) { n = Exp(a) }>
            }"""
        ),
        "If Neg Exp",
    ),
    Case(
        "an output that is left out",
        HEAD
        + "g (float[2] x) => (float[2] z) { , z = mine.both(x) }"
        + _function("both (a) => (b, c) { b = Exp(a) c = Neg(a) }"),
        "Exp Neg",
    ),
    Case(
        "names that are taken",
        HEAD + "g (float[2] a) => (float[2] b) { c = mine.twice(a) b = Exp(c) }" + TWICE,
        "Add Exp",
    ),
    Case("no functions", "g (float[2] x) => (float[2] y) { y = Exp(x) }", "", fires=False),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestInlineFunctions(FiveTests):
    make = InlineFunctions()


@pytest.mark.parametrize(("outer", "inner"), [(17, 13), (13, 17), (17, 15)])
def test_a_function_of_another_opset_is_inlined_if_its_operators_are_the_same(outer: int, inner: int) -> None:
    head = f'<ir_version: 8, opset_import: ["": {outer}, "mine": 1]> '
    model = parse(
        head
        + "g (float[2] x) => (float[2] y) { y = mine.f(x) }"
        + _function("f (a) => (b) { c = Add(a, a) b = Exp(c) }", inner)
    )
    InlineFunctions()(model)
    assert (operators(model), model.opset_imports[""]) == ("Add Exp", outer)


@pytest.mark.parametrize(("outer", "inner"), [(17, 11), (11, 17)])
def test_a_function_of_another_opset_is_refused_if_an_operator_differs(outer: int, inner: int) -> None:
    head = f'<ir_version: 8, opset_import: ["": {outer}, "mine": 1]> '
    model = parse(
        head
        + "g (float[2,3] x) => (float[2,3] y) { y = mine.soft(x) }"
        + _function("soft (a) => (b) { b = Softmax(a) }", inner)
    )
    with pytest.raises(InputError, match=f"'soft' is written in opset {inner}.*{outer}.*Softmax"):
        InlineFunctions()(model)


def test_functions_that_call_each_other_are_refused() -> None:
    model = parse(
        HEAD
        + "g (float[2] x) => (float[2] y) { y = mine.ping(x) }"
        + _function("ping (a) => (b) { b = mine.pong(a) }")
        + _function("pong (a) => (b) { b = mine.ping(a) }")
    )
    with pytest.raises(InputError, match="cannot be inlined"):
        InlineFunctions()(model)


def test_metadata_of_the_call_goes_to_the_body() -> None:
    model = CASES[0].model()
    next(iter(model.graph)).metadata_props["from"] = "here"
    InlineFunctions()(model)
    assert next(iter(model.graph)).metadata_props["from"] == "here"


def test_an_output_that_is_an_input_keeps_its_name() -> None:
    model = parse(
        HEAD
        + "g (float[2] x) => (float[2] y, float[2] z) { y, z = mine.both(x) }"
        + _function("both (a) => (a, b) { b = Neg(a) }")
    )
    before = public(model)
    InlineFunctions()(model)
    assert (operators(model), public(model)) == ("Neg Identity", before)
