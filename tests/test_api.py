"""The whole way: all is written or nothing, what cannot be done is told in one sentence, and a plan can be repeated."""

import errno
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq import api
from onnxmpq.api import inspect, quantize
from onnxmpq.artifacts import FLOAT, Check, Option, Plan, Verdict
from onnxmpq.errors import InputError, OnnxmpqError, VerifyError
from onnxmpq.options import GraphOptions, Numbers
from onnxmpq.refit.accept import Refit
from onnxmpq.workspace import export
from onnxmpq.workspace.workspace import Workspace
from tests.asked import asked
from tests.graphs import feeds_for, from_text, layer_chain

MODEL = layer_chain("Conv")
FEEDS = feeds_for(MODEL)
PROTO = ir.to_proto(MODEL)
IMAGE = FEEDS[0]["x"]


class Desk:
    """A folder with a model, samples and things that must not change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        onnx.save(PROTO, str(folder / "m.onnx"))
        np.savez(folder / "s.npz", x=np.concatenate([feed["x"] for feed in FEEDS]))
        (folder / "out").mkdir()
        (folder / "out" / "q.onnx").write_bytes(b"an older export")
        (folder / "out" / "q.plan.json").write_text("its plan")
        (folder / "out" / "notes.txt").write_text("mine")

    def there(self) -> dict[str, bytes]:
        """Return all files below the output folder, hidden ones too."""
        root = self.folder / "out"
        return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else b"/" for p in sorted(root.rglob("*"))}

    def quantize(self, **changes: Any) -> api.Result:
        """Quantise, with one thing changed."""
        given: dict[str, Any] = {
            "model": self.folder / "m.onnx",
            "calibration": self.folder / "s.npz",
            "output": self.folder / "out" / "q.onnx",
            "overwrite": True,
            "allow_slower": True,
            "speed_budget_s": 0.0,
        }
        return quantize(**asked(**(given | changes)))

    def write(self, name: str, content: bytes | str | dict[str, Any]) -> Path:
        """Write a file beside the model."""
        path = self.folder / name
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def array(self, **arrays: Any) -> Path:
        """Write samples."""
        np.savez(self.folder / "bad.npz", **arrays)
        return self.folder / "bad.npz"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


TOML = """\
schema = 1
name = "old"
title = "an old runtime"
runtime = "onnxruntime"
limits = { lowest_opset = 13, highest_opset = 15, highest_ir = 8 }
layers = [{ op = "Conv", options = ["w8"] }]
"""
FAILURES: dict[str, tuple[Callable[[Desk], dict[str, Any]], str]] = {
    "no calibration file": (lambda d: {"calibration": d.folder / "none.npz"}, "none.npz' does not exist"),
    "calibration is no samples": (lambda d: {"calibration": d.write("s.txt", "x")}, "is neither .npz nor .npy"),
    "broken samples": (lambda d: {"calibration": d.write("b.npz", "x")}, "cannot be read"),
    "NaN": (
        lambda d: {"calibration": d.array(x=np.concatenate([IMAGE, IMAGE * np.nan]))},
        "sample 1 has NaN in input 'x'",
    ),
    "wrong input name": (lambda d: {"calibration": d.array(X=IMAGE)}, "input 'x' is missing. Given: 'X'"),
    "wrong shape": (lambda d: {"calibration": d.array(x=IMAGE[:, :3])}, "input 'x' expects shape"),
    "wrong type": (lambda d: {"calibration": d.array(x=IMAGE.astype(np.int64))}, "expects float32, the data is int64"),
    "no samples": (lambda d: {"calibration": d.array(x=IMAGE[:0])}, "calibration data is empty"),
    "no evaluation file": (lambda d: {"evaluation": d.folder / "none.npz"}, "none.npz' does not exist"),
    "more labels than samples": (
        lambda d: {"evaluation": d.array(x=IMAGE, labels=np.zeros(3))},
        "Accuracy needs one label for each row of the first output, not labels of shape (3,)",
    ),
    "labels that do not divide": (
        lambda d: {"evaluation": d.array(x=np.concatenate([IMAGE, IMAGE]), labels=np.zeros(3))},
        "'labels' has 3 entries for 2 samples",
    ),
    "labels of many numbers": (
        lambda d: {"evaluation": d.array(x=IMAGE, labels=np.zeros((1, 3)))},
        "Accuracy needs one label for each row",
    ),
    "no model": (lambda d: {"model": d.folder / "none.onnx"}, "There is no file"),
    "a truncated model": (
        lambda d: {"model": d.write("t.onnx", (d.folder / "m.onnx").read_bytes()[:2000])},
        "is not an ONNX model, or is cut short",
    ),
    "no ONNX": (lambda d: {"model": d.write("t.onnx", b"PK\x03\x04 nothing")}, "is not an ONNX model"),
    "an existing output": (lambda d: {"overwrite": False}, "q.onnx' exists. Choose another name, or give --overwrite"),
    "an existing plan": (
        lambda d: {"overwrite": False, "output": d.folder / "out" / "q.other"},
        "q.plan.json' exists",
    ),
    "no output folder": (lambda d: {"output": d.folder / "none" / "q.onnx"}, "none' of the output"),
    "an output that is a folder": (lambda d: {"output": d.folder / "out"}, "out' is a folder"),
    "a plan of another model": (
        lambda d: {"plan": Plan("ort-cpu", "", {}, model_sha256="0" * 64)},
        "it was made for another model (the digests differ)",
    ),
    "a plan of another target": (
        lambda d: {"plan": Plan("openvino", "", {})},
        "it was made for target 'openvino', not 'ort-cpu'",
    ),
    "a plan that is no plan": (lambda d: {"plan": d.write("p.json", {"schema": 1})}, "is not a plan"),
    "a plan with ranges of its own": (
        lambda d: {"plan": Plan("ort-cpu", "", {}, ranges={"activations": "best"})},
        "say 'activations': 'best', which means nothing to this version",
    ),
    "an unknown option": (lambda d: {"option": "w8x"}, "'w8x' is not an option"),
    "an option that no unit comes near": (
        lambda d: {"option": "a8"},
        "No unit of this model takes 'a8' on target 'ort",
    ),
    "an unknown method": (lambda d: {"method": "magic"}, "There is no method 'magic'. Known: gram, clado, clado-star"),
    "an unknown target": (lambda d: {"target": "gpu"}, "There is no target 'gpu'"),
    "a model above the target's opset": (
        lambda d: {"target": str(d.write("old.toml", TOML))},
        "written in opset 17; target 'old' loads up to 15",
    ),
    "a target that asks the impossible": (
        lambda d: {"target": str(d.write("old.toml", TOML.replace('"w8"', '"w4"')))},
        "'w4' needs opset 21, above highest_opset 15",
    ),
    "a model without layers": (
        lambda d: {"model": ir.to_proto(from_text("g (float[4] x) => (float[4] y) { y = Relu(x) }"))},
        "Nothing in this model can be quantised for target 'ort-cpu': it has no layer with a constant weight",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_is_told_in_a_sentence_and_leaves_everything_as_it_was(name: str, desk: Desk) -> None:
    make, message = FAILURES[name]
    changes = make(desk)
    before = desk.there()
    with pytest.raises(InputError) as told:
        desk.quantize(**changes)
    text = str(told.value)
    assert message in text
    assert "\n" not in text
    assert text.endswith((".", ")", "?"))
    assert desk.there() == before


def test_all_faults_of_a_plan_are_told_at_once(desk: Desk) -> None:
    before = desk.there()
    plan = Plan("openvino", "", {"nothing": Option(8), "Conv_0": Option(4, 0, 32)}, model_sha256="0")
    with pytest.raises(InputError, match="The plan does not fit: ") as told:
        desk.quantize(plan=plan)
    for fault in ("another model", "for target 'openvino'", "no unit 'nothing'", "unit 'Conv_0' has no option 'w4b32'"):
        assert fault in str(told.value)
    assert desk.there() == before


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_while_the_model_is_written_leaves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = desk.there()
    monkeypatch.setattr("onnxmpq.model.save.os.fsync", full_disk)
    with pytest.raises(InputError, match=r"cannot be written: the disk is full; free some space"):
        desk.quantize()
    assert desk.there() == before


def test_a_full_disk_at_the_start_leaves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = desk.there()
    monkeypatch.setattr("onnxmpq.disk.leftovers.TemporaryDirectory", full_disk)
    with pytest.raises(InputError, match="cannot be written to: No space left on device"):
        desk.quantize()
    assert desk.there() == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("last", ["q.plan.json", "q.onnx"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_failure_while_moving_puts_back_what_was_there(
    error: BaseException, last: str, fresh: bool, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, move = desk.folder / "out", os.replace
    if fresh:
        (out / "q.onnx").unlink()
        (out / "q.plan.json").unlink()
    before = desk.there()
    raised: list[bool] = []

    def fails_once(source: Path, destination: Path) -> None:
        if Path(destination) == out / last and not raised:
            raised.append(True)
            raise error
        move(source, destination)

    monkeypatch.setattr("onnxmpq.verification.publish.os.replace", fails_once)
    with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt) as told:
        desk.quantize()
    if isinstance(error, OSError):
        assert "cannot be written: the disk is full; free some space" in str(told.value)
    assert desk.there() == before


@pytest.mark.parametrize("stage", ["calibrate", "lower", "verify: speed"])
def test_an_interrupt_leaves_nothing(stage: str, desk: Desk) -> None:
    before = desk.there()

    def interrupt(what: str, _done: int, _of: int) -> None:
        if what == stage:
            assert desk.there() != before, "there is a temporary folder by now"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        desk.quantize(progress=interrupt)
    assert desk.there() == before


def test_an_export_that_does_not_hold_is_not_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = desk.there()
    monkeypatch.setattr(export, "verify", verdict_of({}, size=False))
    with pytest.raises(
        VerifyError, match=r"does not hold in fake: size is 3 \(expected 4; off\)\. No model was written"
    ):
        desk.quantize()
    assert desk.there() == before


def test_a_float_model_that_does_not_load_is_told(desk: Desk) -> None:
    model = onnx.load(str(desk.folder / "m.onnx"))
    model.ir_version = 99
    before = desk.there()
    onnx.save(model, str(desk.folder / "new.onnx"))
    with pytest.raises(InputError, match=r"The float model does not load in onnxruntime .*Fix or re-export"):
        desk.quantize(model=desk.folder / "new.onnx")
    assert desk.there() == before


def test_a_success_leaves_the_export_and_its_plan_and_nothing_else(desk: Desk) -> None:
    result = desk.quantize()
    after = desk.there()
    assert set(after) == {"q.onnx", "q.plan.json", "notes.txt"}
    assert after["notes.txt"] == b"mine"
    assert result.path.stat().st_size == result.file_bytes < result.float_file_bytes
    assert Plan.read(result.plan_path) == result.plan
    assert {value.name for value in onnx.load(str(result.path)).graph.output} == {"y"}
    json.dumps(result.to_json(), allow_nan=False)


# ---- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["w8a8", "w4a8", "w4"])
@pytest.mark.parametrize(
    "numbers", [None, Numbers("minmax", "minmax", bias_correction=False), Numbers(rounding="gptq")]
)
def test_a_plan_applied_again_gives_the_same_bytes(option: str, numbers: Numbers | None, desk: Desk) -> None:
    first = desk.quantize(option=option, numbers=numbers)
    again = desk.quantize(plan=first.plan_path, output=desk.folder / "out" / "again.onnx")
    assert again.path.read_bytes() == first.path.read_bytes()
    assert again.plan == first.plan


def test_ranges_that_are_given_go_before_those_of_the_plan(desk: Desk) -> None:
    first = desk.quantize(numbers=Numbers("minmax"))
    again = desk.quantize(plan=first.plan, numbers=Numbers("percentile"), output=desk.folder / "out" / "again.onnx")
    assert (first.plan.ranges["activations"], again.plan.ranges["activations"]) == ("minmax", "percentile")
    assert again.path.read_bytes() != first.path.read_bytes()


def test_numbers_that_are_told_leave_the_others_as_usual(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"activations": "minmax"}
    ranges = desk.quantize(option="w4a8", numbers=told).plan.ranges
    assert (ranges["activations"], ranges["rounding"]) == ("minmax", "sequential")
    assert desk.quantize(option="w8a8", numbers=told).plan.ranges["rounding"] == "nearest"
    monkeypatch.setattr("onnxmpq.options.MOST_FITTED_BYTES", 100)
    assert desk.quantize(option="w4a8", numbers=told).plan.ranges["rounding"] == "nearest"
    assert desk.quantize(option="w4a8", numbers=Numbers("minmax")).plan.ranges["rounding"] == "nearest"


def test_what_a_plan_says_of_numbers_stands_where_others_are_told(desk: Desk) -> None:
    first = desk.quantize(option="w4a8", numbers=Numbers(weights="minmax", rounding="gptq"))
    again = desk.quantize(plan=first.plan, numbers={"activations": "percentile", "bias_correction": False})
    wanted = Numbers("percentile", "minmax", bias_correction=False, rounding="gptq", smooth="off")
    assert again.plan.ranges == wanted.told()


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (
            {"activation": "mse"},
            "Numbers have no 'activation'. Known: activations, weights, bias_correction, rounding, smooth.",
        ),
        ({"rounding": "up"}, "'rounding' of numbers cannot be 'up'. Known: nearest, gptq, sequential."),
        ({"bias_correction": "yes"}, "'bias_correction' of numbers cannot be 'yes'. Known: True, False."),
    ],
)
def test_numbers_that_there_are_not_are_refused(numbers: dict[str, object], said: str, desk: Desk) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        desk.quantize(numbers=numbers)


def test_units_that_a_plan_does_not_name_stay_float(desk: Desk) -> None:
    result = desk.quantize(plan=Plan("ort-cpu", "mine", {"Conv_1": Option(8)}))
    names = {tensor.name for tensor in onnx.load(str(result.path)).graph.initializer}
    assert "w1" in names
    assert "w2" not in names


def test_the_model_may_be_given_in_any_form(desk: Desk) -> None:
    models = (desk.folder / "m.onnx", str(desk.folder / "m.onnx"), PROTO, MODEL)
    sizes = {desk.quantize(model=model).path.read_bytes() for model in models}
    assert len(sizes) == 1
    assert [unit.name for unit in inspect(PROTO).units] == ["Conv_0", "Conv_1"]


def test_an_opset_that_a_target_does_not_load_is_refused_when_inspecting(desk: Desk) -> None:
    with pytest.raises(OnnxmpqError, match="loads up to 15"):
        inspect(PROTO, str(desk.write("old.toml", TOML)))


# ---- speed -----------------------------------------------------------------------------------------------------------


def verdict_of(speeds: dict[str, float], **failed: bool) -> Callable[..., Verdict]:
    """Return a stand-in for verify: plans with activation bits run at the first speed, others at the second."""

    def fake(*_: object, expected_low_bit: tuple[str, ...] = (), **__: object) -> Verdict:
        speed = speeds.get("integer" if expected_low_bit else "float", 1.0)
        return Verdict(
            "fake",
            (Check("size", failed.get("size", True), 3, "4", "off"), Check("speed", None, speed, "times float")),
        )

    return fake


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Let a test say how fast integer and float kernels are."""
    said: dict[str, float] = {}
    monkeypatch.setattr(export, "verify", verdict_of(said))
    return said


