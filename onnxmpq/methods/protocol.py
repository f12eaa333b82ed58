"""What a method needs of whoever measures: the engine is one, a formula another."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxmpq.artifacts import Estimate, Option, Space
from onnxmpq.metrics.losses import Head, Loss
from onnxmpq.sensitivity.table import Cost, Table, Variant

Array = npt.NDArray[np.float64]


class Measurer(Protocol):
    """Measures variants of a model, alone and together, and whole plans."""

    @property
    def space(self) -> Space:
        """The units, with their options and costs."""
        ...

    @property
    def model(self) -> ir.Model:
        """The model that is measured."""
        ...

    @property
    def heads(self) -> Sequence[Head]:
        """The outputs that losses are of."""
        ...

    @property
    def samples(self) -> int:
        """How many samples there are, blends among them."""
        ...

    @property
    def plain(self) -> int:
        """How many of them are no blends."""
        ...

    @property
    def sketches(self) -> bool:
        """Tell whether outputs are so wide that sketches of responses are kept instead of them."""
        ...

    @property
    def batches(self) -> int:
        """How many batches samples are in."""
        ...

    @property
    def first(self) -> int:
        """How many of these are the first stage."""
        ...

    @property
    def first_share(self) -> float:
        """The share of the samples that are in it."""
        ...

    @property
    def repeats(self) -> float:
        """How many samples are measured for each that was given."""
        ...

    def cost(self, variants: Sequence[Variant], batches: int | None = None) -> Cost:
        """Return what measuring variants takes, before anything runs."""
        ...

    def table(
        self,
        options: Sequence[Option],
        centre: Mapping[str, Option] | None = None,
        variants: Sequence[Variant] | None = None,
        batches: int | None = None,
    ) -> Table:
        """Measure every unit at each of ``options``, or just ``variants``, alone, around ``centre``.

        On the first ``batches`` of samples, or on all.
        """
        ...

    def local_errors(self, variants: Sequence[Variant]) -> dict[Variant, float]:
        """Measure what units err by where they stand, relative to their signal."""
        ...

    def responses(self, table: Table) -> Iterator[tuple[Loss, Array, npt.NDArray[np.float32]]]:
        """Yield for every batch the loss, the centre's outputs and the responses of a table's variants."""
        ...

    def sample_losses(self, table: Table) -> Array:
        """Return the loss of every variant of a table on each of its samples."""
        ...

    def own_samples(self, table: Table) -> npt.NDArray[np.int64]:
        """Return which of a table's samples are no blends, in the order they came in."""
        ...

    def sample_losses_of(self, plans: Sequence[Mapping[str, Option]], batches: int) -> Array:
        """Measure the true loss of whole plans on every sample of the first batches, [plans, samples]."""
        ...

    def error_powers(self, plans: Sequence[Mapping[str, Option]]) -> npt.NDArray[np.float64]:
        """Measure how far the outputs of whole plans are from the float model's, on all samples."""
        ...

    def float_outputs(self) -> Array:
        """Return the float model's outputs of every sample; where a table is ``sketched``, a sketch of them."""
        ...

    def pairs(self, table: Table, wanted: Iterable[tuple[Variant, Variant]] | None = None) -> Table:
        """Add the exact losses of pairs of variants."""
        ...

    def losses(self, plans: Sequence[Mapping[str, Option]]) -> list[Estimate]:
        """Measure the true loss of whole plans."""
        ...

    def traces(self, draws: int = 4) -> dict[str, Estimate]:
        """Estimate the Fisher trace of every unit with weights."""
        ...
