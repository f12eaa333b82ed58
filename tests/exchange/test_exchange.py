"""Plans go out as TensorQuantOverrides and come back as they were; passes on request stay with their plan."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from onnxmpq.api import quantize
from onnxmpq.artifacts import Option, Plan
from onnxmpq.cli import cli
from onnxmpq.errors import InputError
from onnxmpq.exchange.plans import export_overrides, import_overrides
from onnxmpq.options import GraphOptions, VerifyOptions
from onnxmpq.runtimes import get_runtime

MODEL, SAMPLES = Path("models/digits_cnn.onnx"), Path("models/digits_calibration.npz")


@pytest.fixture(scope="module")
def few() -> dict[str, np.ndarray]:
    """Return a few samples."""
    with np.load(SAMPLES) as data:
        return {"image": data["image"][:24]}


@pytest.fixture(scope="module")
def plan(few: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Return a plan of several precisions."""
    made = quantize(
        MODEL,
        few,
        output=tmp_path_factory.mktemp("plan") / "m.onnx",
        verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
    )
    names = list(made.plan.choices)
    mixed = {name: Option.parse("w4a8" if place % 2 else "w8a8") for place, name in enumerate(names)}
    return Plan(made.plan.target, "hand", mixed, made.plan.model_sha256, made.plan.ranges)


def test_overrides_come_back_as_the_plan(plan: Plan, few: dict[str, np.ndarray]) -> None:
    data = json.loads(json.dumps(export_overrides(MODEL, plan, few)))
    back = import_overrides(MODEL, data)
    assert dict(back.choices) == dict(plan.choices)
    assert back.model_sha256 == plan.model_sha256


def test_the_command_writes_and_reads(plan: Plan, few: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", **few)  # type: ignore[arg-type]
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    out, again = tmp_path / "overrides.json", tmp_path / "again.json"
    for arguments in (
        [str(tmp_path / "plan.json"), "-c", str(tmp_path / "few.npz"), "-o", str(out)],
        [str(out), "--read", "-o", str(again)],
    ):
        ran = CliRunner().invoke(cli, ["overrides", str(MODEL), *arguments], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
    assert Plan.read(again).choices == plan.choices
    with pytest.raises(InputError, match="come from samples"):
        CliRunner().invoke(
            cli,
            ["overrides", str(MODEL), str(tmp_path / "plan.json"), "-o", str(tmp_path / "x.json")],
            catch_exceptions=False,
        )


def test_a_pass_on_request_is_kept_in_the_plan(few: dict[str, np.ndarray], tmp_path: Path) -> None:
    made = quantize(
        MODEL,
        few,
        output=tmp_path / "a.onnx",
        graph=GraphOptions(passes=("equalise-layers",)),
        verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
    )
    assert made.plan.passes == ("equalise-layers",)
    kept = Plan.read(made.plan_path)
    assert kept.passes == made.plan.passes
    again = quantize(MODEL, few, output=tmp_path / "b.onnx", plan=kept, verify=VerifyOptions(speed_budget_s=0.0))
    assert again.path.read_bytes() == made.path.read_bytes()
    plain = quantize(
        MODEL, few, output=tmp_path / "c.onnx", verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0)
    )
    image = {"image": few["image"][:4]}
    runtime = get_runtime("onnxruntime")
    one, other = (next(iter(runtime.session(r.path, mode="deployed").run(image).values())) for r in (made, plain))
    assert not np.array_equal(one, other)
