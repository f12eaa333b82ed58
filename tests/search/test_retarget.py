"""A plan for another target: what is kept, what moves, and why."""

from pathlib import Path

import pytest

import onnxmpq
from onnxmpq.artifacts import FLOAT, Option, Plan
from onnxmpq.errors import InputError
from onnxmpq.search.retarget import retarget
from tests.small import MODELS, small_model

VIT = MODELS / "digits_vit.onnx"
W8A8, W4A8 = Option(8, 8), Option(4, 8)

COARSE = """
schema = 2
name = "coarse"
title = "an engine without convolutions of 4 bits"
runtime = "null"
proof = "simulated"
integer_kernels = false

[limits]
lowest_opset = 13
highest_opset = 26
highest_ir = 13

[[layers]]
op = "Conv"
options = ["w8a8"]

[[layers]]
op = "MatMul"
weight_rank = 2
options = ["w8b32", "w4b32", "w4b128"]
"""


def coarse(folder: Path) -> str:
    path = folder / "coarse.toml"
    path.write_text(COARSE, "utf-8")
    return str(path)


def plan_of(model: Path, option: Option, target: str = "ort-cpu") -> Plan:
    units = onnxmpq.inspect(model, target).units
    return Plan(target, "by hand", {unit.name: option for unit in units if option in unit.options})


def test_units_keep_options_that_another_target_has() -> None:
    model = small_model()
    found = retarget(model, plan_of(model, W4A8), "generic")
    assert not found.moved
    assert found.kept == len(onnxmpq.inspect(model, "generic").units)
    assert found.plan.target == "generic"
    assert set(found.plan.choices.values()) >= {W4A8}


def test_what_a_target_does_not_have_is_taken_finer_and_costs_bytes(tmp_path: Path) -> None:
    model = small_model()
    found = retarget(model, plan_of(model, W4A8), coarse(tmp_path))
    moved = [one for one in found.moved if one.after == W8A8]
    assert moved
    assert all(one.before == W4A8 and one.more_bytes > 0 and "no 'w4a8' there for Conv" in one.why for one in moved)


def test_a_unit_without_any_option_there_is_float_and_said_to_be(tmp_path: Path) -> None:
    model = small_model()
    found = retarget(model, plan_of(model, W4A8), coarse(tmp_path))
    lost = [one for one in found.moved if one.after == FLOAT]
    assert [one.unit for one in lost] == [
        unit.name for unit in onnxmpq.inspect(model).units if unit.layers[0].op == "Gemm" and W4A8 in unit.options
    ]
    assert all(one.why for one in lost)


def test_where_only_blocks_are_offered_the_largest_block_of_no_fewer_bits_is_taken(tmp_path: Path) -> None:
    found = retarget(VIT, plan_of(VIT, W4A8), coarse(tmp_path))
    taken = {option for option in found.plan.choices.values() if option.block}
    assert taken
    assert taken <= {Option(4, 0, 128), Option(4, 0, 32)}


def test_products_that_the_first_target_does_not_know_take_the_usual_bits_of_activations() -> None:
    found = retarget(VIT, plan_of(VIT, W8A8), "generic")
    products = {one.unit: one for one in found.moved if one.after == Option(0, 8)}
    assert products
    assert all(one.why == "a unit on this target alone" for one in products.values())
    back = retarget(VIT, found.plan, "ort-cpu")
    assert {one.unit for one in back.moved} == set(products)
    assert all("no unit there" in one.why for one in back.moved)


def test_a_plan_of_weights_alone_leaves_products_in_float() -> None:
    found = retarget(VIT, plan_of(VIT, Option(8)), "generic")
    assert not [one for one in found.moved if one.after.activation_bits]


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    plan = plan_of(VIT, W8A8)
    with pytest.raises(InputError, match="there is no unit"):
        retarget(small_model(), plan, "generic")


def test_a_plan_that_names_no_target_is_refused() -> None:
    with pytest.raises(InputError, match="does not say for which target"):
        retarget(VIT, Plan("", "by hand", {}), "generic")
