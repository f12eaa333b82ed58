"""Lower bounds that rounding cannot spoil: a semidefinite relaxation, and linear minorants made from its multipliers.

Write y = (1, x, s) with s the slack of every budget. The relaxation replaces the matrix y y' by Y with

    Y positive semidefinite inside the space that one-hot rows and slacks leave      (Y = V R V', R >= 0)
    Y >= 0, no pair that never meets, first row = diagonal, one-hot and budget rows on the diagonal

so that nonnegative entries in a slack's row say that a budget still holds after multiplying it with any option.
Alternating directions (ADMM) take one eigendecomposition a step. Its multiplier Z, made to satisfy V'ZV <= 0, gives

    x'Gx + g'x  >=  (1, x)' C (1, x),      C = L + Z - products,      L = [0 g'/2; g/2 G]

where ``products`` are multiples, not below zero, of option times slack and slack times slack. Taking in every row of C
the least entry of each other unit (Gilmore and Lawler) leaves a linear function, and the linear program over the
budgets its multipliers. ``minorant`` and ``bounded`` are all that a proof needs; both round downwards.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from onnxmpq.solve.reduce import Floats, Mask, Reduced

BLEND = 1.6  # step length of the multipliers; below (1 + sqrt 5) / 2 the method converges
BALANCE = 3.0  # ratio of residuals at which the penalty changes ...
PENALTY = 1.25  # ... by this factor
COORDINATE = 0.25  # exponent that gives units of small damage small coordinates
LEAST_COORDINATE = 0.03
SLACK_COORDINATE = 0.3
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Multipliers:
    """What proves a bound: ``matrix`` is Z over (1, options), ``products`` over (1, options, slacks) by slacks.

    Row 0 of ``products`` is unused: a slack alone is a linear function.
    """

    matrix: Floats
    products: Floats


@dataclass(frozen=True, slots=True)
class Bounded:
    """A proved bound, what picking each option would add to it, and the prices of the rows that prove it."""

    value: float
    added: Floats
    prices: Floats
    multipliers: Multipliers


def slack_rows(reduced: Reduced) -> Floats:
    """Return the slack of every budget as a linear function of (1, x), in units of its scale."""
    count = reduced.budgets
    limits = (reduced.limits + reduced.tolerances)[:count, None]
    return np.hstack([limits, -reduced.rows[:count]]) / reduced.row_scales[:count, None]


def products_matrix(reduced: Reduced, products: Floats) -> Floats:
    """Return the matrix over (1, x) of the sum of products: never below zero at any plan."""
    slacks, size = slack_rows(reduced), reduced.options + 1
    matrix = np.zeros((size, size))
    for number, slack in enumerate(slacks):
        factor = products[:size, number].copy()
        factor += products[size:, number] @ slacks
        matrix += np.outer(factor, slack)
    return np.asarray((matrix + matrix.T) / 2, dtype=np.float64)


def excess(reduced: Reduced, multipliers: Multipliers) -> float:
    """Return by how much at most (1, x)' Z (1, x) exceeds zero at a plan: the greatest eigenvalue, with its error."""
    basis = feasible_basis(reduced)
    inner = basis.T @ (basis.T @ ((multipliers.matrix + multipliers.matrix.T) / 2)).T
    eigenvalue = float(scipy.linalg.eigvalsh((inner + inner.T) / 2, check_finite=False)[-1]) if len(inner) else 0.0
    error = 4 * EPSILON * len(inner) * float(np.linalg.norm(inner))
    return (max(eigenvalue, 0.0) + error) * (1 + reduced.units)


def feasible_basis(reduced: Reduced, coordinates: Floats | None = None) -> "scipy.sparse.csr_array":
    """Return orthonormal columns that span all (1, x), each times its coordinate, whose units sum to one."""
    scale = np.ones(reduced.units) if coordinates is None else coordinates
    first = np.concatenate([[1.0], (scale / reduced.sizes)[reduced.owner]])
    first /= np.linalg.norm(first)
    size = reduced.options + 1
    blocks: list[scipy.sparse.csr_array] = [scipy.sparse.csr_array(first[:, None])]
    rows, columns, values, column = [], [], [], 0
    for count in np.unique(reduced.sizes):
        if count == 1:
            continue
        helmert = np.asarray(scipy.linalg.helmert(int(count))).T
        for start in reduced.starts[reduced.sizes == count]:
            rows.append(np.repeat(np.arange(1 + start, 1 + start + count), count - 1))
            columns.append(np.tile(np.arange(column, column + count - 1), count))
            values.append(helmert.ravel())
            column += int(count) - 1
    if column:
        where = (np.concatenate(rows), np.concatenate(columns))
        blocks.append(scipy.sparse.csr_array((np.concatenate(values), where), shape=(size, column)))
    return scipy.sparse.csr_array(scipy.sparse.hstack(blocks))


