"""Raising the opset: equal outputs before and after, or a refusal that names the node."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxmpq.errors import InputError
from onnxmpq.model.opset import raise_opset
from tests.passes.proof import add_weight, operators, parse, public, run

S4 = "float[4] s = {1.0, 1.0, 2.5, 1.7}"
HALVES = "float[4] s = {1.0, 1.0, 0.5, 0.6}"
PICTURE = "float[1,2,7,9] x"
NORM = "float[3] s = {1.0, 2.0, 0.5}, float[3] b = {0.1, 0.2, 0.3}, float[3] m = {0.0, 0.1, 0.2}, float[3] v = {1.0, 1.1, 0.9}"  # noqa: E501
MATRIX = "g (float[6,4] x) => (float[N,M] y)"
CUBE = "g (float[2,3,4] x) => (float[2,3,4] y)"
MODELS = (
    (7, f"g ({PICTURE}) => (float[1,2,N,M] y) {{ y = Upsample<mode = 'nearest', scales = [1.0, 1.0, 2.0, 3.0]>(x) }}"),
    (7, f"g ({PICTURE}) => (float[1,2,N,M] y) {{ y = Upsample<mode = 'linear', scales = [1.0, 1.0, 2.0, 2.0]>(x) }}"),
    (9, f"g ({PICTURE}) => (float[1,2,N,M] y) <{S4}> {{ y = Upsample<mode = 'nearest'>(x, s) }}"),
    (9, f"g ({PICTURE}) => (float[1,2,N,M] y) <{S4}> {{ y = Upsample<mode = 'linear'>(x, s) }}"),
    (10, f"g ({PICTURE}) => (float[1,2,N,M] y) <{S4}> {{ y = Resize<mode = 'nearest'>(x, s) }}"),
    (10, f"g ({PICTURE}) => (float[1,2,N,M] y) <{HALVES}> {{ y = Resize<mode = 'nearest'>(x, s) }}"),
    (10, f"g ({PICTURE}) => (float[1,2,N,M] y) <{HALVES}> {{ y = Resize<mode = 'linear'>(x, s) }}"),
    (7, f"{CUBE} {{ y = Softmax(x) }}"),
    (7, f"{CUBE} {{ y = Softmax<axis = 2>(x) }}"),
    (11, f"{CUBE} {{ y = Softmax<axis = -2>(x) }}"),
    (7, f"{CUBE} {{ y = LogSoftmax<axis = 0>(x) }}"),
    (7, f"{CUBE} {{ y = Hardmax(x) }}"),
    (11, f"{CUBE} {{ y = Hardmax<axis = 2>(x) }}"),
    (7, "g (float[6,4] x) => (float[2,4] y, float[4,4] z) { y, z = Split<axis = 0, split = [2, 4]>(x) }"),
    (13, "g (float[6,4] x) => (float[3,4] y, float[3,4] z) { y, z = Split(x) }"),
    (7, "g (float[6,4] x) => (float[6,2] y, int64[6,2] z) { y, z = TopK<k = 2>(x) }"),
    (7, f"{MATRIX} {{ y = Clip<min = 0.2, max = 0.7>(x) }}"),
    (7, f"{MATRIX} {{ y = Clip<max = 0.7>(x) }}"),
    (7, "g (float16[6,4] x) => (float16[6,4] y) { y = Clip<max = 0.7>(x) }"),
    (7, "g (float16[6,4] x) => (float16[6,4] y) { y = Clip<min = -0.2, max = 0.7>(x) }"),
    (7, f"{MATRIX} {{ y = Pad<pads = [1, 0, 0, 2], value = 3.5>(x) }}"),
    (7, f"{MATRIX} {{ y = Pad<pads = [1, 0, 0, 2], mode = 'reflect'>(x) }}"),
    (7, "g (double[6,4] x) => (double[N,M] y) { y = Pad<pads = [1, 0, 0, 2]>(x) }"),
    (7, f"{MATRIX} {{ y = Slice<starts = [1, 0], ends = [100, -1]>(x) }}"),
    (7, f"{MATRIX} {{ y = Slice<axes = [1], starts = [-3], ends = [100]>(x) }}"),
    (7, f"{MATRIX} {{ y = Dropout<ratio = 0.3>(x) }}"),
    (7, "g (float[1,6,1,4] x) => (float[6,1,4] y) { y = Squeeze<axes = [0]>(x) }"),
    (7, "g (float[1,6,1,4] x) => (float[6,4] y) { y = Squeeze(x) }"),
    (7, "g (float[6,4] x) => (float[6] y) { y = ReduceSum<axes = [1], keepdims = 0>(x) }"),
    (13, "g (float[6,4] x) => (float[6] y) { y = ReduceL2<axes = [-1], keepdims = 0>(x) }"),
    (13, "g (float[6,4] x) => (float[1,1] y) { y = ReduceMax(x) }"),
    (7, f"{CUBE} <{NORM}> {{ y = BatchNormalization(x, s, b, m, v) }}"),
    (9, f"{CUBE} <{NORM}> {{ y, , , , = BatchNormalization(x, s, b, m, v) }}"),
    (18, "g (float[2,4,5] x) => (float[2,4,5] y) <float[2] s = {1.0, 2.0}, float[2] b = {0.1, 0.2}>"
         " { y = GroupNormalization<num_groups = 2>(x, s, b) }"),
    (16, "g (float[1,2,4,5] x, float[1,3,3,2] p) => (float[1,2,3,3] y) { y = GridSample<mode = 'bicubic'>(x, p) }"),
    (9, "g (float[3,3] x) => (float[3,3] y) <int64[1,3] i = {1, 0, 2}, float[1,3] u = {1.0, 1.1, 1.2}>"
        " { y = Scatter(x, i, u) }"),
    (17, "g (float[1,4,6,1] x) => (float[1,4,6,2] y) { y = DFT(x) }"),
    (17, "g (float[1,4,6,1] x) => (float[1,4,6,2] y) { y = DFT<axis = 2>(x) }"),
    (11, "g (float[1,1,8,8] x) => (float[1,1,N,M] y) { y = LpPool<kernel_shape = [3, 3], p = 2>(x) }"),
    (7, "g (float[2,12,2,2] x) => (float[2,3,4,4] y) { y = DepthToSpace<blocksize = 2>(x) }"),
    (9, """g (bool c, float[2,2] x) => (float[1,2,2] y) {
        y = If (c) <then_branch = t () => (float[1,2,2] a) { a = Unsqueeze<axes = [0]>(x) },
                    else_branch = e () => (float[1,2,2] b) { s = Softmax<axis = 0>(x) b = Unsqueeze<axes = [0]>(s) }>
    }"""),
)  # fmt: skip


@pytest.mark.parametrize("target", [13, 18, 21, 26])
@pytest.mark.parametrize(("opset", "text"), MODELS, ids=[text[-60:] for _, text in MODELS])
def test_outputs_are_equal_in_every_opset(opset: int, text: str, target: int) -> None:
    model = parse(text.replace("'", '"'), opset)
    before, (feeds, expected) = public(model), run(model)
    assert raise_opset(model, target) == (target > opset)
    if target > opset:  # the checker refuses GroupNormalization of opset 18 as it is
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert public(model) == before
    for a, b in zip(expected, run(model, feeds)[1], strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(("shape", "nodes"), [("2,3,1,1", 1), ("2,3", 1), ("2,3,1,4", 4), ("N,3,1,M", 4)])
def test_softmax_is_flattened_only_where_it_spans_several_axes(op: str, shape: str, nodes: int) -> None:
    model = parse(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = {op}(x) }}", 9)
    feeds, expected = run(model)
    raise_opset(model, 13)
    assert len(model.graph) == nodes
    np.testing.assert_allclose(run(model, feeds)[1][0], expected[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("opset", "ir_version"), [(13, 8), (18, 8), (19, 9), (20, 9), (21, 10), (22, 10), (23, 11), (24, 12), (26, 13)]
)
def test_ir_version_follows_and_onnxruntime_reads_it(opset: int, ir_version: int) -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Exp(x) }", 9, ir_version=3)
    raise_opset(model, opset)
    assert (model.opset_imports[""], model.ir_version) == (opset, ir_version)
    ort.InferenceSession(ir.to_proto(model).SerializeToString())


def test_a_newer_ir_version_is_lowered_to_what_runtimes_read() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Exp(x) }", 17, ir_version=14)
    assert raise_opset(model, 13)
    assert (model.opset_imports[""], model.ir_version) == (17, 13)


def test_the_opset_is_never_lowered() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Exp(x) }", 21, ir_version=10)
    assert not raise_opset(model, 13)
    assert model.opset_imports[""] == 21


def test_the_long_name_of_the_domain_is_the_same_domain() -> None:
    model = parse('<ir_version: 8, opset_import: ["ai.onnx": 9]> g (float[4] x) => (float[2] y)'
                  " { y = Slice<starts = [1], ends = [3]>(x) }")  # fmt: skip
    raise_opset(model, 13)
    assert model.opset_imports == {"": 13}
    assert operators(model) == "Constant Constant Slice"


def test_everything_else_about_a_node_stays() -> None:
    model = parse("g (float[2,3] x) => (float[2,3] y) { [soft] y = Softmax<axis = 1>(x) }", 9)
    node = next(iter(model.graph))
    node.doc_string, node.metadata_props["from"] = "why", "here"
    node.outputs[0].metadata_props["is"] = "output"
    raise_opset(model, 21)
    assert next(iter(model.graph)) is node
    assert (node.name, node.doc_string, node.metadata_props["from"]) == ("soft", "why", "here")
    assert model.graph.outputs[0].metadata_props["is"] == "output"


def test_metadata_goes_to_the_node_that_replaces_another() -> None:
    model = parse("g (float[2,3,4] x) => (float[2,3,4] y) { [soft] y = Softmax<axis = 1>(x) }", 9)
    node = next(iter(model.graph))
    node.metadata_props["from"], node.outputs[0].metadata_props["is"] = "here", "output"
    raise_opset(model, 13)
    soft = next(node for node in model.graph if node.op_type == "Softmax")
    assert (soft.name, soft.metadata_props["from"]) == ("soft", "here")
    assert model.graph.outputs[0].metadata_props["is"] == "output"


def test_other_domains_pass_through() -> None:
    model = parse('<ir_version: 8, opset_import: ["": 9, "mine": 3]> g (float[4] x) => (float[2] y)'
                  " { a = mine.Odd<depth = 2>(x) y = Slice<starts = [1], ends = [3]>(a) }")  # fmt: skip
    raise_opset(model, 13)
    assert model.opset_imports == {"": 13, "mine": 3}
    assert operators(model) == "Odd Constant Constant Slice"


def test_big_weights_are_not_touched() -> None:
    model = parse("g (float[1,4] x) => (float[1,3] y) { a = MatMul(x, w) y = Softmax(a) }", 9)
    tensor = ir.LazyTensor(lambda: pytest.fail("was read"), ir.DataType.FLOAT, ir.Shape([4, 3]), name="w")
    add_weight(next(iter(model.graph)), 1, "w", tensor)
    raise_opset(model, 21)
    assert model.graph.initializers["w"].const_value is tensor


def test_functions_are_raised_with_the_model() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["": 11, "mine": 1]> g (float[4] x) => (float[1,4] y) { y = mine.lead(x) }'
        ' <domain: "mine", opset_import: ["": 11]> lead (a) => (b) { b = Unsqueeze<axes = [0]>(a) }'
    )
    raise_opset(model, 13)
    function = next(iter(model.functions.values()))
    assert function.opset_imports[""] == 13
    assert [node.op_type for node in function] == ["Constant", "Unsqueeze"]


REFUSED = (
    (7, "g (float[1,2,4,4] x) => (float[1,2,2,2] y) { [n] y = Crop<border = [1, 1, 1, 1]>(x) }",
     "no operator of opset 7"),
    (7, f"{CUBE} <{NORM}> {{ [n] y = BatchNormalization<spatial = 0>(x, s, b, m, v) }}", "spatial must have value 1"),
    (9, "g (float[2,3,4] x) => (float[2,3,4] y, float[3] p)"
        f" <{NORM}> {{ [n] y, p, q = BatchNormalization(x, s, b, m, v) }}", "training mode"),
    (10, f"g ({PICTURE}, float[4] s) => (float[1,2,N,M] y) {{ [n] y = Resize(x, s) }}", "scales that are not constant"),
    (18, "g (float[2,4,5] x, float[2] s) => (float[2,4,5] y) { [n] y = GroupNormalization<num_groups = 2>(x, s, s) }",
     "scales that are not constant"),
)  # fmt: skip


@pytest.mark.parametrize(("opset", "text", "reason"), REFUSED, ids=[reason for *_, reason in REFUSED])
def test_what_cannot_be_converted_is_refused_by_name_and_left_alone(opset: int, text: str, reason: str) -> None:
    model = parse(text, opset)
    before = str(ir.to_proto(model))
    with pytest.raises(InputError, match=f"opset {opset}, node 'n'.*{reason}"):
        raise_opset(model, 21)
    assert str(ir.to_proto(model)) == before


def test_all_faults_are_told_at_once() -> None:
    model = parse("g (float[1,2,4,4] x) => (float[1,2,2,2] y)"
                  " { [p] a = Affine(x) [q] b = Affine(a) [r] c = Neg(b) [s] y = Crop(c) }", 7)  # fmt: skip
    with pytest.raises(InputError, match=r"Affine \(opset 7, nodes 'p', 'q'\).*Crop \(opset 7, node 's'\)"):
        raise_opset(model, 13)


def test_an_opset_that_onnx_does_not_know_is_refused() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Exp(x) }")
    with pytest.raises(InputError, match="Opset 99 is newer than the installed onnx knows"):
        raise_opset(model, 99)
