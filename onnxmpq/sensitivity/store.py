"""The store of results: an SQLite file that a killed run takes up again.

    with Store.open(path, {"model": sha256, "samples": sha256, "engine": "1"}) as store:
        for job in store.missing(key(job) for job in jobs): ...
        store.put(key(job), job_json(job), arrays, seconds)
        arrays = store.get(key(job))

Every result is one transaction, so that a run killed at any moment loses at most the result it was about to put. Of
SQLite's two ways to keep that promise this is the rollback journal (DELETE, synchronous FULL), not the write-ahead log.
The log is some ten times faster, but its readers and writers share memory, which network file systems do not have, and
it leaves results in a second file, which gets lost when the first is copied. The journal allows hundreds of results a
second, each of which takes milliseconds or more to measure.

Nothing read from a store is believed. A row carries checksums over its key, its content and the identity of its store,
looked at on every read: a row that does not fit is reported and treated as absent, so that it is measured again. A file
that SQLite itself finds damaged is an InputError. The file is never deleted, nor made anew.
"""

import dataclasses
import hashlib
import json
import sqlite3
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxmpq.errors import InputError, InternalError

Array: TypeAlias = npt.NDArray[Any]

SCHEMA = 1
"""Version of the file's layout."""

APPLICATION = 0x6D707153  # "mpqS", in the header of the file
BUSY_S = 5.0
"""How long to wait for another process that is writing, in seconds."""

_OTHER = {
    "model": "another model",
    "samples": "other samples",
    "blends": "another number of blends of samples, which --no-blends leaves out",
    "ranges": "other ranges",
    "target": "another target",
    "engine": "another version of the measuring engine",
}
_LAYOUT = (
    "CREATE TABLE identity (parts TEXT NOT NULL, checksum BLOB NOT NULL)",
    # Arrays last: what stands before them is read without them. The index is not unique, so that it can be rebuilt
    # over damaged rows.
    "CREATE TABLE results (key TEXT NOT NULL, job TEXT NOT NULL, seconds REAL NOT NULL,"
    " head BLOB NOT NULL, digest BLOB NOT NULL, arrays BLOB NOT NULL)",
    "CREATE INDEX results_by_key ON results (key)",
)


_COLUMNS = "key, job, seconds, head, digest"


def job_json(job: object) -> str:
    """Write a job, a frozen data class, as canonical JSON: the same text for equal jobs, another for any other.

    >>> @dataclass(frozen=True)
    ... class Job:
    ...     unit: str
    ...     bits: tuple[int, ...]
    >>> job_json(Job("conv_1", (8, 4)))
    '{"Job":{"bits":[8,4],"unit":"conv_1"}}'
    """
    if not getattr(getattr(type(job), "__dataclass_params__", None), "frozen", False):
        raise InternalError(f"A job must be a frozen data class, not {type(job).__name__}.")
    return _canonical(_plain(job))


