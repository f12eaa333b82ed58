"""Losses of outputs that are too wide to be kept: of one sample at a time, in single precision, in one sweep.

    sweep = Sweep(heads, floats, centre, labels)     one sample: the float model's outputs, and a centre's
    sweep.losses(outputs)                            loss, and the error power of every head
    sweep.response(outputs)                          and, around the centre, first-order part and root of the second

Everything is counted from d, what an output differs by from the float model's. With Σ p d = 0, which a shift of all
classes brings about, a divergence is

    KL(p || softmax(l)) = log Σ p exp(d) = Σ p (exp(d) - 1 - d), and less than its square besides

and no large numbers cancel. Where a class has much of the probability its part is counted in double precision.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmpq.metrics.losses import Head, targets_of

Single = npt.NDArray[np.float32]
Outputs = Sequence[npt.NDArray[Any]]
"""What every head gives for one sample, [1, width], classes last."""

_TOGETHER = 1 << 15
"""Numbers that are looked at together: all that a sweep makes of them stays in a processor's caches."""
_MUCH = 2.0**-12
"""The probability from which on a class is counted in double precision; there are few of them."""
_SMALL = 0.1
"""What exp(d) may add to a sum of probabilities to count as a small difference."""
_NEARER, _NEAR, _FAR = 2.0**-7, 0.5, 32.0
"""Up to which d three terms of a series are enough, and six, and an exponential is no overflow."""
_TERMS = [np.float32(1 / math.factorial(power)) for power in range(2, 8)]


@dataclass(frozen=True, slots=True)
class Found:
    """What an output loses, and what it is around a centre, where that was asked for: the root has all heads."""

    loss: float
    noise: npt.NDArray[np.float64]
    linear: float = 0.0
    root: Single | None = None


class Sweep:
    """Knows what the float model and a centre give for one sample."""

    def __init__(
        self, heads: Sequence[Head], floats: Outputs, centre: Outputs, labels: npt.NDArray[np.int64] | None
    ) -> None:
        """Labels are of the sample, [1, positions]; a centre that is the float model itself is the same object."""
        given = zip(heads, floats, centre, strict=True)
        self.heads = tuple(heads)
        self.parts = tuple(_part(head, own, None if other is own else other, labels) for head, own, other in given)

    def losses(self, outputs: Outputs) -> Found:
        """Return what outputs lose."""
        found = [part.swept(output, None) for part, output in zip(self.parts, outputs, strict=True)]
        return Found(sum(one.loss for one in found), np.array([one.noise for one in found]))

    def response(self, outputs: Outputs) -> Found:
        """Return what outputs lose, and the linear and the quadratic part around the centre."""
        root = np.empty((1, sum(head.width for head in self.heads)), np.float32)
        found, position = [], 0
        for part, output in zip(self.parts, outputs, strict=True):
            found.append(part.swept(output, root[:, position : position + part.head.width]))
            position += part.head.width
        noise = np.array([one.noise for one in found])
        return Found(sum(one.loss for one in found), noise, sum(one.linear for one in found), root)

    @property
    def reference(self) -> Single:
        """Return the float model's outputs as features, [1, width]."""
        return np.concatenate([part.wanted.reshape(1, -1) for part in self.parts], axis=1)

    def signal(self) -> npt.NDArray[np.float64]:
        """Return the float model's signal power of every head."""
        return np.array([np.square(part.wanted, dtype=np.float64).sum() for part in self.parts])


@dataclass(slots=True)
class _Swept:
    """What is summed up over the parts of one head."""

    loss: float = 0.0
    noise: float = 0.0
    linear: float = 0.0


def _part(
    head: Head, floats: npt.NDArray[Any], centre: npt.NDArray[Any] | None, labels: npt.NDArray[np.int64] | None
) -> "_Power | _Classes":
    if head.kind == "power":
        return _Power(head, floats, centre)
    return _Classes(head, floats, centre, labels)


class _Power:
    """A head whose loss is error power."""

    def __init__(self, head: Head, floats: npt.NDArray[Any], centre: npt.NDArray[Any] | None) -> None:
        self.head, self.wanted = head, head.logits(floats, np.float32)
        self.moved = None if centre is None else head.logits(centre, np.float32) - self.wanted

    def swept(self, output: npt.NDArray[Any], root: Single | None) -> _Swept:
        """Sum up loss and noise, and the linear part; write the root where it is wanted."""
        found, power = _Swept(), self.head.power
        for some in _slices(output.shape[1], 1):
            error = np.subtract(self.head.logits(output[:, some], np.float32), self.wanted[:, some])
            found.noise += _inner(error, error)
            if root is None:
                continue
            if self.moved is not None:
                error -= self.moved[:, some]
                found.linear += 2 / power * _inner(self.moved[:, some], error)
            np.multiply(error, np.float32(np.sqrt(2 / power)), out=root[:, some])
        found.loss = found.noise / power
        return found


