"""Bodies: a node reads what its bodies take from outside, and holds all nodes in them."""

import numpy as np

from onnxmpq.model.bodies import bodies_below, owners, reads
from tests.graphs import from_text, normal

NESTED = """
g (float[2] x, bool c) => (float[2] y) {
    a = Relu (x)
    y = If (c) <
        then_branch = g1 () => (float[2] t) { t = Mul (a, w) },
        else_branch = g2 () => (float[2] e) {
            s = Neg (x)
            e = If (c) <
                then_branch = g3 () => (float[2] tt) { tt = Add (s, a) },
                else_branch = g4 () => (float[2] ee) { ee = Add (s, x) }
            >
        }
    >
}
"""


def test_what_bodies_take_from_outside_is_read() -> None:
    model = normal(from_text(NESTED, {"w": np.ones(2, np.float32)}))
    choice = next(node for node in model.graph if node.op_type == "If")
    assert [value.name for value in reads(choice)] == ["c", "a", "w", "x"]


def test_nodes_in_bodies_belong_to_the_node_of_the_main_graph() -> None:
    model = normal(from_text(NESTED, {"w": np.ones(2, np.float32)}))
    choice = next(node for node in model.graph if node.op_type == "If")
    inner = [node for body in bodies_below(choice) for node in body]
    assert sorted(node.op_type for node in inner) == ["Add", "Add", "If", "Mul", "Neg"]
    assert owners(model) == {node.name: choice for node in inner}
