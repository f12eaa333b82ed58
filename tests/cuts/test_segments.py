"""Segments: the chain of a model's pieces is the model, and a variant changes no more of it than it must."""

import dataclasses
import itertools
import os
import pickle
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.artifacts import FLOAT, Option, Plan, Space
from onnxmpq.cuts.cutting import cut
from onnxmpq.cuts.segments import Cuts, Piece, Segment, differing, first_change
from onnxmpq.cuts.sights import Sights, together
from onnxmpq.cuts.splitting import Splitter, split
from onnxmpq.lower.write import lower, pair_key
from onnxmpq.model.bodies import owners
from onnxmpq.model.layers import all_nodes
from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from onnxmpq.model.opset import raise_opset
from onnxmpq.numerics.ranges import Affine
from onnxmpq.runtimes import get_runtime
from onnxmpq.targets import Target
from onnxmpq.targets import target as find_target
from onnxmpq.targets.placement import Pair, Placement, place
from onnxmpq.targets.space import make_space
from onnxmpq.verification.verify import worst_sqnr
from tests.graphs import Array, from_text, normal, rng

MODELS = Path(__file__).parents[2] / "models"
ZOO = Path(os.environ.get("ONNXMPQ_ZOO") or Path(__file__).parents[2] / ".." / "shared" / "zoo") / "models"
CODES = {"int8": (0, -128, 127), "uint8": (128, 0, 255), "int16": (0, -32768, 32767), "uint16": (32768, 0, 65535)}
TARGETS = ("ort-cpu", "openvino", "generic", "qnn")
Feed = Mapping[str, Array]


@cache
def without_islands(name: str) -> Target:
    """Return a target as measuring sees it: literal sessions need no protection."""
    return dataclasses.replace(find_target(name), islands=False)


def space_of(model: ir.Model, target: str = "ort-cpu") -> Space:
    """Return the units of a normalised model."""
    return make_space(model, without_islands(target))


def lowered(
    model: ir.Model,
    choices: Mapping[str, str] | str,
    target: str | Target = "ort-cpu",
    step: float = 0.03,
    part: Placement | None = None,
) -> ir.Model:
    """Lower a normalised model; activations get some scale, from a step on. One option is meant for all that have it.

    ``part``: write that part of the placement alone.
    """
    found = without_islands(target) if isinstance(target, str) else target
    space = make_space(model, found)
    named = {unit.name: choices for unit in space.units} if isinstance(choices, str) else choices
    options = {name: Option.parse(text) for name, text in named.items()}
    options = {name: option for name, option in options.items() if option in space.unit(name).options}
    affines = {
        pair_key(pair): Affine(np.float32(step * _wider(pair) / (256 if "16" in pair.type else 1)), *CODES[pair.type])
        for pair in place(model, space, found, options).pairs
    }
    return lower(model, space, found, Plan(found.name, "test", options), affines, placement=part).model


def _wider(pair: Pair) -> float:
    """Return a factor from 1 to 2: tensors have scales of their own, those of a group one."""
    return 1 + zlib.crc32(min(pair.group).encode()) % 100 / 100


def random_choices(space: Space, seed: int) -> dict[str, str]:
    """Draw an option for each unit; a third stay float."""
    random = rng(seed)
    return {
        unit.name: str(unit.options[random.integers(len(unit.options))] if random.random() < 0.67 else FLOAT)
        for unit in space.units
    }


def feed_of(model: ir.Model, batch: int = 2, length: int = 7) -> dict[str, Array]:
    """Make an input up: unknown sizes are ``batch`` and ``length``; tokens are small, masks are whole."""
    random = rng(3)
    audio = "sr" in {value.name for value in model.graph.inputs}
    feed = {}
    for value in model.graph.inputs:
        name, dtype = value.name or "", value.dtype
        assert dtype is not None
        free = {0: 1, 1: 512 if name == "input" else 1} if audio else {0: batch, 1: length}
        shape = [dim if isinstance(dim, int) else free[axis] for axis, dim in enumerate(value.shape or ())]
        if name == "sr":
            feed[name] = np.full(shape, 16000, dtype.numpy())
        elif dtype == ir.DataType.BOOL:
            feed[name] = np.ones(shape, np.bool_)
        elif dtype.is_integer():
            feed[name] = random.integers(1, 2, shape).astype(dtype.numpy())
        else:
            feed[name] = random.normal(size=shape).astype(dtype.numpy())
    return feed


