"""What no runtime reads is left out of files, what tells something stays, and the bytes of a file add up."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq.api import Result, quantize
from onnxmpq.artifacts import Plan
from onnxmpq.model.load import load
from onnxmpq.model.portions import Portions, portions, portions_of, portions_of_file
from onnxmpq.model.save import save
from onnxmpq.model.text import described, drop_text, needed_types
from onnxmpq.options import VerifyOptions
from onnxmpq.runtimes import get_runtime
from tests.asked import asked
from tests.graphs import feeds_for, from_text, layer_chain

TRACE = 'Traceback (most recent call last):\n  File "model.py", line 12, in forward\n    return self.head(x)\n' * 20
MODEL = layer_chain("Conv")
SAMPLES = {"x": np.concatenate([feed["x"] for feed in feeds_for(MODEL)])}


def planted(model: ir.Model = MODEL) -> onnx.ModelProto:
    """Return a model with a stack trace wherever an exporter can put one, and names of classes at the model itself."""
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    for part in described(proto):
        part.doc_string = TRACE
        part.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=TRACE)
    proto.doc_string = "a classifier"
    proto.metadata_props.add(key="classes", value="cat, dog")
    return proto


def quantised(folder: Path, model: onnx.ModelProto | None = None, **more: Any) -> Result:
    """Quantise the model with stack traces."""
    given: dict[str, Any] = {"output": folder / "q.onnx", "overwrite": True, "speed_budget_s": 0.0}
    if not more.keys() & {"plan", "budget"}:
        given["option"] = "w4a8"
    return quantize(model or planted(), SAMPLES, **asked(allow_slower=True, **given | more))


# ---- what is left out ------------------------------------------------------------------------------------------------


def test_no_stack_trace_reaches_the_file(tmp_path: Path) -> None:
    assert planted().SerializeToString().count(b"Traceback") > 200
    result = quantised(tmp_path)
    assert b"Traceback" not in result.path.read_bytes()
    assert result.portions is not None
    assert result.portions.text < 100
    found = onnx.load(str(result.path))
    assert found.doc_string == "a classifier"
    assert {entry.key: entry.value for entry in found.metadata_props} == {"classes": "cat, dog"}
    assert len(found.graph.value_info) == 0
    assert [value.name for value in found.graph.input] == ["x"]


def test_it_is_the_file_of_a_model_that_never_had_any(tmp_path: Path) -> None:
    bare = ir.to_proto(MODEL)
    bare.doc_string = "a classifier"
    bare.metadata_props.add(key="classes", value="cat, dog")
    first, second = quantised(tmp_path), quantised(tmp_path, bare, output=tmp_path / "bare.onnx")
    assert first.path.read_bytes() == second.path.read_bytes()


def test_keeping_it_changes_nothing_but_the_text(tmp_path: Path) -> None:
    kept, left = quantised(tmp_path, keep_metadata=True, output=tmp_path / "kept.onnx"), quantised(tmp_path)
    assert kept.path.read_bytes().count(b"Traceback") > 200
    assert kept.portions is not None
    assert left.portions is not None
    assert (kept.portions.weights, kept.portions.scales) == (left.portions.weights, left.portions.scales)
    assert kept.portions.text > 100 * left.portions.text
    runtime = get_runtime("onnxruntime")
    feed = {"x": SAMPLES["x"][:1]}
    first, second = (runtime.session(result.path, mode="plain").run(feed)["y"] for result in (kept, left))
    np.testing.assert_array_equal(first, second)


def test_a_plan_repeats_either_file(tmp_path: Path) -> None:
    for keep in (True, False):
        first = quantised(tmp_path, keep_metadata=keep)
        plan = Plan.read(first.plan_path)
        assert plan.keep_metadata is keep
        again = quantised(tmp_path, plan=plan, output=tmp_path / "again.onnx")
        assert again.path.read_bytes() == first.path.read_bytes()


def test_a_size_budget_is_spent_on_weights(tmp_path: Path) -> None:
    assert planted().ByteSize() > 80_000
    result = quantised(tmp_path, budget=["size=8kB"], options=["w8a8", "w4a8"], effort="quick")
    assert 4_000 < result.file_bytes <= 8_000


# ---- what stays ------------------------------------------------------------------------------------------------------


def test_types_that_follow_are_not_needed() -> None:
    assert needed_types(ir.from_proto(planted())) == frozenset()


def test_a_shape_that_depends_on_data_is_needed() -> None:
    model = from_text(
        "g (float[4, 6] x, int64[2] s) => (float[n, m] y) <float[2, 12] h> { h = Reshape(x, s) y = Relu(h) }"
    )
    assert needed_types(model) == {"h"}


def test_types_of_foreign_operators_stay() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "mine": 1]> g (float[4] x) => (float[4] y) <float[4] h, float[4] k> '
        "{ h = mine.Twist(x) k = Relu(h) y = Relu(k) }"
    )
    drop_text(proto, needed=())
    assert [info.name for info in proto.graph.value_info] == ["h"]
    assert needed_types(ir.from_proto(proto)) == {"h"}


def test_bodies_and_functions_lose_theirs() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 17, "own": 1]> g (float[4] x, bool c) => (float[4] y) '
        "{ h = own.Twice(x) y = If (c) <then_branch = t () => (float[4] a) { a = Relu(h) }, "
        "else_branch = e () => (float[4] b) { b = Neg(h) }> } "
        '<domain: "own", opset_import: ["": 17]> Twice (v) => (w) { w = Add(v, v) }'
    )
    proto = planted(ir.from_proto(model))
    assert len(proto.functions) == 1
    assert proto.SerializeToString().count(b"Traceback") >= 10 * 20
    drop_text(proto, needed=())
    assert b"Traceback" not in proto.SerializeToString()
    onnx.checker.check_model(proto)


# ---- what the bytes are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["w8a8", "w4a8", "w8", "w4", "w4b16", "w2a8"])
@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul", "Gather", "LSTM"])
def test_the_bytes_of_a_file_add_up(op: str, option: str, tmp_path: Path) -> None:
    model = layer_chain(op)
    feeds = feeds_for(model)
    result = quantize(
        ir.to_proto(model),
        feeds,
        output=tmp_path / "q.onnx",
        target="generic",
        plan=option,
        verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0),
    )
    found = portions_of_file(result.path)
    assert found == result.portions
    assert found.total == result.path.stat().st_size == result.file_bytes
    expected = sum(
        unit.parameters * (8 if taken.weight_bits > 4 else 4 if taken.weight_bits > 2 else 2) // 8
        for unit in result.space.units
        if (taken := result.plan.choices.get(unit.name)) is not None and taken.weight_bits
    )
    assert found.weights == expected
    assert 0 < found.scales < result.file_bytes


def test_a_float_file_has_weights_and_no_scales(tmp_path: Path) -> None:
    save(MODEL, tmp_path / "m.onnx")
    found = portions_of_file(tmp_path / "m.onnx")
    assert found.weights == 4 * 2 * 16 * 16 * 9
    assert (found.scales, found.other) == (0, 2 * 4 * 16)
    assert found.text < 100
    assert found.total == (tmp_path / "m.onnx").stat().st_size
    assert portions_of(load(tmp_path / "m.onnx")) == found


def test_external_data_counts(tmp_path: Path) -> None:
    save(MODEL, tmp_path / "m.onnx", largest_protobuf=1000)
    assert (tmp_path / "m.onnx.data").is_file()
    found = portions_of_file(tmp_path / "m.onnx")
    assert found.weights == 4 * 2 * 16 * 16 * 9
    assert found.total == sum((tmp_path / name).stat().st_size for name in ("m.onnx", "m.onnx.data"))


def test_a_model_in_memory_is_told_alike(tmp_path: Path) -> None:
    proto = planted()
    onnx.save(proto, str(tmp_path / "m.onnx"))
    kept, given = portions_of_file(tmp_path / "m.onnx"), portions_of(load(proto))
    assert (given.weights, given.scales, given.other) == (kept.weights, kept.scales, kept.other)
    assert given.total == proto.ByteSize()


def test_planted_text_is_told_as_text() -> None:
    proto = planted()
    bare = onnx.ModelProto.FromString(proto.SerializeToString())
    drop_text(bare, needed=())
    before, after = portions(proto, proto.ByteSize()), portions(bare, bare.ByteSize())
    assert (before.weights, before.other) == (after.weights, after.other)
    assert before.text > 0.9 * proto.ByteSize() - before.weights - before.other
    assert abs(before.graph - after.graph) < 100  # lengths of what held the text
    assert Portions(1, 2, 3, 4, 5).total == 15
