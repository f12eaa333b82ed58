"""The store: what was put is there after any death of the run, and what is damaged is never believed."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays_of

from onnxmpq.errors import InputError, InternalError
from onnxmpq.sensitivity.stored import database
from onnxmpq.sensitivity.stored.keys import job_json, key
from onnxmpq.sensitivity.stored.seals import checksum
from onnxmpq.sensitivity.stored.store import Store

ROOT = Path(__file__).parents[2]
IDENTITY = {"model": "a" * 64, "samples": "b" * 64, "engine": "1"}
DTYPES = [
    *("?", "<i1", "<u1", "<i2", ">i2", "<u4", "<i8", ">u8", "<f2", "<f4", ">f4", "<f8", "<c8", "<c16", "<g"),
    *("S5", "<U3", ">U3", "<M8[ns]", "<m8[25s]", "V7"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, ml_dtypes.uint2, ml_dtypes.float4_e2m1fn),
]
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Job:
    """A job of this module."""

    unit: str
    number: int


def same(found: Arrays | None, expected: Arrays) -> bool:
    """Tell whether arrays are equal in names, their order, dtypes, shapes and bits."""
    return found is not None and [(n, a.dtype, a.shape, a.tobytes()) for n, a in found.items()] == [
        (n, a.dtype, a.shape, a.tobytes()) for n, a in expected.items()
    ]


def drawn(name: str) -> dict[str, npt.NDArray[Any]]:
    """Make arrays that follow from a key, of up to a few pages of the file."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    return {"x": rng.normal(size=int(rng.integers(0, 3000))).astype(np.float32), "loss": np.array(rng.normal())}


def fill(path: Path, count: int) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Make a store of ``count`` results; return them."""
    results = {key(Job("unit", number)): drawn(str(number)) for number in range(count)}
    with Store.open(path, IDENTITY) as store:
        for number, (name, arrays) in enumerate(results.items()):
            store.put(name, job_json(Job("unit", number)), arrays, number / 7)
    return results


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.db" if request.param == "file" else None, IDENTITY) as store:
        yield store


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_arrays_come_back_bit_for_bit(dtype: npt.DTypeLike, store: Store) -> None:
    kind = np.dtype(dtype)
    raw = np.random.default_rng(0).integers(0, 2 if kind.kind == "b" else 128, 24 * kind.itemsize, dtype=np.uint8)
    full = raw.view(kind).reshape(2, 3, 4)
    arrays = {
        "full": full,
        "none": full[:0],
        "one": full[0, 0, 0, ...].reshape(()),
        "turned": full.T,
        "part": full[:, 1],
    }
    store.put("k", "{}", arrays, 1.5)
    assert same(store.get("k"), arrays)


def test_nan_keeps_its_payload_and_zero_its_sign(store: Store) -> None:
    bits = np.array([0x7FC00000, 0x7F800001, 0xFFC12345, 0x80000000, 0x7F800000, 1], np.uint32)
    store.put("k", "{}", {"": bits.view(np.float32), "ünicode\n": np.array(np.nan)}, 0)
    found = store.get("k")
    assert found is not None
    assert found[""].view(np.uint32).tolist() == bits.tolist()
    found[""][0] = 1  # results can be written to, whether they were measured or stored


@settings(deadline=None)
@given(arrays_of.arrays(arrays_of.scalar_dtypes(), arrays_of.array_shapes(min_dims=0, min_side=0)))
def test_any_array_comes_back(array: npt.NDArray[Any]) -> None:
    with Store.open(None, IDENTITY) as store:
        store.put("k", "{}", {"x": array}, 0)
        assert same(store.get("k"), {"x": array})


@pytest.mark.parametrize("array", [np.array([None]), np.zeros(2, [("a", "f4"), ("b", "f4")])], ids=["object", "fields"])
def test_arrays_without_plain_values_are_refused(array: npt.NDArray[Any], store: Store) -> None:
    with pytest.raises(InternalError, match="cannot be stored"):
        store.put("k", "{}", {"x": array}, 0)
    with pytest.raises(InternalError, match="cannot be stored"):
        store.put("k", "{}", {}, float("nan"))
    assert store.keys() == ()


def test_what_a_store_holds(store: Store) -> None:
    assert store.get("a") is None
    store.put("b", "{}", {}, 1)
    store.put("a", "{}", {"x": np.ones(3)}, 0.25)
    store.put("b", "{}", {"x": np.zeros(2)}, 2)
    assert same(store.get("b"), {"x": np.zeros(2)})
    assert store.keys() == ("a", "b")
    assert store.missing(["c", "a", "d", "c", "b"]) == ("c", "d")
    assert (store.count, store.seconds) == (2, 2.25)
    report = store.verify()
    assert report.ok
    assert (report.good, report.damaged, report.faults) == (2, 0, ())
    assert (report.identity, report.schema, report.seconds) == (IDENTITY, 1, 2.25)
    assert 40 < report.array_bytes < report.file_bytes
    assert store.compact() == 0
    assert store.count == 2


def test_a_closed_store_is_whole_in_one_file(tmp_path: Path) -> None:
    results = fill(tmp_path / "store.db", 5)
    assert [path.name for path in tmp_path.iterdir()] == ["store.db"]
    with Store.open(tmp_path / "store.db", IDENTITY) as store:
        assert all(same(store.get(name), arrays) for name, arrays in results.items())


WRITER = """
import sys
from pathlib import Path
from onnxmpq.sensitivity.stored.store import Store
from tests.sensitivity.test_store import IDENTITY, drawn

