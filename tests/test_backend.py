"""onnx's own backend tests: every model goes through load, normalise and save with equal outputs in onnxruntime.

What onnxruntime cannot run as it stands is counted apart. Models of an opset that onnxruntime does not read are tried
under the highest that it does.

They go through quantize, too: each gives a file that loads and holds, or one clear refusal. Single operators come with
all operands as inputs; there every operand but the first becomes a constant, as in an exported model, so that layers
have weights.
"""

import functools
import itertools
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.backend.test import loader

from onnxmpq.api import quantize
from onnxmpq.errors import InputError
from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from onnxmpq.model.opset import HIGHEST_IR
from onnxmpq.model.passes import make_pass
from onnxmpq.model.passkit import Pipeline
from onnxmpq.model.save import save
from onnxmpq.options import Numbers, VerifyOptions
from tests.passes.proof import public

HIGHEST_OPSET = 26
CHUNKS = 8
CHANCE = re.compile("random|bernoulli|multinomial|dropout", re.IGNORECASE)
if tuple(map(int, ort.__version__.split(".")[:2])) < (1, 28):  # a row of length 0 stays unwritten memory there
    CHANCE = re.compile(CHANCE.pattern + "|reversesequence_batch", re.IGNORECASE)
ZOO = Path(os.environ.get("ONNXMPQ_ZOO") or Path(__file__).parents[1] / ".." / "shared" / "zoo")


@dataclass
class Sample:
    """A model and feeds for it, by name."""

    name: str
    model: onnx.ModelProto
    feeds: dict[str, Any]


@functools.cache
def node_cases() -> list[Any]:
    """Return the cases of single operators, each generated when it is first asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators overflow on purpose
        return sorted(loader.load_model_tests(kind="node"), key=lambda case: str(case.name))


def node_samples(chunk: int) -> Iterator[Sample]:
    """Yield every ``CHUNKS``-th case of a single operator."""
    for case in node_cases()[chunk::CHUNKS]:
        model = onnx.ModelProto.FromString(case.model.SerializeToString())
        for entry in model.opset_import:
            if entry.domain == "" and entry.version > HIGHEST_OPSET:
                entry.version, model.ir_version = HIGHEST_OPSET, HIGHEST_IR
        inputs, _ = case.data_sets[0]
        yield Sample(case.name, model, dict(zip((value.name for value in model.graph.input), inputs, strict=False)))


def stored_samples(*kinds: str) -> Iterator[Sample]:
    """Yield cases that are stored as files; those below opset 7 are brought there first, by onnx."""
    for file in sorted(path for kind in kinds for path in (Path(loader.DATA_DIR) / kind).rglob("*.onnx")):
        model = onnx.load(file)
        opset = next(entry.version for entry in model.opset_import if not entry.domain)
        if opset < 7:
            try:
                model = onnx.version_converter.convert_version(model, 7)
            except Exception:  # no adapter
                continue
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        folder = file.parent / "test_data_set_0"
        feeds: dict[str, Any] = {}
        for index, value in enumerate(inputs):
            stored = folder / f"input_{index}.pb"
            if not stored.exists():  # the light models come without inputs
                shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
                feeds[value.name] = np.random.default_rng(0).random(shape, np.float32)
            elif value.type.HasField("sequence_type"):
                sequence = onnx.SequenceProto.FromString(stored.read_bytes())
                feeds[value.name] = onnx.numpy_helper.to_list(sequence)
            else:
                feeds[value.name] = onnx.numpy_helper.to_array(onnx.TensorProto.FromString(stored.read_bytes()))
        yield Sample(f"{file.parent.name}/{file.stem}", model, feeds)


def run(model: onnx.ModelProto | Path, feeds: dict[str, Any]) -> list[Any]:
    """Run a model as it is written."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    given = model if isinstance(model, Path) else model.SerializeToString()
    return list(ort.InferenceSession(given, options).run(None, feeds))


def close(a: Any, b: Any, rtol: float = 1e-5) -> bool:
    """Compare two outputs of any type; floats within ``rtol`` of the largest, float16 within two of its steps."""
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(close(x, y, rtol) for x, y in zip(a, b, strict=True))
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind not in "fc":
        return a.tobytes() == b.tobytes() if a.dtype.kind != "O" else bool((a == b).all())
    rtol = max(rtol, 2e-3) if a.dtype == np.float16 else rtol
    finite = a[np.isfinite(a)]
    return np.allclose(a, b, rtol=rtol, atol=rtol * float(np.abs(finite).max(initial=0)), equal_nan=True)