SLOW = {"integer": 0.5, "float": 1.0}


def test_integer_kernels_that_are_slower_give_way_to_float_ones(desk: Desk, speeds: dict[str, float]) -> None:
    speeds |= SLOW
    result = desk.quantize(option="w4a8", allow_slower=False, numbers=Numbers())
    assert set(result.plan.choices.values()) == {Option(4)}
    assert Plan.read(result.plan_path) == result.plan
    (note,) = result.notes
    assert "they ran at 0.50 of float speed" in note
    assert "computed in float instead, at 1.00; --allow-slower keeps the integer kernels, for other machines;" in note


def test_kernels_are_chosen_before_weights_are_fitted(
    desk: Desk, speeds: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[set[Option]] = []
    fit = Workspace._fitted

    def counted(self: Workspace, plan: Plan) -> Refit:
        fitted.append(set(plan.choices.values()))
        return fit(self, plan)

    monkeypatch.setattr(Workspace, "_fitted", counted)
    speeds |= SLOW
    result = desk.quantize(option="w4a8", allow_slower=False)
    assert fitted == [{Option(4)}], "the plan that gives way was fitted, too"
    assert result.verdict["speed"].value == 1.0
    speeds |= {"integer": 1.5}
    result = desk.quantize(option="w4a8", allow_slower=False)
    assert fitted[1:] == [{Option(4, 8)}]
    assert result.verdict["speed"].value == 1.5
    assert not any("do not pay" in note for note in result.notes)


@pytest.mark.parametrize(
    ("integer", "plain"),
    [(1.5, 1.0), (0.97, 1.0), (0.5, 0.4)],
    ids=["faster", "as fast", "float is slower still"],
)
def test_integer_kernels_that_are_no_slower_stay(
    integer: float, plain: float, desk: Desk, speeds: dict[str, float]
) -> None:
    speeds |= {"integer": integer, "float": plain}
    result = desk.quantize(allow_slower=False)
    assert set(result.plan.choices.values()) == {Option(8, 8)}
    assert result.notes == ()


def test_a_target_without_a_promise_of_integer_kernels_never_gives_way(desk: Desk, speeds: dict[str, float]) -> None:
    speeds |= SLOW
    result = desk.quantize(target="generic", allow_slower=False)
    assert set(result.plan.choices.values()) == {Option(8, 8)}
    assert result.notes == ()


def test_slower_kernels_stay_where_that_is_allowed(desk: Desk, speeds: dict[str, float]) -> None:
    speeds |= SLOW
    assert set(desk.quantize(allow_slower=True).plan.choices.values()) == {Option(8, 8)}


def test_a_plan_that_is_given_is_applied_as_it_is(desk: Desk, speeds: dict[str, float]) -> None:
    speeds |= SLOW
    choices = {"Conv_0": Option(8, 8), "Conv_1": Option(4, 8)}
    result = desk.quantize(plan=Plan("ort-cpu", "mine", choices), allow_slower=False)
    assert (result.plan.choices, result.plan.method, result.notes) == (choices, "mine", ())


def test_weight_only_plans_are_not_built_twice(desk: Desk, speeds: dict[str, float]) -> None:
    speeds |= {"float": 0.5}
    seen: list[str] = []
    desk.quantize(option="w4", allow_slower=False, progress=lambda what, *_: seen.append(what))
    assert seen.count("lower") == 1


def test_decisions_by_hand_stay_where_float_kernels_are_faster(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object, expected_low_bit: Sequence[str] = (), **__: object) -> Verdict:
        return Verdict("fake", (Check("speed", None, 0.9 - 0.2 * len(expected_low_bit), "times float"),))

    monkeypatch.setattr(export, "verify", slow)
    result = desk.quantize(option="w4a8", keep=["Conv_1=w8a8"], allow_slower=False)
    assert result.plan.choices == {"Conv_0": Option(4), "Conv_1": Option(8, 8)}
    tied = desk.quantize(option="w4a8", keep=["Conv_1=w8a8"], ties=["op:Conv"], allow_slower=False, numbers=Numbers())
    assert set(tied.plan.choices.values()) == {Option(8, 8)}
    assert tied.notes == ()


# ---- decisions by hand -----------------------------------------------------------------------------------------------


def test_decisions_by_hand_hold_in_a_uniform_plan_and_in_its_file(desk: Desk) -> None:
    result = desk.quantize(option="w4a8", keep=["Conv_1=w8a8"])
    assert result.plan.choices == {"Conv_0": Option(4, 8), "Conv_1": Option(8, 8)}
    assert Plan.read(result.plan_path) == result.plan
    excluded = desk.quantize(exclude=["Conv_0"])
    assert Plan.read(excluded.plan_path).choices == {"Conv_0": FLOAT, "Conv_1": Option(8, 8)}
    nodes = onnx.load(str(excluded.path)).graph.node
    stored = {tensor.name for tensor in onnx.load(str(excluded.path)).graph.initializer}
    (first,) = [node for node in nodes if node.name == "Conv_0"]
    assert first.input[1] in stored, "a weight that is excluded is stored as it was"


def test_decisions_by_hand_do_not_go_with_a_plan(desk: Desk) -> None:
    with pytest.raises(InputError, match="A plan is applied as it is: leave out keep, exclude and ties, or the plan"):
        desk.quantize(plan=Plan("ort-cpu", "", {"Conv_0": Option(8, 8)}), exclude=["Conv_1"])


# ---- notes and accuracy ----------------------------------------------------------------------------------------------


def test_accuracy_is_measured_where_there_are_labels(desk: Desk) -> None:
    x = np.concatenate([feed["x"] for feed in FEEDS])
    result = desk.quantize(evaluation={"x": x, "labels": np.zeros(4)})
    assert result.accuracy is not None
    assert result.accuracy.samples == 4
    without = desk.quantize(evaluation={"x": x})
    assert without.accuracy is None
    assert without.notes == ("The evaluation data has no 'labels': accuracy was not measured.",)


def test_rows_that_fill_no_batch_are_told(desk: Desk) -> None:
    text = "g (float[2, 8] x) => (float[2, 64] y) { y = MatMul(x, w) }"
    weights = {"w": np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)}
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    result = desk.quantize(model=ir.to_proto(from_text(text, weights)), calibration={"x": x})
    assert any("the last 1 rows do not fill one and are not used" in note for note in result.notes)