with Store.open(Path(sys.argv[1]), IDENTITY) as store:
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        store.put(f"{number:064}", "{}", drawn(str(number)), 1.0)
        print(number, flush=True)
"""


def writer(path: Path, first: int, last: int) -> "subprocess.Popen[str]":
    """Start a process that puts results and says so after each."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(first), str(last)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_killed_run_loses_nothing_that_was_put(tmp_path: Path) -> None:
    path, told, rng = tmp_path / "store.db", 0, random.Random(0)
    for _ in range(10):
        with writer(path, told, 10**6) as run:
            assert run.stdout
            for _ in range(rng.randrange(1, 60)):
                told = int(run.stdout.readline()) + 1
            with pytest.raises(subprocess.TimeoutExpired):
                run.wait(rng.random() / 100)
            run.send_signal(signal.SIGKILL)
            told = max([told, *(int(line) + 1 for line in run.stdout.read().split())])
        with Store.open(path, IDENTITY) as store:
            assert told <= store.count <= told + 1
            assert not store.missing(f"{number:064}" for number in range(told))
            assert all(same(store.get(f"{number:064}"), drawn(str(number))) for number in range(told))
            assert store.verify().ok
            told = store.count


def test_two_runs_can_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with writer(path, 0, 60) as one, writer(path, 30, 90) as other, Store.open(path, IDENTITY) as store:
        for number in range(80, 110):
            store.put(f"{number:064}", "{}", drawn(str(number)), 1.0)
        one.communicate()
        other.communicate()
        assert one.returncode == other.returncode == 0
        assert store.count == 110
        assert all(same(store.get(f"{number:064}"), drawn(str(number))) for number in range(110))
        assert store.verify().ok


def test_a_store_in_use_is_told_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    path = tmp_path / "store.db"
    with Store.open(path, IDENTITY) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match="Another run is writing to the store"):
            store.put("a", "{}", {}, 0)
        other.execute("ROLLBACK")
        store.put("a", "{}", {}, 0)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="Another run is writing to the store"):
            store.get("a")
        with pytest.raises(InputError, match="Another run is writing to the store"):
            Store.open(path, IDENTITY)


def test_damaged_bytes_are_never_believed(tmp_path: Path) -> None:
    """Flip bytes in 200 copies: in the header of the file, in those of its pages, and anywhere."""
    results = fill(tmp_path / "store.db", 10)
    whole = (tmp_path / "store.db").read_bytes()
    path = tmp_path / "damaged.db"
    seen = {"right": 0, "absent": 0, "refused": 0}
    for seed in range(200):
        rng, damaged = random.Random(seed), bytearray(whole)
        for _ in range(rng.choice((1, 1, 3, 20))):
            place = rng.randrange(len(whole))
            if rng.random() < 0.3:
                place = place // 4096 * 4096 + rng.randrange(100)
            damaged[place] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        told: list[str] = []
        try:
            with Store.open(path, IDENTITY, on_damage=told.append) as store:
                lost = store.missing(results)
                assert set(store.keys()) <= set(results)
                for name, arrays in results.items():
                    found = store.get(name)
                    assert (found is None) == (name in lost)
                    assert found is None or same(found, arrays)
                    seen["absent" if found is None else "right"] += 1
                for name in lost:
                    store.put(name, "{}", results[name], 1.0)
                    assert same(store.get(name), results[name])
                store.compact()
                assert store.verify().ok
                assert all(
                    same(store.get(name), results[name]) for name in results if name not in store.missing(results)
                )
        except InputError as error:
            seen["refused"] += str(path) in str(error)
        Path(f"{path}-journal").unlink(missing_ok=True)
    assert all(seen.values()), seen


