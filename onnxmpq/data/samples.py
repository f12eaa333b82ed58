"""Samples: what a user gives as calibration data, served as feeds of one sample each.

Whatever was given is a row of blocks (``sources.py``), and a block is cut into samples:

    array of the input's rank, all first dimensions free or 1   ->  one sample per row
    the same, but the model fixes a batch of N                  ->  N rows per sample, across blocks; a rest is dropped
    array with one axis more than the input                     ->  one sample per index of that axis
    anything else that fits                                     ->  the block is one sample

Nothing is guessed: what does not fit is an ``InputError`` that says where and what to do.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onnxmpq.data.sources import Array, Block, Data, Feed, InputSpec, listed, near_name, nearest_name, source
from onnxmpq.errors import InputError

__all__ = ["Array", "Data", "Feed", "InputSpec", "Samples", "open_samples"]


@dataclass(frozen=True, slots=True)
class _Piece:
    """One sample, or one row of the batch that the model fixes, with its labels."""

    feed: Feed
    labels: Array | None
    where: str
    is_row: bool = False


@dataclass(frozen=True)
class Samples:
    """A set of samples that can be read any number of times; made by ``open_samples``.

    Iterating reads the data once more, one block in memory at a time, and checks every value.
    """

    inputs: tuple[InputSpec, ...]
    _blocks: Callable[[], Iterator[Block]]
    _labels_key: str

    @property
    def batch(self) -> int:
        """Rows per sample: 1, or the batch that the model fixes; 0 where the inputs have no batch in common."""
        fixed = {spec.batch for spec in self.inputs if isinstance(spec.batch, int)}
        return 1 if fixed <= {1} else fixed.pop() if len(fixed) == 1 else 0

    def __iter__(self) -> Iterator[Feed]:
        """Yield one feed per sample, in the model's types."""
        return (piece.feed for piece in self._serve([]))

    def __len__(self) -> int:
        return self._scan[0]

    @property
    def sha256(self) -> str:
        """Digest of all samples and labels as they are served, however the data was grouped."""
        return self._scan[1]

    @property
    def labels(self) -> Array | None:
        """What stands beside the inputs under the labels' key, joined along axis 0, or None."""
        return self._scan[2]

    @property
    def dropped(self) -> int:
        """How many rows at the end do not fill the batch that the model fixes."""
        return self._scan[3]

    @property
    def note(self) -> str | None:
        """Say what is not used, if anything is not."""
        if not self.dropped:
            return None
        return (
            f"The model fixes a batch of {self.batch}: the last {self.dropped} rows do not fill one and are not used."
        )

    @property
    def held_bytes(self) -> int:
        """The most bytes of samples that are in memory at once; what is mapped from a file is not."""
        return self._scan[4]

    @cached_property
    def _scan(self) -> tuple[int, str, Array | None, int, int]:
        """Read everything once: number of samples, digest, labels, rows dropped, bytes of the largest block."""
        digest, labels, rest, sizes = hashlib.sha256(), list[Array | None](), list[_Piece](), [0]
        for piece in self._serve(rest, sizes):
            labels.append(piece.labels)
            for name, array in sorted(piece.feed.items()):
                digest.update(_bytes(name, array))
        joined = _together([label for label in labels if label is not None], len(labels))
        if joined is not None:
            digest.update(_bytes("", joined))
        return len(labels), digest.hexdigest(), joined, len(rest), max(sizes)

    def _serve(self, waiting: list[_Piece], sizes: list[int] | None = None) -> Iterator[_Piece]:
        """Yield samples; rows of a batch that is not full yet are ``waiting``, and stay there if it never is.

        ``sizes`` gets the bytes that every block takes.
        """
        number = 0
        for block in self._blocks():
            if sizes is not None:
                sizes.append(sum(x.nbytes for x in block.arrays.values() if not isinstance(x, np.memmap)))
            for piece in self._cut(block):
                if piece.is_row and self.batch > 1:
                    waiting.append(piece)
                    if len(waiting) < self.batch:
                        continue
                    piece = _join(waiting)
                    waiting.clear()
                feed = {spec.name: _value(piece, spec, number) for spec in self.inputs}
                yield _Piece(feed, piece.labels, piece.where)
                number += 1
        if not number and waiting:
            raise InputError(f"The model fixes a batch of {self.batch} and there are {len(waiting)} rows. Give more.")
        if not number:
            raise InputError(
                "The calibration data is empty: expected at least one sample. Check the path or the iterable."
            )

    def _cut(self, block: Block) -> Iterator[_Piece]:
        """Cut a block into samples, or into rows of a fixed batch."""
        where, arrays = block.where, self._taken(block)
        stacked = {spec.name for spec in self.inputs if arrays[spec.name].ndim > len(spec.shape)}
        rows = {spec.name for spec in self.inputs if spec.shape and spec.name not in stacked and self.batch}
        if not stacked and len({len(arrays[name]) for name in rows}) > 1:
            rows = set()
            self._check_symbols(where, arrays)
        step = self.batch if stacked else 1  # rows of a fixed batch are put together later, across blocks
        counts = {name: len(arrays[name]) / (1 if name in stacked else step) for name in (*stacked, *rows)}
        if len(set(counts.values())) > 1:
            raise InputError(f"{where}: the arrays disagree on the number of samples: {_shapes(arrays)}.")
        count = int(next(iter(counts.values()), 1))
        for spec in self.inputs:
            own = arrays[spec.name].shape
            if not spec.fits(own[1:] if spec.name in stacked else (self.batch, *own[1:]) if spec.name in rows else own):
                raise InputError(_misfit(where, spec, own))
        labels = None if self._labels_key in arrays else block.arrays.get(self._labels_key)
        labels = None if labels is None else np.atleast_1d(labels)
        each = len(labels) // max(count, 1) if labels is not None else 0
        if labels is not None and (each * count != len(labels) or (count > 1 and each not in (1, step))):
            raise InputError(
                f"{where}: '{self._labels_key}' has {len(labels)} entries for {count} samples. Give one for each."
            )
        for k in range(count):
            yield _Piece(
                feed={
                    name: array[k] if name in stacked else array[k * step : (k + 1) * step] if name in rows else array
                    for name, array in arrays.items()
                },
                labels=None if labels is None else labels[k * each : (k + 1) * each],
                where=where,
                is_row=bool(rows) and not stacked,
            )

    def _taken(self, block: Block) -> dict[str, Array]:
        """Take the arrays of the inputs; all wrong names are one error, then all wrong ranks and types."""
        wanted = [spec.name for spec in self.inputs]
        missing = [name for name in wanted if name not in block.arrays]
        unknown = [name for name in block.arrays if name not in wanted and name != self._labels_key]
        there = [*block.arrays, *block.beside]
        faults = [f"input '{name}' is missing{near_name(name, set(there) - set(wanted))}" for name in missing]
        faults += [f"'{name}' is not an input{nearest_name(name, wanted)}" for name in unknown]
        if faults:
            raise InputError(
                f"{block.where}: {'; '.join(faults)}. Given: {listed(there)}. "
                f"Name each array after its input: {listed(wanted)}."
            )
        faults = []
        for spec in self.inputs:
            array = block.arrays[spec.name]
            if array.ndim - len(spec.shape) not in (0, 1):
                faults.append(_misfit(block.where, spec, array.shape))
            elif not _casts(array.dtype, spec.dtype):
                faults.append(
                    f"{block.where}: input '{spec.name}' expects {spec.dtype.name}, the data is {array.dtype.name}. "
                    f"Convert it the way the model was trained, e.g. with .astype(numpy.{spec.dtype.name})."
                )
        if faults:
            raise InputError("\n".join(faults))
        return {name: block.arrays[name] for name in wanted}

    def _check_symbols(self, where: str, arrays: Mapping[str, Array]) -> None:
        """Refuse different lengths where the model names the first dimensions alike."""
        seen: dict[str, int] = {}
        for spec in self.inputs:
            if isinstance(spec.batch, str) and seen.setdefault(spec.batch, n := len(arrays[spec.name])) != n:
                raise InputError(
                    f"{where}: the arrays disagree on dimension '{spec.batch}': {_shapes(arrays)}. Make them equal."
                )


