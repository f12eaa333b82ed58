"""Normalising: a copy that shares the weights, and a record of what was done."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.errors import InputError
from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from tests.passes.proof import add_weight, operators, parse, public, run

TEXT = """g (float[1,3,8,8] x) => (float[1,4] y) <float[4] s = {1.0, 2.0, 0.5, -1.0}, float[4] b = {0.1, 0.2, 0.3, 0.4},
    float[4] m = {0.0, 0.1, 0.2, 0.3}, float[4] v = {1.0, 1.1, 0.9, 0.8}> {
    c = Conv(x, w)
    n = BatchNormalization(c, s, b, m, v)
    r = Relu(n)
    d = Dropout<ratio = 0.3>(r)
    i = Identity(d)
    p = GlobalAveragePool(i)
    k = Constant<value = int64[2] {1, 4}>()
    q = Reshape(p, k)
    t = Transpose<perm = [1, 0]>(u)
    y = MatMul(q, t)
    unused = Exp(x)
}"""


def model() -> ir.Model:
    found = parse(TEXT, 9)
    random = np.random.default_rng(0)
    nodes = {node.op_type: node for node in found.graph}
    add_weight(nodes["Conv"], 1, "w", ir.tensor(random.standard_normal((4, 3, 3, 3)).astype(np.float32)))
    add_weight(nodes["Transpose"], 0, "u", ir.tensor(random.standard_normal((4, 4)).astype(np.float32)))
    return found


def test_everything_in_the_way_is_gone_and_the_outputs_are_equal() -> None:
    source = load(model())
    normal = normalise(source)
    assert operators(normal.model) == "Conv Relu GlobalAveragePool Reshape MatMul"
    assert list(normal.model.graph.initializers) == ["w", "k", "t", "c_bias"]
    assert public(normal.model) == public(source.model)
    feeds, expected = run(source.model)
    np.testing.assert_allclose(run(normal.model, feeds)[1][0], expected[0], rtol=1e-5, atol=1e-6)


def test_the_source_stays_as_it_is() -> None:
    source = load(model())
    before = str(ir.to_proto(source.model))
    normal = normalise(source)
    assert str(ir.to_proto(source.model)) == before
    assert normal.source_sha256 == source.sha256 == load(source.model).sha256


def test_extra_passes_see_the_normal_form_and_leave_it() -> None:
    source = load(model())
    normal = normalise(source, extra_passes=["equalise-layers"])
    found = {record.spec: record.modified for record in normal.records[: len(normal.records) // 2 + 1]}
    assert found["equalise-layers"]
    again = normal.records[len(normal.records) // 2 + 1 :]
    assert [record.spec for record in again] == [record.spec for record in normalise(source).records]
    assert operators(normal.model) == operators(normalise(source).model)
    feeds, expected = run(normalise(source).model)
    np.testing.assert_array_equal(run(normal.model, feeds)[1][0], expected[0])
    with pytest.raises(InputError, match="There is no pass 'equalize'"):
        normalise(source, extra_passes=["equalize"])


def test_records_and_progress_name_every_pass() -> None:
    told: list[str] = []
    normal = normalise(load(model()), progress=told.append)
    assert [record.spec.split("{")[0] for record in normal.records] == told
    assert {record.spec for record in normal.records if record.modified} >= {"fold-batch-norm", "fold-constants"}
    assert all(record.seconds >= 0 for record in normal.records)


def test_a_second_time_changes_nothing() -> None:
    normal = normalise(load(model()))
    assert not any(record.modified for record in normalise(load(normal.model)).records)


def test_a_weight_read_by_two_layers_stays_one() -> None:
    found = parse(
        "g (float[2,3] x, float[2,3] z) => (float[2,4] y, float[2,4] q)"
        " { a = Identity(w) y = MatMul(x, a) q = MatMul(z, w) }"
    )
    tensor = ir.tensor(np.ones((3, 4), np.float32))
    weight = add_weight(next(iter(found.graph)), 0, "w", tensor)
    list(found.graph)[2].replace_input_with(1, weight)
    normal = normalise(load(found)).model
    assert len(normal.graph.initializers["w"].uses()) == 2
    assert normal.graph.initializers["w"].const_value is tensor


def test_a_model_that_cannot_be_converted_is_refused_in_one_sentence() -> None:
    found = parse("g (float[1,2,4,4] x) => (float[1,2,2,2] y) { y = Crop<border = [1, 1, 1, 1]>(x) }", 7)
    with pytest.raises(InputError, match="Crop") as caught:
        normalise(load(found))
    assert "\n" not in str(caught.value)