def key(job: object) -> str:
    """Return the key of a job: the sha256 of its canonical JSON, in hexadecimal digits."""
    return hashlib.sha256(job_json(job).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Report:
    """What a store holds: rows that are intact and damaged, their sizes, and what SQLite finds wrong."""

    path: str
    schema: int
    identity: Mapping[str, str]
    good: int
    damaged: int
    array_bytes: int
    file_bytes: int
    seconds: float
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Tell whether nothing is damaged."""
        return not self.damaged and not self.faults


class Store:
    """Results of jobs by key, in a file or in memory. Open it with ``Store.open``; use it in one thread."""

    schema: ClassVar[int] = SCHEMA

    def __init__(
        self, connection: sqlite3.Connection, where: str, identity: Mapping[str, str], on_damage: Callable[[str], None]
    ) -> None:
        self._sql = connection
        self._where = where
        self._salt = hashlib.blake2b(_canonical(dict(identity)).encode()).digest()
        self._on_damage = on_damage
        self._told: set[str] = set()
        self.identity = dict(identity)
        """What all results depend on."""

    @classmethod
    def open(
        cls,
        path: Path | None,
        identity: Mapping[str, str] | None,
        *,
        on_damage: Callable[[str], None] | None = None,
    ) -> Self:
        """Open the store at ``path``, made where it is absent; None keeps results in memory.

        ``identity`` has the digests of what all results depend on: model, samples, ranges, engine ... A store made for
        another one is an InputError that names the parts; so are a file that is no store, is damaged, or was written by
        a newer version. An identity of None opens any store that is there, to verify or compact it. ``on_damage`` is
        told of each damaged row; by default it warns.
        """
        where = "memory" if path is None else str(path)
        if path is not None and not path.exists():
            if identity is None:
                raise InputError(f"There is no store '{where}'.")
            if not path.absolute().parent.is_dir():
                raise InputError(f"The store '{where}' cannot be made: there is no folder '{path.absolute().parent}'.")
        with _explained(where):
            sql = sqlite3.connect(":memory:" if path is None else path, timeout=BUSY_S, isolation_level=None)
        try:
            # Text comes as bytes: what is damaged need not be text.
            sql.text_factory = bytes
            with _explained(where):
                for pragma in ("synchronous=FULL", "cell_size_check=ON", "trusted_schema=OFF"):
                    sql.execute(f"PRAGMA {pragma}")
                if identity is not None and _is_blank(sql):
                    with _transaction(sql):
                        if _is_blank(sql):  # another process may have been first
                            _lay_out(sql, identity)
                stored = _identity(sql, where)
            if identity is not None and (differences := _differences(stored, identity)):
                raise InputError(
                    f"The store '{where}' was made for {' and '.join(differences)}, so that its results do not hold "
                    "here. Choose another --store; delete this one if it is no longer wanted."
                )
            with _explained(where):
                sql.execute("PRAGMA journal_mode=DELETE").fetchall()
            return cls(sql, where, stored, on_damage or _warn)
        except BaseException:
            sql.close()
            raise

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; what was put is in it already."""
        self._sql.close()

    def get(self, key: str) -> dict[str, Array] | None:
        """Return the arrays put under ``key``, bit for bit and in C order; None where they are absent or damaged."""
        content = self._content(key)
        return None if content is None else _unpacked(content)

    def put(self, key: str, job_json: str, arrays: Mapping[str, Array], seconds: float) -> None:
        """Put the result of a job under ``key``, in one transaction; one that is there already is replaced.

        Every dtype is taken that has no objects and no fields. The memory order of an array is not kept: whoever needs
        the same sums after a restart computes with what ``get`` returns.
        """
        content = _packed(arrays)
        if len(content) > self._sql.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - 2**20 or not isfinite(seconds):
            raise InternalError(f"A result of {len(content)} bytes in {seconds} seconds cannot be stored: {job_json}.")
        seconds = float(seconds)
        digest = _blake2b(self._salt, key.encode(), content)
        head = self._head(key, job_json.encode(), seconds, digest)
        try:
            with _explained(self._where), _transaction(self._sql):
                self._sql.execute("DELETE FROM results WHERE key = ?", (key,))
                self._sql.execute(
                    "INSERT INTO results (key, job, seconds, head, digest, arrays) VALUES (?, ?, ?, ?, ?, ?)",
                    (key, job_json, seconds, head, digest, content),
                )
        except _FullError as error:
            raise InputError(
                f"A result cannot be stored in '{self._where}': {error.reason}. The {self.count} results before it are "
                "safe. Make room, or copy the file to a larger disk and name it with --store; the run then goes on "
                "where it stopped."
            ) from error
        self._told.discard(key)

    def keys(self) -> tuple[str, ...]:
        """Return the keys of the results, oldest first. Arrays are not looked at: ``missing`` does."""
        return tuple(key for key, _ in self._heads())

    def missing(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Return those of ``keys`` that have no intact result, each once, in their order."""
        return tuple(key for key in dict.fromkeys(keys) if self._content(key) is None)

    @property
    def count(self) -> int:
        """Number of results."""
        return len(self.keys())

    @property
    def seconds(self) -> float:
        """Time that measuring the results took."""
        return float(sum(seconds for _, seconds in self._heads()))

    def verify(self) -> Report:
        """Look at every row and at the structure of the file."""
        good, damaged, size, seconds = 0, 0, 0, 0.0
        with _explained(self._where):
            for _, row in self._rows():
                if row:
                    good, size, seconds = good + 1, size + row[1], seconds + row[2]
                else:
                    damaged += 1
            faults = _faults(self._sql)
            file_bytes = _number(self._sql, "page_count") * _number(self._sql, "page_size")
        return Report(
            path=self._where,
            schema=SCHEMA,
            identity=dict(self.identity),
            good=good,
            damaged=damaged,
            array_bytes=size,
            file_bytes=file_bytes,
            seconds=seconds,
            faults=faults,
        )

    def compact(self) -> int:
        """Drop damaged rows and give free space back to the disk; return how many rows were dropped."""
        with _explained(self._where):
            with _transaction(self._sql):
                self._sql.execute("REINDEX")
                bad = [(rowid,) for rowid, row in self._rows() if row is None]
                self._sql.executemany("DELETE FROM results WHERE rowid = ?", bad)
                if faults := _faults(self._sql):
                    raise _damaged(self._where, faults[0])
            self._sql.execute("VACUUM")
        return len(bad)

    def _rows(self) -> Iterator[tuple[int, tuple[str, int, float] | None]]:
        """Yield the row number of every row, with its key, size and seconds; None where it is damaged."""
        for (rowid,) in self._sql.execute("SELECT rowid FROM results ORDER BY rowid").fetchall():
            row = self._sql.execute(f"SELECT {_COLUMNS}, arrays FROM results WHERE rowid = ?", (rowid,)).fetchone()
            key = self._intact(row[:5]) if row else None
            if key is not None and self._fits(key, row):
                yield rowid, (key, len(row[5]), row[2])
            else:
                yield rowid, None

    def _heads(self) -> Iterator[tuple[str, float]]:
        """Yield key and seconds of every result whose row is intact but perhaps for its arrays."""
        with _explained(self._where):
            rows = self._sql.execute(f"SELECT {_COLUMNS} FROM results ORDER BY rowid").fetchall()
        yield from {key: row[2] for row in rows if (key := self._intact(row)) is not None}.items()

    def _content(self, key: str) -> bytes | None:
        """Return the packed arrays under ``key``, if they and all that stands with them are intact."""
        with _explained(self._where):
            rows = self._sql.execute(f"SELECT {_COLUMNS}, arrays FROM results WHERE key = ?", (key,)).fetchall()
        for row in rows:
            if self._intact(row[:5]) == key and self._fits(key, row):
                content: bytes = row[5]
                return content
        if rows and key not in self._told:
            self._told.add(key)
            self._on_damage(
                f"The store '{self._where}' has a damaged result (key {key[:12]}...). It counts as absent and is "
                "measured again. Check the disk."
            )
        return None

    def _fits(self, key: str, row: tuple[Any, ...]) -> bool:
        """Tell whether the arrays of a row are those its checksum was made of."""
        return isinstance(row[5], bytes) and _blake2b(self._salt, key.encode(), row[5]) == row[4]

    def _intact(self, row: tuple[Any, ...]) -> str | None:
        """Return the key of a row (key, job, seconds, head, digest) if its head checksum fits, otherwise None."""
        key, job, seconds, head, digest = row
        if not (isinstance(key, bytes) and isinstance(job, bytes) and isinstance(seconds, float)):
            return None
        try:
            name = key.decode()
        except UnicodeDecodeError:
            return None
        return name if isinstance(digest, bytes) and self._head(name, job, seconds, digest) == head else None

    def _head(self, key: str, job: bytes, seconds: float, digest: bytes) -> bytes:
        """Compute the checksum of everything in a row but its arrays, which ``digest`` stands for."""
        return _blake2b(self._salt, key.encode(), job, struct.pack("<d", seconds), digest)


class _FullError(InputError):
    """The disk is full, or fails."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            f"The store '{where}' cannot be read or written: {reason}. Make room, or choose another --store."
        )
        self.reason = reason


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what SQLite complains of into an InputError that says what to do."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except (sqlite3.Error, UnicodeError) as error:  # the names in a damaged schema need not be text
        extended = getattr(error, "sqlite_errorcode", 0)
        code = extended & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise InputError(
                f"Another run is writing to the store '{where}' ({error}). Wait for it, or choose another --store."
            ) from error
        truncated = extended == sqlite3.SQLITE_IOERR_SHORT_READ
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and not truncated):
            raise _FullError(where, str(error)) from error
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise InputError(
                f"The store '{where}' cannot be opened for writing: {error}. It must be a file, in a folder where "
                "files can be made."
            ) from error
        raise _damaged(where, str(error)) from error


