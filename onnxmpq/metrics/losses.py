"""Losses: how far a quantised model's outputs are from the float model's, per sample, and their second-order form.

Every output has a kind of its own, and so has each part of one that unlike things are joined in; a sample's loss is
their sum:

    kl      KL(p || softmax(l)) with p the float probabilities, for softmax heads; the mean over positions
    ce      -log softmax(l)[label], where labels are given
    power   error power / signal power (10 log10 of it is -SQNR), for everything else; of what stands beside scores,
            as boxes do, signal power is that around the mean of samples: places count for nothing where none moves

Around a centre with outputs c every loss has a linear and a quadratic part in the responses z = l - c:

    loss ≈ loss_c + Σ_a x_a mean z_aᵀ g + ½ Σ_ab x_a x_b mean y_aᵀ y_b

with, for kl and ce, q = softmax(c), g = q - p (or q - onehot), y = √q ⊙ (z - ⟨q, z⟩); and for power,
W = 2 / signal power, g = W (c - float), y = √W z. The quadratic part is a Gram matrix: positive semidefinite by
construction.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from onnxmpq.errors import InputError

F = TypeVar("F", np.float32, np.float64)
Array = npt.NDArray[np.float64]
Kind = Literal["kl", "ce", "power"]
LossFunction = Callable[[Mapping[str, Array], Mapping[str, Array]], Array]
"""A user's loss: from outputs and float outputs, each [samples, width] by name, to one number per sample."""


SMALL = 0.1  # nats, or error over signal power: a larger loss is of outputs that are no longer near the float model's
TOLD_APART = 2.0  # standard errors of a difference from which on losses are: chance gives as much 1 time in 20
_STILL = 2.0**-20
"""The least share of its power that an output is taken to have around its mean."""
_TOGETHER = 1 << 16
"""Numbers that are looked at together: of wide outputs no more than stays in a processor's caches."""


