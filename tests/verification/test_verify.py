"""Verify: what does not hold is seen, by the check that is there for it; the figures are what they say."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.api import quantize
from onnxmpq.artifacts import Option, Plan, Verdict
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.metrics.compared import accuracy
from onnxmpq.model.save import save
from onnxmpq.options import VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.verification.verify import file_bytes, file_tensor_bytes, verify, worst_sqnr
from tests.graphs import Array, feeds_for, from_text, rng

SAME = "Conv<pads = [1, 1, 1, 1]>"
THREE = (
    f"g (float[1, 16, 9, 9] x) => (float[1, 16, 9, 9] y) "
    f"{{ a = {SAME}(x, w1) r = Relu(a) b = {SAME}(r, w2) s = Relu(b) y = {SAME}(s, w3) }}"
)


def three_layers() -> ir.Model:
    """Build three convolutions with Relu between them."""
    g = rng()
    return from_text(THREE, {f"w{i}": (g.normal(size=(16, 16, 3, 3)) / 12).astype(np.float32) for i in (1, 2, 3)})


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ir.Model, int]:
    """Make an export whose middle layer stays float; give its path, the float model and its bytes of tensors."""
    model, path = three_layers(), tmp_path_factory.mktemp("export") / "q.onnx"
    plan = Plan("ort-cpu", "test", {"Conv_0": Option(8, 8), "Conv_2": Option(8, 8)})
    result = quantize(
        ir.to_proto(model), feeds_for(model), output=path, plan=plan, verify=VerifyOptions(speed_budget_s=0.0)
    )
    stored = result.verdict["size"].value
    assert isinstance(stored, int)
    return path, model, stored


def verdict_on(path: Path, export: tuple[Path, ir.Model, int]) -> Verdict:
    """Verify a file as if it were the export."""
    _, model, stored = export
    runtime = get_runtime("onnxruntime")
    proto = ir.to_proto(model).SerializeToString()
    layers = ("Conv_0", "Conv_2")
    return verify(
        runtime,
        runtime,
        proto,
        path,
        feeds_for(model),
        predicted_bytes=stored,
        expected_low_bit=layers,
        speed_budget_s=0.0,
    )


def failed(verdict: Verdict) -> list[str]:
    """Name the checks that failed."""
    return [check.name for check in verdict.checks if check.ok is False]


def test_an_export_as_it_was_made_holds(export: tuple[Path, ir.Model, int]) -> None:
    steps: list[tuple[str, int, int]] = []
    path, model, stored = export
    runtime = get_runtime("onnxruntime")
    proto = ir.to_proto(model).SerializeToString()
    verdict = verify(
        runtime,
        runtime,
        proto,
        path,
        feeds_for(model),
        predicted_bytes=stored,
        speed_budget_s=0.0,
        progress=lambda *step: steps.append(step),
    )
    assert verdict.ok
    assert [check.name for check in verdict.checks] == ["loads", "size", "simulation", "sqnr", "kernels", "speed"]
    assert steps == [
        (f"verify: {name}", i, 5) for i, name in enumerate(("loading", "simulation", "kernels", "speed"), 1)
    ]


def add_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int8), "extra"))


def take_island(model: onnx.ModelProto) -> None:
    """Let the float layer read the DQ that everybody reads: the runtime quantises such a layer behind one's back."""
    own = next(node for node in model.graph.node if "_for_" in node.name)
    shared = next(
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] == own.input[0] and node is not own
    )
    conv = next(node for node in model.graph.node if node.name == "Conv_1")
    conv.input[0] = shared.output[0]


def take_pairs(model: onnx.ModelProto) -> None:
    """Let every reader of a DQ behind a Q read the float values; all tensors stay in the file."""
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            dq = made.get(name)
            q = made.get(dq.input[0]) if dq is not None and dq.op_type == "DequantizeLinear" else None
            if q is not None and q.op_type == "QuantizeLinear":
                node.input[index] = q.input[0]


