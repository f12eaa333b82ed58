"""remove-dropout."""

import pytest

from onnxmpq_passes import RemoveDropout
from tests.passes.proof import Case, FiveTests

CASES = (
    Case("alone", "g (float[2] x) => (float[2] y) { a = Relu(x) b = Dropout(a) y = Exp(b) }", "Relu Exp"),
    Case("before an output", "g (float[2] x) => (float[2] y) { a = Relu(x) y = Dropout(a) }", "Relu"),
    Case("between public values", "g (float[2] x) => (float[2] y) { y = Dropout(x) }", "Identity"),
    Case("of opset 7", "g (float[2] x) => (float[2] y) { a = Dropout<ratio = 0.3>(x) y = Relu(a) }", "Relu", opset=7),
    Case(
        "with a ratio",
        "g (float[2] x) => (float[2] y) <float r = {0.3}, bool t = {0}> { a = Dropout(x, r, t) y = Exp(a) }",
        "Exp",
    ),
    Case("with a mask nobody reads", "g (float[2] x) => (float[2] y) { a, m = Dropout(x) y = Exp(a) }", "Exp"),
    Case(
        "in a body",
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] a) { d = Dropout(x) a = Exp(d) },
                        else_branch = e () => (float[2] b) { b = Dropout(x) }>
        }""",
        "If Exp Identity",
    ),
    Case(
        "with a mask that is read",
        "g (float[2] x) => (float[2] y, bool[2] m) { y, m = Dropout(x) }",
        "",
        fires=False,
    ),
    Case(
        "in training mode",
        "g (float[2] x) => (float[2] y) <float r = {0.0}, bool t = {1}> { a = Dropout(x, r, t) y = Exp(a) }",
        "",
        fires=False,
    ),
    Case(
        "in a mode chosen when run",
        "g (float[2] x, bool t) => (float[2] y) <float r = {0.0}> { a = Dropout(x, r, t) y = Exp(a) }",
        "",
        fires=False,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestRemoveDropout(FiveTests):
    make = RemoveDropout()