def spread(total: int, count: int) -> set[int]:
    """Return the places of ``count`` samples from all over ``total``.

    >>> sorted(spread(100, 3))
    [0, 50, 99]
    """
    return {int(place) for place in np.linspace(0, total - 1, min(count, total)).round()}


def checked_labels(labels: Array) -> Array:
    """Refuse labels that name no class: text, fractions, what is no number, and what is below zero."""
    if labels.dtype.kind not in "iufb":
        raise InputError(f"The labels are {labels.dtype}. Expected whole numbers, one for each sample.")
    wrong = labels < 0
    if labels.dtype.kind == "f":
        wrong = ~np.isfinite(labels) | (labels != np.floor(labels)) | wrong
    if wrong.any():
        first = tuple(int(place) for place in np.argwhere(wrong)[0])
        raise InputError(
            f"Label {', '.join(map(str, first))} is {labels[first]}. Expected whole numbers from 0 on: leave out "
            "samples without a class, or the labels."
        )
    return labels


def open_samples(data: Data, inputs: Sequence[InputSpec], *, labels: str = "labels") -> Samples:
    """Make samples of ``data`` for these inputs, and check the first of them.

    ``labels`` is the key under which labels may stand beside the inputs. In files other keys are ignored; in
    feeds made by a program they are an error. Iterators, and readers without ``rewind()``, are kept in memory.
    """
    if isinstance(data, Samples) and (data.inputs, data._labels_key) == (tuple(inputs), labels):
        return data  # and what is known of them is not read again
    samples = Samples(tuple(inputs), source(data, tuple(inputs), labels), labels)
    next(iter(samples))
    return samples


