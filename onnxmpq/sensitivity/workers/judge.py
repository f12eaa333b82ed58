"""What losses make of the outputs of one batch: those of the float model, of a centre, and of what differs from it.

    outputs of a feed  ─▶  features [samples, width]  ─▶  loss, noise, first-order part, root of the second-order part

Features of all samples stand side by side. Those that are too wide to be kept are made and judged sample by sample, and
of roots there is a sketch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmpq.metrics.losses import Around, Array, Head, Loss, LossFunction, inner_products, log_softmax

Results = dict[str, npt.NDArray[Any]]
Arrays = dict[str, npt.NDArray[Any]]
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
        """``rows`` are the samples of every feed, ``floats`` and ``centre`` the outputs there."""
        self.rows, self.samples, self.seed = rows, sum(rows), seed
        self._outputs = centre
        self.heads = tuple(_sized(head, floats[0][head.name], rows[0]) for head in heads)
        self.width = sum(head.width for head in self.heads)
        self._each = self.width > SKETCH and function is None
        parts = [None] * self.samples if labels is None else labels.reshape(self.samples, -1)
        known = parts if self._each else [labels]
        self.blocks = [
            _Block(Loss(self.heads, wanted, own, function), outputs)
            for wanted, outputs, own in zip(self._features(floats), self._features(centre), known, strict=True)
        ]

    def _features(self, outputs: Sequence[Arrays]) -> Iterator[Array]:
        """Yield the features of all samples, or of one after the other."""
        laid = [
            [head.laid_out(held[head.name], count) for head in self.heads]
            for held, count in zip(outputs, self.rows, strict=True)
        ]
        if not self._each:
            yield np.concatenate([self._beside(values) for values in laid])
            return
        for values in laid:
            for row in range(len(values[0])):
                yield self._beside([value[row : row + 1] for value in values])

    def _beside(self, values: Sequence[npt.NDArray[Any]]) -> Array:
        parts = [head.logits(value) for head, value in zip(self.heads, values, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _changed(self, news: Sequence[Mapping[str, npt.NDArray[Any]]]) -> Iterator[tuple["_Block", Array]]:
        """Yield features with what is new in them, in arrays of their own."""
        outputs = [{**held, **new} for held, new in zip(self._outputs, news, strict=True)]
        return zip(self.blocks, self._features(outputs), strict=True)

    def centre(self) -> Results:
        """Return the loss of the centre, the float model's signal powers, and the outputs of both as features.

        Of outputs that are too wide to be kept there is a sketch of the float model's.
        """
        found: Results = {
            "loss": np.concatenate([block.loss.values(block.outputs) for block in self.blocks]),
            "signal": np.concatenate([block.loss.signal() for block in self.blocks]),
            "widths": np.array([(head.width, head.classes) for head in self.heads]),
        }
        if self.width <= SKETCH:
            return found | {"float": self.blocks[0].loss.reference, "centre": self.blocks[0].outputs}
        sketches = [sketch(block.loss.reference, self.seed) for block in self.blocks]
        return found | {"sketch": np.concatenate(sketches).astype(np.float32)}

    def losses(self, news: Sequence[Arrays]) -> Array:
        """Return the loss of every sample."""
        return np.concatenate([block.loss.values(outputs) for block, outputs in self._changed(news)])

    def plan(self, news: Sequence[Arrays]) -> Results:
        """Return the loss of every sample, and the error power of its outputs."""
        found = [(block.loss.values(outputs), block.loss.noise(outputs)) for block, outputs in self._changed(news)]
        losses, noises = zip(*found, strict=True)
        return {"loss": np.concatenate(losses), "noise": np.concatenate(noises)}

    def response(self, news: Sequence[Arrays], local: Array) -> Results:
        """Return everything about a response, per sample; ``local`` are its errors where it begins."""
        found = [block.response(outputs, self.seed) for block, outputs in self._changed(news)]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]} | {"local": local}

    def log_likelihood(self, news: Sequence[Arrays]) -> Array:
        """Return log p(y | x) per sample, with labels y drawn from the float model, the same at every call."""
        generator = np.random.default_rng([self.seed, 1])
        return np.concatenate([block.log_likelihood(outputs, generator) for block, outputs in self._changed(news)])


class _Block:
    """Samples that are judged together: their loss, and the centre's features."""

    def __init__(self, loss: Loss, outputs: Array) -> None:
        self.loss, self.outputs = loss, outputs

    @cached_property
    def around(self) -> Around:
        """Return the loss around the centre."""
        return self.loss.around(self.outputs)

    def response(self, outputs: Array, seed: int) -> Results:
        """Return everything about a response, per sample; the outputs are used up."""
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

    def log_likelihood(self, outputs: Array, generator: np.random.Generator) -> Array:
        """Return log p(y | x) per sample, with labels drawn from the float model."""
        total = np.zeros(len(outputs))
        position = 0
        for head in self.loss.heads:
            part = outputs[:, position : position + head.width]
            wanted = self.loss.reference[:, position : position + head.width]
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
    return replace(head, width=output.size // rows, classes=output.shape[head.axis] if output.ndim else 1)


def sketch(values: Array, seed: int, width: int = SKETCH) -> Array:
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
