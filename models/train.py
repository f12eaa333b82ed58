"""Train the two example networks and write the data and the figures beside them.

    python models/train.py   ->   digits_cnn.onnx          digits_calibration.npz
                                  digits_vit.onnx          digits_evaluation.npz      models.json

The data are scikit-learn's 1797 handwritten digits, in the order of the forms they were written on. Every form asks for
the same digits, so the labels show where one begins, and the images are split by form, not at random: the last eight
forms are evaluated, and nothing on them is trained on.
"""

import ast
import copy
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

FOLDER = Path(__file__).parent
CALIBRATION = FOLDER / "digits_calibration.npz"
EVALUATION = FOLDER / "digits_evaluation.npz"
PACKAGES = ("torch", "onnxscript", "onnx", "onnx-ir", "onnxruntime", "numpy", "scikit-learn")
CLASSES = 10
SIDE = 16  # pixels; the data have 8
PIXEL_MAX = 16.0  # the data count ink from 0 to 16
FORM_STARTS = (0, 130, 256, 386, 516, 646, 776, 905, 1029, 1157, 1287, 1415, 1543, 1667)
FIRST_EVALUATED_FORM = 6
CALIBRATION_STRIDE = 5  # of the forms not evaluated, every fifth image calibrates and the others train
BATCH = 64
AVERAGE_DECAY = 0.98  # per step, of the averaged weights that are exported


@dataclass(frozen=True, slots=True)
class Recipe:
    """Say how one network is built, trained and exported."""

    name: str
    build: Callable[[], nn.Module]
    seed: int
    epochs: int
    learning_rate: float
    opset: int

    @property
    def path(self) -> Path:
        """Return where the exported network lies."""
        return FOLDER / f"{self.name}.onnx"


@dataclass(frozen=True, slots=True)
class Split:
    """Hold images, ``[samples, 1, SIDE, SIDE]`` float32 in 0..1, and their int64 labels."""

    image: NDArray[np.float32]
    labels: NDArray[np.int64]


# --- data -------------------------------------------------------------------------------------------------------------


def load_splits() -> tuple[Split, Split, Split]:
    """Return the training, calibration and evaluation splits, with no image in two of them."""
    digits = load_digits()
    # Bilinear doubling adds no information: it gives the convolutions a plane worth measuring.
    small = torch.from_numpy(digits.images / PIXEL_MAX).float().unsqueeze(1)
    image = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False).numpy()
    labels = digits.target.astype(np.int64)
    index = np.arange(len(labels))
    evaluated = index >= FORM_STARTS[FIRST_EVALUATED_FORM]
    calibrates = ~evaluated & (index % CALIBRATION_STRIDE == 0)
    trains = ~evaluated & ~calibrates

    def split(chosen: NDArray[np.bool_]) -> Split:
        return Split(image[chosen], labels[chosen])

    return split(trains), split(calibrates), split(evaluated)


