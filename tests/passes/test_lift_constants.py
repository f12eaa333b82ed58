"""lift-constants."""

import numpy as np
import pytest

from onnxmpq_passes import LiftConstants
from tests.passes.proof import Case, FiveTests, parse


def _adds(kind: str, type_: str = "float") -> str:
    return f"g ({type_}[2] x) => ({type_}[2] y) {{ c = Constant<{kind}>() y = Add(x, c) }}"


CASES = (
    Case("of a tensor", _adds("value = float[2] {1.0, 2.0}"), "Add"),
    Case("of a number", _adds("value_float = 1.5"), "Add"),
    Case("of numbers", _adds("value_floats = [1.5, 2.5]"), "Add"),
    Case("of an integer", _adds("value_int = 3", "int64"), "Add"),
    Case("of integers", _adds("value_ints = [3, 4]", "int64"), "Add"),
    Case(
        "in bodies",
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] a) { k = Constant<value_float = 2.0>() a = Mul(x, k) },
                        else_branch = e () => (float[2] b) { b = Constant<value_floats = [1.0, 2.0]>() }>
        }""",
        "If Mul Constant",
    ),
    Case(
        "that is an output",
        "g (float[2] x) => (float[2] y, float[2] z) { z = Constant<value_floats = [1.0, 2.0]>() y = Relu(x) }",
        "",
        fires=False,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestLiftConstants(FiveTests):
    make = LiftConstants()


def test_name_type_and_numbers_are_kept() -> None:
    model = parse(_adds("value_ints = [3, 4]", "int64"))
    LiftConstants()(model)
    value = model.graph.initializers["c"]
    assert value.const_value is not None
    np.testing.assert_array_equal(value.const_value.numpy(), np.array([3, 4], np.int64))


def test_a_constant_read_by_two_nodes_becomes_one_initialiser() -> None:
    model = parse("g (float[2] x) => (float[2] y) { c = Constant<value_float = 2.0>() a = Add(x, c) y = Mul(a, c) }")
    LiftConstants()(model)
    assert len(model.graph.initializers["c"].uses()) == 2


def test_strings_are_left() -> None:
    model = parse(
        'g (float[2] x) => (float[2] y, string[1] z) { c = Constant<value = string[1] {"a"}>() z = Identity(c)'
        " y = Relu(x) }"
    )
    assert not LiftConstants()(model).modified
