"""Every operator that may run on codes between layers does so on the HTP emulator, in 8 and in 16 bits."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.artifacts import Option, Plan
from onnxmpq.options import Numbers
from onnxmpq.runtimes import get_runtime
from onnxmpq.targets import target as find_target
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import Workspace
from tests.graphs import Array, feeds_for, from_text
from tests.needed import need_runtime

IMAGE = "float[1, 8, 8, 8]"
BRANCHES = (
    *("Add(a, x)", "Add(k, a)", "Sub(a, x)", "Sub(a, k)", "Mul(a, x)", "Mul(k, a)", "Div(a, k)"),
    *("Softmax<axis = 1>(a)", "HardSwish(a)", "Sigmoid(a)", "Tanh(a)", "Gelu(a)", "Relu(x)"),
    *("AveragePool<kernel_shape = [2, 2]>(a)", "GlobalAveragePool(a)", "MaxPool<kernel_shape = [2, 2]>(a)"),
    *("ReduceMean(a, axes)", "Reshape(a, shape)", "Transpose<perm = [0, 1, 3, 2]>(a)", "Slice(a, one, two, two)"),
    *("Pad(a, pads)", "Gather<axis = 2>(a, axes)", 'Resize<mode = "nearest">(a, , sizes)', "Concat<axis = 2>(a, x)"),
    *("Flatten(a)", "Squeeze(u, one)", "LayerNormalization(a, k8, b8)"),
)
"""What stands between two convolutions; ``Flatten`` is followed by a Gemm."""
FOR_OTHERS = {"Unsqueeze"}
"""What other branches need."""


def model() -> ir.Model:
    """Build a graph with a branch for every follower, each with a layer of its own behind it."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return random.normal(size=shape).astype(np.float32)

    arrays: dict[str, Array] = {"w": normal(8, 8, 1, 1), "wg": normal(512, 4), "k": normal(1, 8, 1, 1) + 3}
    arrays |= {"k8": normal(8), "b8": normal(8), "sizes": np.array([1, 1, 2, 2], np.float32)}
    arrays |= {"axes": np.array([2, 3]), "shape": np.array([1, 8, 4, 16]), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    arrays |= {"one": np.array([1]), "two": np.array([2])}
    body, outputs = ["a = Conv(x, w) u = Unsqueeze(a, one)"], []
    for number, branch in enumerate(BRANCHES):
        arrays[f"w{number}"] = arrays["wg"] if branch == "Flatten(a)" else normal(8, 8, 1, 1)
        layer = "Gemm" if branch == "Flatten(a)" else "Conv"
        body.append(f"c{number} = {branch} y{number} = {layer}(c{number}, w{number})")
        outputs.append(f"float[{'1, 4' if layer == 'Gemm' else '1, 8, h, v'}] y{number}".replace("h, v", "?, ?"))
    return from_text(f"g ({IMAGE} x) => ({', '.join(outputs)}) {{ {' '.join(body)} }}", arrays, opset=20)


def test_every_follower_has_a_branch() -> None:
    branches = {branch.partition("(")[0].partition("<")[0] for branch in BRANCHES}
    assert branches | FOR_OTHERS == {rule.op for rule in find_target("qnn").followers}


@pytest.mark.parametrize("bits", [8, 16])
def test_every_follower_runs_on_codes(bits: int, tmp_path: Path) -> None:
    need_runtime("qnn")
    graph = model()
    exporter = Exporter(Workspace(prepare(ir.to_proto(graph), "qnn"), feeds_for(graph), Numbers(), tmp_path))
    plan = {unit.name: Option(8, bits) for unit in exporter.prepared.space.units}
    export = exporter.build(Plan("qnn", "", plan), "q.onnx")
    assert export.verdict.ok, export.verdict
    counts = get_runtime("qnn", soc="57").kernels(export.path).counts
    assert not [kind for kind, _ in counts if kind.endswith("float")]
    assert sum(count for _, count in counts) > len(BRANCHES)