@pytest.mark.parametrize(
    ("tamper", "checks"),
    [(add_tensor, ["size"]), (take_island, ["simulation"]), (take_pairs, ["kernels"])],
)
def test_a_tampered_export_fails_the_right_check(
    tamper: Callable[[onnx.ModelProto], None], checks: list[str], export: tuple[Path, ir.Model, int], tmp_path: Path
) -> None:
    model = onnx.load(str(export[0]))
    tamper(model)
    onnx.save(model, str(tmp_path / "q.onnx"))
    assert failed(verdict_on(tmp_path / "q.onnx", export)) == checks


def test_a_code_that_was_changed_shows_in_the_distance_to_float(
    export: tuple[Path, ir.Model, int], tmp_path: Path
) -> None:
    model = onnx.load(str(export[0]))
    tensor = next(t for t in model.graph.initializer if t.name == "w1_quantized")
    codes = onnx.numpy_helper.to_array(tensor).copy()
    codes.flat[np.abs(codes).argmin()] = 127
    tensor.CopyFrom(onnx.numpy_helper.from_array(codes, tensor.name))
    onnx.save(model, str(tmp_path / "q.onnx"))
    before, after = (verdict_on(path, export)["sqnr"].value for path in (export[0], tmp_path / "q.onnx"))
    assert isinstance(before, float)
    assert isinstance(after, float)
    assert after < before - 6


def test_a_file_that_the_runtime_refuses_is_an_error(export: tuple[Path, ir.Model, int], tmp_path: Path) -> None:
    model = onnx.load(str(export[0]))
    model.opset_import[0].version = 99
    onnx.save(model, str(tmp_path / "q.onnx"))
    with pytest.raises(VerifyError):
        verdict_on(tmp_path / "q.onnx", export)


def test_weights_in_a_file_of_their_own_are_counted_and_verified(
    export: tuple[Path, ir.Model, int], tmp_path: Path
) -> None:
    path, _, stored = export
    beside = tmp_path / "q.onnx"
    save(ir.load(path), beside, largest_protobuf=0)
    data = tmp_path / "q.onnx.data"
    assert data.is_file()
    assert file_bytes(beside) == beside.stat().st_size + data.stat().st_size
    assert file_tensor_bytes(beside) == stored
    assert failed(verdict_on(beside, export)) == []


def test_weights_of_a_body_in_a_file_of_their_own_are_counted(tmp_path: Path) -> None:
    text = """g (bool c, float[1, 64] x) => (float[1, 64] y) {
        y = If(c) < then_branch = t () => (float[1, 64] p) { p = MatMul(x, w) },
                    else_branch = e () => (float[1, 64] q) { q = Relu(x) } >
    }"""
    proto = ir.to_proto(from_text(text))
    proto.graph.node[0].attribute[0].g.initializer.append(
        onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    )
    path = tmp_path / "m.onnx"
    save(ir.from_proto(proto), path, largest_protobuf=0)
    assert file_tensor_bytes(path) == 4 * 64 * 64
    assert file_bytes(path) == path.stat().st_size + (tmp_path / "m.onnx.data").stat().st_size > 4 * 64 * 64


# ---- figures ---------------------------------------------------------------------------------------------------------

SIGNAL = rng(3).normal(size=(12, 4)).astype(np.float32)
NOISY = SIGNAL + rng(4).normal(size=(12, 4)).astype(np.float32) * np.linspace(0.01, 1, 12)[:, None].astype(np.float32)


@given(st.sets(st.integers(1, 11)))
def test_the_ratio_does_not_depend_on_the_grouping_of_samples(cuts: set[int]) -> None:
    a, b = ([[part] for part in np.split(x, sorted(cuts))] for x in (SIGNAL, NOISY))
    x, y = SIGNAL.astype(float), NOISY.astype(float)
    assert worst_sqnr(a, b) == pytest.approx(10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()), abs=1e-9)


