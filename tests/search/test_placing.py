"""Kernels are placed before a plan is made, by measurement or by a table, and plans keep to them."""

import json
from pathlib import Path

import numpy as np
import pytest

import onnxmpq
from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.errors import InputError
from onnxmpq.methods.study import Menu
from onnxmpq.numerics.formats import kernel
from onnxmpq.options import Constraints, VerifyOptions
from onnxmpq.search.placing import on_kernels, restricted, timed
from tests.asked import asked
from tests.cli.running import refused, run
from tests.small import MODELS, small_model

DATA = MODELS / "digits_calibration.npz"
CODES = Option(0, 8)


def samples(count: int = 16) -> dict[str, np.ndarray]:
    with np.load(DATA) as data:
        return {name: data[name][:count] for name in data.files}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measure a table of the small model, in which convolutions are then said to be dear on codes."""
    path = tmp_path_factory.mktemp("table") / "t.json"
    run("latency", str(small_model()), "-c", str(DATA), "-o", str(path), "-q")
    assert not path.with_name("t.json.timings").exists()
    data = json.loads(path.read_text("utf-8"))
    data["about"]["machine"] = "a made-up board"
    for unit, region in data["units"].items():
        dear = "float" if "Gemm" in unit else "a8"
        region["kernels"] = {name: 1.0 if name == dear else 0.1 for name in region["kernels"]}
        region["borders"] = [0.0] * len(region["borders"])
    path.write_text(json.dumps(data), "utf-8")
    return path


def test_plans_keep_to_the_kernels_of_a_table_of_another_machine(table: Path, tmp_path: Path) -> None:
    result = onnxmpq.quantize(
        small_model(),
        samples(),
        output=tmp_path / "q.onnx",
        **asked(option="w4a8", latency_table=str(table), speed_budget_s=0.0, as_asked=True),
    )
    for unit, option in result.plan.choices.items():
        assert kernel(option) == (CODES if "Gemm" in unit else FLOAT)
        assert option.weight_bits == 4
    assert any("by a table of a made-up board" in note for note in result.notes)


def test_a_search_spends_its_bytes_on_the_options_of_the_kernels(table: Path, tmp_path: Path) -> None:
    result = onnxmpq.quantize(
        small_model(),
        samples(24),
        output=tmp_path / "q.onnx",
        **asked(budget=["size=30%"], effort="quick", latency_table=str(table), speed_budget_s=0.0),
    )
    assert result.file_bytes <= 0.3 * result.float_file_bytes
    assert {bool(option.activation_bits) for unit, option in result.plan.choices.items() if "Gemm" not in unit} == {
        False
    }
    assert len({option.weight_bits for option in result.plan.choices.values()}) > 1


def test_measured_kernels_are_no_slower_than_uniform_ones(tmp_path: Path) -> None:
    order = asked(option="w8a8", fastest=True, speed_budget_s=0.0)
    result = onnxmpq.quantize(small_model(), samples(), output=tmp_path / "q.onnx", **order)
    assert any(note.startswith("Kernels were placed by measurement:") for note in result.notes)
    assert result.verdict.ok


def test_what_is_decided_by_hand_stays(table: Path, tmp_path: Path) -> None:
    result = onnxmpq.quantize(
        small_model(),
        samples(),
        output=tmp_path / "q.onnx",
        **asked(option="w4a8", keep=["op:Conv=w8a8"], latency_table=str(table), speed_budget_s=0.0),
    )
    assert {str(option) for unit, option in result.plan.choices.items() if "Conv" in unit} == {"w8a8"}


def test_a_table_of_another_model_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not know '\S+' on every kernel"):
        onnxmpq.quantize(
            MODELS / "digits_vit.onnx",
            samples(),
            output=tmp_path / "q.onnx",
            verify=VerifyOptions(latency_table=str(table)),
        )


def test_a_target_whose_files_run_elsewhere_is_not_timed_here(tmp_path: Path) -> None:
    error = refused(
        "quantize",
        str(small_model()),
        "-c",
        str(DATA),
        "-o",
        str(tmp_path / "q.onnx"),
        "-t",
        "generic",
        "--fastest",
        "-q",
    )
    assert "Leave out --fastest" in str(error)


def test_a_plan_is_applied_as_it_is(tmp_path: Path) -> None:
    plan = onnxmpq.Plan("ort-cpu", "by hand", {})
    with pytest.raises(InputError, match="leave out --fastest, or the plan"):
        onnxmpq.quantize(
            small_model(), samples(), output=tmp_path / "q.onnx", plan=plan, verify=VerifyOptions(fastest=True)
        )


def test_a_table_is_measured_once_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    notes = tmp_path / "t.timings"
    first = timed(small_model(), samples(), options=["w8a8"], notes=notes)
    lines = notes.read_text("utf-8").splitlines()
    again = timed(small_model(), samples(), options=["w8a8"], notes=notes)
    assert again.latency == first.latency
    assert notes.read_text("utf-8").splitlines() == lines


def test_a_menu_is_left_with_the_options_of_its_kernels() -> None:
    units = onnxmpq.inspect(small_model()).units[:2]
    options = (Option(8, 8), Option(4, 8), Option(8), Option(4))
    menu = restricted(Menu(units, (options, options)), {units[0].name: FLOAT})
    assert menu.options == ((Option(8), Option(4)), options)


def test_weights_stay_when_a_plan_is_put_on_kernels() -> None:
    space = onnxmpq.inspect(small_model())
    plan = onnxmpq.Plan("ort-cpu", "by hand", {unit.name: Option(4, 8) for unit in space.units})
    first = space.units[0].name
    moved = on_kernels(plan, space, {first: FLOAT})
    assert moved.choices == {**plan.choices, first: Option(4)}


def test_a_model_without_a_choice_has_no_table() -> None:
    with pytest.raises(InputError, match="nothing to choose"):
        timed(small_model(), samples(), options=["w8a8"], constraints=Constraints(keep=["op:Conv=w8", "op:Gemm=w8"]))


@pytest.mark.openvino
def test_a_runtime_that_does_not_tell_times_of_kernels_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    error = refused(
        "quantize",
        str(small_model()),
        "-c",
        str(DATA),
        "-o",
        str(tmp_path / "q.onnx"),
        "-t",
        "openvino",
        "--fastest",
        "-q",
    )
    assert "does not tell here how long each of its kernels takes" in str(error)
