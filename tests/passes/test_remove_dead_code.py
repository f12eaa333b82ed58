"""remove-dead-code."""

import pytest

from onnxmpq_passes import RemoveDeadCode
from tests.passes.proof import Case, FiveTests, initializers, operators, parse

CASES = (
    Case("a node nobody reads", "g (float[2] x) => (float[2] y) { a = Exp(x) y = Relu(x) }", "Relu"),
    Case("a chain nobody reads", "g (float[2] x) => (float[2] y) { a = Exp(x) b = Neg(a) y = Relu(x) }", "Relu"),
    Case(
        "a weight nobody reads",
        "g (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Relu(x) }",
        "Relu",
    ),
    Case(
        "an opset nobody needs",
        '<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 2]> g (float[2] x) => (float[2] y) { y = Relu(x) }',
        "Relu",
    ),
    Case(
        "within a body, and what it read outside",
        """g (bool c, float[2] x) => (float[2] y) {
            z = Exp(x)
            y = If (c) <then_branch = t () => (float[2] a) { d = Neg(z) a = Relu(x) },
                        else_branch = e () => (float[2] b) { b = Abs(x) }>
        }""",
        "If Relu Abs",
    ),
    Case(
        "a whole If, and what its bodies read",
        """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> {
            z = Exp(x)
            d = If (c) <then_branch = t () => (float[2] a) { a = Mul(z, w) },
                        else_branch = e () => (float[2] b) { b = Abs(z) }>
            y = Relu(x)
        }""",
        "Relu",
    ),
    Case("one output of two", "g (float[2] x) => (float[1] y) { y, z = Split(x) }", "", fires=False),
    Case("an output nobody reads", "g (float[2] x) => (float[2] y, float[2] z) { y = Exp(x) z = Neg(x) }", "", False),
    Case("an input nobody reads", "g (float[2] x, float[2] u) => (float[2] y) { y = Exp(x) }", "", fires=False),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestRemoveDeadCode(FiveTests):
    make = RemoveDeadCode()


def test_no_initialiser_is_left_behind() -> None:
    model = CASES[5].model()
    RemoveDeadCode()(model)
    assert not list(initializers(model))


def test_functions_that_are_not_called_go() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["": 17, "mine": 1]> g (float[2] x) => (float[2] y) { y = mine.twice(x) }'
        ' <domain: "mine", opset_import: ["": 17]> twice (a) => (b) { b = Add(a, a) }'
        ' <domain: "mine", opset_import: ["": 17]> thrice (a) => (b) { b = Sum(a, a, a) }'
    )
    RemoveDeadCode()(model)
    assert [name for _, name, _ in model.functions] == ["twice"]


def test_foreign_nodes_without_outputs_are_kept() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["": 17, "mine": 1]> g (float[2] x) => (float[2] y) { y = Exp(x) z = Neg(x) }'
    )
    node = next(node for node in model.graph if node.op_type == "Neg")
    node.domain = "mine"
    node.resize_outputs(0)
    assert not RemoveDeadCode()(model).modified
    assert operators(model) == "Exp Neg"