def augment(image: Tensor) -> Tensor:
    """Turn, scale, shear, shift and add noise to each image, at random."""
    samples = len(image)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(samples) * 2 - 1) * limit

    angle, scale, shear = uniform(math.radians(15)), 1 + uniform(0.15), uniform(0.2)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (
        torch.stack([cos, shear - sin, uniform(0.2)], dim=1),
        torch.stack([sin, cos, uniform(0.2)], dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(image.shape), align_corners=False)
    moved = functional.grid_sample(image, grid, align_corners=False)
    return (moved + 0.08 * torch.randn_like(moved)).clamp(0, 1)


# --- the convolutional network ----------------------------------------------------------------------------------------


class ConvUnit(nn.Sequential):
    """Convolve, normalise, and activate if asked to."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = activation()


class BasicBlock(nn.Module):
    """Add two 3x3 convolutions to their input; a 1x1 shortcut follows where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvUnit(inputs, outputs, 3, stride=stride, activation=nn.ReLU)
        self.second = ConvUnit(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else ConvUnit(inputs, outputs, 1, stride=stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of the two branches."""
        y: Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return y


class DepthwiseBlock(nn.Module):
    """Widen, convolve each channel alone, narrow, and add to the input; the sum is not activated."""

    def __init__(self, channels: int, expansion: int, activation: type[nn.Module]) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = ConvUnit(channels, wide, 1, activation=activation)
        self.depthwise = ConvUnit(wide, wide, 3, groups=wide, activation=activation)
        self.project = ConvUnit(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the two branches."""
        y: Tensor = x + self.project(self.depthwise(self.expand(x)))
        return y


class DigitsCnn(nn.Module):
    """Classify digits with ordinary and depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(1, 24, 3, activation=nn.ReLU)
        self.stage1 = nn.Sequential(BasicBlock(24, 24), DepthwiseBlock(24, 3, nn.ReLU))
        self.downsample = BasicBlock(24, 48, stride=2)
        self.stage2 = nn.Sequential(DepthwiseBlock(48, 3, nn.ReLU6), DepthwiseBlock(48, 3, nn.ReLU), BasicBlock(48, 48))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(48, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits, ``[samples, CLASSES]``."""
        y = self.stage2(self.downsample(self.stage1(self.stem(image))))
        logits: Tensor = self.head(self.pool(y).flatten(1))
        return logits


# --- the vision transformer -------------------------------------------------------------------------------------------

PATCH = 4  # pixels
TOKENS = (SIDE // PATCH) ** 2
WIDTH = 64
HEADS = 4
BLOCKS = 4


class Attention(nn.Module):
    """Attend with several heads; written out, so that the exported products are plain MatMul nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of ``x``, ``[samples, TOKENS, WIDTH]``."""
        split = (-1, TOKENS, HEADS, WIDTH // HEADS)
        query = self.query(x).reshape(split).permute(0, 2, 1, 3)
        key = self.key(x).reshape(split).permute(0, 2, 3, 1)
        value = self.value(x).reshape(split).permute(0, 2, 1, 3)
        weights = (query @ key * (WIDTH // HEADS) ** -0.5).softmax(dim=-1)
        y: Tensor = self.project((weights @ value).permute(0, 2, 1, 3).reshape(-1, TOKENS, WIDTH))
        return y


class Mlp(nn.Sequential):
    """Apply two linear layers with a GELU between them to each token."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Linear(WIDTH, 2 * WIDTH)
        self.activation = nn.GELU()
        self.narrow = nn.Linear(2 * WIDTH, WIDTH)


class TransformerBlock(nn.Module):
    """Add attention, then the MLP, each to its own input and each behind a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after both sums."""
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class DigitsVit(nn.Module):
    """Classify digits with a small pre-norm vision transformer and mean pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.position = nn.Parameter(0.02 * torch.randn(1, TOKENS, WIDTH))
        self.blocks = nn.Sequential(*(TransformerBlock() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits, ``[samples, CLASSES]``."""
        tokens = self.patches(image).reshape(-1, WIDTH, TOKENS).permute(0, 2, 1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits


# Opset 20 is the first with Gelu as one operator.
RECIPES = (
    Recipe("digits_cnn", DigitsCnn, seed=7, epochs=60, learning_rate=4e-3, opset=18),
    Recipe("digits_vit", DigitsVit, seed=7, epochs=240, learning_rate=2e-3, opset=20),
)


# --- training ---------------------------------------------------------------------------------------------------------


def train(recipe: Recipe, split: Split) -> nn.Module:
    """Return the network with its weights averaged over the last steps, in evaluation mode."""
    torch.manual_seed(recipe.seed)
    network = recipe.build()
    average = copy.deepcopy(network)
    image, labels = torch.from_numpy(split.image), torch.from_numpy(split.labels)
    steps = len(labels) // BATCH * recipe.epochs
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.15)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(labels))
        for batch in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            logits = network(augment(image[batch]))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            follow(average, network)
    return average.eval()


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module) -> None:
    """Move the averaged weights and running statistics a step towards the network's."""
    for name, value in network.state_dict().items():
        mean = average.state_dict()[name]
        if value.is_floating_point():
            mean.lerp_(value, 1 - AVERAGE_DECAY)


# --- export -----------------------------------------------------------------------------------------------------------


def export(recipe: Recipe, network: nn.Module) -> onnx.ModelProto:
    """Return the network in ONNX, with a dynamic batch, readable names and nothing but the graph in it."""
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 1, SIDE, SIDE),),
        dynamo=True,
        opset_version=recipe.opset,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None
    model = program.model
    restore_pool(model.graph)
    rename(model.graph, kept=set(network.state_dict()))
    strip(model)
    model.graph.name = recipe.name
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


PARAMETER_SLOTS = {("MatMul", "B"): "weight", ("Conv", "B"): "bias"}


def restore_pool(graph: ir.Graph) -> None:
    """Replace the ReduceMean that the exporter makes of the pool by GlobalAveragePool."""
    for node in graph:
        if node.op_type != "ReduceMean" or module_of(node) != "pool":
            continue
        pool = ir.node("GlobalAveragePool", node.inputs[:1], metadata_props=dict(node.metadata_props))
        mean = node.outputs[0]
        ir.convenience.replace_nodes_and_values(graph, node, [node], [pool], [mean], pool.outputs)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def module_of(node: ir.Node) -> str:
    """Return the dotted name of the module that a node comes from, empty for the network itself."""
    for value in node.inputs:  # a Conv says the BatchNorm that was folded into it, its weight says the Conv
        if value is not None and value.is_initializer() and str(value.name).endswith(".weight"):
            return str(value.name).removesuffix(".weight")
    scopes: list[str] = ast.literal_eval(node.metadata_props["pkg.torch.onnx.name_scopes"])
    return scopes[-2]  # the last is the node's own


def rename(graph: ir.Graph, kept: set[str]) -> None:
    """Name nodes ``module/Operator``, their outputs after them, and initializers not in ``kept`` after their use.

    ``blocks.0.mlp.widen/MatMul`` yields ``blocks.0.mlp.widen/MatMul_output`` and has ``blocks.0.mlp.widen.weight``.
    """
    modules = [module_of(node) for node in graph]  # before any weight changes its name
    seen: Counter[str] = Counter()
    for node, module in zip(graph, modules, strict=True):
        name = f"{module}/{node.op_type}".removeprefix("/")
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        for output in node.outputs:
            if not output.is_graph_output():
                output.name = f"{node.name}_output"
        slots = onnx.defs.get_schema(node.op_type, graph.opset_imports[""]).inputs
        for value, slot in zip(node.inputs, slots, strict=False):
            if value is None or not value.is_initializer() or value.name in kept:
                continue
            parameter = PARAMETER_SLOTS.get((node.op_type, slot.name))
            value.name = f"{module}.{parameter}" if parameter else f"{node.name}_{slot.name}"
            kept = kept | {value.name}


def strip(model: ir.Model) -> None:
    """Remove metadata and doc strings, where the exporter leaves stack traces and paths."""
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
    for part in (model, graph, *graph, *values):
        part.metadata_props.clear()
        part.doc_string = None


# --- what the folder holds --------------------------------------------------------------------------------------------


def write_splits(calibration: Split, evaluation: Split) -> list[dict[str, Any]]:
    """Write both data files; return their entries of ``models.json``."""
    paths = CALIBRATION, EVALUATION
    np.savez_compressed(CALIBRATION, image=calibration.image)
    np.savez_compressed(EVALUATION, image=evaluation.image, labels=evaluation.labels)
    counts = len(calibration.labels), len(evaluation.labels)
    return [describe_file(path) | {"samples": samples} for path, samples in zip(paths, counts, strict=True)]


def describe_file(path: Path) -> dict[str, Any]:
    """Return name, digest and size of a file."""
    content = path.read_bytes()
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


def describe_model(recipe: Recipe, proto: onnx.ModelProto, evaluation: Split) -> dict[str, Any]:
    """Return the entry of a written model, with its accuracy as onnxruntime measures it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    session = ort.InferenceSession(recipe.path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": evaluation.image})
    samples = len(evaluation.labels)
    correct = int(np.sum(np.argmax(logits, axis=1) == evaluation.labels))
    accuracy = correct / samples
    return describe_file(recipe.path) | {
        "inputs": [value.name for value in proto.graph.input],
        "outputs": [value.name for value in proto.graph.output],
        "opset": recipe.opset,
        "parameters": count_parameters(proto),
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "correct": correct,
        "samples": samples,
        "accuracy": accuracy,
        "accuracy_standard_error": math.sqrt(accuracy * (1 - accuracy) / samples),
    }


def count_parameters(proto: onnx.ModelProto) -> int:
    """Count the elements of the float initializers that have a dimension; the others are constants such as a bound."""
    weights = [
        weight for weight in proto.graph.initializer if weight.data_type == onnx.TensorProto.FLOAT and weight.dims
    ]
    return sum(math.prod(weight.dims) for weight in weights)


def main() -> None:
    """Write every file of this folder that is not written by hand."""
    torch.set_num_threads(1)  # sums in one order
    torch.use_deterministic_algorithms(True)
    training, calibration, evaluation = load_splits()
    data = write_splits(calibration, evaluation)
    models = []
    for recipe in RECIPES:
        proto = export(recipe, train(recipe, training))
        recipe.path.write_bytes(proto.SerializeToString(deterministic=True))
        models.append(describe_model(recipe, proto, evaluation))
        print(f"{recipe.path.name}: {models[-1]['correct']} of {models[-1]['samples']} correct")
    made_with = {package: version(package) for package in PACKAGES}
    content = {"schema": 1, "made_with": made_with, "models": models, "data": data}
    (FOLDER / "models.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