def _damaged(where: str, fault: str) -> InputError:
    """Say that a file cannot be used."""
    return InputError(
        f"The store '{where}' is damaged, or no store: {fault}. It was left as it is. Restore a copy, choose another "
        "--store, or delete it to measure all anew."
    )


@contextmanager
def _transaction(sql: sqlite3.Connection) -> Iterator[None]:
    """Do all or nothing; wait for other writers at the beginning."""
    try:
        sql.execute("BEGIN IMMEDIATE")
        yield
        sql.execute("COMMIT")
    finally:
        if sql.in_transaction:
            sql.execute("ROLLBACK")


def _faults(sql: sqlite3.Connection) -> tuple[str, ...]:
    """Return what SQLite finds wrong with the structure of the file."""
    rows = [str(row[0], "utf-8", "replace") for row in sql.execute("PRAGMA integrity_check(20)")]
    return tuple(row for row in rows if row != "ok")


def _number(sql: sqlite3.Connection, pragma: str) -> int:
    """Return a number from the header of the file."""
    return int(sql.execute(f"PRAGMA {pragma}").fetchone()[0])


def _is_blank(sql: sqlite3.Connection) -> bool:
    """Tell whether there is nothing in the file: it is new, or its making was cut short."""
    tables = sql.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return not (tables or _number(sql, "application_id") or _number(sql, "user_version"))


