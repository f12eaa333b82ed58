"""Quantise weights: codes and scales per tensor, per channel or per block.

    code = clip(round(w / scale) + zero_point)        w ≈ (code - zero_point) * scale

    weight ─▶ layout: a row for each scale ─▶ scales: searched, minmax or mse ─▶ codes, laid back

Where sums of two products must not saturate (``onnxmpq.numerics.saturation``), scales and codes keep that rule.
"""

import tempfile
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxmpq.errors import InputError, InternalError, nearest
from onnxmpq.model.mapped import BIG
from onnxmpq.numerics import saturation
from onnxmpq.numerics.layout import Array, Layout
from onnxmpq.numerics.saturation import Order, Rule
from onnxmpq.numerics.scales import Rows, Single
from onnxmpq.options import WEIGHT_RANGES as METHODS
from onnxmpq.options import WeightRanges as Method

Codes: TypeAlias = npt.NDArray[np.int8] | npt.NDArray[np.uint8]

_SLAB = 1 << 21  # numbers whose scales are searched at a time: bounds the memory


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedWeight:
    """Codes of the weight's shape, with scales and zero points shaped as ONNX wants them.

    ``axes`` None: rank 0. One axis: rank 1. Several axes: their lengths. ``block`` (axis, size): the weight's shape
    with that axis divided by size, rounded up. ``zero_point`` is None for signed symmetric codes. ``rule`` is what
    pairs of codes keep, so that no sum saturates.
    """

    codes: Codes
    scale: Single
    zero_point: Codes | None
    bits: int
    axes: tuple[int, ...] | None = None
    block: tuple[int, int] | None = None
    rule: Rule | None = None


