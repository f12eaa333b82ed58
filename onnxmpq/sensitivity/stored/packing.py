"""Named arrays as one string of bytes, and back, bit for bit.

    length of the list │ [[name, dtype, shape], ...] │ values │ values │ ...
      4 bytes            JSON                          in the order of the list, each in C order

``listed`` reads the list and believes nothing of it: what does not fit the bytes behind it is a ValueError.
"""

import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxmpq.disk.reading import parse_json
from onnxmpq.errors import InternalError
from onnxmpq.sensitivity.stored.keys import canonical

Array: TypeAlias = npt.NDArray[Any]

_LISTING_BYTES = 2**20  # of names, types and shapes in a result
_MOST_AXES = 32
_MOST_BYTES = 2**62  # numpy counts no further, even where another length is 0
_DTYPE = re.compile(r"[<>|=]?[A-Za-z?][0-9]{0,9}(\[[0-9]{0,9}[A-Za-z]{1,2}\])?")


@dataclass(frozen=True, slots=True)
class Part:
    """One array in packed bytes, and where its values begin."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int


def packed(arrays: Mapping[str, Array]) -> bytes:
    """Write arrays as bytes: the length of a list of names, dtypes and shapes, the list, then raw values."""
    contents = [(name, np.asarray(array)) for name, array in arrays.items()]
    listing = canonical([[name, _dtype_name(array.dtype), array.shape] for name, array in contents]).encode()
    return b"".join((struct.pack("<I", len(listing)), listing, *(array.tobytes() for _, array in contents)))


def listed(content: bytes) -> list[Part]:
    """Return what ``packed`` wrote into the list; ValueError where it does not fit the bytes behind it."""
    length = int.from_bytes(content[:4], "little")
    start = 4 + length
    if len(content) < start or length > _LISTING_BYTES:
        raise ValueError
    listing = parse_json(content[4:start].decode())
    if not isinstance(listing, list):
        raise ValueError
    parts = []
    for item in listing:
        name, dtype, shape = _entry(item)
        parts.append(Part(name, dtype, shape, start))
        start += math.prod(shape) * dtype.itemsize
    if start != len(content):
        raise ValueError
    return parts


def unpacked(content: bytes, parts: Iterable[Part]) -> dict[str, Array]:
    """Read what ``packed`` wrote."""
    arrays: dict[str, Array] = {}
    for part in parts:
        array = np.empty(part.shape, part.dtype)
        if array.nbytes:
            array.reshape(-1).view(np.uint8)[:] = np.frombuffer(content, np.uint8, array.nbytes, part.start)
        arrays[part.name] = array
    return arrays


def _entry(item: object) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    """Read name, dtype and shape of one array."""
    if not isinstance(item, list) or len(item) != 3:
        raise ValueError
    name, dtype, shape = item
    if not isinstance(name, str) or not isinstance(dtype, str) or not isinstance(shape, list):
        raise ValueError
    if len(shape) > _MOST_AXES or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError
    found = _dtype(dtype)
    if math.prod(length for length in shape if length) * found.itemsize >= _MOST_BYTES:
        raise ValueError
    return name, found, tuple(shape)


def _dtype(name: str) -> np.dtype[Any]:
    """Return the dtype that ``_dtype_name`` has named; ValueError for any other name."""
    known = getattr(ml_dtypes, name, None)
    try:
        if known is None and not _DTYPE.fullmatch(name):
            raise ValueError
        found: np.dtype[Any] = np.dtype(name if known is None else known)
        if _dtype_name(found) != name:
            raise ValueError
    except (TypeError, InternalError) as error:
        raise ValueError from error
    return found


def _dtype_name(dtype: np.dtype[Any]) -> str:
    """Name a dtype so that numpy and ml_dtypes find it again."""
    if getattr(ml_dtypes, dtype.name, None) is dtype.type:
        return dtype.name
    if dtype.kind not in "biufcSUmMV" or dtype.fields or dtype.subdtype or not dtype.itemsize:
        raise InternalError(f"Arrays of dtype {dtype} cannot be stored.")
    return dtype.str
