"""fold-pad."""

import pytest

from onnxmpq_passes import FoldPad
from tests.passes.proof import Case, FiveTests

W = "float[2,1,2,2] w = {1.0, 2.0, -3.0, 0.5, 0.25, -1.0, 2.0, 1.5}"
X = "float[1,1,3,3] x"
PADS = "int64[8] p = {0, 0, 0, 1, 0, 0, 1, 0}"
CASES = (
    Case("before a Conv", f"g ({X}) => (float[1,2,3,3] y) <{W}, {PADS}> {{ a = Pad(x, p) y = Conv(a, w) }}", "Conv"),
    Case(
        "beside pads of its own",
        f"g ({X}) => (float[1,2,5,5] y) <{W}, {PADS}, float z = {{0.0}}>"
        " { a = Pad(x, p, z) y = Conv<pads = [1, 1, 1, 1]>(a, w) }",
        "Conv",
    ),
    Case(
        "of some axes",
        f"g ({X}) => (float[1,2,3,3] y) <{W}, int64[4] p = {{1, 0, 0, 1}}, int64[2] k = {{-1, -2}}>"
        " { a = Pad(x, p, , k) y = Conv(a, w) }",
        "Conv",
        opset=18,
    ),
    Case(
        "before two of them",
        f"g ({X}) => (float[1,2,3,3] y, float[1,2,2,2] z) <{W}, {PADS}>"
        " { a = Pad(x, p) y = Conv(a, w) z = Conv<strides = [2, 2], pads = [0, 0, 1, 1]>(a, w) }",
        "Conv Conv",
    ),
    Case(
        "in a body",
        f"""g (bool c, {X}) => (float[1,2,3,3] y) <{W}, {PADS}> {{
            y = If (c) <then_branch = t () => (float[1,2,3,3] a) {{ d = Pad(x, p) a = Conv(d, w) }},
                        else_branch = e () => (float[1,2,3,3] b) {{ f = Pad(x, p) b = Conv(f, w) }}>
        }}""",
        "If Conv Conv",
    ),
    Case(
        "with another value",
        f"g ({X}) => (float[1,2,3,3] y) <{W}, {PADS}, float z = {{1.0}}> {{ a = Pad(x, p, z) y = Conv(a, w) }}",
        "",
        fires=False,
    ),
    Case(
        "by reflection",
        f'g ({X}) => (float[1,2,3,3] y) <{W}, {PADS}> {{ a = Pad<mode = "reflect">(x, p) y = Conv(a, w) }}',
        "",
        fires=False,
    ),
    Case(
        "that cuts off",
        f"g ({X}) => (float[1,2,1,3] y) <{W}, int64[8] p = {{0, 0, 0, 1, 0, 0, -1, 0}}>"
        " { a = Pad(x, p) y = Conv(a, w) }",
        "",
        fires=False,
    ),
    Case(
        "of channels",
        "g (float[1,1,3,3] x) => (float[1,1,2,2] y) <float[1,2,2,2] w = {1.0, 2.0, -3.0, 0.5, 0.25, -1.0, 2.0, 1.5},"
        " int64[8] p = {0, 1, 0, 0, 0, 0, 0, 0}> { a = Pad(x, p) y = Conv(a, w) }",
        "",
        fires=False,
    ),
    Case(
        "that others read",
        f"g ({X}) => (float[1,2,3,3] y, float[1,1,4,4] z) <{W}, {PADS}> {{ a = Pad(x, p) y = Conv(a, w) z = Relu(a) }}",
        "",
        fires=False,
    ),
    Case(
        "that is public",
        f"g ({X}) => (float[1,2,3,3] y, float[1,1,4,4] a) <{W}, {PADS}> {{ a = Pad(x, p) y = Conv(a, w) }}",
        "",
        fires=False,
    ),
    Case(
        "before a Conv that pads by the shape",
        f'g ({X}) => (float[1,2,4,4] y) <{W}, {PADS}> {{ a = Pad(x, p) y = Conv<auto_pad = "SAME_UPPER">(a, w) }}',
        "",
        fires=False,
    ),
    Case(
        "by pads that are computed",
        f"g ({X}, int64[8] q) => (float[1,2,2,2] y) <{W}> {{ p = Sub(q, q) a = Pad(x, p) y = Conv(a, w) }}",
        "",
        fires=False,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestFoldPad(FiveTests):
    make = FoldPad()
