"""The store of results: an SQLite file that a killed run takes up again.

    with Store.open(path, {"model": sha256, "samples": sha256, "engine": "1"}) as store:
        for job in store.missing(key(job) for job in jobs): ...
        store.put(key(job), job_json(job), arrays, seconds)
        arrays = store.get(key(job))

    keys ─▶ packing ─▶ seals ─▶ database ─▶ store        what a job is called, what it gave, its checksums, their file

Every result is one transaction, so that a run killed at any moment loses at most the result it was about to put. Of
SQLite's two ways to keep that promise this is the rollback journal (DELETE, synchronous FULL), not the write-ahead log.
The log is some ten times faster, but its readers and writers share memory, which network file systems do not have, and
it leaves results in a second file, which gets lost when the first is copied. The journal allows hundreds of results a
second, each of which takes milliseconds or more to measure.

Nothing read from a store is believed. A row carries checksums over its key, its content and the identity of its store,
looked at on every read: a row that does not fit, or holds no arrays, is reported and treated as absent, so that it is
measured again. A file that is damaged as a whole is an InputError; so is one with rows that come twice. The file is
never deleted, nor made anew.
"""

import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, InternalError
from onnxmpq.sensitivity.stored.database import MOST_FAULTS, SCHEMA, Database, FullError
from onnxmpq.sensitivity.stored.packing import Array, Part, packed, unpacked
from onnxmpq.sensitivity.stored.seals import Row, Seals

_OTHER = {
    "model": "another model",
    "samples": "other samples",
    "blends": "another number of blends of samples, which --no-blends leaves out",
    "ranges": "other ranges",
    "target": "another target",
    "engine": "another version of the measuring engine",
}
_COLUMNS = "rowid, key, job, seconds, head, digest"


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

    def __init__(self, database: Database, identity: Mapping[str, str], on_damage: Callable[[str], None]) -> None:
        self._database = database
        self._sql, self._where = database.sql, database.where
        self._seals = Seals(identity)
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
        database = Database(path, must_be_there=identity is None)
        try:
            stored = database.made_for(identity)
            if identity is not None and (differences := _differences(stored, identity)):
                raise InputError(
                    f"The store '{database.where}' was made for {' and '.join(differences)}, so that its results do "
                    "not hold here. Choose another --store; delete this one if it is no longer wanted."
                )
            database.keep_a_journal()
            return cls(database, stored, on_damage or _warn)
        except BaseException:
            database.close()
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
        self._database.close()

    def get(self, key: str) -> dict[str, Array] | None:
        """Return the arrays put under ``key``, bit for bit and in C order; None where they are absent or damaged."""
        found = self._found(key)
        return None if found is None else unpacked(*found)

    def put(self, key: str, job_json: str, arrays: Mapping[str, Array], seconds: float) -> None:
        """Put the result of a job under ``key``, in one transaction; one that is there already is replaced.

        Every dtype is taken that has no objects and no fields. The memory order of an array is not kept: whoever needs
        the same sums after a restart computes with what ``get`` returns.
        """
        content = packed(arrays)
        if len(content) > self._sql.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - 2**20 or not isfinite(seconds):
            raise InternalError(f"A result of {len(content)} bytes in {seconds} seconds cannot be stored: {job_json}.")
        seconds = float(seconds)
        digest = self._seals.digest(key, content)
        head = self._seals.head(key, job_json.encode(), seconds, digest)
        try:
            with self._database.explained(), self._database.transaction():
                self._sql.execute("DELETE FROM results WHERE key = ?", (key,))
                self._sql.execute(
                    "INSERT INTO results (key, job, seconds, head, digest, arrays) VALUES (?, ?, ?, ?, ?, ?)",
                    (key, job_json, seconds, head, digest, content),
                )
        except FullError as error:
            raise InputError(
                f"A result cannot be stored in '{self._where}': {error.reason}. The {self.count} results before it are "
                "safe. Make room, or copy the file to a larger disk and name it with --store; the run then goes on "
                "where it stopped."
            ) from error
        self._told.discard(key)

    def forget(self, key: str) -> None:
        """Drop a result that is not what its job gives."""
        with self._database.explained(), self._database.transaction():
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
        with self._database.explained():
            for _, row in self._rows():
                if row:
                    good, size, seconds = good + 1, size + row[1], seconds + row[2]
                else:
                    damaged += 1
            faults = self._database.faults()
            file_bytes = self._database.file_bytes()
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
        with self._database.explained():
            with self._database.transaction():
                self._numbers()  # an index of rows that come again and again has no end
                told = "\n".join(self._database.faults())
                if "2nd reference" in told or told.count("\n") >= MOST_FAULTS - 1:
                    # Nor has emptying a tree whose pages hang at several places.
                    raise self._database.damaged("pages in it are used twice, or many are damaged")
                self._sql.execute("REINDEX")
                bad = [(rowid,) for rowid, row in self._rows() if row is None]
                self._sql.executemany("DELETE FROM results WHERE rowid = ?", bad)
                if faults := self._database.faults():
                    raise self._database.damaged(faults[0])
            self._sql.execute("VACUUM")
        return len(bad)

    def _numbers(self) -> list[int]:
        """Return the numbers of all rows."""
        rows = self._sql.execute("SELECT rowid FROM results NOT INDEXED ORDER BY rowid")
        return [number for number, *_ in self._in_order(rows)]

    def _in_order(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield rows, which begin with their numbers; refuse a file that has one of them again and again."""
        last = None
        for row in rows:
            if last is not None and row[0] <= last:
                raise self._database.damaged("rows in it come twice")
            last = row[0]
            yield row

    def _rows(self) -> Iterator[tuple[int, tuple[str, int, float] | None]]:
        """Yield the row number of every row, with its key, size and seconds; None where it is damaged."""
        for number in self._numbers():
            row = self._sql.execute(f"SELECT {_COLUMNS}, arrays FROM results WHERE rowid = ?", (number,)).fetchone()
            key = self._seals.key(row[1:6]) if row else None
            if key is not None and self._seals.parts(key, row[5], row[6]) is not None:
                yield number, (key, len(row[6]), row[3])
            else:
                yield number, None

    def _heads(self) -> Iterator[tuple[str, float]]:
        """Yield key and seconds of every result whose row is intact but perhaps for its arrays."""
        with self._database.explained():
            rows = self._sql.execute(f"SELECT {_COLUMNS} FROM results NOT INDEXED ORDER BY rowid")
            found = {key: row[3] for row in self._in_order(rows) if (key := self._seals.key(row[1:6])) is not None}
        yield from found.items()

    def _found(self, key: str) -> tuple[bytes, list[Part]] | None:
        """Return the packed arrays under ``key``, if they and all that stands with them are intact."""
        any_row, seals = False, self._seals
        with self._database.explained():
            query = f"SELECT {_COLUMNS}, arrays FROM results WHERE key = ? ORDER BY rowid"
            with closing(self._sql.execute(query, (key,))) as rows:
                for row in self._in_order(rows):
                    any_row = True
                    if seals.key(row[1:6]) == key and (parts := seals.parts(key, row[5], row[6])) is not None:
                        return row[6], parts
        if any_row and key not in self._told:
            self._told.add(key)
            self._on_damage(
                f"The store '{self._where}' has a damaged result (key {key[:12]}...). It counts as absent and is "
                "measured again. Check the disk."
            )
        return None


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
