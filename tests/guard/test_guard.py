"""What 8 bits ruin is found for a tenth of what measuring takes, kept finer and told in two lines; in any file."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

import onnxmpq
from onnxmpq.api import Result, quantize
from onnxmpq.artifacts import FLOAT, Option, Plan
from onnxmpq.errors import InputError
from onnxmpq.guard.damage import Thresholds
from onnxmpq.options import Constraints, VerifyOptions
from onnxmpq.workspace.prepare import prepare
from tests.asked import asked
from tests.guard import made
from tests.opened import engine_on

CASES: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "keywords": ({"MatMul_0", "MatMul_1", "MatMul_2"}, ("classes", "loss")),
    "detector": ({"Conv_19"}, ("sqnr",)),
    "outliers": ({"MatMul_0", "Gather_0"}, ("classes", "loss")),
}
"""Who is to blame in each network, and the figures that show it."""
W8A8 = Option(8, 8)


@cache
def case(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a network and its samples."""
    found: tuple[onnx.ModelProto, dict[str, np.ndarray]] = getattr(made, name)()
    return found


def quantised(name: str, folder: Path, **more: Any) -> Result:
    """Quantise a network at w8a8."""
    model, samples = case(name)
    given: dict[str, Any] = {"output": folder / "q.onnx", "overwrite": True, "speed_budget_s": 0.0}
    return quantize(model, samples, **asked(allow_slower=True, **given | more))


