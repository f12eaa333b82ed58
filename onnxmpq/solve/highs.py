"""HiGHS behind plain arrays: linear, convex quadratic and mixed-integer programs; nothing else imports highspy.

Every model is a relaxation of, or equal to,

    minimise    costs . x
    where       row_lower <= matrix x <= row_upper,  lower <= x <= upper,  some x are integers

with budget rows divided by their scale, since HiGHS tests rows by absolute tolerances. HiGHS answers a bad option or
a broken model with a status rather than an exception, and returns binaries that are off by rounding: both end here.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy

from onnxmpq.errors import InternalError
from onnxmpq.solve.reduce import Floats, Integers, Mask, Reduced

if TYPE_CHECKING:
    from highspy import Highs

Outcome = Literal["optimal", "infeasible", "time"]
Option = bool | int | float | str

# Ours are bounded, so "unbounded or infeasible" has one meaning. A status that is not here is a fault.
OUTCOMES: dict[str, Outcome] = {
    "kOptimal": "optimal",
    "kModelEmpty": "optimal",
    "kInfeasible": "infeasible",
    "kUnboundedOrInfeasible": "infeasible",
    "kTimeLimit": "time",
    "kInterrupt": "time",
}
TIGHTEST = 1e-10  # the least tolerance that HiGHS takes
SEEDS = 2**31


@dataclass(frozen=True, slots=True)
class Model:
    """A linear program, with integers where ``integral`` is given."""

    costs: Floats
    matrix: "scipy.sparse.csr_array"
    row_lower: Floats
    row_upper: Floats
    lower: Floats
    upper: Floats
    integral: Mask | None = None
    constant: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What HiGHS found: ``values`` is None without a solution, ``bound`` is proved by HiGHS in its tolerances."""

    outcome: Outcome
    values: Floats | None
    bound: float


def version() -> str:
    """Return the solver's name and version."""
    return f"HiGHS {_configured().version()}"


def assignment(reduced: Reduced, costs: Floats) -> Model:
    """Return the program over a reduced problem: one option per unit, rows divided by their scales."""
    units, options = reduced.units, reduced.options
    picks = scipy.sparse.csr_array((np.ones(options), (reduced.owner, np.arange(options))), shape=(units, options))
    rows = scipy.sparse.csr_array(reduced.rows / reduced.row_scales[:, None])
    limits = (reduced.limits + reduced.tolerances) / reduced.row_scales
    return Model(
        costs=costs,
        matrix=scipy.sparse.csr_array(scipy.sparse.vstack([picks, rows], format="csr")),
        row_lower=np.concatenate([np.ones(units), np.full(len(limits), -np.inf)]),
        row_upper=np.concatenate([np.ones(units), limits]),
        lower=np.zeros(options),
        upper=np.ones(options),
    )


class Knapsack:
    """The linear relaxation under changing costs: each solve starts from the last one's basis."""

    def __init__(self, reduced: Reduced) -> None:
        """Load the rows of a reduced problem."""
        self._reduced = reduced
        self._columns = np.arange(reduced.options, dtype=np.int32)
        self._highs: Highs | None = None

    def solve(self, costs: Floats) -> tuple[Floats, Floats] | None:
        """Return the multipliers of the unscaled rows and a fractional x, or None when no x keeps the rows."""
        reduced = self._reduced
        if not reduced.units:
            kept = (reduced.limits + reduced.tolerances >= 0.0).all()
            return (np.zeros(len(reduced.limits)), np.zeros(0)) if kept else None
        # HiGHS tests costs by absolute tolerances too.
        scale = float(np.abs(costs).max()) or 1.0
        if self._highs is None:
            # Rows are scaled already; what HiGHS scales itself may miss the tolerance once it is scaled back.
            unscaled = {"simplex_scale_strategy": 0, "dual_feasibility_tolerance": TIGHTEST}
            self._highs = _configured(presolve="off", solver="simplex", **unscaled)
            _load(self._highs, assignment(reduced, costs / scale))
        else:
            self._highs.changeColsCost(reduced.options, self._columns, costs / scale)
        # Multipliers that miss a tolerance prove a bound, too.
        if _run(self._highs, unknown="optimal") != "optimal":
            return None
        solution = self._highs.getSolution()
        duals = np.array(solution.row_dual)[reduced.units :]
        return np.maximum(-duals, 0.0) * scale / reduced.row_scales, np.array(solution.col_value)


def knapsack(reduced: Reduced, costs: Floats) -> tuple[Floats, Floats] | None:
    """Solve the linear relaxation once; see ``Knapsack.solve``."""
    return Knapsack(reduced).solve(costs)


def contradiction(reduced: Reduced) -> Floats:
    """Return prices of the unscaled rows that every fractional choice exceeds, where the rows cannot be kept.

    They are the multipliers of the least common overrun, rows counted in their scales.
    """
    plain = assignment(reduced, np.zeros(reduced.options))
    overrun = scipy.sparse.csr_array(np.concatenate([np.zeros(reduced.units), -np.ones(len(reduced.limits))])[:, None])
    highs = _configured(presolve="off", solver="simplex")
    model = replace(
        plain,
        costs=np.append(plain.costs, 1.0),
        matrix=scipy.sparse.csr_array(scipy.sparse.hstack([plain.matrix, overrun], format="csr")),
        lower=np.append(plain.lower, 0.0),
        upper=np.append(plain.upper, np.inf),
    )
    _load(highs, model)
    _run(highs)
    duals = np.array(highs.getSolution().row_dual)[reduced.units :]
    return np.asarray(np.maximum(-duals, 0.0) / reduced.row_scales)


