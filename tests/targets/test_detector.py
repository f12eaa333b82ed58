"""The example detector: features are quantised, and from the last layers on everything stays float.

... ─ Conv ─ box, classes ─▶ Reshape ─ Concat ─ Slice, Mul, Add, Exp, Sigmoid ─ Concat ─ detections
codes up to here           │ float: neither pixels nor scores share a scale, and no Concat of them has one
"""

import pytest

from onnxmpq.artifacts import Option
from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from onnxmpq.targets import target as find_target
from onnxmpq.targets.placement import Placement, place
from onnxmpq.targets.space import make_space
from tests.small import MODELS
from tests.targets.test_placement import shown

ENDS = ("fine_head.box/Conv", "fine_head.classes/Conv", "deep_head.box/Conv", "deep_head.classes/Conv")
JOINED = {  # the two Concats of features: what joins in one block shares a scale, what comes from a Resize does not
    "block.narrow.activation/Relu_output=block.inner.activation/Relu_output=block/Concat_output: "
    "block.inner.conv/Conv block/Concat",
    "block.inner.activation/Relu_output=block.narrow.activation/Relu_output=block/Concat_output: block/Concat.1",
    "block/Concat_output=block.inner.activation/Relu_output=block.narrow.activation/Relu_output: block.join.conv/Conv",
    "block.join.activation/Relu_output: down.conv/Conv Concat.1",
    "Concat_output: merge.conv/Conv",
}


def placed(name: str) -> tuple[Placement, set[str]]:
    """Place 8 bits everywhere; return that, and what is behind the last layers."""
    model = normalise(load(MODELS / "shapes_detector.onnx")).model
    target = find_target(name)
    space = make_space(model, target)
    behind = set[str]()
    for node in model.graph:
        if node.name in ENDS or any(value is not None and value.name in behind for value in node.inputs):
            behind.update(str(value.name) for value in node.outputs)
    return place(model, space, target, {unit.name: Option(8, 8) for unit in space.units}), behind


def test_features_that_are_joined_share_a_scale_where_their_kernel_reads_codes() -> None:
    placement, _ = placed("ort-cpu")
    assert {shown(pair) for pair in placement.pairs if "Concat" in shown(pair)} == JOINED


@pytest.mark.parametrize("name", ["ort-cpu", "openvino", "generic"])
def test_nothing_behind_the_last_layers_is_quantised(name: str) -> None:
    placement, behind = placed(name)
    assert "detections" in behind
    last = {f"{end}_output" for end in ENDS} if name == "ort-cpu" else set[str]()  # its kernels give codes
    assert {pair.tensor for pair in placement.pairs} & behind == last
    assert all(len(pair.group) == 1 for pair in placement.pairs if pair.tensor in behind)
