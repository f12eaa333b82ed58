"""The checksums of a row of results: a row is believed only where they fit.

    key   job   seconds   head                                       digest                       arrays
                          checksum(salt, key, job, seconds, digest)  checksum(salt, key, arrays)  packed

The salt is made of what the store was made for, so that a row of another store does not fit. The head stands for all
but the arrays, so that keys and times are read, and believed, without them.
"""

import hashlib
import math
import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

from onnxmpq.sensitivity.stored.keys import canonical
from onnxmpq.sensitivity.stored.packing import Part, listed

Row: TypeAlias = tuple[Any, ...]
"""Columns as SQLite gives them, of whatever type is in the file."""


def checksum(*parts: bytes) -> bytes:
    """Compute the checksum of byte strings; where one ends is part of it."""
    found = hashlib.blake2b(digest_size=32)
    for part in parts:
        found.update(struct.pack("<Q", len(part)))
        found.update(part)
    return found.digest()


class Seals:
    """Makes and checks the checksums of one store's rows."""

    def __init__(self, identity: Mapping[str, str]) -> None:
        """Take what the store was made for into every checksum."""
        self._salt = hashlib.blake2b(canonical(dict(identity)).encode()).digest()

    def digest(self, key: str, content: bytes) -> bytes:
        """Compute the checksum of packed arrays under their key."""
        return checksum(self._salt, key.encode(), content)

    def head(self, key: str, job: bytes, seconds: float, digest: bytes) -> bytes:
        """Compute the checksum of everything in a row but its arrays, which ``digest`` stands for."""
        return checksum(self._salt, key.encode(), job, struct.pack("<d", seconds), digest)

    def key(self, row: Row) -> str | None:
        """Return the key of a row (key, job, seconds, head, digest) if its head checksum fits, otherwise None."""
        key, job, seconds, head, digest = row
        if not (isinstance(key, bytes) and isinstance(job, bytes) and isinstance(seconds, float)):
            return None
        if not 0 <= seconds < math.inf:
            return None
        try:
            name = key.decode()
        except UnicodeDecodeError:
            return None
        return name if isinstance(digest, bytes) and self.head(name, job, seconds, digest) == head else None

    def parts(self, key: str, digest: object, content: object) -> list[Part] | None:
        """Return the list of the packed arrays of a row, if they are those its checksum was made of."""
        if not isinstance(content, bytes) or self.digest(key, content) != digest:
            return None
        try:
            return listed(content)
        except ValueError:
            return None
