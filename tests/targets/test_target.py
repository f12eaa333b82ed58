"""Target files: what cannot work is refused with its file, its line and the reason."""

import dataclasses
import re
from pathlib import Path

import onnx_ir as ir
import pytest
from click.testing import CliRunner

from onnxmpq.api import quantize
from onnxmpq.artifacts import Option
from onnxmpq.cli import cli
from onnxmpq.cli.show import options
from onnxmpq.errors import InputError
from onnxmpq.numerics.formats import opset_of
from onnxmpq.options import VerifyOptions
from onnxmpq.targets import builtin_names, parse_target
from onnxmpq.targets import target as find_target
from tests.graphs import feeds_for, layer_chain

GOOD = """\
# a target of one's own
schema = 1
name = "mine"
title = "a test"
runtime = "onnxruntime"

[limits]
lowest_opset = 13
highest_opset = 22
highest_ir = 10

[[layers]]
op = "Gemm"
options = ["w8-7a8", "w8"]
weight_only = { 8 = "castmul" }

[[layers]]
op = "MatMul:product"
options = ["a8"]

[[followers]]
op = "Add"
pull = true
"""
REFUSED = [
    # what is written, what is written instead, the line that is named, the reason
    ('title = "a test"', 'titel = "a test"', 4, "unknown key 'titel'. Known: name, title, runtime"),
    ("highest_ir = 10", "highest_ir = 10\nlowest_ir = 3", 11, "unknown key 'lowest_ir'"),
    ('options = ["a8"]', 'options = ["a8"]\noption = 1', 20, "unknown key 'option'"),
    ("pull = true", "push = true", 23, "unknown key 'push'"),
    ('title = "a test"', "title = 3", 4, "'title' must be of type str, not int"),
    ("highest_ir = 10", 'highest_ir = "10"', 10, "'highest_ir' must be of type int, not str"),
    ("highest_ir = 10", "highest_ir = true", 10, "'highest_ir' must be of type int, not bool"),
    ("pull = true", "pull = 1", 23, "'pull' must be of type bool, not int"),
    ('options = ["a8"]', 'options = "a8"', 19, "'options' must be a list"),
    ('options = ["a8"]', "options = [8]", 19, "'options' must be of type str, not int"),
    ('weight_only = { 8 = "castmul" }', 'weight_only = "castmul"', 15, "'weight_only' must be a table"),
    ("[[followers]]", "[followers]", 21, "'followers' must be a list"),
    (
        'runtime = "onnxruntime"',
        'runtime = "tensorrt"',
        5,
        "'runtime' is 'tensorrt'; allowed: 'null', 'onnxruntime'",
    ),
    ('{ 8 = "castmul" }', '{ 8 = "cast" }', 15, "'weight_only' is 'cast'; allowed: 'dq', 'cast8'"),
    ('{ 8 = "castmul" }', '{ 9 = "castmul" }', 15, "'weight_only' has '9'; codes have 2 to 8 bits"),
    ('options = ["a8"]', 'options = ["a8x"]', 19, "'a8x' is not an option"),
    ('title = "a test"\n', "", 2, "'title' is missing in the target"),
    ('op = "MatMul:product"\n', "", 17, r"'op' is missing in layers\[1\]"),
    ("highest_ir = 10\n", "", 7, "'highest_ir' is missing in limits"),
    ("lowest_opset = 13", "lowest_opset = 30", 8, "opsets 30 to 22 are not a range"),
    ('op = "Gemm"', 'op = "Gem"', 13, "'op' has 'Gem'. Known: Conv, ConvTranspose, Gemm, .* Did you mean 'Gemm'"),
    (
        'options = ["a8"]',
        'options = ["a8"]\nfuses = ["Relo"]',
        20,
        "'fuses' has 'Relo'. ONNX has no such operator. Did",
    ),
    ("pull = true", 'fuses = ["Swishy"]', 23, "'fuses' has 'Swishy'. ONNX has no such operator"),
    ('op = "Add"', 'op = "Addd"', 22, "'op' has 'Addd'. ONNX has no such operator. Did you mean 'Add'"),
    (
        'options = ["a8"]',
        'options = ["a8"]\nblocks_not_before = ["Clipp"]',
        20,
        "'blocks_not_before' has 'Clipp'. ONNX has no such operator. Did you mean 'Clip'",
    ),
    ('options = ["a8"]', 'options = ["w2a8"]', 19, "'w2a8' needs opset 25, above highest_opset 22"),
    ('options = ["a8"]', 'options = ["w8a8"]', 19, "'w8a8' cannot be had: a product of two activations has no weight"),
    (
        'options = ["a8"]',
        'options = ["a5"]',
        19,
        "'a5' cannot be written: activations have 4, 8 or",
    ),
    ('["w8-7a8", "w8"]', '["w9"]', 14, "'w9' cannot be written"),
    (
        '["w8-7a8", "w8"]',
        '["w4b32"]\nblocked = "cast8"',
        15,
        "'w4b32' cannot be carried by 'cast8': it holds no blocks",
    ),
    ('{ 8 = "castmul" }', '{ 8 = "gather" }', 15, "'w8' cannot be carried by 'gather': that is for Gather, not Gemm"),
]


