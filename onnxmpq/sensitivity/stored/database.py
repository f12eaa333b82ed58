"""The SQLite file of a store: made, opened, and refused where it is damaged or no store at all.

    database = Database(path)            refuses a place where no file can be
    database.made_for(identity)          lays out a blank file; what a store was made for
    with database.explained():           what SQLite complains of, as an InputError that says what to do
        with database.transaction():     all or nothing
            database.sql.execute(...)

A file that SQLite itself finds damaged is an InputError; so is one with other tables than these, with a view or a
trigger, or with one that keeps SQLite busy for longer than its size can explain. It is left as it is.
"""

import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Timer

from onnxmpq.disk.reading import NAMED_TEXTS, parse_json
from onnxmpq.errors import InputError
from onnxmpq.sensitivity.stored.keys import canonical
from onnxmpq.sensitivity.stored.seals import checksum

SCHEMA = 1
"""Version of the file's layout."""

APPLICATION = 0x6D707153  # "mpqS", in the header of the file
BUSY_S = 5.0
"""How long to wait for another process that is writing, in seconds."""

MOST_FAULTS = 20
"""How many faults SQLite tells of one file."""

_LAYOUT = (
    "CREATE TABLE identity (parts TEXT NOT NULL, checksum BLOB NOT NULL)",
    # Arrays last: what stands before them is read without them. The index is not unique, so that it can be rebuilt
    # over damaged rows.
    "CREATE TABLE results (key TEXT NOT NULL, job TEXT NOT NULL, seconds REAL NOT NULL,"
    " head BLOB NOT NULL, digest BLOB NOT NULL, arrays BLOB NOT NULL)",
    "CREATE INDEX results_by_key ON results (key)",
)
_STEPS = 100_000  # of SQLite's machine, between two looks at how many there were
_MOST_STEPS = 20_000_000  # of one statement, besides one for every byte of the file: an intact row takes a hundred
_CHECK_S, _CHECK_BYTES_S = 10.0, 2e6
_IDENTITY_BYTES = 2**16


class FullError(InputError):
    """The disk is full, or fails."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            f"The store '{where}' cannot be read or written: {reason}. Make room, or choose another --store."
        )
        self.reason = reason


class Database:
    """A connection to the file of a store, or to one in memory where ``path`` is None. Use it in one thread."""

    def __init__(self, path: Path | None, *, must_be_there: bool = False) -> None:
        """Connect. Nothing is written yet, and nothing is known of what is in the file."""
        self.where = "memory" if path is None else str(path)
        if path is not None:
            _check_place(path, must_be_there)
        with _explained(self.where):  # a path that is whole: a name such as ":memory:" has a meaning of its own
            self.sql = sqlite3.connect(path.absolute() if path else ":memory:", timeout=BUSY_S, isolation_level=None)
        # Text comes as bytes: what is damaged need not be text.
        self.sql.text_factory = bytes
        self._watch = _Watch(self.sql, path)

    def close(self) -> None:
        """Close the file."""
        self.sql.close()

    def made_for(self, identity: Mapping[str, str] | None) -> dict[str, str]:
        """Return what the store was made for: ``identity``, if there is one and the file is blank.

        A file that is no store, is damaged, or was written by a newer version is an InputError.
        """
        with self.explained():
            for pragma in ("synchronous=FULL", "cell_size_check=ON", "trusted_schema=OFF"):
                self.sql.execute(f"PRAGMA {pragma}")
            if identity is not None and _is_blank(self.sql):
                with self.transaction():
                    if _is_blank(self.sql):  # another process may have been first
                        _lay_out(self.sql, identity)
            return self._identity()

    def keep_a_journal(self) -> None:
        """Choose the rollback journal, which a file is given for good."""
        with self.explained():
            self.sql.execute("PRAGMA journal_mode=DELETE").fetchall()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what SQLite complains of into an InputError that says what to do, and begin to count its steps."""
        self._watch.begin()
        with _explained(self.where):
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all or nothing; wait for other writers at the beginning."""
        try:
            self.sql.execute("BEGIN IMMEDIATE")
            yield
            self.sql.execute("COMMIT")
        finally:
            if self.sql.in_transaction:
                self.sql.execute("ROLLBACK")

    def file_bytes(self) -> int:
        """Return the size of the file, as its header says."""
        return _number(self.sql, "page_count") * _number(self.sql, "page_size")

    def faults(self) -> tuple[str, ...]:
        """Return what SQLite finds wrong with the structure of the file, in a time that fits its size."""
        # Counting the rows of an index takes no steps.
        end = Timer(_CHECK_S + self.file_bytes() / _CHECK_BYTES_S, self.sql.interrupt)
        end.start()
        try:
            rows = self.sql.execute(f"PRAGMA integrity_check({MOST_FAULTS})")
            told = [str(row[0], "utf-8", "replace") for row in rows]
        finally:
            end.cancel()
        return tuple(row for row in told if row != "ok")

    def damaged(self, fault: str) -> InputError:
        """Say that the file cannot be used."""
        return _damaged(self.where, fault)

    def _identity(self) -> dict[str, str]:
        """Return what a store was made for; refuse a file that is none, or one of a later layout."""
        if _is_blank(self.sql):
            raise InputError(f"The store '{self.where}' is empty.")
        if (application := _number(self.sql, "application_id")) != APPLICATION:
            raise self.damaged(f"the header says application {application:#x}, not {APPLICATION:#x}")
        if (schema := _number(self.sql, "user_version")) > SCHEMA:
            raise InputError(
                f"The store '{self.where}' has schema {schema}; this version of onnxmpq reads schema {SCHEMA}. Update "
                "onnxmpq, or choose another --store."
            )
        if schema < SCHEMA or _objects(self.sql) != _own_objects():
            raise self.damaged("its tables are not those of a store")
        rows = self.sql.execute("SELECT parts, checksum FROM identity").fetchmany(2)
        parts = rows[0][0] if len(rows) == 1 else None
        if isinstance(parts, bytes) and len(parts) <= _IDENTITY_BYTES and checksum(parts) == rows[0][1]:
            with suppress(ValueError):
                return NAMED_TEXTS.read(parse_json(parts.decode()))
        raise self.damaged("what it was made for cannot be read")


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
def _explained(where: str) -> Iterator[None]:
    """Turn what SQLite complains of into an InputError that says what to do."""
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
            raise FullError(where, str(error)) from error
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
    parts = canonical(dict(identity))
    sql.execute("INSERT INTO identity (parts, checksum) VALUES (?, ?)", (parts, checksum(parts.encode())))


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
