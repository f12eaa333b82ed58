"""name-everything."""

import onnx_ir as ir
import pytest

from onnxmpq.model.layers import all_graphs
from onnxmpq_passes import NameEverything
from tests.passes.proof import Case, FiveTests, parse

SIBLINGS = """g (bool c, float[2] x) => (float[2] y) {
    m = Exp(x)
    y = If (c) <then_branch = t () => (float[2] r) { n = Neg(m) r = Exp(n) },
                else_branch = e () => (float[2] r) { n = Abs(m) r = Exp(n) }>
}"""
CASES = (
    Case("unnamed nodes", "g (float[2] x) => (float[2] y) { a = Exp(x) y = Neg(a) }", "Exp Neg"),
    Case("one name in two bodies", SIBLINGS, "Exp If Neg Exp Abs Exp"),
    Case(
        "outputs that are left out",
        "g (float[3,1,2] x, float[1,8,2] w, float[1,8,2] r) => (float[1,1,2] h)"
        " { , h = LSTM<hidden_size = 2>(x, w, r) }",
        "LSTM",
    ),
    Case("all unique", "g (float[2] x) => (float[2] y) { [a] a = Exp(x) [b] y = Neg(a) }", "", fires=False),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestNameEverything(FiveTests):
    make = NameEverything()


def _names(model: ir.Model) -> list[str | None]:
    graphs = list(all_graphs(model))
    values = [v for graph in graphs for v in (*graph.inputs, *graph.initializers.values())]
    return [v.name for v in values] + [v.name for graph in graphs for node in graph for v in node.outputs]


def test_names_are_unique_over_all_bodies() -> None:
    model = parse(SIBLINGS)
    NameEverything()(model)
    nodes = [node.name for graph in all_graphs(model) for node in graph]
    assert len({*_names(model)}) == len(_names(model))
    assert len({*nodes}) == len(nodes)
    assert all(_names(model))
    assert all(nodes)


def test_the_second_of_two_nodes_of_one_name_is_numbered() -> None:
    model = parse("g (float[2] x) => (float[2] y) { [n] a = Exp(x) [n] y = Neg(a) }")
    NameEverything()(model)
    assert [node.name for node in model.graph] == ["n", "n_1"]


def test_an_inner_value_gives_way_to_a_public_name() -> None:
    model = parse(SIBLINGS)
    next(iter(model.graph)).outputs[0].name = "y"
    NameEverything()(model)
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert next(iter(model.graph)).outputs[0].name == "y_1"


def test_the_same_model_gets_the_same_names() -> None:
    first, second = parse(SIBLINGS), parse(SIBLINGS)
    NameEverything()(first)
    NameEverything()(second)
    assert _names(first) == _names(second)


def test_a_graph_without_a_name_gets_one() -> None:
    model = parse(SIBLINGS)
    model.graph.name = ""
    assert NameEverything()(model).modified
    assert model.graph.name