@pytest.fixture(scope="module")
def ruined(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """Quantise each network once as it comes."""

    @cache
    def found(name: str) -> Result:
        return quantised(name, tmp_path_factory.mktemp(name), speed_budget_s=0.02)

    return found


@pytest.fixture(scope="module")
def as_asked(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Quantise the detector as it was asked for."""
    return quantised("detector", tmp_path_factory.mktemp("asked"), as_asked=True)


# ---- found, kept finer, told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_what_ruins_a_network_is_kept_finer(name: str, ruined: Callable[[str], Result]) -> None:
    blamed, figures = CASES[name]
    result = ruined(name)
    judged = result.judgement
    assert judged is not None
    assert judged.as_asked is not None
    assert judged.finding is not None
    assert judged.thresholds.broken(judged.as_asked) == figures
    assert judged.broken == ()
    assert {culprit.unit for culprit in judged.finding.culprits} == blamed
    finer = {unit for unit, option in result.plan.choices.items() if option != W8A8 and option != Option(8)}
    kept = {unit for unit, option in result.plan.choices.items() if option != W8A8}
    assert finer <= blamed
    assert blamed <= kept
    assert Plan.read(result.plan_path) == result.plan
    assert result.verdict.ok


@pytest.mark.parametrize("name", CASES)
def test_it_takes_at_most_a_tenth_of_measuring_every_unit(name: str, ruined: Callable[[str], Result]) -> None:
    judged = ruined(name).judgement
    assert judged is not None
    assert judged.finding is not None
    model, samples = case(name)
    with engine_on(model, samples) as engine:
        variants = engine.variants([W8A8])
        everything = (engine.cost(variants).full_runs - 2) * engine.samples  # less the centre, which all methods need
    assert judged.finding.runs <= 0.1 * everything
    assert judged.finding.share <= 0.1


@pytest.mark.parametrize("name", CASES)
def test_it_is_told_in_two_lines_with_the_price(name: str, ruined: Callable[[str], Result]) -> None:
    first, second = ruined(name).notes[:2]
    assert first.startswith("At the option that was asked for the outputs would be damaged: ")
    assert all(unit in first for unit in CASES[name][0])
    assert "of measuring every unit" in first
    assert second.startswith("Kept finer: ")
    assert " bytes (" in second
    assert "times float. --as-asked leaves the file as it was asked for." in second


def test_as_asked_leaves_it_and_says_so(as_asked: Result) -> None:
    result = as_asked
    assert set(result.plan.choices.values()) == {W8A8}
    assert result.judgement is not None
    assert result.judgement.broken == ("sqnr",)
    assert result.judgement.finding is not None
    assert result.notes[0].startswith("The outputs are damaged: ")
    assert result.notes[1] == "--keep Conv_19=w8 fixes it."


def test_the_advice_does_what_it_says(tmp_path: Path) -> None:
    result = quantised("detector", tmp_path, keep=["Conv_19=w8"])
    assert result.judgement is not None
    assert (result.judgement.broken, result.judgement.as_asked) == ((), None)
    assert result.notes == ()


def test_a_plan_of_ones_own_is_judged_and_not_changed(as_asked: Result, tmp_path: Path) -> None:
    plan = as_asked.plan
    result = quantised("detector", tmp_path, plan=plan)
    assert result.plan.choices == plan.choices
    assert result.notes[0].startswith("The outputs are damaged: ")


def test_what_is_decided_by_hand_stays(tmp_path: Path) -> None:
    result = quantised("detector", tmp_path, keep=["Conv_19=w8a8"])
    assert result.plan.choices["Conv_19"] == W8A8
    assert result.judgement is not None
    assert result.judgement.broken == ("sqnr",)


def test_a_search_is_judged_too(tmp_path: Path) -> None:
    result = quantised("detector", tmp_path, budget=["bits=8"], options=["w8a8"], effort="quick")
    assert set(result.plan.choices.values()) == {W8A8}
    (place,) = (place for place, note in enumerate(result.notes) if note.startswith("The outputs are damaged: "))
    assert result.notes[place + 1] == "--keep Conv_19=w8 fixes it."


def test_thresholds_are_settable(tmp_path: Path) -> None:
    lenient = quantised("detector", tmp_path, guard=["sqnr>=-50"])
    assert set(lenient.plan.choices.values()) == {W8A8}
    assert lenient.notes == ()
    strict = quantised("detector", tmp_path, guard=["sqnr>=30"])
    assert strict.judgement is not None
    assert strict.judgement.damage.sqnr is not None
    assert strict.judgement.damage.sqnr >= 30


def test_damage_all_over_the_network_is_mended_too(tmp_path: Path) -> None:
    result = quantised("keywords", tmp_path, option="w2a8")
    assert result.judgement is not None
    assert result.judgement.broken == ()
    assert result.judgement.finding is not None
    assert len(result.judgement.finding.culprits) > 3
    assert " units at " in result.notes[1]
    assert result.file_bytes < result.float_file_bytes


def test_a_network_that_is_well_has_no_note(tmp_path: Path) -> None:
    result = quantised("detector", tmp_path, option="w8")
    assert result.judgement is not None
    assert result.judgement.finding is None
    assert result.judgement.damage.sqnr is not None
    assert result.judgement.damage.sqnr > 20
    assert result.notes == ()


def test_json_has_the_judgement(ruined: Callable[[str], Result]) -> None:
    data = ruined("detector").to_json()["guard"]
    assert data["broken"] == []
    assert data["as_asked"]["sqnr"] < 0 < data["damage"]["sqnr"]
    assert data["thresholds"] == {"classes": 0.8, "loss": 0.1, "sqnr": 10.0}
    (culprit,) = data["culprits"]
    assert (culprit["unit"], culprit["asked"], culprit["kept"]) == ("Conv_19", "w8a8", "w8")
    assert 0 < data["share_of_measuring"] <= 0.1


# ---- diagnose --------------------------------------------------------------------------------------------------------


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Give a quantiser some samples."""

    def __init__(self, samples: dict[str, np.ndarray]) -> None:
        self.feeds = iter([{name: array[i : i + 1] for name, array in samples.items()} for i in range(64)])

    def get_next(self) -> Any:
        """Return the next sample."""
        return next(self.feeds, None)


@pytest.fixture(scope="module", params=CASES)
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return the name of a network, and a folder with it and its file by onnxruntime's own quantiser."""
    folder = tmp_path_factory.mktemp("foreign")
    model, samples = case(request.param)
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for node in model.graph.node:
        node.name = f"{node.op_type} {node.output[0]}"
    onnx.save(model, str(folder / "m.onnx"))
    quantize_static(
        folder / "m.onnx", folder / "q.onnx", Reader(samples), quant_format=QuantFormat.QDQ, per_channel=True
    )
    return request.param, folder


FOREIGN = {
    "keywords": "MatMul bands",
    "detector": "Conv y",
    "outliers": "MatMul c0",
}
"""The layer with the largest local error, by the names of a foreign file."""


def test_a_file_of_another_tool_is_diagnosed(foreign: tuple[str, Path]) -> None:
    name, folder = foreign
    samples = case(name)[1]
    found = onnxmpq.diagnose(folder / "q.onnx", samples, float_model=folder / "m.onnx")
    assert found.broken == CASES[name][1]
    assert found.layers[0].name.startswith(FOREIGN[name])
    assert found.layers[0].local_db < 3 < 20 < found.layers[3].local_db
    assert found.blamed
    assert found.blamed[0].name.startswith(FOREIGN[name])
    assert found.blamed[0].alone is not None
    assert found.thresholds.broken(found.blamed[0].alone)
    assert found.after is not None
    assert not found.thresholds.broken(found.after)
    assert found.share <= 0.1


@pytest.mark.parametrize("name", CASES)
def test_a_float_model_is_diagnosed_before_it_is_quantised(name: str) -> None:
    model, samples = case(name)
    found = onnxmpq.diagnose(model, samples)
    assert found.broken == CASES[name][1]
    assert {one.name for one in found.blamed} == CASES[name][0]
    assert found.layers[0].name in CASES[name][0]
    assert found.after is not None
    assert not found.thresholds.broken(found.after)
    assert found.share <= 0.1
    fine = onnxmpq.diagnose(model, samples, option="w8", constraints=Constraints(exclude=sorted(CASES[name][0])))
    assert (fine.broken, fine.blamed, fine.runs) == ((), (), 0)


def test_local_errors_are_those_of_each_layer_alone(tmp_path: Path) -> None:
    """The error of a layer among float ones, measured directly, is its local error."""
    model, samples = case("detector")
    found = onnxmpq.diagnose(model, samples, option="w4a8")
    few = {name: array[:16] for name, array in samples.items()}
    space = prepare(model, "ort-cpu").space
    last = next(layer for layer in found.layers if layer.name == "Conv_19")
    plan = Plan("ort-cpu", "", {unit.name: Option(4, 8) if unit.name == "Conv_19" else FLOAT for unit in space.units})
    alone = quantize(model, few, output=tmp_path / "q.onnx", plan=plan, verify=VerifyOptions(speed_budget_s=0.0))
    assert alone.judgement is not None
    assert alone.judgement.damage.sqnr == pytest.approx(last.local_db, abs=1.5)


def test_a_file_whose_layers_cannot_be_told_apart_says_so(tmp_path: Path) -> None:
    model, samples = case("detector")
    onnx.save(model, str(tmp_path / "m.onnx"))
    quantize_static(
        tmp_path / "m.onnx", tmp_path / "q.onnx", Reader(samples), quant_format=QuantFormat.QOperator, per_channel=True
    )
    found = onnxmpq.diagnose(tmp_path / "q.onnx", samples, float_model=tmp_path / "m.onnx")
    assert found.broken == ("sqnr",)
    assert (found.layers, found.blamed) == ((), ())
    assert found.notes[0].startswith("None of the tensors between its layers is in the float model")


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    for name in ("detector", "keywords"):
        onnx.save(case(name)[0], str(tmp_path / f"{name}.onnx"))
    with pytest.raises(InputError, match=r"does not fit|made of another|input 'x'|invalid|refused|expects shape"):
        onnxmpq.diagnose(tmp_path / "detector.onnx", case("keywords")[1], float_model=tmp_path / "keywords.onnx")


def test_thresholds_of_the_package_are_those_that_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "budgets-and-targets.md").read_text("utf-8")
    found = Thresholds()
    for text in (f"classes>={100 * found.classes:g}%", f"loss<={found.loss:g}", f"sqnr>={found.sqnr:g}"):
        assert f"`{text}`" in page