def outcome(sample: Sample, folder: Path) -> str:
    """Tell how one model fared: equal, refused, or that onnxruntime cannot run it in the first place."""
    try:
        expected = run(sample.model, sample.feeds)
    except Exception:  # onnxruntime raises a dozen types
        expected = None
    try:
        source = load(sample.model)
        normal = normalise(source)
    except InputError as error:
        return f"refused: {error}"
    inputs = {tensor.name for tensor in sample.model.graph.initializer}
    before = [value for value in public(source.model) if value[0] not in inputs]
    if [value[0] for value in before] != [value[0] for value in public(normal.model)]:
        return "its public names changed"
    path = folder / "m.onnx"
    save(normal.model, path, overwrite=True)
    if expected is None:
        return "onnxruntime cannot run it as it is"
    names = {value.name for value in normal.model.graph.inputs}
    got = run(path, {name: feed for name, feed in sample.feeds.items() if name in names})
    if all(close(a, b) for a, b in zip(expected, got, strict=True)):
        return "equal"
    return "left to chance" if CHANCE.search(sample.name) else "its outputs differ"


def tally(samples: Iterator[Sample], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count outcomes, and show all that are not equal."""
    monkeypatch.setattr("onnxmpq.model.save.os.fsync", lambda _: None)  # the disk need not keep these
    counts: Counter[str] = Counter()
    for sample in samples:
        result = outcome(sample, folder)
        counts[result.split(":")[0]] += 1
        if result not in ("equal", "onnxruntime cannot run it as it is"):
            print(f"{sample.name}: {result}")
    print(dict(counts))
    assert counts.keys() <= {"equal", "refused", "left to chance", "onnxruntime cannot run it as it is"}
    return counts


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_single_operators(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = tally(node_samples(chunk), tmp_path, monkeypatch)
    assert counts["equal"] >= 1440 // CHUNKS - 25  # cases in a chunk differ in what onnxruntime can run
    assert counts["refused"] <= 2  # operators below opset 7, Scan of opset 8


@pytest.mark.parametrize(
    ("kind", "equal"), [("simple", 15), ("pytorch-converted", 50), ("pytorch-operator", 20), ("light", 5)]
)
def test_stored_models(kind: str, equal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tally(stored_samples(kind), tmp_path, monkeypatch)["equal"] >= equal


def constant_case(case: Any) -> onnx.ModelProto | None:
    """Make all inputs of a single operator constants, and its outputs pass through an Identity."""
    model: onnx.ModelProto = onnx.ModelProto.FromString(case.model.SerializeToString())
    if len(model.graph.node) != 1 or any(e.domain or e.version < 7 for e in model.opset_import):
        return None
    model.opset_import[0].version = min(model.opset_import[0].version, HIGHEST_OPSET)
    model.ir_version = min(max(model.ir_version, 8), HIGHEST_IR)
    for value, data in zip(model.graph.input, case.data_sets[0][0], strict=False):
        tensor = onnx.TensorProto()
        try:
            tensor.CopyFrom(
                data if isinstance(data, onnx.TensorProto) else onnx.numpy_helper.from_array(np.asarray(data))
            )
        except (TypeError, ValueError, RuntimeError):  # sequences and the like
            return None
        tensor.name = value.name
        if tensor.data_type != value.type.tensor_type.elem_type:
            return None
        model.graph.initializer.append(tensor)
    del model.graph.input[:]
    node = model.graph.node[0]
    for index, name in enumerate(node.output):
        if name:
            node.output[index] = f"{name}__"
            model.graph.node.append(onnx.helper.make_node("Identity", [f"{name}__"], [name]))
    return model


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_is_folded_is_what_onnxruntime_computes(chunk: int) -> None:
    fold = Pipeline((make_pass("infer-shapes"), make_pass("lift-constants"), make_pass("fold-constants")))
    counts: Counter[str] = Counter()
    for case in node_cases()[chunk::CHUNKS]:
        model = constant_case(case)
        if model is None:
            continue
        try:
            expected = run(model, {})
        except Exception:  # onnxruntime raises a dozen types
            counts["onnxruntime cannot run it as it is"] += 1
            continue
        folded = load(model).model.clone()
        fold.run(folded)
        if len(folded.graph) == len(model.graph.node):
            counts["left"] += 1
            continue
        got = run(ir.to_proto(folded), {})
        assert all(close(a, b, 1e-6) for a, b in zip(expected, got, strict=True)), case.name
        counts["equal"] += 1
    print(dict(counts))
    assert counts["equal"] >= 50


def zoo_files() -> list[Path]:
    """List the models of the zoo."""
    return sorted([*ZOO.glob("odd/*.onnx"), *ZOO.glob("models/*.onnx")])


def feeds_of(model: onnx.ModelProto) -> dict[str, Any]:
    """Make inputs up: tokens and masks small, a sampling rate that exists, sound long enough for a frame."""
    random, feeds = np.random.default_rng(0), {}
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        dims = value.type.tensor_type.shape.dim
        audio = "sr" in {other.name for other in model.graph.input}
        sizes = {0: 1, 1: 512} if audio and value.name == "input" else {1: 1} if audio else {}
        shape = [dim.dim_value or sizes.get(axis, 8) for axis, dim in enumerate(dims)]
        if value.name == "sr":
            feeds[value.name] = np.full(shape, 16000, kind)
        elif kind.kind == "f":
            feeds[value.name] = random.random(shape).astype(kind)
        else:
            feeds[value.name] = random.integers(0, 2, shape).astype(kind)
    return feeds


@pytest.mark.zoo
@pytest.mark.skipif(not zoo_files(), reason="no models there")
@pytest.mark.parametrize("file", zoo_files(), ids=lambda file: file.stem)
def test_real_models(file: Path, tmp_path: Path) -> None:
    source = load(file)
    if file.stem == "style_candy":
        with pytest.raises(InputError, match=r"ImageScaler \(opset 7.*Crop.*Affine"):
            normalise(source)
        return
    normal = normalise(source)
    path = tmp_path / "m.onnx"
    save(normal.model, path)
    onnx.checker.check_model(path, full_check=True)
    kinds = {
        node.op_type for node in normal.model.graph.all_nodes() if not any(v.is_graph_output() for v in node.outputs)
    }
    kept = {"BatchNormalization"} if file.stem == "mlperf_sww" else set[str]()  # behind a Reshape
    assert kinds & {"Constant", "Identity", "Dropout", "BatchNormalization"} == kept
    assert not any(step.modified for step in normalise(load(path)).records)
    if file.stem == "superres_customops":  # needs an extension of onnxruntime
        assert {"com.microsoft.extensions"} <= {node.domain for node in normal.model.graph}
        return
    feeds = feeds_of(onnx.load(file))
    for a, b in zip(run(file, feeds), run(path, feeds), strict=True):
        assert close(a, b, 1e-4)
    for a, b in zip(run(file, feeds), run(ir.to_proto(source.model), feeds), strict=True):  # the source is untouched
        assert close(a, b, 0)


# ---- through quantize ------------------------------------------------------------------------------------------------


def frozen(sample: Sample) -> Sample:
    """Make constants of all inputs but the first."""
    model = onnx.ModelProto.FromString(sample.model.SerializeToString())
    first = model.graph.input[0].name if model.graph.input else ""
    tensors = {name for name, feed in sample.feeds.items() if isinstance(feed, np.ndarray | np.generic)}
    kept = [value for value in model.graph.input if value.name == first or value.name not in tensors]
    names = {value.name for value in kept}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in sample.feeds.items()
        if name not in names and name in {value.name for value in model.graph.input}
    )
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return Sample(sample.name, model, {name: array for name, array in sample.feeds.items() if name in names})


def quantised(sample: Sample, folder: Path, **asked: Any) -> str:
    """Tell how one model fared."""
    try:
        run(sample.model, sample.feeds)
    except Exception:  # onnxruntime raises a dozen types
        return "onnxruntime cannot run it as it is"
    try:
        quantize(
            sample.model,
            [alike(sample.feeds, number) for number in range(8)] if asked else [sample.feeds] * 2,
            output=folder / "q.onnx",
            overwrite=True,
            verify=VerifyOptions(speed_budget_s=0.0),
            **asked,
        )
    except InputError as error:
        message = str(error)
        assert "\n" not in message, sample.name
        return "nothing to quantise" if message.startswith("Nothing in this model") else "refused"
    return "quantised"


def alike(feeds: dict[str, Any], number: int) -> dict[str, Any]:
    """Return feeds whose floats differ from some by a third."""
    g, found = np.random.default_rng(number), dict(feeds)
    for name, value in feeds.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            found[name] = (value * (1 + g.normal(size=value.shape) / 3)).astype(value.dtype)
    return found


def test_layers_are_fitted_behind_others_or_refused(tmp_path: Path) -> None:
    named = re.compile("test_(basic_)?(conv|gemm|matmul)")
    nodes = (frozen(sample) for chunk in range(CHUNKS) for sample in node_samples(chunk) if named.match(sample.name))
    samples = itertools.chain(nodes, stored_samples("pytorch-converted"))
    asked = {"plan": "w4a8", "target": "generic", "numbers": Numbers(rounding="sequential")}
    counts = Counter(quantised(sample, tmp_path, **asked) for sample in samples)
    print(dict(counts))
    assert counts["quantised"] >= 40


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_single_operators_are_quantised_or_refused(chunk: int, tmp_path: Path) -> None:
    counts = Counter(quantised(frozen(sample), tmp_path) for sample in node_samples(chunk))
    print(dict(counts))
    assert counts["quantised"] >= 5
    assert counts["quantised"] + counts["nothing to quantise"] >= 100


def test_stored_models_are_quantised_or_refused(tmp_path: Path) -> None:
    counts = Counter(
        quantised(sample, tmp_path) for sample in stored_samples("simple", "pytorch-converted", "pytorch-operator")
    )
    print(dict(counts))
    assert counts["quantised"] >= 30