NEWER = [
    # what is written behind the options of a Gemm in a target of schema 2, the reason
    ("least_channels = -1", "-1 is no number of channels"),
    ("least_channels = 2.5", "'least_channels' must be of type int, not float"),
    ("floats = []", "'floats' is empty; allowed: 'f32', 'f16'"),
    ('floats = ["f8"]', "'floats' is 'f8'; allowed: 'f32', 'f16'"),
    ('floats = "f32"', "'floats' must be a list, not 'f32'"),
    ('weight_on = "left"', "'weight_on' is 'left'; allowed: 'right', 'any'"),
    ("attributes = 3", "'attributes' must be a table such as { transA = 0 }, not 3"),
    ('attributes = { alpha = "1" }', "'attributes' has '1' for 'alpha'; it must be a number"),
    ("attributes = { transA = true }", "'attributes' has true for 'transA'; it must be a number"),
    (
        f"attributes = {{ transA = {10**40} }}",
        "'attributes' has a number of many digits for 'transA'; it must be a number",
    ),
    ("attributes = { transa = 0 }", "'attributes' has 'transa'; of numbers Gemm has alpha, .*Did you mean 'transA'"),
    ("signed_second = [7]", "'signed_second' names widths of activations: 4, 8 or 16"),
    ("signed_second = 16", "'signed_second' must be a list, not 16"),
]
OF_TARGETS = [
    # what is written in front of the limits of a target of schema 2, what else, the reason
    ("passes = ['fold-nothing']", "", "There is no pass 'fold-nothing'"),
    ("passes = ['fix-shapes{batch=x}']", "", "Pass 'fix-shapes{batch=x}' has 'x', which is no number"),
    ("rounds = 'sometimes'", "", "'rounds' is 'sometimes'; allowed: 'exactly', 'to-neighbours'"),
    ("converts = 1", "", "'converts' must be of type bool, not int"),
    ("islands = true\nisland = 'half'", "", "islands are 'half' where 'converts = true', and nowhere else"),
    ("islands = true\nconverts = true", "", "islands are 'half' where 'converts = true', and nowhere else"),
    ("static_shapes = true", "constants = true", "'constants' counts where 'converts = true'"),
    ("static_shapes = true", "parameters = ['uint8']", "'parameters' counts where 'converts = true'"),
    ("converts = true", "parameters = ['uint4']", "'parameters' is 'uint4'; allowed: 'uint8', 'int32'"),
]


@pytest.mark.parametrize(("text", "follower", "reason"), OF_TARGETS)
def test_what_a_target_says_of_files_and_cannot_be_is_refused(text: str, follower: str, reason: str) -> None:
    written = GOOD.replace("schema = 1", "schema = 2").replace("[limits]", f"{text}\n\n[limits]") + follower
    with pytest.raises(InputError, match=reason):
        parse_target(written, "t")
    if not follower:
        with pytest.raises(InputError, match="is a key of schema 2"):
            parse_target(written.replace("schema = 2", "schema = 1"), "t")


def test_a_variant_is_for_its_soc() -> None:
    assert find_target("qnn").soc == "57"
    assert find_target("qnn@sm8750").soc == "69"


@pytest.mark.parametrize(("text", "reason"), NEWER)
def test_a_condition_that_cannot_be_is_told_with_its_line(text: str, reason: str) -> None:
    options = 'options = ["w8-7a8", "w8"]\n'
    written = GOOD.replace(options, f"{options}{text}\n")
    with pytest.raises(InputError, match=rf"^Target 't', line 15: {reason}"):
        parse_target(written.replace("schema = 1", "schema = 2"), "t")
    with pytest.raises(InputError, match=rf"line 15: '{text.split()[0]}' is a key of schema 2"):
        parse_target(written, "t")


def test_an_operator_without_numbers_takes_no_condition_on_them() -> None:
    text = GOOD.replace("schema = 1", "schema = 2").replace('["a8"]', '["a8"]\nattributes = { alpha = 1.0 }')
    with pytest.raises(InputError, match="line 20: 'attributes' has 'alpha'; of numbers MatMul:product has none"):
        parse_target(text, "t")


@pytest.mark.parametrize(("old", "new", "line", "reason"), REFUSED, ids=lambda x: x if isinstance(x, int) else "")
def test_a_fault_is_told_with_file_line_and_reason(old: str, new: str, line: int, reason: str, tmp_path: Path) -> None:
    assert GOOD.count(old) == 1
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError, match=rf"^Target '{path}', line {line}: .*{reason}"):
        find_target(str(path))


def test_float_arithmetic_for_quantised_activations_is_refused() -> None:
    text = GOOD.replace('weight_only = { 8 = "castmul" }', 'with_activation = { 8 = "castmul" }')
    with pytest.raises(InputError, match="line 15: 'w8a8' with 'castmul' would be computed in float; use 'dq'"):
        parse_target(text, "t")


