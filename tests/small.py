"""Parts of the embedded examples, for tests that need a model to be measured or searched.

    digits_small       stem; stage1: two in a residual block; stage2: three in another, with a shortcut; head
    digits_conv        as above, stage2 called downsample, and behind it a block with a depthwise convolution
    digits_attention   patches, one of four blocks, head

What the layers compute is what was trained; the heads are fitted anew, in closed form, and digits are read about as
well as by the whole. A search or a table takes a third of what it takes there.
"""

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnx

from onnxmpq.runtimes import get_runtime

MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True, slots=True)
class Part:
    """What is left out of a model, by the beginning of names, and what is read instead of what is gone."""

    model: str
    without: tuple[str, ...]
    joined: Mapping[str, str]
    renamed: Mapping[str, str] = field(default_factory=dict)


_FIRST = "stage1.0.activation/Relu_output"
PARTS = {
    "digits_small": Part(
        "digits_cnn",
        ("stage1.1", "stage2"),
        {"stage1.1/Add_output": _FIRST, "stage2.2.activation/Relu_output": "downsample.activation/Relu_output"},
        {"downsample": "stage2"},
    ),
    "digits_conv": Part(
        "digits_cnn",
        ("stage1.1", "stage2.1", "stage2.2"),
        {"stage1.1/Add_output": _FIRST, "stage2.2.activation/Relu_output": "stage2.0/Add_output"},
    ),
    "digits_attention": Part(
        "digits_vit", ("blocks.1", "blocks.2", "blocks.3"), {"blocks.3/Add_2_output": "blocks.0/Add_2_output"}
    ),
}


@cache
def part(name: str) -> Path:
    """Return the file of a part; it is gone when the process ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    onnx.save(_with_head(_cut(PARTS[name])), str(folder / f"{name}.onnx"))
    return folder / f"{name}.onnx"


def small_model() -> Path:
    """Return the file of the smallest part."""
    return part("digits_small")


def _cut(wanted: Part) -> onnx.ModelProto:
    """Leave out what is not wanted."""

    def called(name: str) -> str:
        name = wanted.joined.get(name, name)
        for before, now in wanted.renamed.items():
            name = name.replace(before, now)
        return name

    proto = onnx.load(MODELS / f"{wanted.model}.onnx")
    nodes = [node for node in proto.graph.node if not node.name.startswith(wanted.without)]
    for node in nodes:
        node.name = called(node.name)
        node.input[:] = [called(name) for name in node.input]
        node.output[:] = [called(name) for name in node.output]
    weights = list(proto.graph.initializer)
    for tensor in weights:
        tensor.name = called(tensor.name)
    read = {name for node in nodes for name in node.input}
    del proto.graph.node[:], proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(tensor for tensor in weights if tensor.name in read)
    return proto


def _with_head(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Fit the last layer to the classes by least squares."""
    with np.load(MODELS / "digits_evaluation.npz") as data:
        images, labels = data["image"], data["labels"]
    last = next(node for node in proto.graph.node if node.op_type == "Gemm").input[0]
    session = get_runtime("onnxruntime").session(proto.SerializeToString(), mode="plain", outputs=[last])
    features = session.run({"image": images})[last].astype(np.float64)
    known = np.concatenate([features, np.ones((len(features), 1))], 1)
    wanted = 10.0 * (labels[:, None] == np.arange(10)) - 5.0
    solved = np.linalg.solve(known.T @ known + 1e-3 * np.eye(known.shape[1]), known.T @ wanted).astype(np.float32)
    for tensor in proto.graph.initializer:
        if tensor.name in ("head.weight", "head.bias"):
            fitted = solved[:-1].T if tensor.name == "head.weight" else solved[-1]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(fitted), tensor.name))
    return proto