class Kept(MutableMapping[tuple[object, ...], QuantisedWeight]):
    """Quantised weights by key, for whoever lowers many plans; codes of large ones lie in files and are mapped."""

    def __init__(self, folder: Path) -> None:
        """Keep codes in a folder of their own within ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="codes-", dir=folder))
        self._known: dict[tuple[object, ...], QuantisedWeight] = {}
        self._files = 0

    def __setitem__(self, key: tuple[object, ...], weight: QuantisedWeight) -> None:
        if weight.codes.nbytes >= BIG:
            self._files += 1
            file = self._folder / f"{self._files}.npy"
            np.save(file, weight.codes)
            weight = replace(weight, codes=np.load(file, mmap_mode="r"))
        self._known[key] = weight

    def __getitem__(self, key: tuple[object, ...]) -> QuantisedWeight:
        return self._known[key]

    def __delitem__(self, key: tuple[object, ...]) -> None:
        del self._known[key]

    def __iter__(self) -> Iterator[tuple[object, ...]]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def quantise_weight(
    weight: Array,
    *,
    bits: int,
    signed: bool = True,
    symmetric: bool = True,
    axes: tuple[int, ...] | None = None,
    block: tuple[int, int] | None = None,
    method: Method = "mse",
    narrow: bool | None = None,
    importance: Array | None = None,
    rule: Rule | None = None,
) -> QuantisedWeight:
    """Quantise ``weight`` to ``bits`` from 2 to 8, with one scale per index of ``axes``, or per block.

    ``narrow`` leaves the lowest code of a symmetric type unused; default: above 4 bits, so that -128 never occurs.
    ``importance`` weighs squared errors; it broadcasts over the weight, e.g. with shape (1, inputs, 1, 1).
    ``rule`` says how signed symmetric codes are paired: pairs of one sign then add up to 128 at most. None of these
    follows from another, so that they stand here one by one.
    """
    _check(weight, bits, method, axes, block, importance)
    if rule is not None and not (signed and symmetric and (block or axes is not None)):
        raise InternalError("Only signed symmetric codes per channel or per block can be kept from saturating.")
    layout = Layout.of(weight.shape, axes, block)
    rows = layout.rows(np.asarray(weight, np.float32))
    weigh = None if importance is None else layout.rows(np.broadcast_to(importance, weight.shape).astype(np.float32))
    low, high = code_limits(bits, signed=signed, symmetric=symmetric, narrow=narrow)
    if 2 * max(-low, high) <= saturation.LIMIT:
        rule = None  # such codes never add up to more
    orders: tuple[Order, ...] = ()
    others: tuple[Order, ...] | None = None
    if rule is not None:  # what pairs across blocks is held afterwards
        orders = rule.orders if block is None else (saturation.evened(np.arange(block[1])[None])[0],)
        rows = saturation.laid_out(rows, orders[0])
        weigh = None if weigh is None else saturation.laid_out(weigh, orders[0])
        others = tuple(saturation.behind(orders[0], other) for other in orders[1:])
    codes = np.empty(rows.shape, np.int8 if signed else np.uint8)
    scale, zero_point = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    slab = max(1, min(_SLAB // max(1, rows.shape[1]), _SLAB // 256))
    for start in range(0, len(rows), slab):
        of = slice(start, start + slab)
        part = Rows.of(rows[of], None if weigh is None else weigh[of], (low, high), symmetric, others)
        scale[of], zero_point[of] = part.place(1.0) if method == "minmax" else part.least_error()
        codes[of] = part.codes(scale[of], zero_point[of])
    if orders:
        codes = saturation.laid_back(codes, orders[0])
    found = QuantisedWeight(
        codes=layout.array(codes),
        scale=layout.scales(scale),
        zero_point=None if symmetric and signed else layout.scales(zero_point.astype(codes.dtype)),
        bits=bits,
        axes=axes,
        block=block,
        rule=rule,
    )
    return found if block is None else held(found, weight)


def held(q: QuantisedWeight, weight: Array) -> QuantisedWeight:
    """Return ``q`` with codes that keep its rule, as near to the weight as they can be."""
    if q.rule is None:
        return q
    layout = Layout.of(weight.shape, q.rule.axes, None)
    codes = layout.rows(q.codes.astype(np.float32))
    wanted = layout.rows(np.asarray(weight, np.float32) / grid(q)[0])
    for order in q.rule.orders:
        saturation.hold(codes, wanted, order)
    return replace(q, codes=layout.array(codes).astype(np.int8))  # only symmetric codes have a rule


def code_limits(
    bits: int, *, signed: bool = True, symmetric: bool = True, narrow: bool | None = None
) -> tuple[int, int]:
    """Return the lowest and the highest code of a type; ``narrow`` as for ``quantise_weight``."""
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    return low + (symmetric and (bits > 4 if narrow is None else narrow)), high


def grid(q: QuantisedWeight) -> tuple[Single, Single]:
    """Return the scale and the zero point of every single weight; both broadcast over the codes."""
    layout = Layout.of(q.codes.shape, q.axes, q.block)
    zero_point = np.zeros(1) if q.zero_point is None else layout.spread(q.zero_point)
    return layout.spread(q.scale), zero_point.astype(np.float32)


def dequantise(q: QuantisedWeight) -> Single:
    """Do what ONNX DequantizeLinear does: (code - zero_point) * scale, in float32."""
    layout = Layout.of(q.codes.shape, q.axes, q.block)
    codes = q.codes.astype(np.float32)
    if q.zero_point is not None:
        codes -= layout.spread(q.zero_point)
    return codes * layout.spread(q.scale)


def _check(
    weight: Array,
    bits: int,
    method: str,
    axes: tuple[int, ...] | None,
    block: tuple[int, int] | None,
    importance: Array | None,
) -> None:
    """Refuse what cannot be quantised."""
    if method not in METHODS:
        raise InputError(
            f"There is no weight method '{method}'. Choose one of: {', '.join(METHODS)}.{nearest(method, METHODS)}"
        )
    if not 2 <= bits <= 8 or (axes is not None and block is not None):
        raise InternalError(f"Weights have 2 to 8 bits, and axes or blocks: bits={bits}, axes={axes}, block={block}.")
    if not np.isfinite(weight).all():
        raise InputError("The weight has NaN or infinite values. Export the model again.")
    if importance is not None and (not np.isfinite(importance).all() or np.min(importance, initial=0) < 0):
        raise InternalError("The importance of a weight has negative, NaN or infinite values.")
