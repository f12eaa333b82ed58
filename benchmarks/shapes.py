"""Networks of well-known shapes with random weights: for speed and size, which do not depend on training.

ResNet-18 and ResNet-50, MobileNetV2 (ReLU6, HardSwish or SiLU) and ViT-tiny as exporters write them, BatchNorm folded:
each output channel has its own scale, log-normal with sigma 0.35, so per-channel and per-tensor weights differ as they
do in trained networks.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 9
SPREAD = 0.35
Activation = Literal["relu", "relu6", "hardswish", "silu"]


@dataclass(slots=True)
class Graph:
    """A graph that grows node by node; every random number comes from one seed."""

    name: str
    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        """Start the random numbers."""
        self.rng = np.random.default_rng(self.seed)

    def unique(self, hint: str) -> str:
        """Number a name."""
        self.counts[hint] += 1
        return f"{hint}_{self.counts[hint]}"

    def constant(self, array: np.ndarray, hint: str = "constant") -> str:
        """Store an array; give its name."""
        name = self.unique(hint)
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def normal(self, *shape: int, scale: float, hint: str) -> str:
        """Store normally distributed numbers."""
        return self.constant((self.rng.normal(size=shape) * scale).astype(np.float32), hint)

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; give the output's name."""
        name = self.unique(op_type.lower())
        self.nodes.append(helper.make_node(op_type, inputs, [name + "_out"], name=name, **attributes))
        return name + "_out"

    def model(self, size: int, classes: int, result: str) -> onnx.ModelProto:
        """Finish: ``x`` is an image of ``size`` by ``size``, ``y`` has one number per class."""
        for node in self.nodes:
            node.output[:] = ["y" if name == result else name for name in node.output]
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, classes])],
            self.tensors,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _conv(
    graph: Graph,
    x: str,
    channels: tuple[int, int],
    kernel: int,
    *,
    stride: int = 1,
    group: int = 1,
    gain: float = 2.0,
    act: Activation | None = None,
) -> str:
    """Append a convolution with a folded BatchNorm, and its activation."""
    fan_in = channels[0] // group * kernel * kernel
    weight = graph.rng.normal(size=(channels[1], channels[0] // group, kernel, kernel)) * np.sqrt(gain / fan_in)
    weight *= np.exp(graph.rng.normal(size=(channels[1], 1, 1, 1)) * SPREAD - SPREAD**2)  # keeps the mean square
    y = graph.node(
        "Conv",
        x,
        graph.constant(weight.astype(np.float32), "weight"),
        graph.normal(channels[1], scale=0.1, hint="bias"),
        kernel_shape=[kernel, kernel],
        pads=[kernel // 2] * 4,
        strides=[stride, stride],
        group=group,
    )
    return _activation(graph, y, act) if act else y


def _activation(graph: Graph, x: str, act: Activation) -> str:
    """Append an activation."""
    if act == "relu6":
        return graph.node("Clip", x, *(graph.constant(np.array(bound, np.float32)) for bound in (0, 6)))
    if act == "silu":
        return graph.node("Mul", x, graph.node("Sigmoid", x))
    return graph.node({"relu": "Relu", "hardswish": "HardSwish"}[act], x)


def _head(graph: Graph, x: str, width: int, classes: int) -> str:
    """Append pooling and the classifier."""
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x), axis=1)
    weight = graph.normal(classes, width, scale=width**-0.5, hint="weight")
    return graph.node("Gemm", x, weight, graph.normal(classes, scale=0.01, hint="bias"), transB=1)


def resnet18(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """Build ResNet-18: 11.7 million parameters."""
    graph = Graph("resnet18", seed)
    x = _conv(graph, "x", (3, 64), 7, stride=2, act="relu")
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for before, after in pairwise((64, 64, 64, 128, 128, 256, 256, 512, 512)):
        stride = 1 if before == after else 2
        inner = _conv(graph, x, (before, after), 3, stride=stride, act="relu")
        inner = _conv(graph, inner, (after, after), 3, gain=0.5)
        short = x if before == after else _conv(graph, x, (before, after), 1, stride=stride, gain=1.0)
        x = graph.node("Relu", graph.node("Add", inner, short))
    return graph.model(size, classes, _head(graph, x, 512, classes))


def resnet50(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """Build ResNet-50: 25.6 million parameters."""
    graph = Graph("resnet50", seed)
    x, before = _conv(graph, "x", (3, 64), 7, stride=2, act="relu"), 64
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for inner, repeats, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for stride in (first_stride, *[1] * (repeats - 1)):
            after = 4 * inner
            y = _conv(graph, x, (before, inner), 1, act="relu")
            y = _conv(graph, y, (inner, inner), 3, stride=stride, act="relu")
            y = _conv(graph, y, (inner, after), 1, gain=0.5)
            short = x if before == after else _conv(graph, x, (before, after), 1, stride=stride, gain=1.0)
            x, before = graph.node("Relu", graph.node("Add", y, short)), after
    return graph.model(size, classes, _head(graph, x, before, classes))


def mobilenetv2(size: int = 224, classes: int = 1000, seed: int = 0, act: Activation = "relu6") -> onnx.ModelProto:
    """Build MobileNetV2: 3.5 million parameters."""
    graph = Graph("mobilenetv2" if act == "relu6" else f"mobilenetv2-{act}", seed)
    x, width = _conv(graph, "x", (3, 32), 3, stride=2, act=act), 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, channels, repeats, first_stride in stages:
        for stride in (first_stride, *[1] * (repeats - 1)):
            hidden = width * expansion
            y = _conv(graph, x, (width, hidden), 1, act=act) if expansion > 1 else x
            y = _conv(graph, y, (hidden, hidden), 3, stride=stride, group=hidden, act=act)
            y = _conv(graph, y, (hidden, channels), 1, gain=1.0)
            x = graph.node("Add", x, y) if stride == 1 and width == channels else y
            width = channels
    x = _conv(graph, x, (width, 1280), 1, act=act)
    return graph.model(size, classes, _head(graph, x, 1280, classes))


def vit_tiny(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """Build ViT-tiny with patches of 16: width 192, 3 heads, 12 blocks, 5.7 million parameters."""
    width, heads, blocks, patch = 192, 3, 12, 16
    patches = (size // patch) ** 2
    graph = Graph("vit-tiny", seed)

    def norm(x: str) -> str:
        gamma = graph.constant(np.exp(graph.rng.normal(size=width) * 0.3).astype(np.float32), "gamma")
        return graph.node("LayerNormalization", x, gamma, bias(width), axis=-1, epsilon=1e-6)

    def bias(length: int) -> str:
        return graph.normal(length, scale=0.05, hint="bias")

    def linear(x: str, rows: int, columns: int) -> str:
        weight = graph.normal(rows, columns, scale=rows**-0.5, hint="weight")
        return graph.node("Add", graph.node("MatMul", x, weight), bias(columns))

    split = graph.constant(np.array([1, patches + 1, heads, width // heads]), "shape")
    merged = graph.constant(np.array([1, patches + 1, width]), "shape")
    scale = graph.constant(np.array((width // heads) ** -0.5, np.float32), "scale")
    pixels = graph.normal(width, 3, patch, patch, scale=(3 * patch * patch) ** -0.5, hint="weight")
    x = graph.node("Conv", "x", pixels, bias(width), kernel_shape=[patch] * 2, strides=[patch] * 2)
    x = graph.node("Reshape", x, graph.constant(np.array([1, width, patches]), "shape"))
    x = graph.node("Transpose", x, perm=[0, 2, 1])
    x = graph.node("Concat", graph.normal(1, 1, width, scale=0.5, hint="class_token"), x, axis=1)
    x = graph.node("Add", x, graph.normal(1, patches + 1, width, scale=0.2, hint="position"))
    for _ in range(blocks):
        h = norm(x)
        query, key, value = (
            graph.node("Transpose", graph.node("Reshape", linear(h, width, width), split), perm=perm)
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        attention = graph.node("Softmax", graph.node("Mul", graph.node("MatMul", query, key), scale), axis=-1)
        h = graph.node("Transpose", graph.node("MatMul", attention, value), perm=[0, 2, 1, 3])
        x = graph.node("Add", x, linear(graph.node("Reshape", h, merged), width, width))
        h = graph.node("Gelu", linear(norm(x), width, 4 * width))
        x = graph.node("Add", x, linear(h, 4 * width, width))
    x = graph.node("Gather", norm(x), graph.constant(np.array(0)), axis=1)
    weight = graph.normal(width, classes, scale=width**-0.5, hint="weight")
    return graph.model(size, classes, graph.node("Gemm", x, weight, bias(classes)))


NETS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "resnet18": resnet18,
    "mobilenetv2": mobilenetv2,
    "mobilenetv2-hardswish": lambda size: mobilenetv2(size, act="hardswish"),
    "mobilenetv2-silu": lambda size: mobilenetv2(size, act="silu"),
    "vit-tiny": vit_tiny,
}
"""Builders by name; each takes the side of the image."""
LARGE: dict[str, Callable[[int], onnx.ModelProto]] = {"resnet50": resnet50}
"""The same of networks that take too long for every benchmark."""


def parameters(model: onnx.ModelProto) -> int:
    """Count the numbers in float tensors."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)


def feeds(model: onnx.ModelProto, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Make inputs of the model's shape, normally distributed as normalised images are."""
    rng = np.random.default_rng(seed)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]