def _lay_out(sql: sqlite3.Connection, identity: Mapping[str, str]) -> None:
    """Make the tables of a new store."""
    for statement in (*_LAYOUT, f"PRAGMA application_id={APPLICATION}", f"PRAGMA user_version={SCHEMA}"):
        sql.execute(statement)
    parts = _canonical(dict(identity))
    sql.execute("INSERT INTO identity (parts, checksum) VALUES (?, ?)", (parts, _blake2b(parts.encode())))


def _identity(sql: sqlite3.Connection, where: str) -> dict[str, str]:
    """Return what a store was made for; refuse a file that is none, or one of a later layout."""
    if _is_blank(sql):
        raise InputError(f"The store '{where}' is empty.")
    if (application := _number(sql, "application_id")) != APPLICATION:
        raise _damaged(where, f"the header says application {application:#x}, not {APPLICATION:#x}")
    if (schema := _number(sql, "user_version")) > SCHEMA:
        raise InputError(
            f"The store '{where}' has schema {schema}; this version of onnxmpq reads schema {SCHEMA}. Update onnxmpq, "
            "or choose another --store."
        )
    rows = sql.execute("SELECT parts, checksum FROM identity").fetchall()
    if schema < SCHEMA or len(rows) != 1 or not isinstance(rows[0][0], bytes) or _blake2b(rows[0][0]) != rows[0][1]:
        raise _damaged(where, "what it was made for cannot be read")
    return {str(part): str(digest) for part, digest in json.loads(rows[0][0]).items()}


def _differences(stored: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Name the parts in which two identities differ."""
    return [
        f"{_OTHER.get(part, f'another {part}')} (stored: {_short(stored.get(part))}, now: {_short(given.get(part))})"
        for part in sorted({*stored, *given})
        if stored.get(part) != given.get(part)
    ]


def _short(digest: str | None) -> str:
    """Shorten a digest for a message."""
    return "none" if digest is None else digest if len(digest) <= 16 else f"{digest[:12]}..."


def _warn(message: str) -> None:
    """Tell of damage where nobody else does."""
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _blake2b(*parts: bytes) -> bytes:
    """Compute the checksum of byte strings; where one ends is part of it."""
    checksum = hashlib.blake2b(digest_size=32)
    for part in parts:
        checksum.update(struct.pack("<Q", len(part)))
        checksum.update(part)
    return checksum.digest()


def _canonical(value: Any) -> str:
    """Write plain data as JSON in the one form that keys are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: object) -> Any:
    """Turn a job into plain data; refuse what has no single spelling."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {type(value).__name__: fields}
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(item) for name, item in value.items()}
    raise InternalError(f"A job cannot hold {value!r} ({type(value).__name__}): its key would not be certain.")


def _packed(arrays: Mapping[str, Array]) -> bytes:
    """Write arrays as bytes: the length of a list of names, dtypes and shapes, the list, then raw values."""
    contents = [(name, np.asarray(array)) for name, array in arrays.items()]
    listing = _canonical([[name, _dtype_name(array.dtype), array.shape] for name, array in contents]).encode()
    return b"".join((struct.pack("<I", len(listing)), listing, *(array.tobytes() for _, array in contents)))


def _unpacked(content: bytes) -> dict[str, Array]:
    """Read what ``_packed`` wrote."""
    start = 4 + struct.unpack_from("<I", content)[0]
    arrays: dict[str, Array] = {}
    for name, dtype, shape in json.loads(content[4:start]):
        array = np.empty(shape, getattr(ml_dtypes, dtype, dtype))
        if array.nbytes:
            array.reshape(-1).view(np.uint8)[:] = np.frombuffer(content, np.uint8, array.nbytes, start)
        start += array.nbytes
        arrays[name] = array
    return arrays


def _dtype_name(dtype: np.dtype[Any]) -> str:
    """Name a dtype so that numpy and ml_dtypes find it again."""
    if getattr(ml_dtypes, dtype.name, None) is dtype.type:
        return dtype.name
    if dtype.kind not in "biufcSUmMV" or dtype.fields:
        raise InternalError(f"Arrays of dtype {dtype} cannot be stored.")
    return dtype.str
