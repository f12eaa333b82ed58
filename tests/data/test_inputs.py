"""What goes in: a model in any form gives one result and stays as it was; samples may come in any form, and once."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import CalibrationDataReader

import onnxmpq
from onnxmpq.data.samples import Data, InputSpec, open_samples
from onnxmpq.errors import InputError
from onnxmpq.model.load import load
from onnxmpq.options import SearchOptions
from onnxmpq.workspace.prepare import Model
from tests.asked import asked
from tests.graphs import feeds_for, from_text, layer_chain

MODEL = layer_chain("Gemm")
FEEDS = feeds_for(MODEL, count=6)
X = np.concatenate([feed["x"] for feed in FEEDS])
PROTO = ir.to_proto(MODEL)
F32 = np.dtype(np.float32)


def written(folder: Path) -> Path:
    onnx.save(PROTO, str(folder / "m.onnx"))
    return folder / "m.onnx"


FORMS: dict[str, Callable[[Path], Model]] = {
    "path": written,
    "ModelProto": lambda folder: onnx.load(written(folder)),
    "onnx_ir.Model": lambda folder: ir.load(written(folder)),
}


def quantize(model: Model, output: Path, calibration: Data, **more: Any) -> onnxmpq.Result:
    return onnxmpq.quantize(model, calibration, **asked(output=output, allow_slower=True, speed_budget_s=0.0, **more))


def frozen(model: Model) -> object:
    """Return all of a model, to be compared later."""
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model) if isinstance(model, ir.Model) else None
    return proto.SerializeToString(deterministic=True) if proto is not None else Path(str(model)).read_bytes()


@pytest.fixture(scope="module")
def as_a_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], onnxmpq.Result]:
    """Quantise the model, given as a file, once for every budget."""

    @cache
    def found(budget: tuple[str, ...]) -> onnxmpq.Result:
        folder = tmp_path_factory.mktemp("file")
        return quantize(written(folder), folder / "other.onnx", {"x": X}, budget=budget, effort="quick")

    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("budget", [(), ("size=40%",)])
def test_every_form_of_a_model_gives_one_file_and_stays_as_it_was(
    form: str, budget: tuple[str, ...], tmp_path: Path, as_a_file: Callable[[tuple[str, ...]], onnxmpq.Result]
) -> None:
    model = FORMS[form](tmp_path)
    before = frozen(model)
    found = quantize(model, tmp_path / "q.onnx", {"x": X}, budget=budget, effort="quick")
    assert frozen(model) == before
    other = as_a_file(budget)
    assert found.path.read_bytes() == other.path.read_bytes()
    assert found.plan.choices == other.plan.choices


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_model_has_one_space_and_one_front(form: str, tmp_path: Path) -> None:
    model = FORMS[form](tmp_path)
    before = frozen(model)
    assert onnxmpq.inspect(model) == onnxmpq.inspect(written(tmp_path))
    front, other = (
        onnxmpq.pareto(one, {"x": X}, points=2, search=SearchOptions(options=["w8a8"]))
        for one in (model, written(tmp_path))
    )
    assert [plan.choices for plan in front.plans] == [plan.choices for plan in other.plans]
    assert frozen(model) == before


def test_a_model_whose_nodes_are_out_of_order_is_sorted_in_a_copy() -> None:
    model = from_text("g (float[2] x) => (float[2] y) { a = Exp(x) y = Neg(a) }")
    first = model.graph[0]
    model.graph.remove(first)
    model.graph.append(first)
    assert [node.op_type for node in load(model).model.graph] == ["Exp", "Neg"]
    assert [node.op_type for node in model.graph] == ["Neg", "Exp"]


def test_a_model_too_large_for_protobuf_goes_through_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.model.load.LARGEST_PROTOBUF", 1000)
    monkeypatch.setattr("onnxmpq.model.load._serialized", lambda proto: pytest.fail("it is too large for that"))
    monkeypatch.setattr("onnxmpq.workspace.workspace._LARGE_BYTES", 1000)
    found = quantize(PROTO, tmp_path / "q.onnx", {"x": X}, budget=("size=40%",), effort="quick")
    assert found.verdict.ok
    assert found.float_file_bytes == pytest.approx(PROTO.ByteSize(), rel=0.02)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["q.onnx", "q.plan.json"]


# ---- samples ---------------------------------------------------------------------------------------------------------


class OnnxruntimeReader(CalibrationDataReader):  # type: ignore[misc]
    """Serves samples as onnxruntime asks for them, once."""

    def __init__(self) -> None:
        self.feeds = iter(FEEDS)

    def get_next(self) -> Any:
        """Give the next feed."""
        return next(self.feeds, None)


def generated() -> Iterator[dict[str, np.ndarray]]:
    yield from FEEDS


@pytest.mark.parametrize("make", [generated, OnnxruntimeReader])
def test_a_search_takes_samples_that_come_only_once(make: Callable[[], Data], tmp_path: Path) -> None:
    once = quantize(PROTO, tmp_path / "a.onnx", make(), budget=("size=40%",), effort="quick")
    many = quantize(PROTO, tmp_path / "b.onnx", FEEDS, budget=("size=40%",), effort="quick")
    assert once.path.read_bytes() == many.path.read_bytes()
    assert onnxmpq.pareto(PROTO, make(), points=2, search=SearchOptions(options=["w8a8"])).plans


def test_samples_that_are_open_are_taken_as_they_are() -> None:
    inputs = (InputSpec("x", F32, ("n", 64)),)
    samples = open_samples({"x": X, "labels": np.arange(6)}, inputs)
    assert open_samples(samples, inputs) is samples
    other = open_samples(samples, (InputSpec("x", F32, (2, 64)),))
    assert [feed["x"].shape for feed in other] == [(2, 64)] * 3


def test_a_wrong_name_in_a_file_is_told_with_the_right_one_and_what_the_file_has(tmp_path: Path) -> None:
    model = from_text(
        "g (float[n, 4] input) => (float[n, 3] y) { y = MatMul(input, w) }", {"w": np.ones((4, 3), np.float32)}
    )
    np.savez(tmp_path / "samples.npz", imput=np.ones((2, 4), np.float32), ids=np.ones(2))
    with pytest.raises(InputError) as told:
        quantize(ir.to_proto(model), tmp_path / "q.onnx", tmp_path / "samples.npz")
    assert str(told.value) == (
        f"'{tmp_path / 'samples.npz'}': input 'input' is missing (is 'imput' meant to be it?). Given: 'imput', 'ids'. "
        "Name each array after its input: 'input'."
    )


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (X[:, :60], r"'s.npz': input 'x' expects shape \(n, 64\), the data is \(6, 60\)"),
        (X[0], r"expects shape \(n, 64\), the data is \(64,\)"),
        (X.astype(np.int32), r"input 'x' expects float32, the data is int32. Convert it"),
    ],
)
def test_a_wrong_shape_or_type_in_a_file_is_told(
    array: np.ndarray, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("s.npz", x=array)
    with pytest.raises(InputError, match=told):
        quantize(PROTO, tmp_path / "q.onnx", "s.npz")
