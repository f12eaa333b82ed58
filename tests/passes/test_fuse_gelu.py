"""fuse-gelu."""

import pytest

from onnxmpq_passes import FuseGelu
from tests.passes.proof import Case, FiveTests

NUMBERS = (
    "<float root = {1.41421356}, float turned = {0.70710678}, float one = {1}, float half = {0.5}, float two = {2}>"
)


def graph(body: str, outputs: str = "float[2,3] y") -> str:
    """Write a graph of one input."""
    return f"g (float[2,3] x) => ({outputs}) {NUMBERS} {{ {body} }}"


HEAD = "d = Div(x, root) e = Erf(d) a = Add(e, one)"
RTOL = 1e-5
CASES = (
    Case("half first", graph(f"{HEAD} h = Mul(half, a) y = Mul(x, h)"), "Gelu", rtol=RTOL),
    Case("half last", graph(f"{HEAD} h = Mul(a, x) y = Mul(h, half)"), "Gelu", rtol=RTOL),
    Case("half of x", graph(f"h = Mul(x, half) {HEAD} y = Mul(h, a)"), "Gelu", rtol=RTOL),
    Case(
        "multiplied by the inverse",
        graph("d = Mul(turned, x) e = Erf(d) a = Add(one, e) h = Mul(half, a) r = Mul(h, x) y = Relu(r)"),
        "Gelu Relu",
        rtol=RTOL,
    ),
    Case(
        "in a body",
        f"""g (bool c, float[2,3] x) => (float[2,3] y) {NUMBERS} {{
            y = If (c) <then_branch = t () => (float[2,3] b) {{ {HEAD} h = Mul(half, a) b = Mul(x, h) }},
                        else_branch = e () => (float[2,3] n) {{ n = Neg(x) }}>
        }}""",
        "If Gelu Neg",
        rtol=RTOL,
    ),
    Case("another factor", graph(f"{HEAD} h = Mul(two, a) y = Mul(x, h)"), "", fires=False),
    Case(
        "another root",
        graph("d = Div(x, two) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(x, h)"),
        "",
        fires=False,
    ),
    Case("a square", graph(f"{HEAD} h = Mul(x, a) y = Mul(h, x)"), "", fires=False),
    Case(
        "a part that others read",
        graph(f"{HEAD} h = Mul(half, a) y = Mul(x, h)", "float[2,3] y, float[2,3] a"),
        "",
        fires=False,
    ),
    Case("Erf alone", "g (float[2,3] x) => (float[2,3] y) { y = Erf(x) }", "", fires=False),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestFuseGelu(FiveTests):
    make = FuseGelu()


def test_a_model_with_a_gelu_in_parts_is_raised_to_the_opset_that_has_it() -> None:
    model = CASES[0].model()
    FuseGelu()(model)
    assert model.opset_imports[""] == 20


def test_a_model_without_one_keeps_its_opset() -> None:
    model = CASES[-1].model()
    FuseGelu()(model)
    assert model.opset_imports[""] == 17