def unoptimised(data: bytes) -> Any:
    """Return a session that computes node by node: what is the same there is the same graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(data: bytes, feed: Feed, mode: str) -> list[Array]:
    """Run a model; ``unoptimised`` or a mode of the runtime."""
    if mode == "unoptimised":
        return list(unoptimised(data).run(None, feed))
    session = get_runtime("onnxruntime").session(data, mode="literal")
    return list(session.run(feed).values())


def run_chain(pieces: Sequence[Piece], feed: Feed, outputs: Sequence[str], mode: str = "unoptimised") -> list[Array]:
    """Run pieces one after another, as the module's docstring says."""
    values = dict(feed)
    for piece in pieces:
        assert not values.keys() & set(piece.outputs)  # each name is given once
        given = run(piece.data, {name: values[name] for name in piece.inputs}, mode)
        values |= zip(piece.outputs, given, strict=True)
    return [values[name] for name in outputs]


def check(pieces: Sequence[Piece]) -> None:
    """Let onnx look at every piece, and compare it with what it says of itself."""
    for piece in pieces:
        proto = onnx.load_from_string(piece.data)
        onnx.checker.check_model(proto, full_check=True)
        assert tuple(value.name for value in proto.graph.input) == piece.inputs
        assert tuple(value.name for value in proto.graph.output) == piece.outputs
        assert all(value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output))
        stored = [tensor.name for tensor in proto.graph.initializer]
        assert len(stored) == len(set(stored))


def names(model: ir.Model) -> list[str]:
    """Return the names of the graph's outputs."""
    return [value.name or "" for value in model.graph.outputs]


def assert_same(model: ir.Model, pieces: Sequence[Piece], feed: Feed) -> None:
    """Check that the chain computes what the model does, bit for bit."""
    check(pieces)
    whole = run(ir.to_proto(model).SerializeToString(), feed, "unoptimised")
    for got, expected in zip(run_chain(pieces, feed, names(model)), whole, strict=True):
        np.testing.assert_array_equal(got, expected)


def cuts_at(model: ir.Model, positions: Sequence[int] | None = None) -> Cuts:
    """Cut a model where one likes; in front of every node unless told otherwise."""
    nodes = [node.name or "" for node in model.graph]
    stops = [0, *(range(1, len(nodes)) if positions is None else sorted(set(positions))), len(nodes)]
    segments = tuple(Segment(i, tuple(nodes[a:b]), 0) for i, (a, b) in enumerate(itertools.pairwise(stops)))
    return Cuts(segments, {name: node.name or "" for name, node in owners(model).items()})


# ---- graphs ----------------------------------------------------------------------------------------------------------


