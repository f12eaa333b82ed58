"""GPTQ: round a weight so that the layer's outputs change least, given the Hessian of its inputs.

    least trace((W - Q) H (W - Q)ᵀ)   over codes, scales held        H = mean of x xᵀ over what the columns meet

Column after column is rounded, and the columns that are still open take up what that did to the outputs (Frantar et
al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2023). Columns come in the
order of falling diagonal of H. Scales stay those of the columns' own places, so blocks along the columns are kept too.

Shapes: weights, scales, zero points and codes [groups, rows, columns]; Hessians [groups, columns, columns]. The groups
are those of a convolution; everything else has one.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]

DAMPING = 0.01  # of the mean diagonal, as in the paper
_BLOCK = 128  # columns whose effect on the ones behind is applied at once


def round_to_hessian(
    weight: Array,
    hessian: Array,
    scale: Array,
    zero_point: Array,
    limits: tuple[int, int],
    *,
    damping: float = DAMPING,
    block: int = _BLOCK,
) -> Floats:
    """Return codes, as whole numbers, whose error in the metric of ``hessian`` is nowhere above that of ``nearest``.

    ``scale`` and ``zero_point`` broadcast over the weight; ``limits`` are the lowest and the highest code.
    """
    scale, zero_point = np.broadcast_to(scale, weight.shape), np.broadcast_to(zero_point, weight.shape)
    plain = nearest(weight, scale, zero_point, limits)
    codes = _fed_back(weight, hessian, scale, zero_point, limits, damping, block)
    before, after = (error(weight, each, scale, zero_point, hessian) for each in (plain, codes))
    found: Floats = np.where((after < before)[..., None], codes, plain)
    return found


def nearest(weight: Array, scale: Array, zero_point: Array, limits: tuple[int, int]) -> Floats:
    """Return the codes that QuantizeLinear gives: divide in float32, round half to even, clip."""
    steps = np.rint(np.asarray(weight, np.float32) / scale)
    return np.clip(steps.astype(np.float64) + zero_point, *limits)


def error(weight: Array, codes: Array, scale: Array, zero_point: Array, hessian: Array) -> Floats:
    """Return (w - q) H (w - q)ᵀ of every row, with q as DequantizeLinear gives it, in float32."""
    values = (codes - zero_point).astype(np.float32) * np.asarray(scale, np.float32)
    lost = weight.astype(np.float64) - values
    found: Floats = ((lost @ hessian.astype(np.float64)) * lost).sum(-1)
    return found


def inverse_root(hessian: Floats, damping: float = DAMPING) -> Floats:
    """Return the upper triangular U with UᵀU = (H + d I)⁻¹; d is raised tenfold until H + d I can be factored.

    The damping is a share of the mean diagonal of the columns that are alive at all.
    """
    from scipy.linalg import solve_triangular  # slow to load, and only needed here

    diagonal = np.diag(hessian)
    mean = float(diagonal[diagonal > 0].mean()) if (diagonal > 0).any() else 1.0
    flipped = hessian[::-1, ::-1] / mean
    identity = np.eye(len(hessian))
    while True:
        try:
            lower = np.linalg.cholesky(flipped + damping * identity)
            break
        except np.linalg.LinAlgError:
            damping = max(10 * damping, 1e-12)
    inverse: Floats = solve_triangular(lower, identity, lower=True, check_finite=False)[::-1, ::-1]
    inverse /= np.sqrt(mean)
    return inverse


def _fed_back(
    weight: Array,
    hessian: Array,
    scale: Array,
    zero_point: Array,
    limits: tuple[int, int],
    damping: float,
    block: int,
) -> Floats:
    """Round column after column and let the open columns take up the error.

    With U of ``inverse_root``, rounding column j by e moves every open column k by e U[j, k] / U[j, j].
    """
    columns = weight.shape[2]
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
    sorted_ = np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None, :], 2)
    roots = np.stack([inverse_root(each.astype(np.float64), damping) for each in sorted_])
    open_ = np.take_along_axis(weight.astype(np.float64), order[:, None, :], 2).swapaxes(1, 2).copy()
    codes = np.empty(weight.shape)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        errors = np.empty((len(weight), end - start, weight.shape[1]))
        for j in range(start, end):
            place = order[:, None, j : j + 1]
            step = np.take_along_axis(scale, place, 2)[..., 0].astype(np.float64)
            zero = np.take_along_axis(zero_point, place, 2)[..., 0]
            code = np.clip(np.rint(open_[:, j] / step) + zero, *limits)
            np.put_along_axis(codes, place, code[..., None], 2)
            lost = (open_[:, j] - (code - zero) * step) / roots[:, j, j, None]
            errors[:, j - start] = lost
            open_[:, j + 1 : end] -= roots[:, j, j + 1 : end, None] * lost[:, None]
        open_[:, end:] -= roots[:, start:end, end:].swapaxes(1, 2) @ errors
    return codes