def test_a_damaged_result_is_told_dropped_and_measured_again(tmp_path: Path) -> None:
    results = fill(tmp_path / "store.db", 5)
    name = list(results)[2]
    with closing(sqlite3.connect(tmp_path / "store.db")) as sql, sql:
        (arrays,) = sql.execute("SELECT arrays FROM results WHERE key = ?", (name,)).fetchone()
        sql.execute("UPDATE results SET arrays = ? WHERE key = ?", (arrays[:-1] + bytes([arrays[-1] ^ 1]), name))
    told: list[str] = []
    with Store.open(tmp_path / "store.db", IDENTITY, on_damage=told.append) as store:
        assert store.get(name) is None
        assert store.missing(results) == (name,)
        assert len(told) == 1
        assert f"store.db' has a damaged result (key {name[:12]}" in told[0]
        assert (store.verify().good, store.verify().damaged, store.verify().ok) == (4, 1, False)
        assert store.compact() == 1
        assert (store.verify().good, store.verify().damaged, store.verify().ok) == (4, 0, True)
        store.put(name, "{}", results[name], 1)
        assert same(store.get(name), results[name])
    with closing(sqlite3.connect(tmp_path / "store.db")) as sql, sql:
        sql.execute("UPDATE results SET seconds = seconds + 1 WHERE key = ?", (name,))
    with Store.open(tmp_path / "store.db", IDENTITY) as store:
        assert name not in store.keys()
        with pytest.warns(RuntimeWarning, match="damaged result"):
            assert store.get(name) is None


def test_results_of_one_key_cannot_stand_under_another(tmp_path: Path) -> None:
    one, other = list(fill(tmp_path / "store.db", 2))
    with closing(sqlite3.connect(tmp_path / "store.db")) as sql, sql:
        sql.execute("UPDATE results SET key = 'x' WHERE key = ?", (one,))
        sql.execute("UPDATE results SET key = ? WHERE key = ?", (one, other))
        sql.execute("UPDATE results SET key = ? WHERE key = 'x'", (other,))
    with Store.open(tmp_path / "store.db", IDENTITY, on_damage=lambda _: None) as store:
        assert store.missing([one, other]) == (one, other)


def test_results_of_another_identity_cannot_be_moved_in(tmp_path: Path) -> None:
    results = fill(tmp_path / "one.db", 2)
    with Store.open(tmp_path / "other.db", IDENTITY | {"model": "c" * 64}):
        pass
    with closing(sqlite3.connect(tmp_path / "other.db")) as sql, sql:
        sql.execute("ATTACH ? AS one", (str(tmp_path / "one.db"),))
        sql.execute("INSERT INTO results SELECT * FROM one.results")
    with Store.open(tmp_path / "other.db", None, on_damage=lambda _: None) as store:
        assert store.missing(results) == tuple(results)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.7, 0.95])