def log_softmax(logits: Array) -> Array:
    """Return log probabilities along the last axis.

    >>> float(np.exp(log_softmax(np.array([0.0, 0.0])))[0])
    0.5
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


@dataclass(frozen=True, slots=True)
class Part:
    """A run of places along an axis, counted from the end, of an output."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Head:
    """One output that counts: its name, kind, width (values per sample) and, for softmax, its number of classes.

    ``probabilities`` tells that the model gives probabilities, whose logarithms are taken as logits. ``power`` is the
    mean signal power per sample of the float model, where ``centred`` that around the mean of samples. ``axis``,
    counted from the end, is where the classes are. Where unlike things are joined in one output each ``part`` of it has
    a head of its own.
    """

    name: str
    kind: Kind
    width: int = 0
    classes: int = 0
    probabilities: bool = False
    power: float = 1.0
    axis: int = -1
    part: Part | None = None
    centred: bool = False

    @property
    def label(self) -> str:
        """Return what tells this head from others.

        >>> Head("y", "power").label, Head("y", "power", part=Part(-2, 4, 7)).label
        ('y', 'y[4:7]')
        """
        return self.name if self.part is None else f"{self.name}[{self.part.start}:{self.part.stop}]"

    def seen(self, output: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return what counts of an output."""
        array = np.asarray(output)
        if self.part is None:
            return array
        return np.moveaxis(np.moveaxis(array, self.part.axis, 0)[self.part.start : self.part.stop], 0, self.part.axis)

    def features(self, output: npt.NDArray[np.generic], samples: int) -> Array:
        """Return an output as [samples, width], in logits, classes last."""
        return self.logits(self.laid_out(output, samples), np.float64)

    def laid_out(self, output: npt.NDArray[np.generic], samples: int) -> npt.NDArray[np.generic]:
        """Return an output as [samples, width], classes last, its values as they are."""
        array = self.seen(output)
        return (np.moveaxis(array, self.axis, -1) if array.ndim else array).reshape(samples, -1)

    def logits(self, values: npt.NDArray[np.generic], kind: type[F]) -> npt.NDArray[F]:
        """Return values in logits, in an array of their own."""
        found = np.array(values, kind)
        return np.log(np.maximum(found, 1e-30, out=found), out=found) if self.probabilities else found


def doubt(outputs: Mapping[str, npt.NDArray[Any]], heads: Sequence[Head]) -> float:
    """Return how unsure a model is of a sample: 1 - Σ p² over classes, the mean over positions and softmax heads.

    It is what a divergence sees of a small change that is alike for all classes; 0 where there is no such head.
    """
    found = []
    for head in heads:
        if head.kind != "power":
            logits = head.features(outputs[head.name], 1)
            logs = log_softmax(logits.reshape(-1, outputs[head.name].shape[head.axis]))
            found.append(float(1 - (np.exp(2 * logs)).sum(1).mean()))
    return sum(found) / len(found) if found else 0.0


def rows_of(shapes: Mapping[str, tuple[int, ...]], heads: Sequence[Head], batch: int) -> int:
    """Return how many rows a sample has: the batch that inputs fix, where all outputs, of these shapes, have it, too.

    What an input fixes first may be something else, as the layers whose state it is.
    """
    return batch if batch > 1 and all(shapes[head.name][:1] == (batch,) for head in heads) else 1


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss over outputs of shape [samples, features], the heads side by side; ``reference`` are the float outputs."""

    heads: tuple[Head, ...]
    reference: Array
    labels: npt.NDArray[np.int64] | None = None
    function: LossFunction | None = None
    _float_logs: dict[str, tuple[Array, Array]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def values(self, outputs: Array) -> Array:
        """Return the loss of every sample: the heads' own, or that of the user's function."""
        if self.function is None:
            return self.built_in(outputs)
        given = {head.name: part for head, part, _ in self._parts(outputs)}
        wanted = {head.name: part for head, _, part in self._parts(outputs)}
        losses = np.asarray(self.function(given, wanted), np.float64)
        if losses.shape != (len(outputs),) or not np.isfinite(losses).all():
            raise InputError(
                f"The loss function must give one finite number for each of {len(outputs)} samples; "
                f"it gave an array of shape {losses.shape}."
            )
        return losses

    def built_in(self, outputs: Array) -> Array:
        """Return the sum of the heads' losses of every sample."""
        total = np.zeros(len(outputs))
        for head, part, wanted in self._parts(outputs):
            if head.kind == "power":
                total += _squared_distances(part, wanted) / head.power
            elif head.kind == "ce":
                logs = log_softmax(part.reshape(len(part), -1, head.classes))
                total -= np.take_along_axis(logs, targets_of(self.labels, logs.shape), 2).mean((1, 2))
            else:
                total += _divergences(part, *self._wanted(head, wanted)).mean(1)
        return total

    def around(self, centre: Array) -> "Around":
        """Return the linear and the quadratic part around some outputs."""
        slopes, probabilities = [], list[Array | None]()
        for head, part, wanted in self._parts(centre):
            if head.kind == "power":
                slopes.append(2 / head.power * (part - wanted))
                probabilities.append(None)
                continue
            q = np.exp(log_softmax(part.reshape(len(part), -1, head.classes)))
            if head.kind == "ce":
                target = np.zeros_like(q)
                np.put_along_axis(target, targets_of(self.labels, q.shape), 1.0, 2)
            else:
                target = self._wanted(head, wanted)[0]
            slopes.append(((q - target) / q.shape[1]).reshape(len(part), -1))
            probabilities.append(q)
        return Around(self.heads, np.concatenate(slopes, axis=1), tuple(probabilities))

    def noise(self, outputs: Array) -> Array:
        """Return the error power of every sample and head, [samples, heads]."""
        return np.stack([_squared_distances(part, wanted) for _, part, wanted in self._parts(outputs)], axis=1)

    def signal(self) -> Array:
        """Return the float signal power of every sample and head."""
        return np.stack([(wanted**2).sum(1) for _, _, wanted in self._parts(self.reference)], axis=1)

    def _wanted(self, head: Head, wanted: Array) -> tuple[Array, Array]:
        """Return the float model's probabilities and their logarithms, [samples, positions, classes]."""
        known = self._float_logs.get(head.name)
        if known is None:
            logs = log_softmax(wanted.reshape(len(wanted), -1, head.classes))
            known = self._float_logs[head.name] = np.exp(logs), logs
        return known

    def _parts(self, outputs: Array) -> Iterator[tuple[Head, Array, Array]]:
        position = 0
        for head in self.heads:
            span = slice(position, position + head.width)
            position += head.width
            yield head, outputs[:, span], self.reference[:, span]


def targets_of(labels: npt.NDArray[np.int64] | None, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return labels, [samples, positions, 1], of outputs of some samples, positions and classes."""
    if labels is None:
        raise InputError("Cross-entropy needs labels. Add 'labels' to the samples, or choose the loss kl.")
    samples, positions, classes = shape
    labels = labels.astype(np.int64).reshape(samples, -1, 1)
    if labels.shape[1] != positions:
        raise InputError(
            f"Cross-entropy needs {positions} labels for each sample, one for each position of the output; "
            f"there are {labels.shape[1]}."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"The labels go from {labels.min()} to {labels.max()}; the output has the classes 0 to "
            f"{classes - 1}. Correct the labels, or choose the loss kl."
        )
    return labels


@dataclass(frozen=True, slots=True)
class Around:
    """A loss around a centre: ``slope`` is g, its gradient in the outputs, per sample."""

    heads: tuple[Head, ...]
    slope: Array
    probabilities: tuple[Array | None, ...]

    def root(self, responses: Array) -> Array:
        """Return y, whose inner products are the quadratic part: responses in the metric of the loss."""
        parts, position = [], 0
        for head, q in zip(self.heads, self.probabilities, strict=True):
            z = responses[:, position : position + head.width]
            position += head.width
            if q is None:
                parts.append(np.sqrt(2 / head.power) * z)
                continue
            parts.append(_in_metric(z, q))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _divergences(logits: Array, probabilities: Array, logs: Array) -> Array:
    """Return KL(p || softmax(logits)) of every sample and position, from p and its logarithms."""
    classes = logs.shape[-1]
    rows, wanted, float_logs = (array.reshape(-1, classes) for array in (logits, probabilities, logs))
    found = np.empty(len(rows))
    for part, x, other in _parts_of(rows):
        np.subtract(rows[part], rows[part].max(axis=-1, keepdims=True), out=x)
        x -= np.log(np.exp(x, out=other).sum(axis=-1, keepdims=True))
        np.subtract(float_logs[part], x, out=x)
        x *= wanted[part]
        x.sum(axis=-1, out=found[part])
    return found.reshape(logs.shape[:2])


def _in_metric(responses: Array, probabilities: Array) -> Array:
    """Return √q ⊙ (z - ⟨q, z⟩) of every sample and position, over the root of the positions."""
    positions, classes = probabilities.shape[1:]
    rows, q = responses.reshape(-1, classes), probabilities.reshape(-1, classes)
    found = np.empty(rows.shape)
    for part, x, _ in _parts_of(rows):
        mean = np.multiply(q[part], rows[part], out=x).sum(axis=-1, keepdims=True)
        np.sqrt(np.divide(q[part], positions, out=x), out=x)
        np.multiply(x, np.subtract(rows[part], mean, out=found[part]), out=found[part])
    return found.reshape(responses.shape)


def _squared_distances(a: Array, b: Array) -> Array:
    """Return the squared distance of every row of one array from that of another."""
    found = np.empty(len(a))
    for part, x, _ in _parts_of(a):
        np.multiply(np.subtract(a[part], b[part], out=x), x, out=x)
        x.sum(axis=1, out=found[part])
    return found


def inner_products(a: Array, b: Array) -> Array:
    """Return the inner product of every row of one array with that of another."""
    found = np.empty(len(a))
    for part, x, _ in _parts_of(a):
        np.multiply(a[part], b[part], out=x).sum(axis=1, out=found[part])
    return found


def _parts_of(rows: Array) -> Iterator[tuple[slice, Array, Array]]:
    """Yield which rows are looked at together, and room for two arrays of their size, the same for all."""
    count = max(_TOGETHER // max(rows.shape[1], 1), 1)
    room = np.empty((2, min(count, len(rows)), rows.shape[1]))
    for start in range(0, len(rows), count):
        size = min(count, len(rows) - start)
        yield slice(start, start + size), room[0, :size], room[1, :size]


def powered(heads: Sequence[Head], powers: Array, spreads: Array | None = None) -> tuple[Head, ...]:
    """Return heads with the mean signal power of each, over all samples; centred ones with that around the mean.

    That is not taken to be nothing, as where all samples are one: an output that hardly moves would be all that counts.
    """
    found = []
    for head, power, spread in zip(heads, powers, powers if spreads is None else spreads, strict=True):
        own = max(float(spread), float(power) * _STILL) if head.centred else float(power)
        found.append(replace(head, power=max(own, 1e-30)))
    return tuple(found)


def spreads_of(heads: Sequence[Head], rows: Iterable[Array]) -> Array:
    """Return half the power by which the outputs of a sample differ from those of the one before, [samples - 1, heads].

    Its mean is the power around the mean of samples, whatever that is; no sample has to be kept.
    """
    ends = np.cumsum([head.width for head in heads])[:-1]
    found = [
        [float((part**2).sum()) / 2 for part in np.split(after - before, ends)] for before, after in pairwise(rows)
    ]
    return np.array(found, np.float64).reshape(-1, len(heads))


def mean_and_error(values: Array) -> tuple[float, float]:
    """Return the mean over samples and its standard error."""
    count = len(values)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