@pytest.mark.parametrize("option", ["w8a16", "w4", "w8b32"])
def test_types_above_the_highest_opset_are_refused(option: str) -> None:
    text = GOOD.replace("highest_opset = 22", "highest_opset = 20").replace('"a8"', f'"{option}"')
    with pytest.raises(InputError, match=f"line 19: '{option}' needs opset 21, above highest_opset 20"):
        parse_target(text, "t")


def test_broken_toml_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("highest_opset = 22", "highest_opset = = 22"))
    with pytest.raises(InputError, match=rf"^Target '{path}' is not TOML: .*line 9"):
        find_target(str(path))
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(InputError, match=rf"^The target '{path}' is not UTF-8 text"):
        find_target(str(path))


@pytest.mark.parametrize("schema", ["", "schema = 3\n", 'schema = "1"\n'])
def test_another_schema_is_refused(schema: str) -> None:
    with pytest.raises(InputError, match="'t' has no 'schema = 2'"):
        parse_target(GOOD.replace("schema = 1\n", schema), "t")


def test_a_target_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    known = re.escape(", ".join(builtin_names()))
    with pytest.raises(InputError, match=rf"There is no target 'gpu'\. Known: {known}; or give"):
        find_target("gpu")
    with pytest.raises(InputError, match=r"The target '.*absent\.toml' cannot be read: No such file"):
        find_target(str(tmp_path / "absent.toml"))


def test_a_target_of_ones_own_is_used_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    model = layer_chain("Gemm")
    result = quantize(
        ir.to_proto(model),
        feeds_for(model),
        output=tmp_path / "q.onnx",
        target=str(path),
        plan="w7a8",
        verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
    )
    assert result.plan.target == "mine"
    assert set(result.plan.choices.values()) == {Option(7, 8)}
    assert result.verdict["kernels"].ok
    path.write_text(GOOD.replace('"mine"', '"changed"'))
    assert find_target(str(path)).name == "changed", "a file that was changed is read again"


@pytest.mark.parametrize("name", builtin_names())
def test_a_built_in_target_is_named_as_its_file_and_explained(name: str) -> None:
    found = find_target(name)
    assert found.name == name
    shown = CliRunner().invoke(cli, ["targets", name], env={"COLUMNS": "400"})
    assert shown.exit_code == 0
    assert f"{name}: {found.title}\nProof: " in shown.output
    for rule in found.layers:
        assert options(rule.options) in shown.output
        assert rule.why in shown.output
    for follower in found.followers:
        assert follower.op in shown.output


@pytest.mark.parametrize(
    ("option", "opset"),
    [("float", 0), ("w8a8", 13), ("w5", 13), ("w4a8", 21), ("w3", 21), ("w2", 25), ("w8a16", 21), ("w8b32", 21)],
)
def test_the_opset_is_that_of_the_newest_type(option: str, opset: int) -> None:
    assert opset_of(Option.parse(option)) == opset


# ---- what extends another --------------------------------------------------------------------------------------------

CHILD = 'schema = 2\nextends = "{parent}"\nname = "child"\ntitle = "t"\n{more}'


def child(folder: Path, more: str = "", parent: str = "generic", name: str = "child.toml") -> str:
    path = folder / name
    path.write_text(CHILD.format(parent=parent, more=more), "utf-8")
    return str(path)


def test_what_a_target_does_not_say_is_that_of_the_one_it_extends(tmp_path: Path) -> None:
    found, parent = find_target(child(tmp_path)), find_target("generic")
    assert dataclasses.replace(found, name=parent.name, title=parent.title) == parent
    found = find_target(child(tmp_path, 'notes = ["first"]\nislands = true\n[limits]\nhighest_ir = 9\n'))
    assert (found.notes, found.islands, found.limits.highest_ir) == (("first", *parent.notes), True, 9)
    assert found.limits.lowest_opset == parent.limits.lowest_opset


def test_a_file_extends_one_beside_it(tmp_path: Path) -> None:
    child(tmp_path, "islands = true\n", name="first.toml")
    assert find_target(child(tmp_path, parent="first.toml")).islands


@pytest.mark.parametrize(
    ("more", "parent", "message"),
    [
        ("", "generik", "There is no target 'generik'. .*Did you mean 'generic'"),
        ("", "child.toml", "deep, or itself"),
        ("islands = 3\n", "generic", "line 5: 'islands' must be of type bool"),
        ("[limits]\nlowest = 3\n", "generic", "unknown key 'lowest'"),
        ("[[layers]]\nop = 'Conv'\noptions = ['w9a8']\n", "generic", "cannot be written"),
        ("[[variants]]\nname = 'x'\nruntime = 'none'\n", "generic", "'runtime' is 'none', which is not known"),
        ("[[variants]]\nname = 'x'\nboard = 'b'\n", "generic", "unknown key 'board'"),
        (
            "[[variants]]\nname = 'x'\n[[variants.layers]]\nop = 'Konv'\noptions = ['w8']\n",
            "generic",
            "'op' has 'Konv'",
        ),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path: Path, more: str, parent: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_target(child(tmp_path, more, parent))


def test_schema_1_extends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text(GOOD + '\n[[variants]]\nname = "x"\n', "utf-8")
    with pytest.raises(InputError, match="'variants' is a key of schema 2"):
        find_target(str(path))