def test_a_truncated_file_is_refused_and_left_alone(share: float, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    fill(path, 20)
    part = path.read_bytes()[: int(path.stat().st_size * share)]
    path.write_bytes(part)
    with pytest.raises(InputError, match=r"store.db' is damaged, or no store: .*choose another --store, or delete it"):
        Store.open(path, IDENTITY)
    assert path.read_bytes() == part


@pytest.mark.parametrize("lost", [1, 20, 500, 1500, 3000, 4095])
def test_a_file_cut_within_its_last_page_is_refused_or_lacks_a_result(lost: int, tmp_path: Path) -> None:
    """SQLite takes the rest of that page for zeros."""
    path = tmp_path / "store.db"
    results = fill(path, 20)
    path.write_bytes(path.read_bytes()[:-lost])
    with suppress(InputError), Store.open(path, IDENTITY, on_damage=lambda _: None) as store:
        for name, arrays in results.items():
            assert store.get(name) is None or same(store.get(name), arrays)
        assert store.count < 20 or store.missing(results)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "c" * 64}, r"another model \(stored: aaaaaaaaaaaa\.\.\., now: cccccccccccc\.\.\.\)"),
        ({"samples": "c"}, "other samples"),
        ({"engine": "2"}, r"another version of the measuring engine \(stored: 1, now: 2\)"),
        ({"model": "c", "samples": "d"}, r"another model .* and other samples"),
        ({"seed": "5"}, r"another seed \(stored: none, now: 5\)"),
    ],
)
def test_a_store_made_for_something_else_is_refused(changed: dict[str, str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    fill(path, 1)
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"store.db' was made for {said}.*Choose another --store"):
        Store.open(path, IDENTITY | changed)
    assert path.read_bytes() == before
    with Store.open(path, None) as store:
        assert store.identity == IDENTITY


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    fill(path, 1)
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("PRAGMA user_version = 2")
    with pytest.raises(InputError, match=r"has schema 2; this version of onnxmpq reads schema 1\. Update"):
        Store.open(path, IDENTITY)


def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(InputError, match="is damaged, or no store: the header says application 0x0"):
        Store.open(path, IDENTITY)
    assert path.read_bytes() == before
    path.write_text("A text of some length. " * 100)
    with pytest.raises(InputError, match="is damaged, or no store: file is not a database"):
        Store.open(path, IDENTITY)
    with pytest.raises(InputError, match="cannot be opened"):
        Store.open(tmp_path, IDENTITY)
    with pytest.raises(InputError, match="there is no folder"):
        Store.open(tmp_path / "absent" / "store.db", IDENTITY)
    with pytest.raises(InputError, match="There is no store"):
        Store.open(tmp_path / "absent.db", None)
    assert [path.name for path in tmp_path.iterdir()] == ["other.db"]


def test_a_store_whose_making_was_cut_short_is_made(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    with pytest.raises(InputError, match="is empty"):
        Store.open(path, None)
    fill(path, 1)
    with Store.open(path, IDENTITY) as store:
        assert store.count == 1


def test_a_full_disk_says_what_is_safe_and_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    results = fill(path, 3)
    with Store.open(path, IDENTITY) as store:
        store._sql.execute("PRAGMA max_page_count = 1")  # no more than there are
        with pytest.raises(InputError, match=r"full\. The 3 results before it are safe\. Make room"):
            store.put("a", "{}", {"x": np.zeros(10_000)}, 1.0)
        assert store.missing([*results, "a"]) == ("a",)
        store._sql.execute("PRAGMA max_page_count = 100000")
        store.put("a", "{}", {"x": np.zeros(10_000)}, 1.0)
        assert store.missing([*results, "a"]) == ()
        assert store.verify().ok


def test_a_result_too_large_for_a_row_is_refused(store: Store) -> None:
    store._sql.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**20 + 1000)
    with pytest.raises(InternalError, match="cannot be stored"):
        store.put("a", "{}", {"x": np.zeros(1000)}, 1.0)


def test_compacting_gives_space_back(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store.open(path, IDENTITY) as store:
        store.put("a", "{}", {"x": np.zeros(100_000)}, 1.0)
        store.put("a", "{}", {"x": np.zeros(1)}, 1.0)
        before = store.verify().file_bytes
        assert store.compact() == 0
        assert store.verify().file_bytes == path.stat().st_size < before / 10
        assert same(store.get("a"), {"x": np.zeros(1)})


# ---- forged, with the right checksums --------------------------------------------------------------------------------


def forge(path: Path, name: str, content: bytes, seconds: float = 1.0) -> None:
    """Put a row with any content, and checksums that are right."""
    with Store.open(path, IDENTITY) as store:
        digest = store._seals.digest(name, content)
        row = (name, "{}", seconds, store._seals.head(name, b"{}", seconds, digest), digest, content)
        store._sql.execute("DELETE FROM results WHERE key = ?", (name,))
        store._sql.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?)", row)


def packed(listing: object, values: bytes = b"") -> bytes:
    """Write any list of arrays in front of any values."""
    text = listing if isinstance(listing, bytes) else json.dumps(listing).encode()
    return struct.pack("<I", len(text)) + text + values


FORGED: dict[str, bytes] = {
    "nothing": b"",
    "no list": packed({"x": 1}),
    "no JSON": packed(b"{"),
    "no text": packed(b"\xff"),
    "nested": packed(b"[" * 100_000),
    "longer than the row": struct.pack("<I", 2**31) + b"[]",
    "numbers": packed([1, 2, 3]),
    "nulls": packed([[None, None, None]]),
    "no shape": packed([["x", "<f8", 3]], bytes(24)),
    "a shape of texts": packed([["x", "<f8", ["3"]]], bytes(24)),
    "a shape of truths": packed([["x", "<f8", [True]]], bytes(8)),
    "a shape of fractions": packed([["x", "<f8", [1.0]]], bytes(8)),
    "a negative shape": packed([["x", "<f8", [-1]]], bytes(8)),
    "a petabyte": packed([["x", "<f8", [10**15]]], bytes(8)),
    "more than numpy counts": packed([["x", "<f8", [0, 2**62, 2**62]]]),
    "many axes": packed([["x", "<f8", [1] * 100]], bytes(8)),
    "too few values": packed([["x", "<f8", [2]]], bytes(8)),
    "too many values": packed([["x", "<f8", [2]]], bytes(80)),
    "objects": packed([["x", "|O", [1]]], bytes(8)),
    "fields": packed([["x", "f4,f4", [1]]], bytes(8)),
    "arrays in arrays": packed([["x", "(2,)f4", [1]]], bytes(8)),
    "no type": packed([["x", "nonsense", [1]]], bytes(8)),
    "a name of ml_dtypes": packed([["x", "finfo", [1]]], bytes(8)),
    "a module of ml_dtypes": packed([["x", "__name__", [1]]], bytes(8)),
    "values of no size": packed([["x", "|V0", [10**12]]]),
    "another spelling": packed([["x", "float64", [1]]], bytes(8)),
    "no number": packed(b'[["x","<f8",[NaN]]]', bytes(8)),
    "a number of many digits": packed(b'[["x","<f8",[' + b"9" * 5000 + b"]]]", bytes(8)),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_result_is_told_dropped_and_measured_again(name: str, tmp_path: Path) -> None:
    path, told = tmp_path / "store.db", list[str]()
    fill(path, 1)
    forge(path, "k", FORGED[name])
    with Store.open(path, IDENTITY, on_damage=told.append) as store:
        assert store.get("k") is None
        assert store.missing(["k"]) == ("k",)
        assert ["has a damaged result (key k...)" in line for line in told] == [True]
        assert (store.verify().good, store.verify().damaged) == (1, 1)
        store.put("k", "{}", {"x": np.zeros(1)}, 1.0)
        assert same(store.get("k"), {"x": np.zeros(1)})
    forge(path, "k", FORGED[name])
    with Store.open(path, IDENTITY) as store:
        assert store.compact() == 1
        assert store.verify().ok


@pytest.mark.parametrize("seconds", [float("inf"), -1.0])
def test_a_result_took_a_time(seconds: float, tmp_path: Path) -> None:
    forge(tmp_path / "store.db", "k", packed([]), seconds)
    with Store.open(tmp_path / "store.db", IDENTITY) as store:
        assert store.keys() == ()
        assert store.seconds == 0
        assert store.verify().damaged == 1
    forge(tmp_path / "store.db", "k", packed([]))
    with Store.open(tmp_path / "store.db", IDENTITY) as store:
        assert store.get("k") == {}


@pytest.mark.parametrize(
    "parts",
    [
        b"[]",
        b"null",
        b"{",
        b"[" * 10_000,
        b'{"a": 1}',
        b'{"a": {"b": "c"}}',
        b"\xff",
        b'{"a":"' + b"x" * 70_000 + b'"}',
    ],
)
def test_a_forged_identity_is_refused(parts: bytes, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    fill(path, 1)
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("UPDATE identity SET parts = ?, checksum = ?", (parts.decode("latin1"), checksum(parts)))
        sql.execute("UPDATE identity SET parts = CAST(? AS TEXT)", (parts,))
    for identity in (IDENTITY, None):
        with pytest.raises(InputError, match=r"store.db' is damaged, or no store: what it was made for cannot be read"):
            Store.open(path, identity)


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
SCHEMAS: dict[str, str] = {
    "results from a view without end": f"""DROP TABLE results; CREATE VIEW results AS {ENDLESS}
        SELECT i AS rowid, 'k' AS key, '' AS job, 1.0 AS seconds, x'' AS head, x'' AS digest, x'' AS arrays FROM n;""",
    "an identity from a view without end": f"""DROP TABLE identity; CREATE VIEW identity AS {ENDLESS}
        SELECT '{{}}' AS parts, x'00' AS checksum FROM n WHERE i < 0;""",
    "a trigger": f"""CREATE TRIGGER t AFTER INSERT ON results BEGIN INSERT INTO identity {ENDLESS}
        SELECT i, x'00' FROM n; END;""",
    "a table besides": "CREATE TABLE more (x);",
    "an index besides": "CREATE INDEX more ON results (job);",
    "no index": "DROP INDEX results_by_key;",
    "no results": "DROP TABLE results;",
    "no table": "DROP TABLE results; DROP TABLE identity;",
    "a column that is computed": """DROP TABLE identity;
        CREATE TABLE identity (parts TEXT NOT NULL, checksum BLOB AS (zeroblob(900000000)));""",
    "statistics": "ANALYZE;",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_with_other_tables_is_refused_before_a_row_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    fill(path, 1)
    with closing(sqlite3.connect(path)) as sql:
        sql.executescript(SCHEMAS[name])
    before, begun = path.read_bytes(), time.monotonic()
    for identity in (IDENTITY, None):
        with pytest.raises(InputError, match=r"store.db' is damaged, or no store: its tables are not those of a store"):
            Store.open(path, identity)
    assert time.monotonic() - begun < 5
    assert path.read_bytes() == before


def varint(value: int) -> bytes:
    """Write a number as SQLite does."""
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127 | 128)
    return bytes(reversed(groups))


def branching(kind: int, child: int, cells: list[bytes]) -> bytes:
    """Return a page of a tree all of whose branches lead to one page."""
    body, places = b"", []
    for cell in cells:
        body = struct.pack(">I", child) + cell + body
        places.append(4096 - len(body))
    head = struct.pack(">BHHHBI", kind, 0, len(cells), 4096 - len(body), 0, child)
    head += b"".join(struct.pack(">H", place) for place in places)
    return head + bytes(4096 - len(head) - len(body)) + body


def grow_without_end(path: Path, name: str) -> None:
    """Let the tree of a table or an index have eight levels of a hundred branches that lead to the same page."""
    with closing(sqlite3.connect(path)) as sql:
        (root,) = sql.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    data = bytearray(path.read_bytes())
    pages = len(data) // 4096
    leaf, kind = bytes(data[(root - 1) * 4096 : root * 4096]), 5 if name == "results" else 2
    assert leaf[0] in (10, 13)
    entry = varint(8) + b"\x03\x0f\x01k\x01"
    cells = [varint(1) if kind == 5 else varint(len(entry[1:])) + entry[1:] for _ in range(100)]
    data += leaf
    for level in range(7):
        data += branching(kind, pages + 1 + level, cells)
    data[(root - 1) * 4096 : root * 4096] = branching(kind, pages + 8, cells)
    data[28:32] = struct.pack(">I", pages + 8)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["results", "results_by_key"])
def test_a_tree_without_end_is_noticed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store.open(path, IDENTITY):
        pass
    forge(path, "k", b"damaged")
    grow_without_end(path, name)
    uses: list[Callable[[Store], object]] = [
        lambda store: store.keys(),
        lambda store: store.count,
        lambda store: store.get("k"),
        lambda store: store.missing(["k"]),
        Store.verify,
        Store.compact,
        lambda store: store.put("k", "{}", {}, 1.0),
    ]
    refused = 0
    for use in uses:
        before, begun = path.read_bytes(), time.monotonic()
        with suppress(InputError), Store.open(path, IDENTITY, on_damage=lambda _: None) as store:
            refused += 1
            use(store)
            refused -= 1
        assert time.monotonic() - begun < 20
        path.write_bytes(before)
    assert refused >= 4


def test_a_statement_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db", IDENTITY) as store:
        begun = time.monotonic()
        with pytest.raises(InputError, match="busy for longer than its size can explain"), store._database.explained():
            store._sql.execute(f"{ENDLESS} SELECT max(i) FROM n").fetchall()
        assert time.monotonic() - begun < 30
        store.put("a", "{}", {}, 1.0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_what_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        for identity in (IDENTITY, None):
            with pytest.raises(InputError, match="cannot be opened: it is no file"):
                Store.open(path, identity)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be opened: Not a directory"):
        Store.open(tmp_path / "file" / "store.db", IDENTITY)
    for length in (250, 300):  # the journal has a longer name
        with pytest.raises(InputError, match="cannot be opened"):
            Store.open(tmp_path / ("x" * length), IDENTITY)
    monkeypatch.chdir(tmp_path)
    fill(Path(":memory:"), 1)
    assert (tmp_path / ":memory:").is_file()