def weights(**shapes: tuple[int, ...]) -> dict[str, Array]:
    """Return random weights."""
    random = rng(5)
    return {
        name: (random.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


SQUARE = (4, 4, 3, 3)
CONV = "Conv<pads = [1, 1, 1, 1]>"
GRAPHS: dict[str, tuple[str, dict[str, Array]]] = {
    "chain": (
        f"g (float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] y) {{ a = {CONV}(x, w1, b1) b = Relu(a) c = {CONV}(b, w2) "
        f"d = Relu(c) e = {CONV}(d, w3) f = Relu(e) y = {CONV}(f, w4, b4) }}",
        weights(w1=SQUARE, w2=SQUARE, w3=SQUARE, w4=SQUARE, b1=(4,), b4=(4,)),
    ),
    "residual": (
        f"g (float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] y) {{ a = {CONV}(x, w1) r = Relu(a) b = {CONV}(r, w2) "
        f"c = Relu(b) d = {CONV}(c, w3) s = Add(d, r) t = Relu(s) e = {CONV}(t, w4) f = Relu(e) h = {CONV}(f, w5) "
        f"u = Add(h, t) y = {CONV}(u, w6) }}",
        weights(w1=SQUARE, w2=SQUARE, w3=SQUARE, w4=SQUARE, w5=SQUARE, w6=SQUARE),
    ),
    "branches": (
        f"g (float[n, 4, 6, 6] x) => (float[n, 5] y) {{ a = {CONV}(x, w1) b = {CONV}(a, w2) c = {CONV}(a, w3) "
        f"d = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a) e = {CONV}(c, w4) f = Concat<axis = 1>(b, e, d) "
        f"h = {CONV}(f, w5) p = GlobalAveragePool(h) q = Flatten(p) y = Gemm(q, w6) }}",
        weights(w1=SQUARE, w2=SQUARE, w3=SQUARE, w4=SQUARE, w5=(4, 12, 3, 3), w6=(4, 5)),
    ),
    "two inputs": (
        "g (float[n, 8] x, float[n, 8] z) => (float[n, 8] y) { a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) "
        "d = Add(c, z) e = MatMul(d, w3) f = Mul(e, x) h = MatMul(z, w4) y = Add(f, h) }",
        weights(w1=(8, 8), w2=(8, 8), w3=(8, 8), w4=(8, 8)),
    ),
    "two outputs": (
        f"g (float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] r, float[n, 5] y) {{ a = {CONV}(x, w1) r = Relu(a) "
        f"b = {CONV}(r, w2) p = GlobalAveragePool(b) q = Flatten(p) y = Gemm(q, w3) }}",
        weights(w1=SQUARE, w2=SQUARE, w3=(4, 5)),
    ),
    "captured": (
        "g (bool q, float[2, 8] x) => (float[2, 8] y, float[2, 8] z) { a = MatMul(x, w1) b = Relu(a) "
        "c = If (q) <then_branch = t () => (float[2, 8] ty) { m = MatMul(b, w2) ty = Add(m, x) }, "
        "else_branch = e () => (float[2, 8] ey) { ey = MatMul(x, w2) }> "
        "d = MatMul(c, w3) z = Sigmoid(d) y = MatMul(z, w4) }",
        weights(w1=(8, 8), w2=(8, 8), w3=(8, 8), w4=(8, 8)),
    ),
    "shared": (
        "g (float[n, 8] x) => (float[n, 8] y) { a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = Relu(c) "
        "e = MatMul(d, w1) f = Relu(e) h = Add(f, k) y = Add(h, k) }",
        weights(w1=(8, 8), w2=(8, 8), k=(8,)),
    ),
    "dynamic": (
        "g (int64[batch, sequence] i) => (float[batch, sequence, 8] y) { e = Gather(table, i) a = MatMul(e, w1) "
        "b = Add(a, b1) c = Relu(b) d = MatMul(c, w2) s = Add(d, e) t = Softmax<axis = -1>(s) y = MatMul(t, w3) }",
        weights(table=(9, 8), w1=(8, 8), w2=(8, 8), w3=(8, 8), b1=(8,)),
    ),
    "constant": (
        "g (float[n, 8] x) => (float[n, 8] y, float[8] k) { a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) "
        "y = Add(c, k) }",
        weights(w1=(8, 8), w2=(8, 8), k=(8,)),
    ),
}


@cache
def graph(name: str) -> ir.Model:
    """Return one of the graphs above, normalised."""
    text, values = GRAPHS[name]
    return normal(from_text(text, values))


def both_cuts(model: ir.Model, space: Space) -> list[Cuts]:
    """Return the cuts that are chosen when they cost nothing, and those in front of every node."""
    chosen = cut(model, space, chain_cost=0)
    assert len(chosen.segments) > 1
    return [chosen, cuts_at(model)]


@pytest.mark.parametrize("name", GRAPHS)
def test_the_chain_is_the_model(name: str) -> None:
    model = graph(name)
    for cuts in both_cuts(model, space_of(model)):
        assert_same(model, split(model, model, cuts), feed_of(model))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", GRAPHS)
def test_the_chain_is_the_lowered_model(name: str, target: str) -> None:
    model = graph(name)
    space = space_of(model, target)
    plans: list[dict[str, str] | str] = ["w8a8", *(random_choices(space, seed) for seed in range(4))]
    for cuts in both_cuts(model, space):
        splitter = Splitter(model, cuts)
        for plan in plans:
            quantised = lowered(model, plan, target)
            assert_same(quantised, splitter.split(quantised), feed_of(model))


@pytest.mark.parametrize("name", GRAPHS)
def test_islands_are_split_too(name: str) -> None:
    model = graph(name)
    target = find_target("ort-cpu")
    space = make_space(model, target)
    for cuts in both_cuts(model, space):
        splitter = Splitter(model, cuts)
        for seed in range(4):
            quantised = lowered(model, random_choices(space, seed), target)
            assert_same(quantised, splitter.split(quantised), feed_of(model))


@pytest.mark.parametrize("name", GRAPHS)
def test_every_node_is_in_one_segment(name: str) -> None:
    model = graph(name)
    cuts = cut(model, space_of(model), chain_cost=0)
    found = [node for segment in cuts.segments for node in segment.nodes]
    assert sorted(found) == sorted(node.name or "" for node in model.graph)
    assert [segment.index for segment in cuts.segments] == list(range(len(cuts.segments)))
    for segment in cuts.segments:
        assert {cuts.segment_of(node) for node in segment.nodes} == {segment.index}
    for node in all_nodes(model):
        assert 0 <= cuts.segment_of(node.name or "") < len(cuts.segments)
    with pytest.raises(KeyError):
        cuts.segment_of("nothing")


# ---- what a variant changes ------------------------------------------------------------------------------------------


def changes(name: str, centre: Mapping[str, str], variant: Mapping[str, str], target: str = "ort-cpu") -> list[int]:
    """Return which segments of a graph, cut for nothing, a variant changes."""
    model = graph(name)
    splitter = Splitter(model, cut(model, space_of(model, target), chain_cost=0))
    before, after = (splitter.split(lowered(model, choices, target)) for choices in (centre, variant))
    for a, b in zip(before, after, strict=True):
        assert (a.digest == b.digest) == (a.data == b.data)
    found = differing(before, after)
    assert first_change(before, after) == (found[0] if found else None)
    return list(found)


def units(name: str) -> list[str]:
    """Return the names of a graph's units."""
    return [unit.name for unit in space_of(graph(name)).units]


def test_a_variant_changes_only_what_is_around_its_unit() -> None:
    a, b, c, d = units("chain")
    full, fewer = (dict.fromkeys((a, b, c, d), option) for option in ("w8a8", "w7a8"))
    for index, unit in enumerate((a, b, c, d)):
        assert changes("chain", {}, {unit: "w8"}) == [index]
        assert changes("chain", {}, {unit: "w8a8"}, "openvino") == [index]
        assert changes("chain", fewer, fewer | {unit: "w6a8"}) == [index]  # both in planes, whose nodes need an opset
        assert changes("chain", full, full | {unit: "w8"}, "openvino") == [index]
    assert changes("chain", {}, {}) == []
    assert changes("chain", {}, {b: "w8a8"}) == [1, 2]  # the Q that this kernel wants behind it is the next reader's
    assert changes("chain", full, full | {b: "float"}) == [1]  # its neighbours ask for the same Q
    assert changes("chain", {}, {d: "w8a8"}) == [3]  # what the outside reads is quantised where it is made


def test_both_sides_of_a_shared_weight_change() -> None:
    model = graph("shared")
    first, second = units("shared")
    cuts = cut(model, space_of(model), chain_cost=0)
    assert len(cuts.segments) == 3
    assert changes("shared", {}, {first: "w8"}) == [0, 2]
    assert changes("shared", {}, {second: "w8"}) == [1]
    pieces = split(lowered(model, {first: "w8"}), model, cuts)
    held = [{tensor.name for tensor in onnx.load_from_string(piece.data).graph.initializer} for piece in pieces]
    assert not held[1] & {"w1", "w1_quantized"}
    assert "k" in held[2]


def test_rows_are_widened_where_they_are_looked_up() -> None:
    table, first, *_ = units("dynamic")
    assert changes("dynamic", {}, {table: "w8"}) == [0]
    model = graph("dynamic")
    pieces = split(lowered(model, {table: "w8", first: "w8a8"}), model, cuts_at(model))
    assert pieces[0].outputs == ("e",)
    assert pieces[1].inputs[0] == "e"


def test_a_variant_of_a_body_changes_its_node() -> None:
    captured = [unit.name for unit in space_of(graph("captured")).units]
    model = graph("captured")
    cuts = cut(model, space_of(model), chain_cost=0)
    for unit in captured:
        assert changes("captured", {}, {unit: "w8"}) == [cuts.segment_of(unit)]


def test_an_opset_shared_by_all_keeps_pieces_equal() -> None:
    model = graph("chain").clone()
    raise_opset(model, 21)
    unit = units("chain")[1]
    splitter = Splitter(model, cut(model, space_of(model), chain_cost=0))
    centre, variant = splitter.split(model), splitter.split(lowered(model, {unit: "w4"}))
    assert differing(centre, variant) == (1,)
    assert {onnx.load_from_string(piece.data).opset_import[0].version for piece in variant} == {21}
    assert {onnx.load_from_string(piece.data).ir_version for piece in variant} == {model.ir_version}


def test_pieces_do_not_depend_on_numbers_in_names() -> None:
    """The same segment behind one in which more names are taken."""
    text = f"g (float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] y) {{ a = {CONV}(x, w) b = {CONV}(a, v) y = {CONV}(b, w) }}"
    model = normal(from_text(text, weights(w=SQUARE, v=SQUARE)))
    splitter = Splitter(model, cuts_at(model))
    first = splitter.split(lowered(model, "w8"))
    other = lowered(model, "w8")
    for node in other.graph:
        if node.name not in splitter.original.nodes:
            node.name = f"{node.name}_7"
            node.outputs[0].name = f"{node.outputs[0].name}_3"
    for value in list(other.graph.initializers.values()):
        value.name = f"{value.name}_1"
    assert differing(first, splitter.split(other)) == ()


# ---- names at the cuts -----------------------------------------------------------------------------------------------


def ends(pieces: Sequence[Piece]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return inputs and outputs of each piece."""
    return [(piece.inputs, piece.outputs) for piece in pieces]


def chain_of(text: str, target: str, choices: Sequence[str], segments: Sequence[int]) -> list[Any]:
    """Lower a small graph of square products, cut it and return the ends of its pieces, after running them."""
    model = normal(from_text(text, weights(w1=(8, 8), w2=(8, 8), w3=(8, 8))))
    named = {unit.name: option for unit, option in zip(space_of(model, target).units, choices, strict=True)}
    quantised = lowered(model, named, target)
    pieces = split(quantised, model, cuts_at(model, segments))
    assert_same(quantised, pieces, feed_of(model))
    return ends(pieces)


FORK = "g (float[n, 8] x) => (float[n, 8] y) { t = Relu(x) a = MatMul(t, w1) b = MatMul(t, w2) s = Add(a, b) "


def test_a_boundary_value_has_the_name_of_its_tensor() -> None:
    text = FORK + "y = MatMul(s, w3) }"
    for choices in (["float"] * 3, ["w8a8"] * 3, ["float", "float", "w8a8"]):
        got = chain_of(text, "openvino", choices, [2, 4])  # t is quantised in front of the first cut, or not at all
        assert got == [(("x",), ("t", "a")), (("t", "a"), ("s",)), (("s",), ("y",))]


def test_both_forms_of_a_tensor_may_cross() -> None:
    text = FORK + "u = Add(s, t) y = MatMul(u, w3) }"
    got = chain_of(text, "openvino", ["w8a8", "w8a8", "float"], [2])
    assert got == [(("x",), ("t", "t#uint8", "a")), (("t", "t#uint8", "a"), ("y",))]
    got = chain_of(text, "openvino", ["w8a8", "w8a8", "float"], [1, 2])
    assert got == [(("x",), ("t",)), (("t",), ("t#uint8", "a")), (("t", "t#uint8", "a"), ("y",))]


def test_a_quantised_graph_input_never_takes_its_name() -> None:
    text = (
        "g (float[n, 8] x) => (float[n, 8] y) { a = MatMul(x, w1) b = MatMul(x, w2) c = Add(a, b) y = MatMul(c, w3) }"
    )
    got = chain_of(text, "openvino", ["w8a8", "w8a8", "float"], [1])
    assert got == [(("x",), ("x#uint8", "a")), (("x#uint8", "a"), ("y",))]
    got = chain_of(text, "openvino", ["float", "w8a8", "float"], [1])
    assert got == [(("x",), ("a",)), (("x", "a"), ("y",))]


def test_a_name_that_is_taken_is_not_used() -> None:
    model = normal(from_text(FORK + "u = Add(s, t) y = MatMul(u, w3) }", weights(w1=(8, 8), w2=(8, 8), w3=(8, 8))))
    relu = next(iter(model.graph))
    add = next(node for node in model.graph if node.op_type == "Add")
    relu.outputs[0].name, add.outputs[0].name = "#0", "#0#uint8"
    quantised = lowered(model, "w8a8", "openvino")
    pieces = split(quantised, model, cuts_at(model, [2]))
    assert pieces[0].outputs[:2] == ("#0", "#0#uint8#")
    assert_same(quantised, pieces, feed_of(model))


def test_public_outputs_keep_their_names() -> None:
    model = graph("two outputs")
    for choices in ("float", "w8a8"):
        quantised = lowered(model, choices)
        pieces = split(quantised, model, cuts_at(model))
        assert [name for piece in pieces for name in piece.outputs if name in names(model)] == ["r", "y"]
        assert pieces[1].outputs == ("r",)
        assert pieces[2].inputs == ("r",)


def test_types_and_free_dimensions_are_declared() -> None:
    model = graph("dynamic")
    pieces = split(lowered(model, "w8"), model, cuts_at(model))
    value = onnx.load_from_string(pieces[1].data).graph.input[0]
    dims = value.type.tensor_type.shape.dim
    assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", "sequence", 8]


# ---- what a segment sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", GRAPHS)
def test_pieces_follow_from_what_their_segments_see(name: str, target: str) -> None:
    model = graph(name).clone()
    raise_opset(model, 25)  # that of the widest option, as when it is measured
    space = space_of(model, target)
    plans = [*(random_choices(space, seed) for seed in range(5)), dict.fromkeys(units(name), "w8a8")]
    for cuts in both_cuts(model, space):
        splitter, sights = Splitter(model, cuts), Sights(model, space, cuts)
        known: dict[tuple[int, Placement], str] = {}
        for number, plan in enumerate(plans):
            options = {unit: Option.parse(text) for unit, text in plan.items()}
            options = {unit: option for unit, option in options.items() if option in space.unit(unit).options}
            placement = place(model, space, without_islands(target), options)
            seen = sights.of(placement)
            pieces = splitter.split(lowered(model, plan, target))
            for index, (part, piece) in enumerate(zip(seen, pieces, strict=True)):
                assert known.setdefault((index, part), piece.digest) == piece.digest
            some = sorted(rng(number).choice(len(seen), len(seen) // 2 + 1, replace=False).tolist())
            part = together(placement, [seen[index] for index in some])
            assert splitter.split(lowered(model, plan, target, part=part), some) == tuple(pieces[i] for i in some)
            assert together(placement, seen) == placement


# ---- speed and determinism -------------------------------------------------------------------------------------------


def test_what_did_not_change_is_not_written_again() -> None:
    model = graph("chain")
    unit = units("chain")[1]
    splitter = Splitter(model, cut(model, space_of(model), chain_cost=0))
    centre = splitter.split(model)
    variant = splitter.split(lowered(model, {unit: "w8"}))
    assert [a is b for a, b in zip(centre, variant, strict=True)] == [True, False, True, True]
    assert all(a is b for a, b in zip(centre, splitter.split(model.clone()), strict=True))
    assert centre == Splitter(model, splitter.cuts).split(model)
    assert pickle.loads(pickle.dumps(centre)) == centre


def test_digests_are_the_same_in_every_process() -> None:
    code = (
        "from tests.cuts.test_segments import *\n"
        "for name in GRAPHS:\n"
        "    model = graph(name)\n"
        "    cuts = cut(model, space_of(model), chain_cost=0)\n"
        "    for choices in ('float', 'w8a8'):\n"
        "        print(name, *(piece.digest for piece in split(lowered(model, choices), model, cuts)))\n"
    )
    root = Path(__file__).parents[2]
    shown = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{root}{os.pathsep}{root / 'passes'}"},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    ]
    assert shown[0] == shown[1]
    assert len(shown[0].splitlines()) == 2 * len(GRAPHS)


# ---- random graphs ---------------------------------------------------------------------------------------------------


@st.composite
def dags(draw: st.DrawFn) -> ir.Model:
    """Draw a graph of square products and elementwise nodes, some of its inner values public."""
    values, made, shapes = ["x", "z"], list[str](), dict[str, tuple[int, ...]]()
    for index in range(draw(st.integers(2, 9))):
        read = st.sampled_from(values[-4:])
        match draw(st.sampled_from(["MatMul", "MatMul", "Relu", "Sigmoid", "Add", "Mul"])):
            case "MatMul":
                weight = draw(st.sampled_from([f"w{index}", *shapes])) if shapes else f"w{index}"
                shapes[weight] = (4, 4)
                made.append(f"v{index} = MatMul({draw(read)}, {weight})")
            case "Add" | "Mul" as op:
                made.append(f"v{index} = {op}({draw(read)}, {draw(read)})")
            case op:
                made.append(f"v{index} = {op}({draw(read)})")
        values.append(f"v{index}")
    last = values[-1]
    outputs = draw(st.lists(st.sampled_from(values[2:]), max_size=2, unique=True))
    told = ", ".join(f"float[n, 4] {name}" for name in dict.fromkeys([*outputs, last]))
    return normal(from_text(f"g (float[n, 4] x, float[n, 4] z) => ({told}) {{ {' '.join(made)} }}", weights(**shapes)))


@settings(max_examples=60, deadline=None)
@given(dags(), st.sampled_from(TARGETS), st.integers(0, 99), st.data())
def test_any_chain_is_its_model(model: ir.Model, target: str, seed: int, data: st.DataObject) -> None:
    space = space_of(model, target)
    count = len(list(model.graph))
    positions = data.draw(st.lists(st.integers(1, count - 1), unique=True)) if count > 1 else []
    plans = [random_choices(space, seed), random_choices(space, seed + 100)]
    for cuts in (cuts_at(model, positions), cut(model, space, chain_cost=0), cut(model, space)):
        splitter = Splitter(model, cuts)
        splits = []
        for plan in plans:
            quantised = lowered(model, plan, target)
            splits.append(splitter.split(quantised))
            assert_same(quantised, splits[-1], feed_of(model))
        for a, b in zip(*splits, strict=True):
            assert (a.digest == b.digest) == (a.data == b.data) == (a is b)


# ---- real models -----------------------------------------------------------------------------------------------------


REAL = [
    *(pytest.param(MODELS / f"{name}.onnx", id=name) for name in ("digits_cnn", "digits_vit")),
    *(
        pytest.param(
            ZOO / f"{name}.onnx",
            id=name,
            marks=[pytest.mark.zoo, pytest.mark.skipif(not (ZOO / f"{name}.onnx").is_file(), reason="no model there")],
        )
        for name in ("cifar_resnet20", "imagenet_mobilenetv1_025", "minilm_l6_stsb", "silero_vad")
    ),
]
SEGMENTS = {  # as chosen, and where cuts cost nothing
    "digits_cnn": (6, 8, 8),
    "digits_vit": (7, 10, 10),
    "cifar_resnet20": (9, 11, 11),
    "imagenet_mobilenetv1_025": (7, 12, 14),
    "minilm_l6_stsb": (10, 18, 22),
    "silero_vad": (1, 1, 2),
}


@pytest.mark.parametrize("file", REAL)
def test_real_models(file: Path) -> None:
    model = normalise(load(file)).model
    space = space_of(model)
    cuts = cut(model, space)
    fewest, most, finest = SEGMENTS[file.stem]
    assert fewest <= len(cuts.segments) <= most
    assert len(cut(model, space, chain_cost=0).segments) == finest
    feed = feed_of(model)
    splitter = Splitter(model, cuts)
    pieces = splitter.split(model)
    check(pieces)
    whole = run(ir.to_proto(model).SerializeToString(), feed, "literal")
    for got, expected in zip(run_chain(pieces, feed, names(model), "literal"), whole, strict=True):
        assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()
    assert_same(model, pieces, feed)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("file", REAL)
def test_real_models_lowered(file: Path, target: str) -> None:
    model = normalise(load(file)).model
    space = space_of(model, target)
    splitter = Splitter(model, cut(model, space))
    quantised = lowered(model, random_choices(space, 1), target)
    pieces, feed = splitter.split(quantised), feed_of(model)
    assert_same(quantised, pieces, feed)
    chained = run_chain(pieces, feed, names(model), "literal")
    whole = run(ir.to_proto(quantised).SerializeToString(), feed, "literal")
    assert worst_sqnr([whole], [chained]) > 40  # a code on an edge may fall to the other side
    unit = space.units[len(space.units) // 2]
    if Option.parse("w8") in unit.options:
        centre, variant = splitter.split(model), splitter.split(lowered(model, {unit.name: "w8"}, target))
        assert set(differing(centre, variant)) == {splitter.cuts.segment_of(layer.node) for layer in unit.layers}
