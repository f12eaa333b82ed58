"""What losses make of the outputs of one batch: those of the float model, of a centre, and of what differs from it.

    outputs of a feed  ─▶  laid out [samples, width]  ─▶  loss, noise, first-order part, root of the second-order part

All samples are judged together, in double precision. Outputs that are too wide to be kept are judged sample by sample,
in single precision, and of their roots there is a sketch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxmpq.metrics.losses import (
    Around,
    Array,
    Head,
    Loss,
    LossFunction,
    inner_products,
    log_softmax,
    spreads_of,
)
from onnxmpq.metrics.wide import Sweep

Results = dict[str, npt.NDArray[Any]]
Arrays = dict[str, npt.NDArray[Any]]
Laid = list[list[npt.NDArray[Any]]]
"""What some feeds give: for each of them and every head an array [samples, width]."""
SKETCH = 4096
"""Features per sample above which responses are kept as seeded random projections of this width."""


class Judge:
    """Knows the outputs of the float model and of a centre on one batch; what differs is given feed by feed."""

    def __init__(
        self,
        heads: Sequence[Head],
        rows: Sequence[int],
        floats: Sequence[Arrays],
        centre: Sequence[Arrays],
        labels: npt.NDArray[np.int64] | None,
        function: LossFunction | None,
        seed: int,
    ) -> None:
        """``rows`` are the samples of every feed, ``floats`` and ``centre`` outputs there: the same list or another."""
        self.rows, self.samples, self.seed = rows, sum(rows), seed
        self._outputs = centre
        self.heads = tuple(_sized(head, floats[0][head.name], rows[0]) for head in heads)
        self.width = sum(head.width for head in self.heads)
        self._each = self.width > SKETCH and function is None
        wanted = list(self._laid_out(floats))
        beside = wanted if centre is floats else self._laid_out(centre)
        self.blocks: list[_Block]
        if self._each:
            parts = [None] * self.samples if labels is None else labels.reshape(self.samples, -1)
            self.blocks = [_Each(self.heads, a, b, own) for a, b, own in zip(wanted, beside, parts, strict=True)]
        else:
            pairs = zip(wanted, beside, strict=True)
            self.blocks = [_Together(self.heads, a, b, labels, function) for a, b in pairs]

    def _laid_out(self, outputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> Iterator[Laid]:
        """Yield what is judged together: all samples, or one after the other."""
        laid = [
            [head.laid_out(held[head.name], count) for head in self.heads]
            for held, count in zip(outputs, self.rows, strict=True)
        ]
        if not self._each:
            yield laid
            return
        for values in laid:
            for row in range(len(values[0])):
                yield [[value[row : row + 1] for value in values]]

    def _changed(self, news: Sequence[Mapping[str, npt.NDArray[Any]]]) -> Iterator[tuple["_Block", Laid]]:
        """Yield what is judged together with what is new in it."""
        outputs = [{**held, **new} for held, new in zip(self._outputs, news, strict=True)]
        return zip(self.blocks, self._laid_out(outputs), strict=True)

    def centre(self) -> Results:
        """Return the loss of the centre, the float model's signal powers, and the outputs of both as features.

        Of outputs that are too wide to be kept there is a sketch of the float model's. Where a head is centred there
        are the spreads from sample to sample, too.
        """
        found: Results = {
            "loss": np.concatenate([block.losses(laid)[0] for block, laid in self._changed([{}] * len(self.rows))]),
            "signal": np.concatenate([block.signal() for block in self.blocks]),
            "widths": np.array([(head.width, head.classes) for head in self.heads]),
        }
        if any(head.centred for head in self.heads):
            found["spread"] = spreads_of(self.heads, (row for block in self.blocks for row in block.floats()))
        if self.width <= SKETCH:
            return found | {"float": self.blocks[0].floats(), "centre": self.blocks[0].centre()}
        sketches = [sketch(block.floats(), self.seed) for block in self.blocks]
        return found | {"sketch": np.concatenate(sketches).astype(np.float32)}

    def losses(self, news: Sequence[Arrays]) -> Array:
        """Return the loss of every sample."""
        return np.concatenate([block.losses(laid)[0] for block, laid in self._changed(news)])

    def plan(self, news: Sequence[Arrays]) -> Results:
        """Return the loss of every sample, and the error power of its outputs."""
        losses, noises = zip(*(block.losses(laid) for block, laid in self._changed(news)), strict=True)
        return {"loss": np.concatenate(losses), "noise": np.concatenate(noises)}

    def response(self, news: Sequence[Arrays], local: Array) -> Results:
        """Return everything about a response, per sample; ``local`` are its errors where it begins."""
        found = [block.response(laid, self.seed) for block, laid in self._changed(news)]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]} | {"local": local}

    def log_likelihood(self, news: Sequence[Arrays]) -> Array:
        """Return log p(y | x) per sample, with labels y drawn from the float model, the same at every call."""
        generator = np.random.default_rng([self.seed, 1])
        found = [
            _log_likelihood(self.heads, block.floats(), _features(self.heads, laid), generator)
            for block, laid in self._changed(news)
        ]
        return np.concatenate(found)


class _Block(Protocol):
    """Samples that are judged together."""

    def floats(self) -> Array:
        """Return the float model's outputs as features."""
        ...

    def centre(self) -> Array:
        """Return the centre's."""
        ...

    def signal(self) -> Array:
        """Return the float signal power of every sample and head."""
        ...

    def losses(self, laid: Laid) -> tuple[Array, Array]:
        """Return the loss of every sample, and the error power of every head."""
        ...

    def response(self, laid: Laid, seed: int) -> Results:
        """Return everything about a response, per sample."""
        ...


