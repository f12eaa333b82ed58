"""hoist-gather."""

from dataclasses import dataclass

import onnx
import onnx_ir as ir
import pytest

from onnxmpq_passes import HoistGather
from tests.passes.proof import Case, FiveTests, operators, parse

WEIGHTS = "<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 1, 0, 2, 2, 1, 1}, float[4] b = {1, 2, 3, 4}, int64 i = {0}>"
MANY = WEIGHTS.replace("int64 i = {0}", "int64[2] i = {3, 1}")
NORM = WEIGHTS.replace("int64 i = {0}", "float[4] g = {1, 1, 2, 2}, int64 i = {0}")
HEAD = "g (float[n, 5, 4] x) => (float[n, 4] y)"


@dataclass(frozen=True)
class Shaped(Case):
    """A graph with the shapes of its inner values, which the pass needs."""

    def model(self) -> ir.Model:
        """Parse the graph and infer shapes."""
        return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(Case.model(self))))

    __str__ = Case.__str__


CASES = (
    Shaped(
        "a product and its bias",
        f"{HEAD} {WEIGHTS} {{ m = MatMul(x, w) a = Add(m, b) y = Gather<axis = 1>(a, i) }}",
        "Gather MatMul Add Squeeze",
        rtol=1e-6,
    ),
    Shaped(
        "several rows",
        f"g (float[n, 5, 4] x) => (float[n, 2, 4] y) {MANY} {{ m = MatMul(x, w) y = Gather<axis = -2>(m, i) }}",
        "Gather MatMul Identity",
        rtol=1e-6,
    ),
    Shaped(
        "a residual branch",
        f"""{HEAD} {NORM} {{
            c = Relu(x) l = LayerNormalization(c, g, b) m = MatMul(l, w) r = Relu(m) s = Add(c, r)
            y = Gather<axis = 1>(s, i) }}""",
        "Relu Gather LayerNormalization MatMul Relu Add Squeeze",
        rtol=1e-6,
    ),
    Shaped(
        "a bias for every row",
        f"""g (float[n, 5, 4] x, float[1, 5, 1] p) => (float[n, 4] y) {WEIGHTS} {{
            m = MatMul(x, w) a = Add(p, m) y = Gather<axis = 1>(a, i) }}""",
        "Gather Gather MatMul Add Squeeze",
        rtol=1e-6,
    ),
    Shaped(
        "attention",
        """g (float[n, 5, 4] x) => (float[n, 4] y)
        <float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 1, 0, 2, 2, 1, 1}, int64[4] heads = {0, 5, 2, 2},
         int64[3] rows = {0, 5, 4}, int64 i = {0}> {
            q = MatMul(x, w) q4 = Reshape(q, heads) qt = Transpose<perm = [0, 2, 1, 3]>(q4)
            k = MatMul(x, w) k4 = Reshape(k, heads) kt = Transpose<perm = [0, 2, 3, 1]>(k4)
            p = MatMul(qt, kt) s = Softmax(p) v4 = Reshape(x, heads) v = Transpose<perm = [0, 2, 1, 3]>(v4)
            a = MatMul(s, v) t = Transpose<perm = [0, 2, 1, 3]>(a) o = Reshape(t, rows) 
            y = Gather<axis = 1>(o, i) }""",
        "Gather MatMul Reshape Transpose MatMul Reshape Transpose MatMul Softmax Reshape Transpose MatMul Transpose"
        " Reshape Squeeze",
        rtol=1e-5,
    ),
    Shaped(
        "a Reshape that mixes rows",
        f"""g (float[n, 5, 4] x) => (float[n, 2] y) {WEIGHTS[:-1]}, int64[3] s = {{0, 10, 2}}> {{
            m = MatMul(x, w) r = Reshape(m, s) y = Gather<axis = 1>(r, i) }}""",
        "",
        fires=False,
    ),
    Shaped(
        "nothing gets cheaper",
        f"{HEAD} {WEIGHTS} {{ r = Relu(x) a = Add(r, b) y = Gather<axis = 1>(a, i) }}",
        "",
        fires=False,
    ),
    Shaped(
        "others read the rows",
        f"""g (float[n, 5, 4] x) => (float[n, 4] y, float[n, 5, 4] z) {WEIGHTS} {{
            m = MatMul(x, w) z = Relu(m) y = Gather<axis = 1>(m, i) }}""",
        "",
        fires=False,
    ),
    Shaped(
        "the summed axis",
        f"g (float[n, 5, 4] x) => (float[n, 5] y) {WEIGHTS} {{ m = MatMul(x, w) y = Gather<axis = 2>(m, i) }}",
        "",
        fires=False,
    ),
    Shaped(
        "the normalised axis",
        f"""g (float[n, 5, 4] x) => (float[n, 4] y) {NORM} {{
            m = MatMul(x, w) l = LayerNormalization<axis = 2>(m, g, b) t = Transpose<perm = [0, 2, 1]>(l)
            u = Softmax(t) y = Gather<axis = 2>(u, i) }}""",
        "",
        fires=False,
    ),
    Shaped(
        "indices that are not constant",
        f"""g (float[n, 5, 4] x, int64[1] k) => (float[n, 1, 4] y) {WEIGHTS} {{
            m = MatMul(x, w) y = Gather<axis = 1>(m, k) }}""",
        "",
        fires=False,
    ),
    Shaped(
        "most of the rows",
        f"""g (float[n, 3, 4] x) => (float[n, 2, 4] y) {MANY.replace("3, 1", "2, 1")} {{
            m = MatMul(x, w) y = Gather<axis = 1>(m, i) }}""",
        "",
        fires=False,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
class TestHoistGather(FiveTests):
    make = HoistGather()


def test_unknown_shapes_are_left_alone() -> None:
    model = parse(CASES[0].graph)
    assert not HoistGather()(model).modified
    assert operators(model) == "MatMul Add Gather"
