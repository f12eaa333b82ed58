"""Check the example models and their data against ``models/models.json``."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models import shapes

FOLDER = Path(__file__).parent.parent / "models"
LIMIT_BYTES = 1_000_000
TABLE: dict[str, Any] = json.loads((FOLDER / "models.json").read_text())
CLASSIFIERS: list[dict[str, Any]] = TABLE["models"]
DETECTORS: list[dict[str, Any]] = json.loads((FOLDER / "shapes_detector.json").read_text())["models"]
MODELS = CLASSIFIERS + DETECTORS
FILES: list[dict[str, Any]] = MODELS + TABLE["data"]

each_file = pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry["file"])
each_model = pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry["file"])
each_classifier = pytest.mark.parametrize("entry", CLASSIFIERS, ids=lambda entry: entry["file"])
each_detector = pytest.mark.parametrize("entry", DETECTORS, ids=lambda entry: entry["file"])


@each_file
def test_digest_and_size_are_those_of_the_table(entry: dict[str, Any]) -> None:
    content = (FOLDER / entry["file"]).read_bytes()
    assert len(content) == entry["size_bytes"]
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]


def test_table_lists_every_model_and_data_file() -> None:
    present = {path.name for path in FOLDER.iterdir() if path.suffix in (".onnx", ".npz")}
    assert {entry["file"] for entry in FILES} == present


@each_file
def test_file_is_under_a_megabyte(entry: dict[str, Any]) -> None:
    assert entry["size_bytes"] < LIMIT_BYTES


@each_model
def test_model_passes_the_full_checker(entry: dict[str, Any]) -> None:
    onnx.checker.check_model(onnx.load(FOLDER / entry["file"]), full_check=True)


@each_model
def test_public_names_opset_and_parameters_are_those_of_the_table(entry: dict[str, Any]) -> None:
    proto = onnx.load(FOLDER / entry["file"])
    weights = (value for value in proto.graph.initializer if value.data_type == onnx.TensorProto.FLOAT and value.dims)
    assert [value.name for value in proto.graph.input] == entry["inputs"] == ["image"]
    assert [value.name for value in proto.graph.output] == entry["outputs"]
    assert entry["outputs"] == (["logits"] if entry in CLASSIFIERS else ["detections"])
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", entry["opset"])]
    assert sum(math.prod(value.dims) for value in weights) == entry["parameters"]


@each_model
def test_batch_axis_is_dynamic(entry: dict[str, Any]) -> None:
    graph = onnx.load(FOLDER / entry["file"]).graph
    shapes = [value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)]
    assert [shape[0].dim_param for shape in shapes] == ["batch", "batch"]


@each_model
def test_every_node_has_a_name_of_its_own(entry: dict[str, Any]) -> None:
    names = [node.name for node in onnx.load(FOLDER / entry["file"]).graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


@each_model
def test_model_holds_no_path_doc_string_or_metadata(entry: dict[str, Any]) -> None:
    texts = dict(walk_texts(onnx.load(FOLDER / entry["file"])))
    assert not [where for where in texts if "doc_string" in where or "metadata_props" in where]
    assert not [text for text in texts.values() if text.startswith(("/", "~")) or "\\" in text or ".py" in text]


def test_splits_hold_as_many_samples_as_the_table_says() -> None:
    calibration, evaluation = load("digits_calibration.npz"), load("digits_evaluation.npz")
    samples = {entry["file"]: entry["samples"] for entry in TABLE["data"]}
    assert calibration.keys() == {"image"}
    assert evaluation.keys() == {"image", "labels"}
    assert calibration["image"].shape == (samples["digits_calibration.npz"], 1, 16, 16)
    assert evaluation["image"].shape == (samples["digits_evaluation.npz"], 1, 16, 16)
    assert evaluation["labels"].shape == (samples["digits_evaluation.npz"],)


def test_images_are_float32_from_zero_to_one_and_labels_int64() -> None:
    calibration, evaluation = load("digits_calibration.npz"), load("digits_evaluation.npz")
    for image in (calibration["image"], evaluation["image"]):
        assert image.dtype == np.float32
        assert image.min() == 0
        assert image.max() == 1
    assert evaluation["labels"].dtype == np.int64
    assert set(evaluation["labels"]) == set(range(10))


def test_no_image_is_in_two_splits_or_twice_in_one() -> None:
    images = [
        image.tobytes() for name in ("calibration", "evaluation") for image in load(f"digits_{name}.npz")["image"]
    ]
    assert len(set(images)) == len(images)


@each_classifier
def test_accuracy_in_onnxruntime_is_that_of_the_table(entry: dict[str, Any]) -> None:
    ort = pytest.importorskip("onnxruntime")
    evaluation = load("digits_evaluation.npz")
    session = ort.InferenceSession(FOLDER / entry["file"], providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": evaluation["image"]})
    correct = int(np.sum(np.argmax(logits, axis=1) == evaluation["labels"]))
    # Another processor sums in another order, which may turn one near tie.
    assert abs(correct - entry["correct"]) <= 1
    assert len(evaluation["labels"]) == entry["samples"]


@each_classifier
def test_accuracy_and_standard_error_follow_from_the_counts(entry: dict[str, Any]) -> None:
    accuracy = entry["correct"] / entry["samples"]
    assert entry["accuracy"] == pytest.approx(accuracy)
    assert entry["accuracy_standard_error"] == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / entry["samples"]))


@each_classifier
def test_readme_states_the_figures_of_the_table(entry: dict[str, Any]) -> None:
    accuracy = f"{entry['accuracy']:.2%} ± {entry['accuracy_standard_error']:.2%}".replace("%", " %")
    row = f"| `{entry['file']}` | {entry['parameters']:,} | {entry['correct']} of {entry['samples']} | {accuracy} |"
    assert row in (FOLDER / "README.md").read_text(encoding="utf-8")


@each_detector
def test_precision_in_onnxruntime_is_that_of_the_table(entry: dict[str, Any]) -> None:
    ort = pytest.importorskip("onnxruntime")
    image, objects = shapes.draw(entry["samples"], entry["evaluation_seed"])
    session = ort.InferenceSession(FOLDER / entry["file"], providers=["CPUExecutionProvider"])
    (output,) = session.run(["detections"], {"image": image})
    found = shapes.detections(output)
    # Another processor sums in another order, which may move a box over a threshold.
    assert shapes.average_precision(found, objects) == pytest.approx(entry["average_precision"], abs=1e-3)
    assert shapes.average_precision(found, objects, [0.5]) == pytest.approx(entry["average_precision_50"], abs=1e-3)


@each_detector
def test_readme_states_the_precision_of_the_table(entry: dict[str, Any]) -> None:
    figures = f"{100 * entry['average_precision']:.2f} | {100 * entry['average_precision_50']:.2f}"
    row = f"| `{entry['file']}` | {entry['parameters']:,} | {figures} |"
    assert row in (FOLDER / "README.md").read_text(encoding="utf-8")


def load(name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a data file."""
    with np.load(FOLDER / name) as arrays:
        return dict(arrays)


def walk_texts(message: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text inside a protobuf message, after the fields that lead to it.

    Protobuf ships no types, hence ``Any``.
    """
    for field, content in message.ListFields():
        place = f"{where}.{field.name}"
        single = isinstance(content, str | bytes) or not isinstance(content, Sequence)
        items: Any = (content,) if single else content
        for number, item in enumerate(items):
            if field.message_type:
                yield from walk_texts(item, f"{place}[{number}]")
            elif field.type == field.TYPE_STRING:
                yield f"{place}[{number}]", item
