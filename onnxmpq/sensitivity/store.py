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
looked at on every read: a row that does not fit, or holds no arrays, is reported and treated as absent, so that it is
measured again. A file that SQLite itself finds damaged is an InputError; so is one with other tables than these, with a
view or a trigger, with rows that come twice, or with one that keeps SQLite busy for longer than its size can explain.
The file is never deleted, nor made anew.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import sqlite3
import stat
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import cache
from math import isfinite
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxmpq.disk.reading import NAMED_TEXTS, brief, parse_json
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


_COLUMNS = "rowid, key, job, seconds, head, digest"
_STEPS = 100_000  # of SQLite's machine, between two looks at how many there were
_MOST_STEPS = 20_000_000  # of one statement, besides one for every byte of the file: an intact row takes a hundred
_FAULTS = 20  # that SQLite tells of one file
_CHECK_S, _CHECK_BYTES_S = 10.0, 2e6
_LISTING_BYTES = 2**20  # of names, types and shapes in a result
_IDENTITY_BYTES = 2**16
_MOST_AXES = 32
_MOST_BYTES = 2**62  # numpy counts no further, even where another length is 0
_DTYPE = re.compile(r"[<>|=]?[A-Za-z?][0-9]{0,9}(\[[0-9]{0,9}[A-Za-z]{1,2}\])?")


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


@dataclass(frozen=True, slots=True)
class _Part:
    """One array in the content of a row, and where its values begin."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int


class _Watch:
    """Ends a statement of SQLite that takes more steps than a file of its size can explain."""

    def __init__(self, sql: sqlite3.Connection, path: Path | None) -> None:
        self.path, self.left = path, 0
        if path is not None:
            sql.set_progress_handler(self._step, _STEPS)

    def begin(self) -> None:
        """Count from here."""
        if self.path is not None:
            size = os.stat(self.path).st_size if self.path.exists() else 0
            self.left = _MOST_STEPS + size

    def _step(self) -> bool:
        self.left -= _STEPS
        return self.left < 0


class Store:
    """Results of jobs by key, in a file or in memory. Open it with ``Store.open``; use it in one thread."""

    schema: ClassVar[int] = SCHEMA

    def __init__(
        self,
        connection: sqlite3.Connection,
        where: str,
        watch: _Watch,
        identity: Mapping[str, str],
        on_damage: Callable[[str], None],
    ) -> None:
        self._sql = connection
        self._where = where
        self._watch = watch
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
        if path is not None:
            _check_place(path, identity is None)
        with _explained(where):  # a path that is whole: a name such as ":memory:" has a meaning of its own
            sql = sqlite3.connect(path.absolute() if path else ":memory:", timeout=BUSY_S, isolation_level=None)
        try:
            # Text comes as bytes: what is damaged need not be text.
            sql.text_factory = bytes
            watch = _Watch(sql, path)
            with _explained(where, watch):
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
            with _explained(where, watch):
                sql.execute("PRAGMA journal_mode=DELETE").fetchall()
            return cls(sql, where, watch, stored, on_damage or _warn)
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
        found = self._found(key)
        return None if found is None else _unpacked(*found)

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
            with self._explained(), _transaction(self._sql):
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

    def forget(self, key: str) -> None:
        """Drop a result that is not what its job gives."""
        with self._explained(), _transaction(self._sql):
            self._sql.execute("DELETE FROM results WHERE key = ?", (key,))

    def keys(self) -> tuple[str, ...]:
        """Return the keys of the results, oldest first. Arrays are not looked at: ``missing`` does."""
        return tuple(key for key, _ in self._heads())

    def missing(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Return those of ``keys`` that have no intact result, each once, in their order."""
        return tuple(key for key in dict.fromkeys(keys) if self._found(key) is None)

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
        with self._explained():
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
        with self._explained():
            with _transaction(self._sql):
                self._numbers()  # an index of rows that come again and again has no end
                told = "\n".join(_faults(self._sql))
                if "2nd reference" in told or told.count("\n") >= _FAULTS - 1:
                    # Nor has emptying a tree whose pages hang at several places.
                    raise _damaged(self._where, "pages in it are used twice, or many are damaged")
                self._sql.execute("REINDEX")
                bad = [(rowid,) for rowid, row in self._rows() if row is None]
                self._sql.executemany("DELETE FROM results WHERE rowid = ?", bad)
                if faults := _faults(self._sql):
                    raise _damaged(self._where, faults[0])
            self._sql.execute("VACUUM")
        return len(bad)

    def _explained(self) -> AbstractContextManager[None]:
        """Turn what SQLite complains of into an InputError, and begin to count its steps."""
        return _explained(self._where, self._watch)

    def _numbers(self) -> list[int]:
        """Return the numbers of all rows."""
        rows = self._sql.execute("SELECT rowid FROM results NOT INDEXED ORDER BY rowid")
        return [number for number, *_ in self._in_order(rows)]

    def _in_order(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yield rows, which begin with their numbers; refuse a file that has one of them again and again."""
        last = None
        for row in rows:
            if last is not None and row[0] <= last:
                raise _damaged(self._where, "rows in it come twice")
            last = row[0]
            yield row

    def _rows(self) -> Iterator[tuple[int, tuple[str, int, float] | None]]:
        """Yield the row number of every row, with its key, size and seconds; None where it is damaged."""
        for number in self._numbers():
            row = self._sql.execute(f"SELECT {_COLUMNS}, arrays FROM results WHERE rowid = ?", (number,)).fetchone()
            key = self._intact(row[1:6]) if row else None
            if key is not None and self._parts(key, row) is not None:
                yield number, (key, len(row[6]), row[3])
            else:
                yield number, None

    def _heads(self) -> Iterator[tuple[str, float]]:
        """Yield key and seconds of every result whose row is intact but perhaps for its arrays."""
        with self._explained():
            rows = self._sql.execute(f"SELECT {_COLUMNS} FROM results NOT INDEXED ORDER BY rowid")
            found = {key: row[3] for row in self._in_order(rows) if (key := self._intact(row[1:6])) is not None}
        yield from found.items()

    def _found(self, key: str) -> tuple[bytes, list[_Part]] | None:
        """Return the packed arrays under ``key``, if they and all that stands with them are intact."""
        any_row = False
        with self._explained():
            query = f"SELECT {_COLUMNS}, arrays FROM results WHERE key = ? ORDER BY rowid"
            with closing(self._sql.execute(query, (key,))) as rows:
                for row in self._in_order(rows):
                    any_row = True
                    if self._intact(row[1:6]) == key and (parts := self._parts(key, row)) is not None:
                        return row[6], parts
        if any_row and key not in self._told:
            self._told.add(key)
            self._on_damage(
                f"The store '{self._where}' has a damaged result (key {key[:12]}...). It counts as absent and is "
                "measured again. Check the disk."
            )
        return None

    def _parts(self, key: str, row: tuple[Any, ...]) -> list[_Part] | None:
        """Return the arrays of a row, if they are those its checksum was made of."""
        if not isinstance(row[6], bytes) or _blake2b(self._salt, key.encode(), row[6]) != row[5]:
            return None
        try:
            return _listed(row[6])
        except ValueError:
            return None

    def _intact(self, row: tuple[Any, ...]) -> str | None:
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


def _check_place(path: Path, must_be_there: bool) -> None:
    """Refuse a place where no store can be."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if must_be_there:
            raise InputError(f"There is no store '{path}'. `onnxmpq measure --store` makes one.") from None
        if not path.absolute().parent.is_dir():
            told = f"The store '{path}' cannot be made: there is no folder '{path.absolute().parent}'."
            raise InputError(told) from None
        return
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or "its name has a NUL character"
        raise InputError(f"The store '{path}' cannot be opened: {told}. Check its name and permissions.") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"The store '{path}' cannot be opened: it is no file. Choose another --store.")