class _Classes:
    """A head of classes at some positions, whose loss is a divergence or cross-entropy."""

    def __init__(
        self,
        head: Head,
        floats: npt.NDArray[Any],
        centre: npt.NDArray[Any] | None,
        labels: npt.NDArray[np.int64] | None,
    ) -> None:
        self.head = head
        self.wanted = self._rows(floats)
        self.positions = len(self.wanted)
        self.p, self.log_sums = _softmax(self.wanted)
        self.moved = None if centre is None else self._rows(centre) - self.wanted
        self.q = self.p if self.moved is None else _softmax(np.add(self.wanted, self.moved))[0]
        self.scale = np.sqrt(self.q / np.float32(self.positions))
        self.targets: npt.NDArray[np.int64] | None = None
        self.surprise = np.zeros(self.positions)
        if head.kind == "ce":
            self.targets = targets_of(labels, (1, *self.wanted.shape)).ravel()
            self.surprise = self.log_sums - self.wanted[np.arange(self.positions), self.targets]
        self.slices = list(_slices(self.positions, head.classes))
        self.much = [np.nonzero(self.p[some] > _MUCH) for some in self.slices]

    def _rows(self, output: npt.NDArray[Any]) -> Single:
        return self.head.logits(output, np.float32).reshape(-1, self.head.classes)

    def swept(self, output: npt.NDArray[Any], root: Single | None) -> _Swept:
        """Sum up loss and noise, and the linear part; write the root where it is wanted."""
        found, rows = _Swept(), output.reshape(-1, self.head.classes)
        roots = None if root is None else root.reshape(rows.shape)
        for some, much in zip(self.slices, self.much, strict=True):
            p = self.p[some]
            d = self.head.logits(rows[some], np.float32)
            d -= self.wanted[some]
            found.noise += _inner(d, d)
            if roots is not None and self.moved is not None:
                found.linear += self._around(some, np.subtract(d, self.moved[some]), roots[some])
            d -= _means(p, d)
            found.loss += float(self._losses(some, d, p, much).sum())
            if roots is not None and self.moved is None:  # the centre is the float model: its slope is 0, but at labels
                np.multiply(d, self.scale[some], out=roots[some])
                found.linear -= self._at_targets(some, d)
        found.loss /= self.positions
        found.linear /= self.positions
        return found

    def _losses(self, some: slice, d: Single, p: Single, much: Any) -> npt.NDArray[np.float64]:
        """Return the loss at some positions; d has a mean of about 0 there."""
        far = max(float(d.max()), -float(d.min()))
        left = _means(p, d)[:, 0].astype(np.float64)
        if far > _FAR:
            losses = _log_sums(self.wanted[some].astype(np.float64) + d) - self.log_sums[some] - left
        else:
            second = _means(p, _beyond_line(d, far, much))[:, 0].astype(np.float64)
            grown = second + left
            losses = np.where(grown < _SMALL, second - (grown - np.log1p(grown)), np.log1p(grown) - left)
        if self.targets is None:
            return losses
        picked = d[np.arange(len(d)), self.targets[some]]
        found: npt.NDArray[np.float64] = self.surprise[some] + losses + left - picked
        return found

    def _around(self, some: slice, z: Single, root: Single) -> float:
        """Write the root of some positions around a centre that is another; return the linear part."""
        mean = _means(self.q[some], z)
        linear = float(mean.sum(dtype=np.float64))
        expected = _means(self.p[some], z).sum(dtype=np.float64) if self.targets is None else self._at_targets(some, z)
        z -= mean
        np.multiply(z, self.scale[some], out=root)
        return linear - float(expected)

    def _at_targets(self, some: slice, values: Single) -> float:
        if self.targets is None:
            return 0.0
        return float(values[np.arange(len(values)), self.targets[some]].sum(dtype=np.float64))


def _softmax(logits: Single) -> tuple[Single, npt.NDArray[np.float64]]:
    """Return probabilities, and the logarithms of the sums of exponentials."""
    p, sums = np.empty_like(logits), np.empty(len(logits))
    for some in _slices(*logits.shape):
        rows = logits[some].astype(np.float64)
        sums[some] = _log_sums(rows)
        p[some] = np.exp(rows - sums[some, None])
    return p, sums


def _log_sums(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the logarithm of the sum of exponentials of every row."""
    top = rows.max(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = (np.log(np.exp(rows - top).sum(axis=1, keepdims=True)) + top)[:, 0]
    return found


def _beyond_line(d: Single, far: float, much: Any) -> Single:
    """Return exp(d) - 1 - d of numbers up to ``far`` from 0, to the precision that they have.

    An exponential near 1 loses it: what it is off by is as large as the square of a small d. Of numbers that are no
    smaller it is taken but for those with ``much`` weight.
    """
    if far < _NEAR:
        terms = _TERMS[: 3 if far < _NEARER else None]
        found = np.multiply(d, terms[-1])
        for term in reversed(terms[:-1]):
            found += term
            found *= d
        found *= d
        return found
    found = np.exp(d)
    found -= 1
    found -= d
    exact = d[much].astype(np.float64)
    found[much] = np.expm1(exact) - exact
    return found


def _means(weights: Single, values: Single) -> Single:
    """Return the sum of weighed values of every row, [rows, 1]."""
    found: Single = np.einsum("ij,ij->i", weights, values)[:, None]
    return found


def _inner(a: Single, b: Single) -> float:
    return float(np.einsum("ij,ij->i", a, b).sum(dtype=np.float64))


def _slices(count: int, width: int) -> Iterator[slice]:
    """Yield which of so many rows of a width are looked at together."""
    step = max(_TOGETHER // max(width, 1), 1)
    for start in range(0, count, step):
        yield slice(start, start + step)
