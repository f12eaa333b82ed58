"""Data that models were not calibrated on, and what whole models do on them: losses and hits of every sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from benchmarks import zoo
from benchmarks.zoo import Split, ZooModel
from onnxmpq.metrics.heads import find_heads
from onnxmpq.metrics.losses import Array, Loss, powered
from onnxmpq.runtimes import Session, get_runtime

EMBEDDED = ("digits_cnn", "digits_vit")
_BATCH = 50


@dataclass(frozen=True, slots=True)
class Outcome:
    """What kind of loss it is and that of every model on every sample; which samples each classifies, float first."""

    kind: str
    losses: tuple[Array, ...]
    hits: tuple[np.ndarray, ...] | None


def data_of(name: str, most: int | None = None) -> ZooModel:
    """Return an embedded model with its data, or one of the zoo; ``most`` samples of each split."""
    if name in EMBEDDED:
        folder = Path("models")
        with np.load(folder / "digits_calibration.npz") as kept, np.load(folder / "digits_evaluation.npz") as other:
            split = Split("digits", {"image": other["image"][:most]}, other["labels"][:most])
            return ZooModel(name, folder / f"{name}.onnx", {"image": kept["image"]}, (split,), "top1")
    path = zoo.folder() / "models" / f"{name}.onnx"
    session = get_runtime("onnxruntime").session(path, mode="deployed")
    model = zoo.zoo_model(name, session.inputs[0].name)
    splits = tuple(
        Split(split.name, {key: array[:most] for key, array in split.feeds.items()}, split.truth[:most])
        for split in model.splits
    )
    return replace(model, splits=splits)


def run_on(splits: Sequence[Split], model: ir.Model, before: Session, after: Sequence[Session]) -> Outcome:
    """Run float and other models over all splits."""
    heads = find_heads(model)
    outputs: list[list[Array]] = [[] for _ in (before, *after)]
    classes: dict[str, int] = {}
    for split in splits:
        count = len(next(iter(split.feeds.values())))
        for start in range(0, count, _BATCH):
            feed = zoo.cut({key: array[start : start + _BATCH] for key, array in split.feeds.items()})
            rows = len(next(iter(feed.values())))
            for session, parts in zip((before, *after), outputs, strict=True):
                given = session.run(feed)
                classes |= {head.name: given[head.name].shape[head.axis] for head in heads}
                parts.append(np.concatenate([head.features(given[head.name], rows) for head in heads], axis=1))
    every = tuple(np.concatenate(parts) for parts in outputs)
    widths = [every[0].shape[1]] if len(heads) == 1 else [classes[head.name] for head in heads]
    heads = tuple(
        replace(head, width=width, classes=classes[head.name]) for head, width in zip(heads, widths, strict=True)
    )
    loss = Loss(heads, every[0])
    loss = Loss(powered(heads, loss.signal().mean(0)), every[0])
    hits: tuple[np.ndarray, ...] | None = None
    truth = np.concatenate([split.truth for split in splits])
    if len(heads) == 1 and heads[0].kind == "kl" and truth.shape == (len(every[0]),):
        hits = tuple(values.argmax(1) == truth for values in every)
    return Outcome("+".join(head.kind for head in heads), tuple(loss.values(values) for values in every[1:]), hits)
