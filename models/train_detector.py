"""Train the example detector on drawn shapes and write it, and the figures beside it.

    python models/train_detector.py   ->   shapes_detector.onnx      shapes_detector.json

What is exported is what detectors of this kind are exported as: two heads at strides 8 and 16, both reshaped and joined
place after place, boxes decoded to pixels in the graph, and joined with the scores into one output:

    deep ─ box 1x1 ─ Reshape ┐
    fine ─ box 1x1 ─ Reshape ┴ Concat ─ decode (places, Exp, strides) ─ boxes in pixels ┐
    deep ─ class 1x1 ─ Reshape ┐                                                        ├ Concat ─ detections
    fine ─ class 1x1 ─ Reshape ┴ Concat ─ Sigmoid ─ scores in 0..1 ─────────────────────┘

Pictures are drawn by ``shapes.py``: training, calibration and evaluation differ in their seeds alone.
"""

import copy
import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import shapes
import torch
from torch import Tensor, nn
from torch.nn import functional
from train import ConvUnit, count_parameters, describe_file, follow, rename, strip

FOLDER = Path(__file__).parent
NAME = "shapes_detector"
SEED = 7
TRAINING_SEED, EVALUATION_SEED = 1, 3  # of pictures; 2 calibrates
TRAINED, EVALUATED = 12_000, 500  # pictures
EPOCHS = 10
BATCH = 32
LEARNING_RATE = 4e-3
OPSET = 18
STRIDES = (8, 16)  # pixels
DIVIDE = 26.0  # pixels: larger objects are found at the larger stride
PACKAGES = ("torch", "onnxscript", "onnx", "onnx-ir", "onnxruntime", "numpy")


# --- the network ------------------------------------------------------------------------------------------------------


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> ConvUnit:
    """Convolve, normalise and activate."""
    return ConvUnit(inputs, outputs, kernel, stride=stride, activation=nn.ReLU)


class SplitBlock(nn.Module):
    """Narrow, convolve, and join what is before and behind that; of detectors of one stage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.narrow = unit(channels, half, 1)
        self.inner = unit(half, half, 3)
        self.join = unit(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return as many channels as came in."""
        narrow = self.narrow(x)
        y: Tensor = self.join(torch.cat([narrow, self.inner(narrow)], dim=1))
        return y


class Head(nn.Module):
    """Give four numbers for a box and the logits of the classes at every place of a plane."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.stem = unit(inputs, 32, 3)
        self.box = nn.Conv2d(32, 4, 1)
        self.classes = nn.Conv2d(32, len(shapes.CLASSES), 1)
        nn.init.constant_(self.classes.bias, -4.0)  # few places have an object

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return [batch, 4, places] and [batch, classes, places]."""
        y = self.stem(x)
        return self.box(y).flatten(2), self.classes(y).flatten(2)


