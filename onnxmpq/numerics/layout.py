"""A weight as a matrix with one row for each scale, and back.

    Conv [O, I, h, w], axes (0,)        ─▶  [O, I h w]            scale [O]
    MatMul [K, N], block (0, 32)        ─▶  [N K/32, 32]          scale [K/32, N]

The last block of a row is filled up with zeros, which cost no error.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a weight becomes a matrix with one row for each scale, and back."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]  # kept, in order; all but the blocked axis where there are blocks
    block: tuple[int, int] | None

    @staticmethod
    def of(shape: tuple[int, ...], axes: tuple[int, ...] | None, block: tuple[int, int] | None) -> "Layout":
        rank = len(shape)
        if block is not None:
            block = (block[0] % max(rank, 1), block[1])
            axes = tuple(axis for axis in range(rank) if axis != block[0])
        return Layout(shape, tuple(sorted(axis % rank for axis in axes or ())), block)

    @property
    def _order(self) -> tuple[int, ...]:
        return self.axes + tuple(axis for axis in range(len(self.shape)) if axis not in self.axes)

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scale as ONNX wants it."""
        kept = tuple(self.shape[axis] for axis in self.axes)
        if self.block is None:
            return kept
        axis, size = self.block
        return (*kept[:axis], -(-self.shape[axis] // size), *kept[axis:])

    def rows(self, array: Array) -> Array:
        """Make the matrix; a ragged last block is filled up with zeros, which cost no error."""
        moved = array.transpose(self._order)
        if self.block is None:
            kept = math.prod(self.scale_shape)
            return np.ascontiguousarray(moved.reshape(kept, moved.size // max(kept, 1)))
        size = self.block[1]
        if filler := -moved.shape[-1] % size:
            moved = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, filler)])
        return np.ascontiguousarray(moved.reshape(-1, size))

    def array(self, rows: Array) -> Array:
        """Undo ``rows``."""
        order = self._order
        moved = tuple(self.shape[axis] for axis in order)
        if self.block is not None:
            rows = rows.reshape(*moved[:-1], -1)[..., : moved[-1]]
        return np.asarray(rows.reshape(moved).transpose(np.argsort(order)), order="C")  # keeps rank 0

    def scales(self, column: Array) -> Array:
        """Shape one value per row as ONNX wants it."""
        if self.block is None:
            return column.reshape(self.scale_shape)
        axis = self.block[0]
        kept = tuple(self.shape[a] for a in self.axes)
        return np.ascontiguousarray(np.moveaxis(column.reshape(*kept, -1), -1, axis))

    def spread(self, scale: Array) -> Array:
        """Repeat scales or zero points so that they broadcast over the weight."""
        if self.block is not None:
            axis, size = self.block
            return np.repeat(scale, size, axis)[(slice(None),) * axis + (slice(self.shape[axis]),)]
        return scale.reshape([self.shape[a] if a in self.axes else 1 for a in range(len(self.shape))])