def test_a_file_that_did_not_shrink_is_told(desk: Desk) -> None:
    text = "g (float[1, 2] x) => (float[1, 2] y) { y = MatMul(x, w) }"
    x = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    model = ir.to_proto(from_text(text, {"w": np.eye(2, dtype=np.float32)}))
    assert "is not smaller than the original" in desk.quantize(model=model, calibration={"x": x}).notes[0]


def test_what_is_asked_is_never_taken_below(desk: Desk) -> None:
    result = desk.quantize(option="w8a16")
    assert set(result.plan.choices.values()) == {Option(8)}


def test_a_batch_that_a_pass_fixes_takes_so_many_samples(tmp_path: Path) -> None:
    images = np.concatenate([feed["x"] for feed in FEEDS])
    options = GraphOptions(passes=("fix-shapes{batch=2}",))
    quantize(PROTO, {"x": images}, output=tmp_path / "q.onnx", target="generic", graph=options)
    shape = onnx.load(tmp_path / "q.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [2, 16, 9, 9]


def test_a_search_measures_a_model_of_a_fixed_batch(tmp_path: Path) -> None:
    images = np.concatenate([feed["x"] for feed in FEEDS])
    result = quantize(
        PROTO,
        {"x": images},
        output=tmp_path / "q.onnx",
        target="generic",
        budget={"bits": 6},
        graph=GraphOptions(passes=("fix-shapes",)),
    )
    assert result.plan.passes == ("fix-shapes",)
    assert result.decision is not None
