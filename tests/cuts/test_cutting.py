"""Cuts: they stand where little crosses them, and where they save more than they cost."""

import dataclasses
import pickle

import numpy as np
import onnx_ir as ir

from onnxmpq.cuts.cutting import cut
from onnxmpq.cuts.segments import Cuts, Segment
from onnxmpq.cuts.splitting import split
from onnxmpq.model.layers import all_nodes
from tests.cuts.test_segments import assert_same, feed_of, graph, space_of, weights
from tests.graphs import from_text, normal


def ops(model: ir.Model, cuts: Cuts) -> list[str]:
    """Return the operators of each segment."""
    kinds = {node.name: node.op_type for node in model.graph}
    return [" ".join(kinds[name] for name in segment.nodes) for segment in cuts.segments]


def test_activations_stay_with_their_layer() -> None:
    model = graph("chain")
    cuts = cut(model, space_of(model), chain_cost=0)
    assert ops(model, cuts) == ["Conv Relu", "Conv Relu", "Conv Relu", "Conv"]
    assert [segment.live for segment in cuts.segments] == [(), ("b",), ("d",), ("f",)]
    assert [segment.live_bytes for segment in cuts.segments] == [0, 576, 576, 576]
    assert [segment.macs for segment in cuts.segments] == [4 * 36 * 36] * 4


def test_residual_branches_are_not_cut() -> None:
    model = graph("residual")
    cuts = cut(model, space_of(model), chain_cost=0)
    assert ops(model, cuts) == ["Conv Relu", "Conv Relu Conv Add Relu", "Conv Relu Conv Add", "Conv"]


def test_a_cut_that_costs_more_than_it_saves_is_not_made() -> None:
    model = graph("chain")
    space = space_of(model)
    counts = [len(cut(model, space, chain_cost=cost).segments) for cost in (0, 0.1, 1, 10, 1e9, float("inf"))]
    assert counts[0] == 4
    assert counts[-2:] == [1, 1]
    assert counts == sorted(counts, reverse=True)


def test_branches_are_kept_together() -> None:
    """Two towers whose nodes alternate in the file: one after the other only what one gives is live."""
    text = "a1 = MatMul(x, w1) b1 = MatMul(z, v1) " + " ".join(
        f"a{i} = MatMul(a{i - 1}, w{i}) b{i} = MatMul(b{i - 1}, v{i})" for i in range(2, 5)
    )
    towers = f"g (float[n, 8] x, float[n, 8] z) => (float[n, 8] y) {{ {text} y = Add(a4, b4) }}"
    model = normal(from_text(towers, weights(**{f"{x}{i}": (8, 8) for x in "vw" for i in range(1, 5)})))
    cuts = cut(model, space_of(model), chain_cost=0)
    assert [name for segment in cuts.segments for name in segment.live[:1]] == ["a1", "a2", "a3", "a4", *["a4"] * 3]
    assert_same(model, split(model, model, cuts), feed_of(model))


def test_units_without_a_choice_ask_for_no_cut() -> None:
    model = graph("chain")
    space = space_of(model)
    fixed = [dataclasses.replace(unit, costs=unit.costs[:1]) for unit in space.units]
    assert len(cut(model, dataclasses.replace(space, units=tuple(fixed)), chain_cost=0).segments) == 1
    some = (*fixed[:2], *space.units[2:])
    assert len(cut(model, dataclasses.replace(space, units=some), chain_cost=0).segments) == 3


def test_what_is_no_array_of_numbers_is_not_cut() -> None:
    text = (
        "g (float[n, 8] x) => (float[n, 8] y) { a = MatMul(x, w1) s = SequenceConstruct(a, x) "
        "i = Constant<value = int64 {0}>() b = SequenceAt(s, i) c = MatMul(b, w2) d = SequenceAt(s, i) "
        "e = MatMul(d, w3) f = Add(c, e) y = MatMul(f, w4) }"
    )
    model = normal(from_text(text, weights(w1=(8, 8), w2=(8, 8), w3=(8, 8), w4=(8, 8))))
    cuts = cut(model, space_of(model), chain_cost=0)
    assert len(cuts.segments) > 1
    assert not any("s" in segment.live for segment in cuts.segments)
    assert_same(model, split(model, model, cuts), feed_of(model))


def test_a_model_without_nodes_has_one_segment_of_none() -> None:
    model = from_text("g (float[2] x) => (float[2] k) {}", {"k": np.ones(2, np.float32)})
    cuts = cut(model, space_of(model))
    assert cuts.segments == (Segment(0, (), 0),)
    (piece,) = split(model, model, cuts)
    assert (piece.inputs, piece.outputs) == ((), ("k",))


def test_nodes_in_bodies_are_found() -> None:
    model = graph("captured")
    cuts = cut(model, space_of(model), chain_cost=0)
    choice = next(node for node in model.graph if node.op_type == "If")
    inner = [node.name or "" for node in all_nodes(model) if node.graph is not model.graph]
    assert len(inner) == 3
    assert {cuts.segment_of(name) for name in inner} == {cuts.segment_of(choice.name or "")}
    assert cuts.segments[cuts.segment_of(inner[0])].macs == 2 * 2 * 8 * 8
    assert pickle.loads(pickle.dumps(cuts)) == cuts