def _value(piece: _Piece, spec: InputSpec, number: int) -> Array:
    """Cast one array of a sample to the model's type, and check that its numbers are finite."""
    with np.errstate(over="ignore"):  # seen as inf just below
        array = np.array(piece.feed[spec.name], dtype=spec.dtype, order="C")
    if "float" in spec.dtype.name and not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "an infinite value"
        raise InputError(
            f"{piece.where}: sample {number} has {what} in input '{spec.name}'. Repair or remove that sample."
        )
    return array


def _join(rows: Sequence[_Piece]) -> _Piece:
    """Put the rows of a batch together; an input without axes must be the same for all of them."""
    feed: Feed = {}
    for name, first in rows[0].feed.items():
        parts = [row.feed[name] for row in rows]
        if any(part.shape != first.shape or (not first.ndim and part != first) for part in parts):
            raise InputError(
                f"{rows[-1].where}: input '{name}' differs in shape or value within one batch of {len(rows)}. "
                "Pad the samples to one shape, or group them so that those of a batch agree."
            )
        feed[name] = np.concatenate(parts) if first.ndim else first
    labels = [row.labels for row in rows if row.labels is not None]
    return _Piece(feed, _together(labels, len(rows)), rows[-1].where)


def _together(labels: Sequence[Array], expected: int) -> Array | None:
    """Join labels along axis 0; all samples have them, or none."""
    if len(labels) not in (0, expected) or len({label.shape[1:] for label in labels}) > 1:
        raise InputError(
            f"Labels of one shape are there for only {sum(label.shape[1:] == labels[0].shape[1:] for label in labels)} "
            f"of {expected} samples. Give them for all, padded to one shape, or for none."
        )
    return np.concatenate(labels) if labels else None


def _casts(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Tell whether a cast keeps the meaning: same kind of number, no smaller, but float64 may become float32.

    Integers do not become floats: pixels from 0 to 255 for a float input are mostly a forgotten normalisation.
    """
    kinds = {"u": "i", "U": "O"}
    alike = kinds.get(given.kind, given.kind) == kinds.get(wanted.kind, wanted.kind)
    return given == wanted or (
        alike and (np.can_cast(given, wanted) or (given.name, wanted.name) == ("float64", "float32"))
    )


def _bytes(name: str, array: Array) -> bytes:
    """Write an array for the digest: name, type, shape, values."""
    values = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    return f"{name}\0{array.dtype.name}\0{array.shape}\0".encode() + values


def _shapes(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"'{name}' {array.shape}" for name, array in arrays.items())


def _misfit(where: str, spec: InputSpec, shape: tuple[int, ...]) -> str:
    return (
        f"{where}: input '{spec.name}' expects shape {spec.dimensions}, the data is {shape}. "
        "Give it that shape, with samples along the first axis or along one axis more in front."
    )
