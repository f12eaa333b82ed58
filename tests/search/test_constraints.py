"""Decisions by hand: what may be named, and what a wrong name is told."""

import re
from dataclasses import replace

import pytest

from onnxmpq.artifacts import FLOAT, Option, Space, Unit
from onnxmpq.errors import InputError
from onnxmpq.options import Constraints
from onnxmpq.search.constraints import make_menu, matching, uniform_by_hand
from tests.methods.fakes import unit_of

W8, W4, W2 = Option(8), Option(4), Option(2)
W8A8, W4A8, A8 = Option(8, 8), Option(4, 8), Option(0, 8)


def named(name: str, op: str, *, node: str = "", options: tuple[Option, ...] = (W8, W4, W2)) -> Unit:
    """Make a unit of one operator."""
    unit = unit_of(name, 80, options)
    return replace(unit, layers=(replace(unit.layers[0], op=op, node=node or name),))


SPACE = Space(
    "fake",
    (
        named("block1/conv", "Conv"),
        named("block2/conv", "Conv", node="block2/conv_node"),
        named("head", "Gemm", options=(W8,)),
        named("attention", "MatMul", options=(W8, W4)),
    ),
    (),
    0,
)


def options_of(constraints: Constraints, offered: tuple[Option, ...] = (W8, W4)) -> dict[str, tuple[Option, ...]]:
    """Return the menu by the names of units."""
    menu = make_menu(SPACE, offered, constraints)
    return dict(zip((unit.name for unit in menu.units), menu.options, strict=True))


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("head", ["head"]),
        ("block2/conv_node", ["block2/conv"]),
        ("block.*", ["block1/conv", "block2/conv"]),
        (".*conv", ["block1/conv", "block2/conv"]),
        ("op:Conv", ["block1/conv", "block2/conv"]),
        ("op:Gemm", ["head"]),
    ],
)
def test_a_pattern_names_units(pattern: str, names: list[str]) -> None:
    assert [unit.name for unit in matching(SPACE, pattern)] == names


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("haed", "No unit is called 'haed', nor matches it. Did you mean 'head'?"),
        ("conv", "No unit is called 'conv'"),
        ("zzz", "`onnxmpq inspect` lists them"),
        ("op:Convolution", "No unit has the operator 'Convolution'. There are: Conv, Gemm, MatMul."),
        ("block(", "neither the name of a unit nor a regular expression"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        matching(SPACE, pattern)
    assert message in str(error.value)


# ---- menus -----------------------------------------------------------------------------------------------------------


def test_units_get_the_options_or_the_nearest_finer_they_have() -> None:
    assert options_of(Constraints(), (W8, W4)) == {
        "block1/conv": (W8, W4),
        "block2/conv": (W8, W4),
        "head": (W8,),
        "attention": (W8, W4),
    }
    assert options_of(Constraints(), (W2,))["attention"] == (W4,)
    assert options_of(Constraints(), (FLOAT, W8))["head"] == (FLOAT, W8)


def test_options_that_no_unit_takes_are_refused() -> None:
    with pytest.raises(InputError, match=r"No unit of this model takes any of w16.*Options there: float, w8, w4, w2"):
        options_of(Constraints(), (Option(16),))


def test_excluded_units_stay_float_and_kept_ones_take_their_option() -> None:
    menu = options_of(Constraints(keep=("op:Gemm=w8", "block1/conv=w2"), exclude=("attention",)))
    assert menu == {
        "block1/conv": (W2,),
        "block2/conv": (W8, W4),
        "head": (W8,),
        "attention": (FLOAT,),
    }


def test_keeping_goes_over_excluding() -> None:
    assert options_of(Constraints(keep=("head=w8",), exclude=("op:Gemm",)))["head"] == (W8,)


def test_a_name_with_an_equals_sign_can_be_kept() -> None:
    space = Space("fake", (named("a=b", "Conv"),), (), 0)
    assert make_menu(space, (W8,), Constraints(keep=("a=b=w4",))).options == ((W4,),)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints(keep=("head",)), "'head' keeps nothing. Expected NODE=OPTION"),
        (Constraints(keep=("head=w9x",)), "'w9x' is not an option"),
        (Constraints(keep=("head=w4",)), "Unit 'head' has no option 'w4' on this target. Allowed: float, w8."),
        (Constraints(keep=("haed=w8",)), "Did you mean 'head'?"),
        (Constraints(exclude=("haed",)), "Did you mean 'head'?"),
        (Constraints(ties=("head,atention",)), "Did you mean 'attention'?"),
        (
            Constraints(keep=("head=w8", "attention=w4"), ties=("head,attention",)),
            "Tied units have no option in common: 'head' takes w8; 'attention' takes w4.",
        ),
    ],
)
def test_what_cannot_be_is_refused(constraints: Constraints, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        options_of(constraints)


def test_ties_are_the_positions_of_their_units() -> None:
    menu = make_menu(SPACE, (W8, W4), Constraints(ties=("attention, block1/conv", "op:Conv")))
    assert menu.ties == ((0, 3), (0, 1))
    assert menu.contains({"block1/conv": W4, "block2/conv": W4, "head": W8, "attention": W4})
    assert not menu.contains({"block1/conv": W8, "block2/conv": W4, "head": W8, "attention": W8})


# ---- uniform plans ---------------------------------------------------------------------------------------------------

PRODUCT = replace(named("product", "MatMul", options=(A8,)), parameters=0)
PLAIN = Space(
    "fake",
    (
        named("stem", "Conv", options=(W8A8, W4A8, W8, W4)),
        named("body", "Conv", options=(W8A8, W4A8, W8)),
        named("head", "Gemm", options=(W8A8, W8)),
        named("table", "Gather", options=(W8, W4)),
        PRODUCT,
    ),
    (),
    0,
)


def uniform_of(constraints: Constraints, option: Option = W4A8) -> dict[str, Option]:
    """Return the choices of a uniform plan."""
    plan = uniform_by_hand(PLAIN, option, constraints)
    assert plan.method == "uniform"
    return dict(plan.choices)


FREE = {"stem": W4A8, "body": W4A8, "head": W8A8, "table": W4, "product": A8}


@pytest.mark.parametrize(
    ("constraints", "changed"),
    [
        (Constraints(), {}),
        (Constraints(exclude=("op:Conv",)), {"stem": FLOAT, "body": FLOAT}),
        (Constraints(keep=("head=w8", "stem=w8a8")), {"head": W8, "stem": W8A8}),
        (Constraints(keep=("head=float",)), {"head": FLOAT}),
        (Constraints(keep=("stem=w8a8",), exclude=("op:Conv",)), {"stem": W8A8, "body": FLOAT}),
        (Constraints(ties=("stem, body",)), {}),
        (Constraints(ties=("stem,head",)), {"stem": W8A8}),
        (Constraints(ties=("stem,table",)), {"stem": W4}),
        (Constraints(ties=("head,table",)), {"head": W8, "table": W8}),
        (Constraints(ties=("stem,body", "body,head")), {"stem": W8A8, "body": W8A8}),
        (
            Constraints(ties=("stem,table", "body,head", "table,body")),
            dict.fromkeys(("stem", "body", "head", "table"), W8),
        ),
        (Constraints(keep=("stem=w8",), ties=("stem,body",)), {"stem": W8, "body": W8}),
        (Constraints(exclude=("stem",), ties=("stem,body",)), {"stem": FLOAT, "body": FLOAT}),
        (Constraints(ties=("table,product",)), {"table": FLOAT, "product": FLOAT}),
    ],
)
def test_a_uniform_plan_is_as_decided_and_else_at_the_option_or_the_next_finer(
    constraints: Constraints, changed: dict[str, Option]
) -> None:
    assert uniform_of(constraints) == FREE | changed


def test_only_kept_units_of_a_plan_at_float_are_quantised() -> None:
    assert uniform_of(Constraints(keep=("op:Conv=w4a8",)), FLOAT) == {
        **dict.fromkeys(FREE, FLOAT),
        "stem": W4A8,
        "body": W4A8,
    }


@pytest.mark.parametrize(
    ("constraints", "option", "message"),
    [
        (Constraints(exclude=(".*",)), W4A8, "With option 'w4a8' and these decisions by hand every unit stays float."),
        (Constraints(exclude=("stem",)), FLOAT, "With option 'float' and these decisions by hand every unit stays"),
        (Constraints(), FLOAT, "No unit of this model takes 'float' on target 'fake'"),
        (Constraints(keep=("stem=w8",)), Option(16), "No unit of this model takes 'w16' on target 'fake'"),
        (Constraints(exclude=("haed",)), W4A8, "No unit is called 'haed', nor matches it. Did you mean 'head'?"),
        (Constraints(keep=("table=w8a8",)), W4A8, "Unit 'table' has no option 'w8a8' on this target"),
        (
            Constraints(keep=("stem=w8", "head=w8a8"), ties=("stem,body", "body,head")),
            W4A8,
            "Tied units have no option in common: 'stem' takes w8; 'body' takes w4a8, w8a8, w8, float; 'head' takes",
        ),
        (
            Constraints(keep=("stem=w4",), ties=("stem,head",)),
            W8A8,
            "Tied units have no option in common: 'stem' takes w4; 'head' takes w8a8, w8, float.",
        ),
    ],
)
def test_a_uniform_plan_that_decisions_make_impossible_is_refused(
    constraints: Constraints, option: Option, message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        uniform_of(constraints, option)


def test_units_that_read_one_tensor_are_tied_as_far_as_they_may_take_the_same() -> None:
    space = replace(SPACE, together=(("block1/conv", "block2/conv", "head"), ("head", "attention")))
    menu = make_menu(space, (W8, W4), Constraints(ties=["inputs"]))
    assert menu.ties == ((0, 1),)
    kept = make_menu(space, (W8, W4), Constraints(ties=["inputs"], keep=["block1/conv=w4", "attention=w8"]))
    assert kept.ties == ((2, 3),)
    assert make_menu(SPACE, (W8, W4), Constraints(ties=["inputs"])).ties == ()
