"""Whole networks, fitted in their order: nearer to float than layer by layer, wherever tensors lie, and repeatable."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from threadpoolctl import threadpool_limits

from onnxmpq.api import quantize
from onnxmpq.artifacts import Option, Plan
from onnxmpq.methods.uniform import uniform_choices
from onnxmpq.metrics.compared import mean_loss
from onnxmpq.metrics.heads import find_heads
from onnxmpq.model.mapped import BIG
from onnxmpq.options import Numbers, VerifyOptions
from onnxmpq.refit import walk
from onnxmpq.runtimes import get_runtime
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import Workspace
from tests.graphs import feeds_for, from_text, layer_chain, rng

MODELS = Path(__file__).parents[2] / "models"
SEQUENTIAL = Numbers(rounding="sequential")


def digits(start: int, count: int) -> dict[str, np.ndarray]:
    """Return some samples of the embedded examples."""
    with np.load(MODELS / "digits_calibration.npz") as data:
        return {"image": data["image"][start : start + count]}


def new_digits() -> list[dict[str, np.ndarray]]:
    """Return samples that nothing was fitted to."""
    with np.load(MODELS / "digits_evaluation.npz") as data:
        return [{"image": image[None]} for image in data["image"][:100]]


def workspace_of(model: object, samples: object, folder: Path, numbers: Numbers = SEQUENTIAL) -> Workspace:
    """Open a workspace."""
    folder.mkdir(exist_ok=True)
    return Workspace(prepare(model, "ort-cpu"), samples, numbers, folder)  # type: ignore[arg-type]


def uniform(workspace: Workspace, option: str) -> Plan:
    """Return the plan of one option for all."""
    units = workspace.prepared.space.units
    choices = uniform_choices(units, [unit.options for unit in units], Option.parse(option))
    return Plan("ort-cpu", "uniform", choices)


def losses(workspace: Workspace, plan: Plan, feeds: list[dict[str, np.ndarray]]) -> list[float]:
    """Return the loss of a plan on new samples, its layers rounded each by itself and fitted in their order."""
    heads, runtime = find_heads(workspace.prepared.model), get_runtime("onnxruntime")
    before = runtime.session(workspace.float_model, mode="deployed")
    fitted = workspace.lowered(plan).model
    alone = workspace.calibrated.lower(plan).model
    sessions = [runtime.session(workspace.loadable(model, "m"), mode="literal") for model in (alone, fitted)]
    return [mean_loss(before, session, feeds, heads)[0] for session in sessions]


@pytest.mark.parametrize(("name", "most"), [("digits_cnn", 0.7), ("digits_vit", 0.7)])
def test_a_network_loses_less_where_it_was_not_fitted(name: str, most: float, tmp_path: Path) -> None:
    workspace = workspace_of(MODELS / f"{name}.onnx", digits(0, 128), tmp_path)
    plan = uniform(workspace, "w2a8")
    alone, fitted = losses(workspace, plan, new_digits())
    assert fitted < most * alone
    (note,) = workspace.notes(plan)
    assert note.startswith("Layers were fitted behind those before them: loss ")
    assert note.endswith("on 32 samples that nothing was fitted to.")


KINDS = ["Conv", "Conv grouped", "Conv depthwise", "Gemm", "MatMul", "MatMul batched"]


@pytest.mark.parametrize("op", KINDS)
def test_every_kind_of_layer_is_fitted_behind_another(op: str, tmp_path: Path) -> None:
    kind, _, how = op.partition(" ")
    model = layer_chain(kind, how if kind == "Conv" and how else "dense", 3 if how == "batched" else 2)
    g = rng(7)
    shifts = g.normal(size=300).astype(np.float32)
    feeds = [{"x": feed["x"] + 2 * shift} for feed, shift in zip(feeds_for(model, 300), shifts, strict=True)]
    workspace = workspace_of(ir.to_proto(model), feeds[:256], tmp_path)
    first, second = (unit.name for unit in workspace.prepared.space.units)
    plan = Plan("ort-cpu", "by hand", {first: Option(2), second: Option(8)})
    alone, fitted = losses(workspace, plan, feeds[256:])
    assert fitted < 0.99 * alone


def test_the_second_of_two_makes_up_for_what_the_first_lacks(tmp_path: Path) -> None:
    g = rng(2)
    body = "a = MatMul(x, w1) b = MatMul(x, w2) s = Add(a, x) y = Add(s, b)"
    text = f"g (float[n, 4, 24] x) => (float[n, 4, 24] y) {{ {body} }}"
    weights = {name: (g.normal(size=(24, 24)) / 5).astype(np.float32) for name in ("w1", "w2")}
    mix = g.normal(size=(24, 24))
    feeds = [{"x": (g.normal(size=(1, 4, 24)) @ mix).astype(np.float32)} for _ in range(80)]
    workspace = workspace_of(ir.to_proto(from_text(text, weights)), feeds[:60], tmp_path)
    alone, fitted = losses(workspace, uniform(workspace, "w2"), feeds[60:])
    assert fitted < 0.9 * alone


def constants(model: ir.Model) -> dict[str, bytes]:
    """Return the bytes of all initialisers."""
    return {
        name: value.const_value.tobytes()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }


def test_codes_are_the_same_in_memory_and_in_files_and_with_any_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, (room, threads) in enumerate(((walk.ROOM, 1), (walk.ROOM, 2), (0, 2))):
        monkeypatch.setattr(walk, "ROOM", room)
        monkeypatch.setattr(walk, "BIG", BIG if room else 1)
        workspace = workspace_of(MODELS / "digits_cnn.onnx", digits(0, 16), tmp_path / str(number))
        with threadpool_limits(threads):
            found.append(constants(workspace.lowered(uniform(workspace, "w4a8")).model))
    assert found[0] == found[1] == found[2]


def test_what_a_plan_does_not_round_stays_as_it_is(tmp_path: Path) -> None:
    workspace = workspace_of(MODELS / "digits_cnn.onnx", digits(0, 32), tmp_path)
    plan = uniform(workspace, "w4a8")
    kept = workspace.prepared.space.units[2]
    plan = replace(plan, choices={unit: option for unit, option in plan.choices.items() if unit != kept.name})
    lowered, original = (constants(model) for model in (workspace.lowered(plan).model, workspace.prepared.model))
    for layer in kept.layers:
        assert all(lowered[name] == original[name] for name in layer.weights)


@pytest.mark.parametrize("count", [1, 3])
def test_samples_that_leave_no_judge_fit_nothing(count: int, tmp_path: Path) -> None:
    workspace = workspace_of(MODELS / "digits_cnn.onnx", digits(0, count), tmp_path)
    plan = uniform(workspace, "w4a8")
    assert constants(workspace.lowered(plan).model) == constants(workspace.calibrated.lower(plan).model)
    assert workspace.notes(plan) == ("Fewer than four samples judge no fit: every layer is rounded by itself.",)


def test_samples_that_tell_little_leave_layers_as_they_are(tmp_path: Path) -> None:
    g = rng(3)
    feeds = [{"image": g.normal(size=(1, *digits(0, 1)["image"].shape[1:])).astype(np.float32)} for _ in range(8)]
    told = digits(0, 8)["image"]
    mixed = [{"image": told[place : place + 1]} if place % 4 == 3 else feeds[place] for place in range(8)]
    workspace = workspace_of(MODELS / "digits_cnn.onnx", mixed, tmp_path)
    plan = uniform(workspace, "w4a8")
    alone, fitted = losses(workspace, plan, new_digits())
    assert fitted < 2 * alone
    assert len(workspace.notes(plan)) == 1


def test_a_plan_is_applied_as_it_was_found(tmp_path: Path) -> None:
    given = {"verify": VerifyOptions(allow_slower=True, as_asked=True)}
    made = quantize(
        MODELS / "digits_cnn.onnx",
        digits(0, 24),
        output=tmp_path / "a.onnx",
        plan=Option.parse("w4a8"),
        numbers=SEQUENTIAL,
        **given,  # type: ignore[arg-type]
    )
    assert made.plan.ranges["rounding"] == "sequential"
    quantize(MODELS / "digits_cnn.onnx", digits(0, 24), output=tmp_path / "b.onnx", plan=made.plan_path, **given)  # type: ignore[arg-type]
    files = [onnx.load(tmp_path / name).graph for name in ("a.onnx", "b.onnx")]
    assert files[0].initializer == files[1].initializer
    assert any(note.startswith("Layers were fitted") for note in made.notes)
