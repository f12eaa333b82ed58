"""Tables and other answers put together from what jobs left in the store, batch by batch, in an order that is fixed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmpq.artifacts import FLOAT, Estimate, Option
from onnxmpq.errors import InputError
from onnxmpq.metrics.losses import Head, Loss, LossFunction, mean_and_error
from onnxmpq.sensitivity.batches import read_labels
from onnxmpq.sensitivity.table import Table, Variant
from onnxmpq.sensitivity.workers.judge import Results
from onnxmpq.sensitivity.workers.worker import CentreJob, Choice, Job, ResponseJob, as_choices

Array = npt.NDArray[np.float64]
_PARTS = ("loss", "linear", "noise", "local")


@dataclass(frozen=True, slots=True)
class Assembler:
    """Reads results of jobs, which ``result`` gives; those of one batch are held at a time.

    ``rows`` are the samples of every batch; a table is of the first batches, as many as its samples say.
    """

    result: Callable[[Job], Results]
    target: str
    heads: tuple[Head, ...]
    rows: tuple[int, ...]
    folder: Path
    function: LossFunction | None

    def table(self, centre: Mapping[str, Option], variants: tuple[Variant, ...], batches: int) -> Table:
        """Return the table of variants around a centre from the first batches, without what it cost."""
        held, count = as_choices(centre), len(variants)
        gram, squares = np.zeros((count, count)), np.zeros((count, count))
        parts: dict[str, list[Array]] = {name: [] for name in _PARTS}
        centre_losses, signals = [], []
        sketched = False
        for batch in range(batches):
            outputs = self.result(CentreJob(held, batch))
            centre_losses.append(outputs["loss"])
            signals.append(outputs["signal"])
            found, roots = [], []
            for variant in variants:
                one = self.result(_response(held, variant, batch))
                found.append({name: one[name].astype(np.float64) for name in parts})
                roots.append(one["root"])
                sketched |= "response" not in one
            for name, rows in parts.items():
                rows.append(np.stack([one[name] for one in found]))
            _add_products(roots, gram, squares)
        total = sum(len(losses) for losses in centre_losses)
        columns = {name: np.concatenate(rows, axis=1) for name, rows in parts.items()}
        gram /= total
        spread = np.maximum(squares / total - gram**2, 0)
        signal = np.concatenate(signals)
        noise, local = columns["noise"].sum(1), columns["local"].sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):  # an output without a signal has no noise in float
            sqnr = np.where(noise > 0, 10 * np.log10(signal.sum(0) / noise), np.inf)
        ratio = np.divide(local[:, 0], local[:, 1], out=np.zeros(count), where=local[:, 1] > 0)
        return Table(
            target=self.target,
            loss_name="+".join(f"{head.kind}({head.label})" for head in self.heads),
            centre=dict(centre),
            variants=variants,
            samples=total,
            centre_loss=Estimate(*mean_and_error(np.concatenate(centre_losses))),
            loss=columns["loss"].mean(1),
            loss_error=_errors(columns["loss"]),
            linear=columns["linear"].mean(1),
            linear_error=_errors(columns["linear"]),
            gram=gram,
            gram_error=np.sqrt(spread / max(total - 1, 1)),
            local=ratio,
            local_error=ratio * _relative_error(columns["local"][..., 0], columns["local"][..., 1]),
            sqnr_db=sqnr,
            sqnr_error_db=10 / np.log(10) * _relative_error(columns["noise"].swapaxes(1, 2), signal.T),
            outputs=tuple(head.label for head in self.heads),
            sketched=sketched,
        )

    def superposed(self, table: Table, plan: Mapping[str, Option]) -> float:
        """Predict the loss of a plan as if responses added up: no run needed."""
        if table.sketched:
            raise InputError("The outputs are too large to keep every response, so superposition cannot be evaluated.")
        held = as_choices(table.centre)
        values = []
        for batch in range(self._batches(table)):
            outputs = self.result(CentreJob(held, batch))
            total = outputs["centre"].astype(np.float64)
            for unit, option in plan.items():
                if table.centre.get(unit, FLOAT) != option:
                    total = total + self.result(_response(held, Variant(unit, option), batch))["response"]
            values.append(self.loss(outputs["float"], batch).values(total))
        return float(np.concatenate(values).mean())

    def responses(self, table: Table) -> Iterator[tuple[Loss, Array, npt.NDArray[np.float32]]]:
        """Yield for every batch the loss, the centre's outputs and the responses of the table's variants."""
        held = as_choices(table.centre)
        for batch in range(self._batches(table)):
            outputs = self.result(CentreJob(held, batch))
            found = [self.result(_response(held, variant, batch))["response"] for variant in table.variants]
            loss = self.loss(outputs["float"], batch)
            yield loss, outputs["centre"].astype(np.float64), np.stack(found).astype(np.float32, copy=False)

    def sample_losses(self, table: Table) -> Array:
        """Return the loss of every variant of a table on each of its samples, [variants, samples]."""
        held = as_choices(table.centre)
        rows = [
            [self.result(_response(held, variant, batch))["loss"] for batch in range(self._batches(table))]
            for variant in table.variants
        ]
        return np.stack([np.concatenate(row) for row in rows]).astype(np.float64)

    def float_outputs(self) -> Array:
        """Return the float model's outputs of every sample, the heads side by side; of wide ones a sketch."""
        results = (self.result(CentreJob((), batch)) for batch in range(len(self.rows)))
        parts = [found["sketch"] if "sketch" in found else found["float"] for found in results]
        return np.concatenate(parts).astype(np.float64)

    def _batches(self, table: Table) -> int:
        """Return of how many batches a table is."""
        return int(np.searchsorted(np.cumsum(self.rows), table.samples)) + 1

    def loss(self, reference: npt.NDArray[Any], batch: int) -> Loss:
        """Return the loss of one batch, from the float model's outputs."""
        labels = read_labels(self.folder, batch)
        return Loss(self.heads, reference.astype(np.float64), labels, self.function)


def _response(centre: tuple[Choice, ...], variant: Variant, batch: int) -> ResponseJob:
    return ResponseJob(centre, (variant.unit, str(variant.option)), batch)


def _add_products(roots: Sequence[npt.NDArray[Any]], gram: Array, squares: Array) -> None:
    """Add the inner products of variants, sample by sample, and their squares."""
    for sample in range(len(roots[0])):
        root = np.stack([one[sample] for one in roots]).astype(np.float64)
        products = root @ root.T
        gram += products
        squares += products**2


def _errors(values: Array) -> Array:
    """Return standard errors over samples, the last axis."""
    count = values.shape[1]
    errors: Array = values.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(len(values))
    return errors


def _relative_error(top: Array, bottom: Array) -> Array:
    """Return the relative standard error of a ratio of sums over the last axis, to first order; 0 where a sum is 0."""
    count = top.shape[-1]
    if count < 2:
        return np.zeros(top.shape[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = top / top.mean(-1, keepdims=True) - bottom / bottom.mean(-1, keepdims=True)
    errors: Array = np.sqrt((apart**2).sum(-1) / (count * (count - 1)))
    return np.nan_to_num(errors, nan=0.0, posinf=0.0)