class Detector(nn.Module):
    """Find shapes at two strides."""

    centres: Tensor
    strides: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(unit(1, 16, 3, 2), unit(16, 32, 3, 2), unit(32, 64, 3, 2))
        self.block = SplitBlock(64)
        self.down = unit(64, 64, 3, 2)
        self.lateral = unit(64, 32, 1)
        self.merge = unit(96, 48, 1)
        self.fine_head = Head(48)
        self.deep_head = Head(64)
        centres, strides = places()
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def raw(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return decoded boxes, [batch, 4, places], and logits of the classes."""
        fine = self.block(self.stem(image))
        deep = self.down(fine)
        above = functional.interpolate(self.lateral(deep), scale_factor=2.0, mode="nearest")
        found = self.fine_head(self.merge(torch.cat([above, fine], dim=1))), self.deep_head(deep)
        boxes, logits = (torch.cat(parts, dim=2) for parts in zip(*found, strict=True))
        centre, size = boxes[:, :2], boxes[:, 2:]
        decoded = torch.cat([centre * self.strides + self.centres, torch.exp(size) * self.strides * 2], dim=1)
        return decoded, logits

    def forward(self, image: Tensor) -> Tensor:
        """Return centre, width and height in pixels, and the scores, [batch, 4 + classes, places]."""
        boxes, logits = self.raw(image)
        return torch.cat([boxes, logits.sigmoid()], dim=1)


def places() -> tuple[Tensor, Tensor]:
    """Return the centres of all places, [1, 2, places], and their strides, [1, 1, places]; the finer ones first."""
    centres, strides = [], []
    for stride in STRIDES:
        line = (torch.arange(shapes.SIDE // stride) + 0.5) * stride
        y, x = torch.meshgrid(line, line, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, len(line) ** 2), float(stride)))
    return torch.cat(centres, dim=1)[None], torch.cat(strides, dim=1)[None]


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pictures and their objects, padded to as many each: boxes [n, most, 4], classes [n, most], -1 where none is."""

    image: Tensor
    boxes: Tensor
    classes: Tensor

    def turned(self, chosen: Tensor) -> "Drawn":
        """Return some pictures, half of them mirrored."""
        image, boxes = self.image[chosen], self.boxes[chosen]
        mirrored = torch.rand(len(chosen)) < 0.5
        flipped = torch.stack([shapes.SIDE - boxes[..., 2], boxes[..., 1], shapes.SIDE - boxes[..., 0], boxes[..., 3]])
        image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
        return Drawn(image, torch.where(mirrored[:, None, None], flipped.permute(1, 2, 0), boxes), self.classes[chosen])


def drawn(count: int, seed: int) -> Drawn:
    """Draw pictures to train on."""
    image, objects = shapes.draw(count, seed)
    boxes = torch.zeros(count, shapes.MOST_OBJECTS, 4)
    classes = torch.full((count, shapes.MOST_OBJECTS), -1)
    for number, held in enumerate(objects):
        boxes[number, : len(held.boxes)] = torch.from_numpy(held.boxes).float()
        classes[number, : len(held.classes)] = torch.from_numpy(held.classes)
    return Drawn(torch.from_numpy(image), boxes, classes)


def owners(batch: Drawn, centres: Tensor, strides: Tensor) -> Tensor:
    """Return which object every place of every picture is to find, [batch, places], -1 where none.

    Those whose centre is nearer than a stride, of the stride that is for objects of their size.
    """
    low, high = batch.boxes[..., :2], batch.boxes[..., 2:]
    middle, size = (low + high) / 2, (high - low).amax(dim=2)
    apart = (middle[..., None] - centres[:, None]).abs().amax(dim=2) / strides  # [batch, most, places]
    fits = (size[..., None] > DIVIDE) == (strides == STRIDES[1])
    held = (apart < 1) & fits & (batch.classes[..., None] >= 0)
    nearest = torch.where(held, apart, torch.inf)
    return torch.where(held.any(dim=1), nearest.argmin(dim=1), -1)


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU, and its generalised form, of boxes [n, 4] side by side."""
    common = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    areas = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1)
    shared = common / (areas - common).clamp(min=1e-6)
    return shared, shared - (hull - areas + common) / hull.clamp(min=1e-6)


def loss_of(network: Detector, batch: Drawn) -> Tensor:
    """Return what a batch loses: boxes by generalised IoU, scores towards the IoU that boxes reach."""
    decoded, logits = network.raw(batch.image)
    own = owners(batch, network.centres, network.strides)
    picture, place = torch.nonzero(own >= 0, as_tuple=True)
    chosen = own[picture, place]
    box = decoded[picture, :, place]
    corners = torch.cat([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], dim=1)
    shared, general = overlap(corners, batch.boxes[picture, chosen])
    target = torch.zeros_like(logits)
    target[picture, batch.classes[picture, chosen], place] = shared.detach().clamp(0, 1)
    weight = torch.where(target > 0, target, 0.75 * logits.detach().sigmoid() ** 2)
    scores = functional.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    total = (scores + 2 * (1 - general).sum()) / max(len(chosen), 1)
    return total


def train() -> Detector:
    """Return the network with its weights averaged over the last steps, in evaluation mode."""
    torch.manual_seed(SEED)
    network = Detector()
    average = copy.deepcopy(network)
    data = drawn(TRAINED, TRAINING_SEED)
    steps = TRAINED // BATCH * EPOCHS
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.15)
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(TRAINED)[: TRAINED // BATCH * BATCH].reshape(-1, BATCH):
            loss = loss_of(network, data.turned(chosen))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            follow(average, network)
            total += float(loss.detach())
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {total / (TRAINED // BATCH):.3f}", flush=True)
    return average.eval()


# --- export -----------------------------------------------------------------------------------------------------------


def export(network: Detector) -> onnx.ModelProto:
    """Return the network in ONNX, with a dynamic batch, readable names and nothing but the graph in it."""
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 1, shapes.SIDE, shapes.SIDE),),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["detections"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None
    model = program.model
    rename(model.graph, kept=set(network.state_dict()))
    strip(model)
    model.graph.name = NAME
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def describe_model(proto: onnx.ModelProto) -> dict[str, Any]:
    """Return the entry of the written model, with its mAP as onnxruntime gives it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    path = FOLDER / f"{NAME}.onnx"
    image, objects = shapes.draw(EVALUATED, EVALUATION_SEED)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(["detections"], {"image": image})
    found = shapes.detections(np.asarray(output))
    return describe_file(path) | {
        "inputs": [value.name for value in proto.graph.input],
        "outputs": [value.name for value in proto.graph.output],
        "opset": OPSET,
        "parameters": count_parameters(proto),
        "seed": SEED,
        "epochs": EPOCHS,
        "samples": EVALUATED,
        "evaluation_seed": EVALUATION_SEED,
        "average_precision": shapes.average_precision(found, objects),
        "average_precision_50": shapes.average_precision(found, objects, [0.5]),
    }


def main() -> None:
    """Train, export and describe."""
    torch.set_num_threads(1)  # sums in one order
    torch.use_deterministic_algorithms(True)
    proto = export(train())
    (FOLDER / f"{NAME}.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    entry = describe_model(proto)
    print(f"{entry['file']}: mAP {entry['average_precision']:.4f}, {entry['average_precision_50']:.4f} at IoU 0.5")
    content = {"schema": 1, "made_with": {name: version(name) for name in PACKAGES}, "models": [entry]}
    (FOLDER / f"{NAME}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
