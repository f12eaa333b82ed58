"""Parts: where one output holds unlike things, as boxes beside scores, each part is judged by its own power."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.artifacts import Option, Plan
from onnxmpq.metrics.compared import mean_loss
from onnxmpq.metrics.heads import find_heads
from onnxmpq.metrics.losses import Head, Loss, Part, powered, spreads_of
from onnxmpq.metrics.parts import parted
from onnxmpq.options import MeasureOptions
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.workspace.prepare import prepare, silent
from onnxmpq.workspace.workspace import workspace
from tests.graphs import from_text, normal, rng

BOXES, LOGITS = "float[n, 4, 9] b", "float[n, 3, 9] l"
BOTH = (Head("y", "power", part=Part(-2, 0, 4), centred=True), Head("y", "power", part=Part(-2, 4, 7), centred=True))
WHOLE = (Head("y", "power"),)


def heads_of(signature: str, body: str) -> tuple[Head, ...]:
    """Return the heads of a small model, by its parts."""
    shape = np.array([0, -1, 7], np.int64)
    made: ir.Model = normal(from_text(f"g {signature} {{ {body} }}", {"shape": shape} if "shape" in body else {}))
    return parted(made, find_heads(made))


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid(l) y = Concat<axis = 1>(b, s)",
        "s = Sigmoid(l) y = Concat<axis = -2>(b, s)",
        "p = Exp(b) s = Softmax<axis = 1>(l) y = Concat<axis = 1>(p, s)",
        "s = Sigmoid(l) t = Mul(s, s) y = Concat<axis = 1>(b, t)",
        "s = Sigmoid(l) x, z = Split<axis = 1>(b) a = Concat<axis = 1>(x, z) y = Concat<axis = 1>(a, s)",
        "c = Concat<axis = 2>(l, l) s = Sigmoid(c) d = Concat<axis = 2>(b, b) y = Concat<axis = 1>(d, s)",
        "s = Sigmoid(l) a = Concat<axis = 1>(b, s) y = Concat<axis = 2>(a, a)",
    ],
)
def test_boxes_and_scores_in_one_output_are_two_parts(body: str) -> None:
    places = 18 if "axis = 2" in body else 9
    assert heads_of(f"({BOXES}, {LOGITS}) => (float[n, 7, {places}] y)", body) == BOTH


def test_parts_are_followed_through_what_moves_their_axis_and_keeps_it() -> None:
    behind = (
        Head("y", "power", part=Part(-1, 0, 4), centred=True),
        Head("y", "power", part=Part(-1, 4, 7), centred=True),
    )
    body = "s = Sigmoid(l) a = Concat<axis = 1>(b, s) y = Transpose<perm = [0, 2, 1]>(a)"
    assert heads_of(f"({BOXES}, {LOGITS}) => (float[n, 9, 7] y)", body) == behind
    body = "s = Sigmoid(l) a = Concat<axis = -1>(b, s) y = Reshape(a, shape)"
    assert heads_of("(float[n, 3, 6, 4] b, float[n, 3, 6, 3] l) => (float[n, 18, 7] y)", body) == behind


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        (f"({BOXES}, {LOGITS}) => (float[n, 7, 9] y)", "y = Concat<axis = 1>(b, l)"),
        (f"({LOGITS}) => (float[n, 6, 9] y)", "s = Sigmoid(l) t = Softmax(l) y = Concat<axis = 1>(s, t)"),
        (f"({LOGITS}) => (float[n, 3, 9] y)", "s = Sigmoid(l) y = Mul(l, s)"),
        (f"({LOGITS}) => (float[m, 3, 9] y)", "s = Sigmoid(l) y = Concat<axis = 0>(l, s)"),
        (f"({LOGITS}) => (float[n, 6, 9] y)", "s = Sigmoid(l) a = Concat<axis = 1>(l, s) y = Neg(a)"),
        ("(float[n, k, 9] b, float[n, 3, 9] l) => (float[n, m, 9] y)", "s = Sigmoid(l) y = Concat<axis = 1>(b, s)"),
    ],
    ids=["no scores", "scores alone", "a gate", "along the samples", "something behind", "of no known size"],
)
def test_an_output_stays_whole(signature: str, body: str) -> None:
    assert heads_of(signature, body) == WHOLE


def test_heads_of_classes_have_no_parts() -> None:
    made = normal(from_text("g (float[n, 4] x) => (float[n, 4] y) { y = Softmax(x) }", {}))
    assert parted(made, find_heads(made)) == find_heads(made) == (Head("y", "kl", probabilities=True),)


PLACES = "float[n, 4, 9] b, float[n, 3, 9] l"


@pytest.mark.parametrize(
    ("signature", "body", "kind"),
    [
        (f"({PLACES}) => (float[n, 4, 9] y, float[n, 3, 9] z)", "y = Exp(b) z = Sigmoid(l)", "power"),
        (f"({PLACES}) => (float[n, 4, 9] y, float[n, 3, 9] z)", "y = Exp(b) z = Softmax<axis = 1>(l)", "kl"),
    ],
)
def test_boxes_and_scores_of_the_same_places_are_centred_as_two_outputs(signature: str, body: str, kind: str) -> None:
    boxes, scores = heads_of(signature, body)
    assert (boxes.name, boxes.centred, boxes.part) == ("y", True, None)
    assert (scores.kind, scores.centred, scores.part) == (kind, kind == "power", None)


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        (f"({PLACES}) => (float[n, 4, 9] y, float[n, 3, 9] z)", "y = Exp(b) z = Neg(l)"),
        ("(float[n, 2, 8] s, float[n, 1, 5] l) => (float[n, 2, 8] y, float[n, 1, 5] z)", "y = Neg(s) z = Sigmoid(l)"),
        ("(float[n, 8] s, float[n, 5] l) => (float[n, 8] y, float[n, 5] z)", "y = Neg(s) z = Sigmoid(l)"),
    ],
    ids=["no scores", "other places", "no places"],
)
def test_other_outputs_are_not_centred(signature: str, body: str) -> None:
    assert heads_of(signature, body) == (Head("y", "power"), Head("z", "power"))


def outputs_of(count: int = 40) -> np.ndarray:
    """Return boxes around places in the hundreds, which they leave by one at most, and scores below one."""
    g = rng()
    places = g.uniform(50, 500, (1, 4, 9))
    return np.concatenate([places + g.uniform(-1, 1, (count, 4, 9)), g.uniform(0, 1, (count, 3, 9))], axis=1)


def loss_of(heads: tuple[Head, ...], output: np.ndarray, changed: np.ndarray) -> float:
    """Return the mean loss of changed outputs, as it is measured."""
    count = len(output)
    wanted, got = (np.concatenate([head.features(each, count) for head in heads], axis=1) for each in (output, changed))
    sized = tuple(replace(head, width=head.seen(output)[0].size) for head in heads)
    powers = Loss(sized, wanted).signal().mean(0)
    return float(Loss(powered(sized, powers, spreads_of(sized, wanted).mean(0)), wanted).values(got).mean())


@pytest.mark.parametrize("places", [slice(0, 4), slice(4, 7)], ids=["boxes", "scores"])
def test_an_error_as_large_as_what_moves_is_a_loss_of_one_in_either_part(places: slice) -> None:
    output = outputs_of()
    changed = output.copy()
    changed[:, places] = output[:, places].mean(0)  # nothing of what moves is left
    assert loss_of(BOTH, output, changed) == pytest.approx(1, rel=0.1)
    assert loss_of(WHOLE, output, changed) < 1e-4


def test_spreads_are_the_power_around_the_mean_of_samples() -> None:
    heads = (Head("a", "power", 3), Head("b", "power", 2))
    rows = rng().normal(size=(4000, 5)) * [1, 2, 3, 4, 5] + 100
    np.testing.assert_allclose(spreads_of(heads, rows).mean(0), [1 + 4 + 9, 16 + 25], rtol=0.1)
    assert spreads_of(heads, rows[:1]).shape == (0, 2)


def test_samples_that_are_all_one_leave_a_small_share_of_the_power() -> None:
    output = np.repeat(outputs_of(1), 3, axis=0)
    assert 0 < loss_of(BOTH, output, output + 1e-6) < 1


def test_the_loss_of_a_file_is_that_of_the_engine() -> None:
    g = rng()
    weights = {"w": g.normal(size=(4, 6, 1)).astype(np.float32), "v": g.normal(size=(3, 6, 1)).astype(np.float32)}
    body = "b = Conv(x, w) l = Conv(x, v) s = Sigmoid(l) y = Concat<axis = 1>(b, s)"
    model = from_text(f"g (float[n, 6, 9] x) => (float[n, 7, 9] y) {{ {body} }}", weights)
    samples = {"x": g.normal(size=(24, 6, 9)).astype(np.float32) + 5}
    plan = {"Conv_0": Option(4, 8), "Conv_1": Option(4, 8)}
    prepared = prepare(ir.to_proto(model), "ort-cpu", silent)
    with workspace(prepared, samples) as place, Engine(place) as engine:
        assert [head.label for head in engine.heads] == ["y[0:4]", "y[4:7]"]
        [found] = engine.losses([plan])
        table = engine.table([Option(4, 8)])
        lowered = place.lowered(Plan("ort-cpu", "", plan)).model
        before, after = (
            place.reference.session(place.loadable(each, name), mode="literal")
            for each, name in ((prepared.model, "float"), (lowered, "lowered"))
        )
        value, _ = mean_loss(before, after, place.samples, parted(prepared.model, find_heads(prepared.model)))
    assert (table.loss_name, table.outputs) == ("power(y[0:4])+power(y[4:7])", ("y[0:4]", "y[4:7]"))
    assert found.value == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    "how", [MeasureOptions(loss="power"), MeasureOptions(function=lambda given, _: given["y"].mean(1))]
)
def test_a_loss_that_was_named_sees_whole_outputs(how: MeasureOptions) -> None:
    body = "b = Conv(x, w) s = Sigmoid(b) y = Concat<axis = 1>(b, s)"
    weights = {"w": rng().normal(size=(4, 6, 1)).astype(np.float32)}
    model = from_text(f"g (float[n, 6, 9] x) => (float[n, 8, 9] y) {{ {body} }}", weights)
    samples = {"x": rng().normal(size=(4, 6, 9)).astype(np.float32)}
    with workspace(prepare(ir.to_proto(model), "ort-cpu", silent), samples) as place, Engine(place, how) as engine:
        assert [(head.label, head.width, head.centred) for head in engine.heads] == [("y", 72, False)]


def test_a_part_is_what_it_says_and_has_a_name_of_its_own() -> None:
    output = np.arange(24.0).reshape(1, 2, 3, 4)
    head = Head("y", "power", part=Part(-3, 1, 2))
    np.testing.assert_array_equal(head.features(output, 1), output[:, 1:].reshape(1, -1))
    assert head.label == "y[1:2]"


def test_wide_outputs_have_parts_too() -> None:
    g = rng()
    weights = {"w": g.normal(size=(4, 3, 1)).astype(np.float32), "v": g.normal(size=(3, 3, 1)).astype(np.float32)}
    body = "b = Conv(x, w) l = Conv(x, v) s = Sigmoid(l) y = Concat<axis = 1>(b, s)"
    model = from_text(f"g (float[n, 3, 800] x) => (float[n, 7, 800] y) {{ {body} }}", weights)
    samples = {"x": g.normal(size=(12, 3, 800)).astype(np.float32)}
    with workspace(prepare(ir.to_proto(model), "ort-cpu", silent), samples) as place, Engine(place) as engine:
        assert engine.sketches
        table = engine.table([Option(4, 8)])
        boxes, scores = (head.power / head.width for head in engine.heads)
    output = np.einsum("oc,ncp->nop", weights["w"][:, :, 0], samples["x"])
    gated = 1 / (1 + np.exp(-np.einsum("oc,ncp->nop", weights["v"][:, :, 0], samples["x"])))
    assert boxes == pytest.approx(float(output.var(axis=0).mean()), rel=0.15)
    assert scores == pytest.approx(float(gated.var(axis=0).mean()), rel=0.15)
    moved = dict(zip((variant.unit for variant in table.variants), table.sqnr_db, strict=True))
    assert moved["Conv_0"][0] + 5 < moved["Conv_0"][1]  # 8 bits of the input reach the scores, too
    assert moved["Conv_1"][1] + 5 < moved["Conv_1"][0]
    np.testing.assert_allclose(np.diag(table.gram) / 2, table.loss, rtol=0.2)  # a quadratic loss, in a sketch
