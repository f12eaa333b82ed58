"""Two models on the same samples: accuracy, how far a metric falls, mean loss.

A model is anything that runs a feed, as sessions of runtimes do; errors are those of paired differences.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from onnxmpq.artifacts import Accuracy
from onnxmpq.data.samples import checked_labels
from onnxmpq.errors import InputError
from onnxmpq.metrics.losses import Head, Loss, mean_and_error, powered, rows_of, spreads_of

Feed = Mapping[str, np.ndarray]


class Model(Protocol):
    """What runs a feed."""

    def run(self, feed: Feed) -> Mapping[str, np.ndarray]:
        """Return the outputs, in their order."""
        ...


def accuracy(before: Model, after: Model, feeds: Iterable[Feed], labels: np.ndarray) -> Accuracy:
    """Return top-1 accuracy before and after; the error is that of the paired difference."""
    labels = checked_labels(labels)
    hits: list[list[bool]] = [[], []]
    position = 0
    for feed in feeds:
        rows = 0
        for session, seen in zip((before, after), hits, strict=True):
            output = next(iter(session.run(feed).values()))
            top = output.reshape(*output.shape[:1], -1).argmax(-1).reshape(-1)
            rows = len(top)
            told = labels[position : position + rows].reshape(-1)
            if len(told) != rows:
                raise _labels_misfit(labels)
            if (told >= (classes := output.size // max(rows, 1))).any():
                raise InputError(
                    f"The labels go up to {told.max()}; the first output has the classes 0 to {classes - 1}. Correct "
                    "them, or leave the labels out."
                )
            seen += list(top == told)
        position += rows
    if position != len(labels):
        raise _labels_misfit(labels)
    first, second = (np.asarray(seen, float) for seen in hits)
    error = float(np.std(second - first, ddof=1) / np.sqrt(len(first))) if len(first) > 1 else 0.0
    return Accuracy(float(first.mean()), float(second.mean()), error, len(first))


def fall(
    before: Model, after: Model, feeds: Iterable[Feed], labels: np.ndarray | None, *, classes: bool
) -> tuple[float, float]:
    """Return how far quantising takes the metric down, as a share, and its standard error.

    With labels that is accuracy; without, the share of samples whose class changes (accuracy cannot fall further), or
    for a first output that has no ``classes`` its error power over its power.
    """
    if labels is not None:
        found = accuracy(before, after, feeds, labels)
        return found.before - found.after, found.difference_error
    changed: list[np.ndarray] = []
    power: list[np.ndarray] = []
    for feed in feeds:
        wanted, got = (np.asarray(next(iter(session.run(feed).values())), np.float64) for session in (before, after))
        if classes:
            changed.append((wanted.argmax(-1) != got.argmax(-1)).astype(float).ravel())
        else:
            changed.append(((got - wanted) ** 2).reshape(len(wanted), -1).sum(1))
            power.append((wanted**2).reshape(len(wanted), -1).sum(1))
    values = np.concatenate(changed) / (np.concatenate(power).mean() if power else 1.0)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def mean_loss(
    before: Model, after: Model, feeds: Iterable[Feed], heads: Sequence[Head], batch: int = 1
) -> tuple[float, float]:
    """Return the mean loss of a model against another and its standard error, as an engine measures it.

    ``batch`` is what the model's inputs fix as their first dimension.
    """
    return mean_and_error(head_losses(before, after, feeds, heads, batch).sum(1))


def head_losses(
    before: Model, after: Model, feeds: Iterable[Feed], heads: Sequence[Head], batch: int = 1
) -> np.ndarray:
    """Return what each head adds to the loss of a model against another on every sample, [samples, heads]."""
    counted = [_Counted(head) for head in heads]
    for feed in feeds:
        wanted, got = before.run(feed), after.run(feed)
        rows = rows_of({head.name: wanted[head.name].shape for head in heads}, heads, batch)
        for head in heads:
            if got[head.name].shape != wanted[head.name].shape:
                raise InputError(
                    f"The file gives output '{head.name}' as {got[head.name].shape} and the float model as "
                    f"{wanted[head.name].shape}: it was made of another. Name the model that it came from."
                )
        for each in counted:
            each.add(wanted[each.head.name], got[each.head.name], rows)
    return np.stack([each.losses() for each in counted], axis=1)


@dataclass(slots=True)
class _Counted:
    """What is counted of one head, sample by sample: its loss beside a power of one, and its own powers."""

    head: Head
    values: list[np.ndarray] = field(default_factory=list)
    powers: list[np.ndarray] = field(default_factory=list)
    spreads: list[np.ndarray] = field(default_factory=list)
    last: np.ndarray | None = None

    def add(self, wanted: np.ndarray, got: np.ndarray, rows: int) -> None:
        """Count some samples."""
        classes = wanted.shape[self.head.axis] if wanted.shape else 1
        features = self.head.features(wanted, rows)
        own = Loss((replace(self.head, width=features.shape[1], classes=classes),), features)
        self.values.append(own.values(self.head.features(got, rows)))
        self.powers.append(own.signal()[:, 0])
        if self.head.centred:
            one_size = self.last is not None and self.last.shape[1] == features.shape[1]
            seen = np.concatenate([self.last, features]) if self.last is not None and one_size else features
            self.spreads.append(spreads_of(own.heads, seen)[:, 0])
            self.last = features[-1:]

    def losses(self) -> np.ndarray:
        """Return the loss of every sample."""
        values = np.concatenate(self.values)
        if self.head.kind != "power":
            return values
        spreads = np.concatenate(self.spreads) if self.spreads else np.zeros(0)
        powers = np.array([np.concatenate(self.powers).mean()])
        [head] = powered([self.head], powers, spreads.mean(keepdims=True) if len(spreads) else None)
        scaled: np.ndarray = values / head.power
        return scaled


def _labels_misfit(labels: np.ndarray) -> InputError:
    return InputError(
        f"Accuracy needs one label for each row of the first output, not labels of shape {labels.shape}. "
        "Leave the labels out to skip it."
    )