@contextmanager
def _explained(where: str, watch: _Watch | None = None) -> Iterator[None]:
    """Turn what SQLite complains of into an InputError that says what to do."""
    if watch:
        watch.begin()
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except (sqlite3.Error, UnicodeError) as error:  # the names in a damaged schema need not be text
        extended = getattr(error, "sqlite_errorcode", 0)
        code = extended & 0xFF
        if code == sqlite3.SQLITE_INTERRUPT:
            raise _damaged(where, "it keeps SQLite busy for longer than its size can explain") from error
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
    """Return what SQLite finds wrong with the structure of the file, in a time that fits its size."""
    size = _number(sql, "page_count") * _number(sql, "page_size")
    end = Timer(_CHECK_S + size / _CHECK_BYTES_S, sql.interrupt)  # counting the rows of an index takes no steps
    end.start()
    try:
        rows = [str(row[0], "utf-8", "replace") for row in sql.execute(f"PRAGMA integrity_check({_FAULTS})")]
    finally:
        end.cancel()
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
    if schema < SCHEMA or _objects(sql) != _own_objects():
        raise _damaged(where, "its tables are not those of a store")
    rows = sql.execute("SELECT parts, checksum FROM identity").fetchmany(2)
    parts = rows[0][0] if len(rows) == 1 else None
    if isinstance(parts, bytes) and len(parts) <= _IDENTITY_BYTES and _blake2b(parts) == rows[0][1]:
        with suppress(ValueError):
            return NAMED_TEXTS.read(parse_json(parts.decode()))
    raise _damaged(where, "what it was made for cannot be read")


def _objects(sql: sqlite3.Connection) -> list[tuple[bytes, ...]]:
    """Return the tables and whatever else a file has, with the statements that make them; the first of them do."""
    return sql.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchmany(len(_LAYOUT) + 1)


@cache
def _own_objects() -> list[tuple[bytes, ...]]:
    """Return the tables of a store."""
    with closing(sqlite3.connect(":memory:")) as sql:
        sql.text_factory = bytes
        _lay_out(sql, {})
        return _objects(sql)


def _differences(stored: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Name the parts in which two identities differ."""
    return [
        f"{_OTHER.get(part, f'another {brief(part)}')} "
        f"(stored: {_short(stored.get(part))}, now: {_short(given.get(part))})"
        for part in sorted({*stored, *given})
        if stored.get(part) != given.get(part)
    ]


def _short(digest: str | None) -> str:
    """Shorten a digest for a message."""
    return "none" if digest is None else brief(digest, 16 if len(digest) <= 16 else 12)


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


def _listed(content: bytes) -> list[_Part]:
    """Return what ``_packed`` wrote into the list; ValueError where it does not fit the bytes behind it."""
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
        parts.append(_Part(name, dtype, shape, start))
        start += math.prod(shape) * dtype.itemsize
    if start != len(content):
        raise ValueError
    return parts


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


def _unpacked(content: bytes, parts: Iterable[_Part]) -> dict[str, Array]:
    """Read what ``_packed`` wrote."""
    arrays: dict[str, Array] = {}
    for part in parts:
        array = np.empty(part.shape, part.dtype)
        if array.nbytes:
            array.reshape(-1).view(np.uint8)[:] = np.frombuffer(content, np.uint8, array.nbytes, part.start)
        arrays[part.name] = array
    return arrays


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