def minorant(reduced: Reduced, multipliers: Multipliers) -> tuple[float, Floats]:
    """Return constant and coefficients of a linear function that is nowhere above the objective at a plan."""
    matrix = multipliers.matrix + multipliers.matrix.T
    matrix *= 0.5
    if multipliers.products.any():
        matrix -= products_matrix(reduced, np.maximum(multipliers.products, 0.0))
    matrix[1:, 1:] += reduced.quadratic
    matrix[0, 1:] += reduced.linear / 2
    matrix[1:, 0] += reduced.linear / 2
    own = matrix[1:, 1:].diagonal().copy()
    meeting = np.where(reduced.never, np.inf, matrix[1:, 1:])
    least = np.minimum.reduceat(meeting, reduced.starts, axis=1)
    least[np.arange(reduced.options), reduced.owner] = 0.0
    costs = matrix[0, 1:] + matrix[1:, 0] + own + least.sum(1)
    finite = np.where(np.isfinite(least), np.abs(least), 0.0)
    size = np.abs(matrix[0]).sum() + (np.abs(own) + finite.sum(1)).sum()
    rounding = 8 * EPSILON * reduced.units * float(size)
    constant = float(matrix[0, 0]) - excess(reduced, multipliers) - rounding
    # An option that meets none of some unit's cannot be picked: any finite cost is safe for the others.
    return float(reduced.constant + constant), np.where(np.isfinite(costs), costs, float(size) + 1.0)


def bounded(reduced: Reduced, multipliers: Multipliers, prices: Floats, line: tuple[float, Floats]) -> Bounded:
    """Return the bound that a minorant has at given prices of the rows."""
    constant, costs = line
    prices = np.maximum(prices, 0.0)
    priced = costs + prices @ reduced.rows
    least = np.minimum.reduceat(priced, reduced.starts) if reduced.units else np.zeros(0)
    allowed = reduced.limits + reduced.tolerances
    size = np.abs(costs).sum() + (prices * (np.abs(allowed) + np.abs(reduced.rows).sum(1))).sum()
    value = constant + float(least.sum()) - float(prices @ allowed) - 8 * EPSILON * float(size)
    return Bounded(value, priced - least[reduced.owner], prices, multipliers)


@dataclass(slots=True)
class State:
    """Where the iteration stands, in plain coordinates: a smaller problem or other budgets can go on from it."""

    lifted: Floats
    multiplier: Floats
    penalty: float

    def restricted(self, reduced: Reduced, keep: Mask) -> "State":
        """Return the state for ``reduced.restrict(keep)``; multipliers that were valid stay so."""
        alone = reduced.settled(keep)
        fixed, free = 1 + np.flatnonzero(keep & alone), 1 + np.flatnonzero(keep & ~alone)
        slacks = np.arange(1 + reduced.options, len(self.lifted))
        stay = np.concatenate([[0], free, slacks])
        multiplier = self.multiplier[np.ix_(stay, stay)]
        moved = self.multiplier[np.ix_(stay, fixed)].sum(1)
        multiplier[0] += moved
        multiplier[:, 0] += moved
        multiplier[0, 0] += self.multiplier[np.ix_(fixed, fixed)].sum()
        lifted = self.lifted[np.ix_(stay, stay)]
        child = reduced.restrict(keep)
        if child.units:
            shares = np.maximum(lifted[0, 1 : 1 + child.options], 1e-6)
            factor = np.ones(len(stay))
            factor[1 : 1 + child.options] = (1 / np.add.reduceat(shares, child.starts))[child.owner]
            lifted = lifted * factor[:, None] * factor
            diagonal = np.arange(1, 1 + child.options)
            lifted[diagonal, diagonal] = lifted[0, diagonal]
        return State(lifted, multiplier, self.penalty)


