"""Requirements: what is written is read in one way, and what is held against it is what measuring gives."""

import json
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.api import quantize
from onnxmpq.artifacts import Check, Plan, Verdict
from onnxmpq.budgets.limits import Limit
from onnxmpq.data.samples import open_samples
from onnxmpq.errors import InputError
from onnxmpq.metrics.compared import mean_loss
from onnxmpq.metrics.losses import Head
from onnxmpq.model.load import load
from onnxmpq.options import Numbers, VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.verification.requirements import KINDS, Finding, Requirement, hold, parse_requirements
from tests.opened import engine_on

MODELS = Path(__file__).parents[2] / "models"
FLOAT, CALIBRATION = MODELS / "digits_cnn.onnx", MODELS / "digits_calibration.npz"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantise the embedded network coarsely."""
    path = tmp_path_factory.mktemp("export") / "q.onnx"
    quick = VerifyOptions(allow_slower=True, speed_budget_s=0.0)
    quantize(FLOAT, CALIBRATION, output=path, plan="w3a8", numbers=Numbers(), verify=quick)
    return path


def test_all_requirements_that_cannot_be_read_are_one_error() -> None:
    with pytest.raises(InputError, match=r"(?s)no requirement 'speeed'.*'speed'.*'drop<=x' is no requirement"):
        parse_requirements(["speeed>=1", "drop<=x"])


@pytest.mark.parametrize(
    ("text", "seen", "error", "ok"),
    [
        ("drop<=1%", 0.009, 0.0009, True),
        ("drop<=1%", 0.009, 0.0011, False),
        ("drop<=1%", -0.01, 0.002, True),
        ("size<=1kB", 1000.0, None, True),
        ("size<=1kB", 1001.0, None, False),
        ("sqnr>=30", 30.0, None, True),
        ("sqnr>=30", float("-inf"), None, False),
        ("agreement>=40", float("inf"), None, True),
        ("speed>=1", float("nan"), None, False),
        ("loss<=1", float("nan"), float("nan"), False),
    ],
)
def test_a_standard_error_counts_against_a_requirement(text: str, seen: float, error: float | None, ok: bool) -> None:
    requirement = Requirement.parse(text)
    found = Finding(requirement, seen, requirement.amount, error)
    assert found.ok is ok
    json.dumps(found.to_json() | {"error": None}, allow_nan=False)


def test_every_kind_is_read_with_spaces_and_written_without() -> None:
    texts = ["size <= 5 MB", "drop <= 1 %", "loss<= .5", "sqnr >=30", "agreement>= 40", "speed >= 1.2"]
    found = parse_requirements(texts)
    assert tuple(one.kind for one in found) == KINDS
    assert [one.text for one in found] == [text.replace(" ", "") for text in texts]


def test_loss_is_what_an_engine_measures_of_the_same_plan(export: Path) -> None:
    runtime = get_runtime("onnxruntime")
    plan = Plan.read(export.with_suffix(".plan.json"))
    data = open_samples(CALIBRATION, runtime.session(FLOAT, mode="deployed").inputs)
    with engine_on(FLOAT, data, numbers=Numbers.of(plan.ranges)) as engine:
        measured = engine.losses([plan.choices])[0]
        before, after = (runtime.session(path, mode="deployed") for path in (FLOAT, export))
        found = mean_loss(before, after, data, engine.heads)
    assert found == pytest.approx((measured.value, measured.error), rel=0.02)


def test_drop_is_read_as_the_budget_and_counts_changed_classes_or_lost_accuracy(export: Path) -> None:
    assert Requirement.parse("drop<=1.5%").amount == Limit.parse("drop=1.5%").amount == 0.015
    runtime, source = get_runtime("onnxruntime"), load(FLOAT)
    images = np.load(CALIBRATION)["image"][:40]
    inputs = runtime.session(FLOAT, mode="deployed").inputs
    before, after = (
        next(iter(runtime.session(path, mode="deployed").run({"image": images}).values())).argmax(1)
        for path in (FLOAT, export)
    )
    verdict = Verdict("none", tuple(Check(name, None, 1.0, "") for name in ("sqnr", "simulation", "speed")))
    changed = float(np.mean(before != after))
    for labels, what in (({}, "share of classes that change"), ({"labels": before}, "accuracy")):
        samples = open_samples({"image": images, **labels}, inputs)
        (found,) = hold(parse_requirements(["drop<=1%"]), verdict, source, export, runtime, runtime, samples)
        assert found.seen == pytest.approx(changed)
        assert found.error == pytest.approx(np.std(before != after, ddof=1) / np.sqrt(40))
        assert found.detail.startswith(what)


def test_loss_is_kl_by_hand_and_error_power_over_power_for_other_outputs(export: Path) -> None:
    runtime = get_runtime("onnxruntime")
    feeds = np.load(CALIBRATION)["image"][:40]
    float_session, session = (runtime.session(path, mode="deployed") for path in (FLOAT, export))
    before, after = (next(iter(s.run({"image": feeds}).values())).astype(float) for s in (float_session, session))
    samples = open_samples({"image": feeds}, runtime.session(FLOAT, mode="deployed").inputs)
    heads = (Head("logits", "kl"), Head("logits", "power"))
    found = [mean_loss(float_session, session, samples, [head])[0] for head in heads]
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (before, after))
    by_hand = [(p * np.log(p / q)).sum(1).mean(), ((before - after) ** 2).sum() / (before**2).sum()]
    assert found == pytest.approx(by_hand, rel=1e-3)