def test_the_worst_output_counts() -> None:
    good, bad = SIGNAL + np.float32(1e-4), SIGNAL + np.float32(1)
    alone = worst_sqnr([[SIGNAL]], [[bad]])
    assert worst_sqnr([[SIGNAL, SIGNAL]], [[good, bad]]) == alone
    assert worst_sqnr([[SIGNAL, SIGNAL]], [[bad, good]]) == alone
    assert worst_sqnr([[SIGNAL]], [[good]]) > alone + 40


INF, NAN, ONE, ZERO = (np.array([x, 1], np.float32) for x in (np.inf, np.nan, 1, 0))
INTEGERS = np.arange(10)


@pytest.mark.parametrize(
    ("reference", "got", "expected"),
    [
        (SIGNAL, SIGNAL, math.inf),
        (INF, INF, math.inf),
        (INF, ONE, -math.inf),
        (ONE, INF, -math.inf),
        (ONE, NAN, -math.inf),
        (INF, INF * np.array([1, 2], np.float32), 0.0),
        (ZERO * 0, ONE, -math.inf),
        (ONE, ONE[:1], -math.inf),
        (INTEGERS, INTEGERS, math.inf),
        (INTEGERS, np.where(INTEGERS == 3, 0, INTEGERS), 10.0),
        (INTEGERS, INTEGERS[:9], -math.inf),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), 10 * math.log10(2)),
        (ONE.astype(ml_dtypes.bfloat16), (ONE * 1.5).astype(ml_dtypes.bfloat16), 10 * math.log10(4)),
    ],
)
def test_a_ratio_of_unusual_values(reference: Array, got: Array, expected: float) -> None:
    assert worst_sqnr([[reference]], [[got]]) == pytest.approx(expected)


class Canned:
    """A model that answers with what it was given."""

    def __init__(self, answers: list[Array]) -> None:
        self.rest = iter(answers)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Give the next answer, and an output that does not count."""
        return {"logits": next(self.rest), "more": np.zeros(1)}


def one_hot(classes: list[int]) -> list[Array]:
    """Return logits for samples of one row."""
    return [np.eye(4)[[c]] for c in classes]


def graded(before: list[Array], after: list[Array], labels: Array) -> Any:
    """Measure accuracy with canned answers."""
    return accuracy(Canned(before), Canned(after), [{}] * len(before), labels)


def test_the_error_of_an_accuracy_is_that_of_the_paired_difference() -> None:
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    found = graded(one_hot([0, 1, 2, 3, 0, 1, 0, 0]), one_hot([0, 1, 2, 3, 1, 0, 2, 0]), labels)
    assert (found.before, found.after, found.samples) == (6 / 8, 5 / 8, 8)
    difference = np.array([0, 0, 0, 0, -1, -1, 1, 0])
    assert found.difference_error == pytest.approx(np.std(difference, ddof=1) / np.sqrt(8))


def test_two_models_that_err_on_the_same_samples_do_not_differ() -> None:
    wrong = one_hot([1, 1, 2, 3])
    found = graded(wrong, wrong, np.array([0, 1, 2, 3]))
    assert (found.before, found.after, found.difference_error) == (0.75, 0.75, 0.0)


def test_batches_take_as_many_labels_as_they_have_rows() -> None:
    batches = [np.eye(4)[[0, 1, 2]], np.eye(4)[[3]]]
    found = graded(batches, batches, np.array([0, 1, 0, 3]))
    assert (found.before, found.samples) == (0.75, 4)


@pytest.mark.parametrize("labels", [np.zeros((4, 5)), np.zeros(3), np.zeros(5)])
def test_labels_that_are_not_one_per_row_are_refused(labels: Array) -> None:
    with pytest.raises(InputError, match="Accuracy needs one label for each row of the first output, not"):
        graded(one_hot([0, 1, 2, 3]), one_hot([0, 1, 2, 3]), labels)