class _Together:
    """All samples of a batch."""

    def __init__(
        self,
        heads: Sequence[Head],
        floats: Laid,
        centre: Laid,
        labels: npt.NDArray[np.int64] | None,
        function: LossFunction | None,
    ) -> None:
        self.loss = Loss(tuple(heads), _features(heads, floats), labels, function)
        self.outputs = _features(heads, centre)

    @cached_property
    def around(self) -> Around:
        """Return the loss around the centre."""
        return self.loss.around(self.outputs)

    def floats(self) -> Array:
        return self.loss.reference

    def centre(self) -> Array:
        return self.outputs

    def signal(self) -> Array:
        return self.loss.signal()

    def losses(self, laid: Laid) -> tuple[Array, Array]:
        outputs = _features(self.loss.heads, laid)
        return self.loss.values(outputs), self.loss.noise(outputs)

    def response(self, laid: Laid, seed: int) -> Results:
        outputs = _features(self.loss.heads, laid)
        found: Results = {"loss": self.loss.values(outputs), "noise": self.loss.noise(outputs)}
        z = np.subtract(outputs, self.outputs, out=outputs)
        root = self.around.root(z)
        found["linear"] = self._linear(found["loss"], z, root)
        if root.shape[1] <= SKETCH:
            return found | {"root": root.astype(np.float32), "response": z.astype(np.float32)}
        return found | {"root": sketch(root, seed).astype(np.float32)}

    def _linear(self, losses: Array, z: Array, root: Array) -> Array:
        """Return the first-order part per sample; for a user's function, what its own change leaves of the second."""
        if self.loss.function is None:
            return inner_products(z, self.around.slope)
        left: Array = losses - self.loss.values(self.outputs) - 0.5 * (root**2).sum(1)
        return left


class _Each:
    """One sample, whose outputs are too wide to be kept."""

    def __init__(self, heads: Sequence[Head], floats: Laid, centre: Laid, labels: npt.NDArray[np.int64] | None) -> None:
        self.heads, self.outputs = heads, centre
        self.sweep = Sweep(heads, floats[0], floats[0] if centre is floats else centre[0], labels)

    def floats(self) -> Array:
        return self.sweep.reference.astype(np.float64)

    def centre(self) -> Array:
        return _features(self.heads, self.outputs)

    def signal(self) -> Array:
        return self.sweep.signal()[None]

    def losses(self, laid: Laid) -> tuple[Array, Array]:
        found = self.sweep.losses(laid[0])
        return np.array([found.loss]), found.noise[None]

    def response(self, laid: Laid, seed: int) -> Results:
        found = self.sweep.response(laid[0])
        assert found.root is not None
        return {
            "loss": np.array([found.loss]),
            "noise": found.noise[None],
            "linear": np.array([found.linear]),
            "root": sketch(found.root, seed).astype(np.float32),
        }


def _features(heads: Sequence[Head], laid: Laid) -> Array:
    """Return what heads give as features, the heads side by side, in an array of its own."""
    found = []
    for values in laid:
        parts = [head.logits(value, np.float64) for head, value in zip(heads, values, strict=True)]
        found.append(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))
    return np.concatenate(found)


def _log_likelihood(heads: Sequence[Head], floats: Array, outputs: Array, generator: np.random.Generator) -> Array:
    """Return log p(y | x) per sample, with labels drawn from the float model."""
    total = np.zeros(len(outputs))
    position = 0
    for head in heads:
        part, wanted = (array[:, position : position + head.width] for array in (outputs, floats))
        position += head.width
        if head.kind == "power":  # a Gaussian of unit relative noise around the float output
            target = wanted + np.sqrt(head.power / head.width) * generator.standard_normal(wanted.shape)
            total -= ((part - target) ** 2).sum(1) / (2 * head.power / head.width)
            continue
        logs = log_softmax(part.reshape(len(part), -1, head.classes))
        float_logs = log_softmax(wanted.reshape(logs.shape))
        drawn = (float_logs + generator.gumbel(size=float_logs.shape)).argmax(-1)[..., None]
        total += np.take_along_axis(logs, drawn, 2).sum((1, 2))
    return total


def _sized(head: Head, output: npt.NDArray[Any], rows: int) -> Head:
    """Return a head with its width and classes, as an output of so many samples has them."""
    seen = head.seen(output)
    return replace(head, width=seen.size // rows, classes=seen.shape[head.axis] if seen.ndim else 1)


def sketch(values: npt.NDArray[Any], seed: int, width: int = SKETCH) -> Array:
    """Add features up in ``width`` places with seeded random signs; inner products are kept in expectation.

    Their error is as small as that of dense random projections (Charikar, Chen and Farach-Colton 2002: count sketch),
    at one operation for each feature. Features come in runs of ``width``, each turned by a random step: two of one run
    never meet, two of different ones as seldom as if every place were drawn.
    """
    signs, steps = _drawn(seed, values.shape[1], width)
    found = np.zeros((len(values), width))
    for row, total in zip(values, found, strict=True):
        for start, step in zip(range(0, len(row), width), steps, strict=True):
            run = row[start : start + width] * signs[start : start + width]
            left = min(width - step, len(run))
            total[step : step + left] += run[:left]
            total[: len(run) - left] += run[left:]
    return found


@lru_cache(maxsize=1)
def _drawn(seed: int, count: int, width: int) -> tuple[Array, list[int]]:
    """Draw a sign for every feature, and a step for every run of them."""
    generator = np.random.default_rng([seed, 2])
    signs = (2 * generator.integers(0, 2, count) - 1).astype(np.float64)
    return signs, generator.integers(0, width, -(-count // width)).tolist()
