"""convert-opset; how operators are converted is tested with raise_opset."""

import pytest

from onnxmpq.errors import InputError
from onnxmpq_passes import ConvertOpset
from tests.passes.proof import Case, FiveTests, parse

CASES = (
    Case(
        "slice",
        "g (float[4] x) => (float[2] y) { y = Slice<starts = [1], ends = [3]>(x) }",
        "Constant Constant Slice",
        opset=9,
    ),
    Case("softmax", "g (float[2,3] x) => (float[2,3] y) { y = Softmax(x) }", "Softmax", opset=7),
    Case(
        "in a body",
        """g (bool c, float[2] x) => (float[1,2] y) {
            y = If (c) <then_branch = t () => (float[1,2] a) { a = Unsqueeze<axes = [0]>(x) },
                        else_branch = e () => (float[1,2] b) { n = Neg(x) b = Unsqueeze<axes = [0]>(n) }>
        }""",
        "If Constant Unsqueeze Neg Constant Unsqueeze",
        opset=11,
    ),
    Case("high enough", "g (float[2,3] x) => (float[2,3] y) { y = Softmax(x) }", "", fires=False, opset=17),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestConvertOpset(FiveTests):
    make = ConvertOpset()


def test_the_minimum_is_an_option() -> None:
    model = parse("g (float[2,3] x) => (float[2,3] y) { y = Softmax(x) }", opset=17)
    assert ConvertOpset(minimum=21)(model).modified
    assert (model.opset_imports[""], model.ir_version) == (21, 10)


def test_what_cannot_be_converted_is_named() -> None:
    model = parse("g (float[1,2,4,4] x) => (float[1,2,2,2] y) { [cut] y = Crop<border = [1, 1, 1, 1]>(x) }", opset=7)
    with pytest.raises(InputError, match=r"Crop.*'cut'.*opset 7"):
        ConvertOpset()(model)
