"""The quadratic model of a softened loss: every output counts as if it were divided by a temperature.

    softened loss(outputs) = T² loss(outputs / T)

A network that is sure of itself leaves a divergence to the few samples and classes of which it is not: what is best for
them is best for few. Divided by a temperature, as targets of a distillation are (Hinton, Vinyals and Dean, 2015), more
of both have a say, and plans hold better on samples that nobody has measured. It proposes; what is measured decides.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxmpq.machine import one_thread
from onnxmpq.methods.superposition import Part
from onnxmpq.metrics.losses import Loss, inner_products

TEMPERATURE = 2.0
_TOGETHER = 2_000_000  # numbers of responses that are looked at together


@dataclass(slots=True)
class Softened:
    """Sums up the linear and the quadratic part over the rows of a table, as batches of its responses pass."""

    rows: int
    samples: int = 0
    _linear: npt.NDArray[np.float64] = field(init=False)
    _gram: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._linear, self._gram = np.zeros(self.rows), np.zeros((self.rows, self.rows))

    def watched(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Yield batches as they come, each added up."""
        for part in parts:
            self.add(part)
            yield part

    def add(self, part: Part) -> None:
        """Add the responses of one batch; a loss without classes, or one of the user's, has no temperature."""
        if part.loss.function is not None or all(head.kind == "power" for head in part.loss.heads):
            return
        count, width = part.centre.shape
        step = max(_TOGETHER // max(self.rows * width, 1), 1)
        with one_thread():
            for start in range(0, count, step):
                self._add(part, slice(start, start + step))
        self.samples += count

    def _add(self, part: Part, rows: slice) -> None:
        known = part.loss
        labels = None if known.labels is None else known.labels[rows]
        loss = Loss(known.heads, known.reference[rows] / TEMPERATURE, labels)
        around = loss.around(part.centre[rows] / TEMPERATURE)
        responses = part.responses[:, rows].astype(np.float64)
        self._linear += TEMPERATURE * np.array([inner_products(z, around.slope).sum() for z in responses])
        roots = np.stack([around.root(z).ravel() for z in responses])
        self._gram += roots @ roots.T

    @property
    def linear(self) -> npt.NDArray[np.float64]:
        """The linear part of every row, the mean over samples."""
        return self._linear / max(self.samples, 1)

    @property
    def gram(self) -> npt.NDArray[np.float64]:
        """The Gram matrix of the rows, the mean over samples."""
        return self._gram / max(self.samples, 1)
