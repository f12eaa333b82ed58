"""The quadratic problem as one integer program: exact, and good to some thirty units; a second opinion.

Every product of two options of different units is a variable that knows of the one-hot rows,

    sum over options c of unit j of  y[ib, jc] = x[ib]      for every option ib of another unit

which is far tighter than bounding every product by itself.
"""

from dataclasses import replace
from time import perf_counter

import numpy as np
import scipy

from onnxmpq.solve import highs
from onnxmpq.solve.linear import Decision, nothing_left, solve_exactly
from onnxmpq.solve.reduce import Reduced


def linearised(reduced: Reduced, time_limit: float, gap: float, seed: int) -> Decision:
    """Return the best choice, proved to a relative gap by linearised products."""
    if not reduced.units:
        return nothing_left(reduced)
    deadline = perf_counter() + time_limit
    scale = max(float(np.abs(reduced.linear).max()), float(np.abs(reduced.quadratic).max())) or 1.0
    return solve_exactly(reduced, _with_products(reduced, scale), scale, deadline, gap, seed)


def _with_products(reduced: Reduced, scale: float) -> highs.Model:
    """Return the program over the options and their products, values divided by the scale."""
    options, owner = reduced.options, reduced.owner
    base = highs.assignment(reduced, reduced.linear / scale)
    first, second = np.nonzero(owner[:, None] < owner[None, :])
    products = np.arange(len(first))
    # A link is a row for an option and another unit: the products of the option with that unit's options.
    option = np.concatenate([first, second])
    link, row = np.unique(option * reduced.units + owner[np.concatenate([second, first])], return_inverse=True)
    shape = (len(link), options + len(products))
    sums = scipy.sparse.csr_array(
        (
            np.concatenate([np.ones(2 * len(products)), -np.ones(len(link))]),
            (
                np.concatenate([row, np.arange(len(link))]),
                np.concatenate([options + products, options + products, link // reduced.units]),
            ),
        ),
        shape=shape,
    )
    beside = scipy.sparse.csr_array((base.matrix.shape[0], len(products)))
    rows = scipy.sparse.hstack([base.matrix, beside], format="csr")
    return replace(
        base,
        costs=np.concatenate([base.costs, 2.0 * reduced.quadratic[first, second] / scale]),
        matrix=scipy.sparse.csr_array(scipy.sparse.vstack([rows, sums], format="csr")),
        row_lower=np.concatenate([base.row_lower, np.zeros(len(link))]),
        row_upper=np.concatenate([base.row_upper, np.zeros(len(link))]),
        lower=np.zeros(shape[1]),
        upper=np.concatenate([np.ones(options), np.where(reduced.never[first, second], 0.0, 1.0)]),
        integral=np.arange(shape[1]) < options,
        constant=reduced.constant / scale,
    )
