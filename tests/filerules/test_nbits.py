"""Rules of MatMulNBits and GatherBlockQuantized: each is found broken in a file that breaks it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxmpq.filerules.base import Broken
from onnxmpq.filerules.nbits import BITS, BLOCK, LEVEL, SCALES, SHAPE, SYMMETRIC, WHOLE, NBitsRules

K, N, BLOCK_SIZE = 64, 8, 32


def product(**changed: object) -> onnx.ModelProto:
    """Make a product by weights of 4 bits; what is changed breaks a rule."""
    attributes: dict[str, Any] = {"K": K, "N": N, "bits": 4, "block_size": BLOCK_SIZE, "accuracy_level": 1}
    tensors: dict[str, Any] = {
        "codes": np.zeros((N, K // BLOCK_SIZE, BLOCK_SIZE // 2), np.uint8),
        "scales": np.ones((N, K // BLOCK_SIZE), np.float32),
    }
    attributes |= {name: value for name, value in changed.items() if name in attributes}
    tensors |= {name: value for name, value in changed.items() if name not in attributes}
    node = helper.make_node("MatMulNBits", ["x", *tensors], ["y"], name="product", domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, N])],
        [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    )


def broken(model: onnx.ModelProto) -> list[Broken]:
    return list(NBitsRules().check(ir.from_proto(model)))


def test_a_file_that_keeps_all_rules_breaks_none() -> None:
    assert not broken(product())


VIOLATIONS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "zero points": (lambda: product(zero_points=np.full((N, 1), 0x88, np.uint8)), SYMMETRIC.name),
    "three bits": (lambda: product(bits=3), BITS.name),
    "blocks of 256": (lambda: product(block_size=256), BLOCK.name),
    "codes of another shape": (lambda: product(codes=np.zeros((N, K // 2), np.uint8)), SHAPE.name),
    "codes of another type": (lambda: product(codes=np.zeros((N, 2, 16), np.int8)), SHAPE.name),
    "too few scales": (lambda: product(scales=np.ones((N, 1), np.float32)), SCALES.name),
    "scales of another type": (lambda: product(scales=np.ones((N, 2), np.float16)), SCALES.name),
    "a padded block": (lambda: product(K=K - 8), WHOLE.name),
    "a level that nobody asked for": (lambda: product(accuracy_level=0), LEVEL.name),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_file_that_breaks_a_rule_is_told_where(name: str) -> None:
    make, rule = VIOLATIONS[name]
    found = broken(make())
    assert rule in {one.rule.name for one in found}
    assert {one.where for one in found} == {"product"}


def test_every_rule_has_a_source_and_a_file_that_breaks_it() -> None:
    assert {rule.name for rule in NBitsRules.rules} == {rule for _, rule in VIOLATIONS.values()}
    assert all(rule.source and rule.says.endswith(".") for rule in NBitsRules.rules)