def relaxed(reduced: Reduced, seconds: float) -> Floats | None:
    """Return a fractional x of the convex quadratic relaxation, or None when HiGHS has none in time."""
    from highspy import HessianFormat, HighsHessian, HighsStatus

    if not reduced.units:
        return np.zeros(0)
    # On binaries x * x = x: what is added to the diagonal is taken from the linear part. HiGHS does not test
    # convexity, so the shift leaves a margin.
    least = float(scipy.linalg.eigvalsh(reduced.quadratic, subset_by_index=[0, 0])[0])
    shift = max(1e-7 - least, 0.0)
    highs = _configured(time_limit=float(seconds))
    _load(highs, assignment(reduced, reduced.linear - shift))
    hessian = scipy.sparse.csc_array(np.tril(2.0 * (reduced.quadratic + shift * np.eye(reduced.options))))
    lower = HighsHessian()
    lower.dim_, lower.format_ = reduced.options, HessianFormat.kTriangular
    lower.start_, lower.index_, lower.value_ = hessian.indptr, hessian.indices, hessian.data
    if highs.passHessian(lower) == HighsStatus.kError:
        return None
    try:
        outcome = _run(highs)
    except InternalError:  # a start for a search, not a proof: failing is no fault
        return None
    inside = np.clip(np.array(highs.getSolution().col_value), 0.0, 1.0)
    # Out of time, HiGHS may hand over what it had before it met the rows.
    if outcome == "infeasible" or len(inside) != reduced.options:
        return None
    sums: Floats = np.add.reduceat(inside, reduced.starts)
    return inside if np.allclose(sums, 1.0, atol=1e-4) else None


def milp(model: Model, time_limit: float, gap: float, seed: int) -> Answer:
    """Solve to a relative gap; a gap of 0 means the optimum, as far as HiGHS's tolerances tell.

    There is no start to give: HiGHS 1.15.1 may call a start optimal, with a bound to match, after presolve has
    removed what is better.
    """
    highs = _configured(
        time_limit=max(float(time_limit), 0.0),
        mip_rel_gap=float(gap),
        mip_abs_gap=0.0,
        mip_feasibility_tolerance=TIGHTEST,
        primal_feasibility_tolerance=TIGHTEST,
        dual_feasibility_tolerance=TIGHTEST,
        random_seed=seed % SEEDS,
    )
    _load(highs, model)
    outcome = _run(highs)
    info, solution = highs.getInfo(), highs.getSolution()
    values = np.array(solution.col_value) if solution.value_valid and outcome != "infeasible" else None
    if values is not None and model.integral is not None:
        values = np.where(model.integral, np.round(values), values)
    return Answer(outcome, values, float(info.mip_dual_bound) if outcome != "infeasible" else np.inf)


def picked(reduced: Reduced, values: Floats) -> Integers:
    """Return the option of every unit that has the largest value."""
    starts, sizes = reduced.starts, reduced.sizes
    return np.array(
        [start + int(np.argmax(values[start : start + size])) for start, size in zip(starts, sizes, strict=True)],
        dtype=np.int64,
    )


@cache
def _silent() -> type["Highs"]:
    """Return HiGHS as a class that is silent from the start: 1.16 prints a banner once callbacks are set."""
    from highspy import Highs

    class Silent(Highs):
        def enableCallbacks(self) -> None:  # the constructor calls it
            self.setOptionValue("output_flag", False)
            super().enableCallbacks()  # type: ignore[no-untyped-call]  # its stub says nothing

    return Silent


def _configured(**options: Option) -> "Highs":
    """Return a silent HiGHS on one thread; refuse an option that it does not take."""
    from highspy import HighsStatus

    highs = _silent()()
    # HiGHS drops smaller entries of a matrix than that: a byte of some gigabytes must count.
    silent = {"output_flag": False, "threads": 1, "small_matrix_value": 1e-12}
    for name, value in {**silent, **options}.items():
        if highs.setOptionValue(name, value) != HighsStatus.kOk:
            raise InternalError(f"HiGHS {highs.version()} does not take the option {name}={value!r}.")
    return highs


def _load(highs: "Highs", model: Model) -> None:
    """Give HiGHS a model."""
    from highspy import HighsLp, HighsStatus, HighsVarType, MatrixFormat

    lp = HighsLp()
    lp.num_row_, lp.num_col_ = model.matrix.shape
    lp.offset_ = model.constant
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = model.costs, model.lower, model.upper
    lp.row_lower_, lp.row_upper_ = model.row_lower, model.row_upper
    lp.a_matrix_.format_ = MatrixFormat.kRowwise
    lp.a_matrix_.num_row_, lp.a_matrix_.num_col_ = model.matrix.shape
    lp.a_matrix_.start_, lp.a_matrix_.index_ = model.matrix.indptr, model.matrix.indices
    lp.a_matrix_.value_ = model.matrix.data
    if model.integral is not None:
        kinds = (HighsVarType.kContinuous, HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(integral)] for integral in model.integral]
    if highs.passModel(lp) == HighsStatus.kError:
        raise InternalError("HiGHS refused a model.")


def _run(highs: "Highs", unknown: Outcome | None = None) -> Outcome:
    """Solve, and say how it ended in our words; ``unknown`` is what an end just beyond the tolerances counts as."""
    from highspy import HighsStatus

    if highs.run() == HighsStatus.kError:
        # Also what HiGHS answers when somebody ran it on this thread of the process with another number of threads.
        highs.resetGlobalScheduler(True)
        if highs.run() == HighsStatus.kError:
            raise InternalError(f"HiGHS {highs.version()} failed.")
    status = highs.getModelStatus().name
    if status == "kUnknown" and unknown is not None and highs.getSolution().dual_valid:
        return unknown
    if status not in OUTCOMES:
        raise InternalError(f"HiGHS {highs.version()} ended with {status}.")
    return OUTCOMES[status]
