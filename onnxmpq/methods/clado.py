"""``clado`` and ``clado-star``: exact finite differences, with interactions and without.

CLADO (Deng, Sharify, Wang and Orshansky, "Mixed-Precision Quantization for Deep Vision Models with Integer Quadratic
Programming") measures the loss with one unit changed, and with every two:

    Omega(ib, ib) = 2 (L(ib) - L0)
    Omega(ib, jc) = L(ib, jc) + L0 - L(ib) - L(jc)        two units; 0 for two options of one unit
    minimise 1/2 x' Omega x

so that the objective is the rise of the loss to second order. Measured matrices are not positive semidefinite; their
negative eigenvalues are set to 0 before solving. Loss (cross-entropy with labels, or KL without) and samples are what
the study measures with; the loss of the float model, L0, is not 0 for cross-entropy.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxmpq.methods.likely import Work, pair_runs, raced_runs
from onnxmpq.methods.study import Draft, Study
from onnxmpq.sensitivity.table import Table, Variant


@dataclass(frozen=True, slots=True)
class Clado:
    """All pairs measured exactly; an integer quadratic program, made positive semidefinite where ``psd`` is set."""

    name: ClassVar[str] = "clado"
    psd: bool = True

    def most_runs(self, study: Study) -> float:
        """Return the runs that all variants and all their pairs take."""
        variants = study.menu.variants
        return (study.engine.cost(variants).full_runs + pair_runs(study, variants)) * study.engine.repeats

    def likely(self, study: Study) -> Work:
        """Return what it measures: all variants, all their pairs, and its plan."""
        variants, repeats = study.menu.variants, study.repeats(staged=False)
        first = study.table_runs(variants, staged=False)
        return Work(first, plans=raced_runs(study, 1), pairs=pair_runs(study, variants) * repeats)

    def propose(self, study: Study) -> Draft:
        """Measure every variant and every pair, and solve once."""
        alone = study.table()
        table = study.engine.pairs(alone)
        study.spend(pair_runs(study, table.variants, table.pairs))
        measured = interactions(table)
        used = clipped(measured) if self.psd else measured
        count = sum(map(len, study.menu.options))
        problem = study.problem(np.zeros(count), 0.5 * _over_menu(study, table, used))
        solution = study.solve(problem)
        choices = study.menu.choices(solution.choices)
        rows = [table.index(Variant(unit, option)) for unit, option in choices.items()]
        rise = 0.5 * float(measured[np.ix_(rows, rows)].sum())
        notes: tuple[str, ...] = ()
        if self.psd:
            lost = int((np.linalg.eigvalsh(measured) < 0).sum())
            notes = (
                f"With {lost} of {len(measured)} eigenvalues clipped at 0 the plan's rise of the loss is "
                f"{solution.objective:.6g}; as measured, without clipping, it is {rise:.6g}.",
            )
        return Draft((choices,), (table.centre_loss.value + rise,), (solution,), notes)


@dataclass(frozen=True, slots=True)
class CladoStar:
    """The same without interactions: an integer linear program on the losses of single variants."""

    name: ClassVar[str] = "clado-star"

    def propose(self, study: Study) -> Draft:
        """Measure every variant alone, and solve once."""
        table = study.table()
        rises = {v: float(loss) - table.centre_loss.value for v, loss in zip(table.variants, table.loss, strict=True)}
        solution = study.solve(study.problem(study.vector(rises)))
        choices = study.menu.choices(solution.choices)
        return Draft((choices,), (table.centre_loss.value + solution.objective,), (solution,))


def interactions(table: Table) -> np.ndarray:
    """Return Omega over the variants of a table with all its pairs; it is symmetric."""
    place = {variant: row for row, variant in enumerate(table.variants)}
    base = table.centre_loss.value
    omega = np.diag(2.0 * (table.loss - base))
    for (first, second), both in table.pairs.items():
        i, j = place[first], place[second]
        omega[i, j] = omega[j, i] = both.value + base - table.loss[i] - table.loss[j]
    return omega


def clipped(omega: np.ndarray) -> np.ndarray:
    """Return the nearest positive semidefinite matrix: negative eigenvalues become 0."""
    values, vectors = np.linalg.eigh(0.5 * (omega + omega.T))
    found = (vectors * np.maximum(values, 0.0)) @ vectors.T
    symmetric: np.ndarray = 0.5 * (found + found.T)
    return symmetric


def _over_menu(study: Study, table: Table, matrix: np.ndarray) -> np.ndarray:
    """Lay a matrix over variants out over the menu, whose float entries interact with nothing."""
    places = study.places(table)
    known = np.flatnonzero(places >= 0)
    laid = np.zeros((len(places), len(places)))
    laid[np.ix_(known, known)] = matrix[np.ix_(places[known], places[known])]
    return laid