class Relaxation:
    """The semidefinite relaxation of one problem."""

    def __init__(self, reduced: Reduced) -> None:
        """Choose coordinates and build the space of one-hot rows and slacks."""
        self.reduced = reduced
        count, slacks = reduced.options, reduced.budgets
        self.size, self.last = 1 + count + slacks, 1 + count
        spread = np.maximum.reduceat(reduced.linear, reduced.starts) - np.minimum.reduceat(
            reduced.linear, reduced.starts
        )
        coupling = np.maximum.reduceat(np.sqrt((reduced.quadratic**2).sum(1)), reduced.starts)
        effect = np.maximum(spread, coupling)
        coordinates = np.maximum((effect / max(effect.max(), 1e-300)) ** COORDINATE, LEAST_COORDINATE)
        self.coordinates = np.concatenate([[1.0], coordinates[reduced.owner], np.full(slacks, SLACK_COORDINATE)])
        self.scaling = np.outer(self.coordinates, self.coordinates)
        self.basis = feasible_basis(reduced, coordinates)
        self.transposed = scipy.sparse.csr_array(self.basis.T)
        self.slacks = slack_rows(reduced)
        tail = SLACK_COORDINATE * ((self.slacks / self.coordinates[: self.last]) @ self.basis)
        self.tail = np.asarray(tail)
        left, spread_of_tail, _ = np.linalg.svd(self.tail.T, full_matrices=False)
        self.directions, self.shrink = left, 1 - 1 / np.sqrt(1 + spread_of_tail**2)
        objective = np.zeros((self.size, self.size))
        objective[0, 1 : self.last] = objective[1 : self.last, 0] = reduced.linear / 2
        objective[1 : self.last, 1 : self.last] = reduced.quadratic
        self.objective = objective / self.scaling
        self.penalty_scale = float(np.linalg.norm(self.objective)) / float(np.linalg.norm(self.coordinates) ** 2)
        self.penalty_scale = max(self.penalty_scale, 1e-12)
        self.never = np.zeros((self.size, self.size), dtype=bool)
        self.never[1 : self.last, 1 : self.last] = reduced.never
        self.never[np.arange(self.size), np.arange(self.size)] = False
        own = self.coordinates[1 : self.last]
        self.own = own
        self.weight = 2 * own**2 + own**4
        self.rows = reduced.rows[: reduced.budgets] / reduced.row_scales[: reduced.budgets, None]
        self.allowed = ((reduced.limits + reduced.tolerances) / reduced.row_scales)[: reduced.budgets]
        self.weighted = self.rows / self.weight
        widest = int(reduced.sizes.max())
        self.present = np.arange(widest) < reduced.sizes[:, None]
        self.places = np.zeros((reduced.units, widest), dtype=np.int64)
        self.places[self.present] = np.arange(count)
        self.owner, self.units, self.counts = reduced.owner, np.arange(reduced.units), np.arange(1, widest + 1)
        self.prices = np.zeros(slacks)

    def start(self) -> State:
        """Return the state in the middle: every option picked alike and independently."""
        shares = 1.0 / self.reduced.sizes[self.reduced.owner]
        point = np.concatenate([[1.0], shares])
        point = np.concatenate([point, np.maximum(self.slacks @ point, 0.0)])
        lifted = np.outer(point, point)
        lifted[self.never] = 0.0
        diagonal = np.arange(1, self.last)
        lifted[diagonal, diagonal] = shares
        return State(lifted, np.zeros((self.size, self.size)), 0.5)

    def iterate(self, state: State, steps: int, stop: Callable[[State, Floats], bool], every: int) -> State:
        """Take steps from a state; every so many, ask with the state and the shares of the options whether to stop."""
        lifted, multiplier = state.lifted * self.scaling, state.multiplier / self.scaling
        penalty = state.penalty * self.penalty_scale
        diagonal, own = np.arange(1, self.last), self.own
        residual = np.empty_like(lifted)
        for step in range(1, steps + 1):
            positive = self._positive(lifted + multiplier / penalty)
            target = positive - (self.objective + multiplier) / penalty
            shares = self._shares(
                (2 * own * target[0, 1 : self.last] + own**2 * target[diagonal, diagonal]) / self.weight
            )
            before, lifted = lifted, np.maximum(target, 0.0)
            lifted[self.never] = 0.0
            lifted[diagonal, diagonal] = shares * own**2
            lifted[0, 1 : self.last] = lifted[1 : self.last, 0] = shares * own
            lifted[0, 0] = 1.0
            np.subtract(positive, lifted, out=residual)
            multiplier = multiplier - (BLEND * penalty) * residual
            if step % 10 == 0:
                primal, dual = float(np.linalg.norm(residual)), float(np.linalg.norm(lifted - before))
                if primal > BALANCE * dual:
                    penalty *= PENALTY
                elif dual > BALANCE * primal:
                    penalty /= PENALTY
            if step % every == 0 or step == steps:
                state = State(lifted / self.scaling, multiplier * self.scaling, penalty / self.penalty_scale)
                if stop(state, shares):
                    break
        return state

    def multipliers(self, state: State) -> Multipliers:
        """Return multipliers that prove a bound: the state's without what is positive in the feasible space."""
        matrix = state.multiplier / self.scaling
        matrix = (matrix - self._positive(matrix)) * self.scaling
        matrix = (matrix + matrix.T) / 2
        products = np.zeros((self.size, self.reduced.budgets))
        products[1:] = np.maximum(matrix[1:, self.last :], 0.0)
        products[1 : self.last] *= 2  # option times slack stands twice in the matrix
        fold = np.vstack([np.eye(self.last), self.slacks])
        return Multipliers(fold.T @ matrix @ fold, products)

    def _positive(self, matrix: Floats) -> Floats:
        """Return the positive part of a matrix inside the feasible space."""
        last, tail = self.last, self.tail
        inner = self.transposed @ (self.transposed @ matrix[:last, :last]).T
        if len(tail):
            side = self.transposed @ matrix[:last, last:]
            inner = inner + side @ tail + (side @ tail).T + tail.T @ matrix[last:, last:] @ tail
            inner = self._shrunk(self._shrunk(inner).T)
        values, vectors = np.linalg.eigh((inner + inner.T) / 2)
        first = int(np.searchsorted(values, 0.0, side="right"))
        values, vectors = values[first:], vectors[:, first:]
        if len(tail):
            vectors = self._shrunk(vectors)
        outer = np.vstack([self.basis @ vectors, tail @ vectors])
        outer *= np.sqrt(values)
        return np.asarray(outer @ outer.T, dtype=np.float64)

    def _shrunk(self, matrix: Floats) -> Floats:
        """Apply the inverse root of I + tail' tail, which makes basis and tail orthonormal together."""
        return np.asarray(matrix - (self.directions * self.shrink) @ (self.directions.T @ matrix), dtype=np.float64)

    def _simplex(self, point: Floats) -> Floats:
        """Return the nearest shares that sum to one in every unit."""
        padded = np.where(self.present, point.take(self.places), -1e30)
        ordered = -np.sort(-padded, axis=1)
        over = np.cumsum(ordered, axis=1) - 1
        positive = (ordered * self.counts > over).sum(1)
        threshold = over[self.units, positive - 1] / positive
        return np.asarray(np.maximum(point - threshold[self.owner], 0.0), dtype=np.float64)

    def _shares(self, point: Floats) -> Floats:
        """Return the nearest shares that also keep the budgets, by a search for their prices (kept for the next)."""
        shares = self._simplex(point - self.prices @ self.weighted)
        for row in range(len(self.prices)):  # once: prices carry over to the next step
            shares = self._priced(point, row, shares)
        return shares

    def _priced(self, point: Floats, row: int, shares: Floats) -> Floats:
        """Find the price at which one budget just holds: widen a bracket, then false position with a guard."""
        weights, prices = self.rows[row], self.prices
        curvature = max(float(weights @ self.weighted[row]), 1e-300)
        over = float(weights @ shares) - self.allowed[row]
        low: tuple[float, float] | None = None
        high: tuple[float, float] | None = None
        for attempt in range(12):
            if abs(over) < 1e-6 or (prices[row] == 0 and over <= 0):
                break
            if over > 0:
                low = (prices[row], over)
            else:
                high = (prices[row], over)
            if high is None:
                prices[row] = 2 * prices[row] + over / curvature
            elif low is None:
                prices[row] = max(0.0, prices[row] + 2 * over / curvature) if attempt < 3 else 0.0
            else:
                share = min(max(low[1] / (low[1] - high[1]), 0.08), 0.92)
                prices[row] = low[0] + (high[0] - low[0]) * share
            shares = self._simplex(point - prices @ self.weighted)
            over = float(weights @ shares) - self.allowed[row]
        return shares
