"""What values and layers take for one sample, where the model leaves dimensions open."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.artifacts import Option
from onnxmpq.cuts.cutting import cut
from onnxmpq.cuts.sizes import UNSEEN, Seen, Sizes
from onnxmpq.options import MeasureOptions
from onnxmpq.sensitivity.workers.executors import open_executor
from onnxmpq.targets import target
from onnxmpq.targets.space import make_space
from tests.graphs import from_text, normal, rng
from tests.opened import engine_on

LENGTH, WIDTH = 50, 32


def recogniser(layers: int = 6) -> ir.Model:
    """Build convolutions over pictures of any width, and products behind them."""
    weights: dict[str, np.ndarray] = {"k": rng(0).normal(size=(WIDTH, 3, 4, 1)) / 4}
    steps = ["c = Conv<strides = [4, 1]>(x, k)", "s = Squeeze(c, axis)", "t0 = Transpose<perm = [0, 2, 1]>(s)"]
    for i in range(layers):
        weights[f"w{i}"] = rng(i + 1).normal(size=(WIDTH, WIDTH)) / 6
        steps += [f"m{i} = MatMul(t{i}, w{i})", f"t{i + 1} = Relu(m{i})"]
    text = f"g (float[n, 3, 4, width] x) => (float[n, length, {WIDTH}] t{layers}) {{ {' '.join(steps)} }}"
    given: dict[str, Any] = {name: value.astype(np.float32) for name, value in weights.items()}
    return normal(from_text(text, given | {"axis": np.array([2])}))


def test_open_dimensions_are_those_of_a_sample() -> None:
    model = recogniser()
    layers = {node.op_type: node.name or "" for node in model.graph}
    unseen = Sizes.of(model, UNSEEN)
    seen = Sizes.of(model, Seen((("x", (1, 3, 4, LENGTH)),)))
    assert unseen.macs[layers["MatMul"]] == WIDTH * WIDTH
    assert seen.macs[layers["MatMul"]] == LENGTH * WIDTH * WIDTH
    assert seen.macs[layers["Conv"]] == LENGTH * WIDTH * 3 * 4
    assert (unseen.bytes["t0"], seen.bytes["t0"]) == (4 * WIDTH, 4 * LENGTH * WIDTH)


def test_what_was_counted_counts_where_nothing_follows_from_inputs() -> None:
    model = recogniser()
    last = [node for node in model.graph if node.op_type == "MatMul"][-1]
    read = last.inputs[0]
    assert read is not None
    seen = Sizes.of(model, Seen(numbers=((read.name or "", LENGTH * WIDTH),)))
    assert seen.macs[last.name or ""] == LENGTH * WIDTH * WIDTH
    assert seen.bytes[read.name or ""] == 4 * LENGTH * WIDTH
    assert sum(macs > WIDTH * WIDTH for macs in seen.macs.values()) == 1


def test_a_model_that_leaves_nothing_open_has_the_sizes_that_it_declares() -> None:
    text = "g (float[2, 8] x) => (float[2, 4] y) { y = MatMul(x, w) }"
    model = from_text(text, {"w": np.ones((8, 4), np.float32)})
    assert Sizes.of(model, Seen((("x", (2, 8)),))) == Sizes.of(model, UNSEEN)


@pytest.mark.parametrize("shape", [(1, 3, 4), (7, 7, 7, 7)])
def test_shapes_that_do_not_fit_change_nothing(shape: tuple[int, ...]) -> None:
    model = recogniser()
    assert Sizes.of(model, Seen((("x", shape), ("other", (1,))))).bytes.keys() == Sizes.of(model, UNSEEN).bytes.keys()


def test_an_engine_cuts_by_what_samples_take_and_workers_do_alike() -> None:
    model = recogniser()
    g = rng(7)
    feeds = [{"x": g.normal(size=(1, 3, 4, 400)).astype(np.float32)} for _ in range(3)]
    coarse = cut(model, make_space(model, target("ort-cpu")))
    tables = []
    for spec in ("inline", "processes:1"):
        with (
            open_executor(spec) as executor,
            engine_on(ir.to_proto(model), feeds, MeasureOptions(executor=executor, blends=False)) as engine,
        ):
            assert len(engine.cuts.segments) > len(coarse.segments)
            assert engine.cuts.macs > 300 * coarse.macs
            table = engine.table((Option(8, 8),))
            tables.append((table.loss.tolist(), table.gram.tolist()))
    assert tables[0] == tables[1]
