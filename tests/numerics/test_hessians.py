"""Hessians: what a layer's outputs do when its weight is any other, in every way that layers read their inputs."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.api import quantize
from onnxmpq.artifacts import Option, Plan
from onnxmpq.lower.calibrated import Calibrated
from onnxmpq.methods.uniform import uniform
from onnxmpq.model.layers import find_layers
from onnxmpq.numerics import hessians
from onnxmpq.numerics.hessians import Counted, Hessians, count, find_readings
from onnxmpq.numerics.weights import dequantise, quantise_weight
from onnxmpq.options import ROUNDINGS, Numbers, VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import Workspace
from tests.graphs import Array, feeds_for, from_text, layer_chain, normal, rng
from tests.kept import Kept
from tests.needed import need_runtime

MODELS = Path(__file__).parents[2] / "models"

CONV = "g (float[2, 8, 9, 11] x) => (float[a, b, c, d] y) { y = Conv<%s>(x, w) }"
CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {  # text, shape of the weight, axes of the outputs
    "conv": (CONV % "pads = [0, 0, 0, 0]", (6, 8, 3, 3), (1,)),
    "conv with strides and pads": (CONV % "strides = [2, 3], pads = [1, 0, 2, 1]", (6, 8, 3, 2), (1,)),
    "conv with dilations": (CONV % "dilations = [2, 1], pads = [2, 2, 2, 2]", (6, 8, 3, 3), (1,)),
    "conv with same pads": (CONV % 'auto_pad = "SAME_UPPER", strides = [2, 2]', (6, 8, 3, 4), (1,)),
    "grouped conv": (CONV % "group = 2, pads = [1, 1, 1, 1]", (6, 4, 3, 3), (1,)),
    "depthwise conv": (CONV % "group = 8, strides = [2, 2]", (16, 1, 3, 3), (1,)),
    "conv of one axis": (
        "g (float[2, 4, 17] x) => (float[a, b, c] y) { y = Conv<strides = [2], pads = [3, 1]>(x, w) }",
        (5, 4, 4),
        (1,),
    ),
    "gemm": ("g (float[7, 12] x) => (float[a, b] y) { y = Gemm(x, w) }", (12, 5), (1,)),
    "gemm with a transposed weight": (
        "g (float[7, 12] x) => (float[a, b] y) { y = Gemm<transB=1>(x, w) }",
        (5, 12),
        (1,),
    ),
    "gemm with a transposed input": (
        "g (float[12, 7] x) => (float[a, b] y) { y = Gemm<transA=1>(x, w) }",
        (12, 5),
        (1,),
    ),
    "matmul": ("g (float[2, 3, 7, 12] x) => (float[a, b, c, d] y) { y = MatMul(x, w) }", (12, 5), (3,)),
    "matmul of a vector": ("g (float[12] x) => (float[a] y) { y = MatMul(x, w) }", (12, 5), (0,)),
    "matmul with the weight left": ("g (float[2, 12, 7] x) => (float[a, b, c] y) { y = MatMul(w, x) }", (5, 12), (1,)),
    "matmul of a vector with the weight left": ("g (float[12] x) => (float[a] y) { y = MatMul(w, x) }", (5, 12), (0,)),
    "batched matmul": (
        "g (float[2, 3, 7, 12] x) => (float[a, b, c, d] y) { y = MatMul(x, w) }",
        (3, 12, 5),
        (1, 3),
    ),
    "batched matmul with the weight left": (
        "g (float[3, 12, 7] x) => (float[a, b, c, d] y) { y = MatMul(w, x) }",
        (2, 1, 5, 12),
        (0, 2),
    ),
}


def with_weight(text: str, weight: Array) -> ir.Model:
    """Build one layer with a weight."""
    return from_text(text, {"w": weight.astype(np.float32)})


def outputs(model: ir.Model, feeds: list[dict[str, Array]]) -> list[Array]:
    """Run a model on feeds."""
    session = get_runtime("onnxruntime").session(ir.to_proto(model).SerializeToString(), mode="plain")
    return [session.run(feed)["y"].astype(np.float64) for feed in feeds]


@pytest.mark.parametrize("case", CASES)
def test_the_hessian_is_the_mean_square_of_what_any_weight_gives(case: str) -> None:
    text, shape, axes = CASES[case]
    other = rng(1).normal(size=shape)
    model = with_weight(text, rng(0).normal(size=shape))
    feeds = [{name: x + 2 for name, x in feed.items()} for feed in feeds_for(model, 5)]
    readings, reasons = find_readings(model, find_layers(model))
    assert reasons == {}
    [(name, counted)] = count(lambda feed: feed, feeds, readings)
    hessian = counted.second
    view = readings[name][0].view
    rows = view.matrix(other.astype(np.float32)).astype(np.float64)
    got = ((rows @ hessian) * rows).sum(-1)
    np.testing.assert_array_equal(view.array(view.matrix(other)), other)

    given = np.stack(outputs(with_weight(text, other), feeds))
    kept = tuple(axis + 1 for axis in axes)
    rest = tuple(axis for axis in range(given.ndim) if axis not in kept)
    want = (given**2).mean(axis=rest)
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-4)
    np.testing.assert_array_equal(hessian, hessian.swapaxes(1, 2))


def test_a_shared_weight_counts_what_all_its_readers_see() -> None:
    text = "g (float[4, 6] x, float[3, 6] z) => (float[a, 5] y, float[b, 5] v) { y = MatMul(x, w) v = MatMul(z, w) }"
    model = normal(from_text(text, {"w": rng().normal(size=(6, 5)).astype(np.float32)}))
    readings, _ = find_readings(model, find_layers(model))
    feeds = feeds_for(model, 3)
    [(_, counted)] = count(lambda feed: feed, feeds, readings)
    rows = np.concatenate([np.concatenate([feed["x"], feed["z"]]) for feed in feeds]).astype(np.float64)
    np.testing.assert_allclose(counted.second[0], rows.T @ rows / 21, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(counted.mean[0], rows.mean(0), rtol=1e-5, atol=1e-6)
    assert counted.count == 21


def test_large_inputs_are_laid_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    text, shape, _ = CASES["conv with strides and pads"]
    model = with_weight(text, rng(0).normal(size=shape))
    readings, _ = find_readings(model, find_layers(model))
    found = []
    for chunk in (1, 700, 1 << 22):
        monkeypatch.setattr(hessians, "_CHUNK", chunk)
        x = np.concatenate(list(readings["w"][0].columns(feeds_for(model, 1)[0]["x"])), axis=2)
        found.append(x)
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])


def workspace_of(model: Any, data: Any, folder: Path, target: str = "generic", **more: Any) -> Workspace:
    """Return a workspace whose weights are rounded with GPTQ."""
    place = Path(tempfile.mkdtemp(dir=folder))
    return Workspace(prepare(model, target), data, Numbers(rounding="gptq", **more), place)


def hessians_of(workspace: Workspace) -> Hessians:
    """Return where a workspace keeps its Hessians."""
    assert workspace.calibrated.known.hessians is not None
    return workspace.calibrated.known.hessians


def counted(workspace: Workspace, option: str = "w4a8", room: int = hessians.TOGETHER_BYTES) -> dict[str, Array]:
    """Count every Hessian and return them by weight."""
    plan = uniform(workspace.prepared.space, Option.parse(option))
    wanted = workspace.calibrated.missing_hessians(plan)
    workspace.count_hessians(wanted, room)
    assert workspace.calibrated.missing_hessians(plan) == {}
    return {name: np.load(hessians_of(workspace)._file(name)) for name in wanted}


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit"])
def test_hessians_are_the_same_however_samples_are_grouped_and_passes_are_made(name: str, tmp_path: Path) -> None:
    with np.load(MODELS / "digits_calibration.npz") as data:
        images = data["image"][:10]
    model = MODELS / f"{name}.onnx"
    whole = counted(workspace_of(model, {"image": images}, tmp_path))
    assert len(whole) > 5
    groupings = [[{"image": images[i : i + size]} for i in range(0, 10, size)] for size in (1, 3)]
    for feeds in groupings:
        found = counted(workspace_of(model, feeds, tmp_path), room=100_000)
        assert found.keys() == whole.keys()
        for key, array in whole.items():
            np.testing.assert_array_equal(found[key], array)


def test_passes_keep_within_their_memory() -> None:
    model = normal(layer_chain("Gemm"))
    readings, _ = find_readings(model, find_layers(model))
    one = 8 * 64**2
    for room, want in ((2 * one, [["w1", "w2"]]), (2 * one - 1, [["w1"], ["w2"]]), (1, [["w1"], ["w2"]])):
        assert [list(part) for part in hessians.passes(readings, room)] == want
    assert hessians.passes({}, one) == []


# ---- weights that have none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "why"),
    [("LSTM", "no Hessian is counted for LSTM"), ("ConvTranspose", "no Hessian is counted for ConvTranspose")],
)
def test_a_layer_without_a_hessian_is_rounded_to_nearest_and_the_caller_is_told(
    op: str, why: str, tmp_path: Path
) -> None:
    model = layer_chain(op)
    exports = []
    for rounding in ROUNDINGS:
        result = quantize(
            ir.to_proto(model),
            feeds_for(model),
            output=tmp_path / f"{rounding}.onnx",
            target="generic",
            plan="w4",
            numbers=Numbers(rounding=rounding),
            verify=VerifyOptions(speed_budget_s=0.0),
        )
        exports.append(result)
        assert any(why in note for note in result.notes) == (rounding != "nearest")
    assert len({export.path.read_bytes() for export in exports}) == 1


def test_weights_of_bodies_and_tables_and_large_ones_say_why_they_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """g (bool c, float[2, 6] x, int64[3] i) => (float[2, 5] y, float[3, 6] t) {
        y = If(c)<then_branch = a () => (float[2, 5] p) { p = MatMul(x, w) },
                  else_branch = b () => (float[2, 5] q) { q = MatMul(x, w) }>
        t = Gather(e, i)
    }"""
    weights = {"w": rng().normal(size=(6, 5)), "e": rng().normal(size=(9, 6))}
    model = normal(from_text(text, {name: value.astype(np.float32) for name, value in weights.items()}))
    readings, reasons = find_readings(model, find_layers(model))
    assert readings == {}
    assert "body" in reasons["w"]
    assert "Gather" in reasons["e"]
    model = normal(layer_chain("Gemm"))
    monkeypatch.setattr(hessians, "LARGEST", 63**2)
    readings, reasons = find_readings(model, find_layers(model))
    assert (readings, len(reasons)) == ({}, 2)
    assert "64 columns" in reasons["w1"]
    assert hessians.told(reasons, ["w1", "w2", "w1", "other"])[0].startswith("GPTQ left 2 weights rounded to nearest")


def test_a_weight_that_is_read_in_two_ways_has_none() -> None:
    text = "g (float[4, 6] x) => (float[4, 6] y, float[4, 6] v) { y = Gemm(x, w) v = Gemm<transB = 1>(x, w) }"
    model = normal(from_text(text, {"w": rng().normal(size=(6, 6)).astype(np.float32)}))
    readings, reasons = find_readings(model, find_layers(model))
    assert readings == {}
    assert "differently" in reasons["w"]


@pytest.mark.parametrize("value", [1e30, 0.0])
def test_inputs_that_tell_nothing_leave_the_nearest_codes_and_a_note(value: float, tmp_path: Path) -> None:
    weight = rng().normal(size=(12, 5)).astype(np.float32)
    model = ir.to_proto(with_weight(CASES["gemm"][0], weight))
    workspace = workspace_of(model, [{"x": np.full((7, 12), value, np.float32)}], tmp_path)
    plan = uniform(workspace.prepared.space, Option(3))
    lowered = workspace.lowered(plan).model
    codes = [v.const_value.numpy() for v in lowered.graph.initializers.values() if v.const_value and v.shape == (12, 5)]
    np.testing.assert_array_equal(codes[0], quantise_weight(weight, bits=3, axes=(1,)).codes)
    assert workspace.calibrated.notes(plan) == (
        "GPTQ left 1 weight rounded to nearest (its inputs are zero, or too large to be squared): 'w'.",
    )


# ---- rounding and lowering -------------------------------------------------------------------------------------------

LAYOUTS: dict[str, dict[str, Any]] = {
    "tensor": {},
    "channel": {"axes": (1,)},
    "block": {"block": (0, 5)},
    "asymmetric": {"axes": (1,), "symmetric": False},
    "unsigned": {"axes": (1,), "symmetric": False, "signed": False},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_change_and_scales_stay_in_every_layout(layout: str, bits: int, tmp_path: Path) -> None:
    weight = rng().normal(size=(12, 50)).astype(np.float32)
    model = with_weight("g (float[70, 12] x) => (float[a, b] y) { y = Gemm(x, w) }", weight)
    mix = rng(5).normal(size=(12, 12)).astype(np.float32)
    feeds = [{"x": feed["x"] @ mix} for feed in feeds_for(model, 3)]
    readings, _ = find_readings(model, find_layers(model))
    kept = Hessians(tmp_path)
    [(name, counted)] = count(lambda feed: feed, feeds, readings)
    kept.keep(name, counted.hessian)
    plain = quantise_weight(weight, bits=bits, **LAYOUTS[layout])
    view = readings[name][0].view
    found = kept.rounded(name, weight, plain, view)
    again = replace(kept).rounded(name, weight, plain, view)
    assert (found.codes != plain.codes).any()
    np.testing.assert_array_equal(found.codes, again.codes)
    assert found.codes.dtype == plain.codes.dtype
    np.testing.assert_array_equal(found.scale, plain.scale)
    errors = [((feeds[0]["x"] @ (dequantise(q) - weight)) ** 2).mean() for q in (plain, found)]
    assert errors[1] < errors[0]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("target", ["ort-cpu", "openvino", "generic"])
@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit"])
def test_exports_hold_and_take_the_bytes_predicted(name: str, target: str, tmp_path: Path) -> None:
    need_runtime(target)
    with np.load(MODELS / "digits_calibration.npz") as data:
        images = data["image"][:24]
    workspace = workspace_of(MODELS / f"{name}.onnx", {"image": images}, tmp_path, target)
    exporter = Exporter(workspace, runtime=Kept(get_runtime(workspace.prepared.target.runtime)))
    for option in ("w4a8", "w4b32", "w8"):
        plan = uniform(workspace.prepared.space, Option.parse(option))
        verdict = exporter.build(plan, f"{option}.onnx").verdict
        assert verdict.ok, verdict
        assert verdict["size"].ok
        assert workspace.calibrated.notes(plan) == ()


@pytest.mark.parametrize("op", ["Conv", "Conv grouped", "Conv depthwise", "Gemm", "MatMul", "MatMul batched"])
@pytest.mark.parametrize("option", ["w3", "w4", "w2"])
def test_every_kind_of_layer_comes_nearer_to_float(op: str, option: str, tmp_path: Path) -> None:
    kind, _, how = op.partition(" ")
    model = layer_chain(kind, how if kind == "Conv" and how else "dense", 3 if how == "batched" else 2)
    g = rng(7)
    feeds = [
        {"x": feed["x"] + 2 * g.normal(size=feed["x"].shape[:1]).astype(np.float32)[0]} for feed in feeds_for(model, 40)
    ]
    workspace = workspace_of(ir.to_proto(model), feeds, tmp_path)
    plan = uniform(workspace.prepared.space, Option.parse(option))
    gptq = workspace.lowered(plan).model
    known: Calibrated = workspace.calibrated
    plain = replace(known, numbers=replace(known.numbers, rounding="nearest")).lower(plan).model
    want = np.stack(outputs(model, feeds))
    errors = [((np.stack(outputs(each, feeds)) - want) ** 2).mean() for each in (plain, gptq)]
    assert errors[1] < 0.95 * errors[0]


def test_a_plan_that_names_no_weight_counts_nothing(tmp_path: Path) -> None:
    workspace = workspace_of(MODELS / "digits_cnn.onnx", MODELS / "digits_calibration.npz", tmp_path)
    for choices in ({}, {workspace.prepared.space.units[0].name: Option()}):
        chosen: Mapping[str, Option] = choices
        assert workspace.calibrated.needs(Plan("generic", "", chosen)).hessians == {}
    assert not hessians_of(workspace).folder.exists()


def test_of_many_positions_a_grid_that_moves_is_nearly_as_good_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 positions of every image about 57 are taken, at borders as often as inside."""
    text = (
        "g (float[1, 3, 40, 40] x) => (float[a, b, c, d] y) { y = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w) }"
    )
    model = with_weight(text, rng(0).normal(size=(4, 3, 3, 3)))
    base = rng(5).normal(size=(1, 3, 40, 40)).cumsum(-1)  # what columns see differs from place to place
    feeds = [{"x": (base + 0.3 * rng(k).normal(size=base.shape)).astype(np.float32)} for k in range(128)]
    readings, _ = find_readings(model, find_layers(model))
    [(_, every)] = count(lambda feed: feed, feeds, readings)
    monkeypatch.setattr(hessians, "ENOUGH", 57 * len(feeds))
    monkeypatch.setattr(hessians, "_EACH", 1)
    [(_, some)] = count(lambda feed: feed, feeds, readings)
    assert not np.array_equal(some.second, every.second)
    assert np.linalg.norm(some.second - every.second) < 0.05 * np.linalg.norm(every.second)


@pytest.mark.parametrize("places", [24, 60, 20_000])
def test_of_few_places_a_hessian_is_nearer_to_that_of_all_whatever_their_means(places: int) -> None:
    g = rng(3)
    spread = g.normal(size=(32, 32)) * np.exp(-np.arange(32) / 8)
    centre = 3 + g.normal(size=32)
    true = spread @ spread.T + np.outer(centre, centre)
    x = centre + g.normal(size=(places, 32)) @ spread.T
    counted = Counted((x.T @ x / places)[None], x.mean(0)[None], places)
    middle = np.outer(x.mean(0), x.mean(0))
    off, still = (np.linalg.norm(each[0] - true) for each in (counted.second, counted.hessian))
    before, after = (np.linalg.norm(each[0] - middle - spread @ spread.T) for each in (counted.second, counted.hessian))
    assert after < (0.9 if places < 100 else 1.01) * before
    assert still < 1.05 * off
    np.testing.assert_allclose(np.trace(counted.hessian[0]), np.trace(counted.second[0]))
    if places > 100:
        np.testing.assert_allclose(counted.hessian, counted.second, rtol=0.01, atol=0.05)
