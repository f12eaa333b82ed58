"""Damage to files that are not models: bytes, archives, texts in JSON and TOML, stores.

The same seeds give the same damage; each change is made to what the ones before it left.
"""

import io
import random
import re
import sqlite3
import struct
import tempfile
import zipfile
from pathlib import Path

_SCALARS = (
    *("null", "true", "-1", "0", "1e999", "NaN", "-Infinity", "9" * 400, "1e-400", '""', '"\\u0000"', '"\\ud800"'),
    *('"' + "x" * 3000 + '"', "[]", "{}", "[" * 3000, "{" * 20, '"../../x"', '"\\u001b[31m"', "0x10", "1_000"),
)
_LENGTHS = (0, 1, 255, 65535, 1 << 31, (1 << 32) - 1)


def raw(base: bytes, seeds: tuple[int, ...]) -> bytes:
    """Cut, flip, double, fill and overwrite bytes."""
    data = bytearray(base)
    for seed in seeds:
        chance = random.Random(seed)
        if not data:
            break
        start = chance.randrange(len(data))
        end = min(len(data), start + chance.choice((1, 2, 8, 64, 512, 4096)))
        match chance.randrange(7):
            case 0:
                del data[start:]
            case 1:
                del data[start:end]
            case 2:
                data[start:start] = data[start:end]
            case 3:
                data[start:end] = bytes(chance.choice((0, 255))) * (end - start)
            case 4:
                data[start : start + 4] = struct.pack("<I", chance.choice(_LENGTHS))
            case 5:
                other = chance.randrange(len(data))
                data[start:end] = data[other : other + end - start]
            case _:
                data[start] = chance.randrange(256)
    return bytes(data)


def archive(base: bytes, seeds: tuple[int, ...]) -> bytes:
    """Damage a .npz: its members, their headers, how they are packed, or its bytes."""
    for seed in seeds:
        chance = random.Random(seed)
        if chance.random() < 0.4:
            base = raw(base, (seed,))
            continue
        try:
            with zipfile.ZipFile(io.BytesIO(base)) as opened:
                members = {name: opened.read(name) for name in opened.namelist()}
        except Exception:  # it is none any more
            base = raw(base, (seed,))
            continue
        name = chance.choice(list(members) or ["x.npy"])
        content = members.pop(name, b"")
        match chance.randrange(6):
            case 0:
                members[chance.choice(("", "y.npy", "labels.npy", "../x.npy", "x", "x" * 300))] = content
            case 1:
                members[name] = raw(content[:128], (seed + 1,)) + content[128:]
            case 2:
                text = chance.choice((b"(1000000000000, 16)", b"(-1,)", b"(" * 2000, b"None", b"(2, 'a')", b"()"))
                members[name] = re.sub(rb"\([0-9, ]*\)", text, content, count=1)
            case 3:
                descr = chance.choice((b"'|O'", b"'<f2'", b"'<U9'", b"'>f8'", b"[('a','<f4')]", b"'<i8'", b"'V4'"))
                members[name] = re.sub(rb"'<f4'", descr, content, count=1)
            case 4:
                pass
            case _:
                members[name] = content[: chance.randrange(len(content) + 1)]
        file = io.BytesIO()
        packing = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
        with zipfile.ZipFile(file, "w", compression=packing) as made:
            for member, bytes_ in members.items():
                made.writestr(member or "_", bytes_)
        base = file.getvalue()
    return base


def text(base: bytes, seeds: tuple[int, ...]) -> bytes:
    """Damage JSON or TOML: values, keys, lines, nesting, bytes."""
    for seed in seeds:
        chance = random.Random(seed)
        if chance.random() < 0.25:
            base = raw(base, (seed,))
            continue
        words = re.split(rb'("(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|[\[\]{},:=\n])', base)
        places = [k for k, word in enumerate(words) if word.strip() or word == b"\n"]
        if not places:
            break
        place = chance.choice(places)
        match chance.randrange(5):
            case 0 | 1:
                words[place] = chance.choice(_SCALARS).encode()
            case 2:
                del words[place]
            case 3:
                words.insert(place, words[chance.choice(places)])
            case _:
                words[place] = chance.choice((b"[", b"{", b"a.")) * chance.choice((1, 50, 5000)) + words[place]
        base = b"".join(words)
    return base


def store(base: bytes, seeds: tuple[int, ...]) -> bytes:
    """Damage a store: its pages, or its rows and tables as SQL."""
    for seed in seeds:
        chance = random.Random(seed)
        if chance.random() < 0.5 or not base.startswith(b"SQLite"):
            base = raw(base, (seed,))
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "x.store"
            file.write_bytes(base)
            try:
                with sqlite3.connect(file) as sql:
                    sql.execute("PRAGMA writable_schema=ON" if chance.random() < 0.1 else "PRAGMA user_version")
                    sql.execute(chance.choice(_STATEMENTS), {"x": chance.randbytes(chance.choice((0, 1, 40, 4000)))})
                sql.close()
            except sqlite3.Error:  # it is too damaged for a statement
                return base
            base = file.read_bytes()
    return base


_STATEMENTS = (
    "UPDATE results SET arrays = :x WHERE rowid = 1 + abs(random()) % 4",
    "UPDATE results SET head = :x WHERE rowid = 1 + abs(random()) % 4",
    "UPDATE results SET digest = :x",
    "UPDATE results SET job = :x",
    "UPDATE results SET seconds = 'x' || hex(:x)",
    "UPDATE results SET key = key || '0'",
    "DELETE FROM results WHERE rowid = 1 + length(:x) % 3",
    "DROP TABLE results -- :x",
    "ALTER TABLE results RENAME TO other -- :x",
    "CREATE VIEW more AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT x FROM c -- :x",
    "CREATE TRIGGER t AFTER DELETE ON results BEGIN DELETE FROM results; END -- :x",
    "PRAGMA user_version = 99 -- :x",
    "PRAGMA application_id = 7 -- :x",
    "CREATE TABLE more (a) -- :x",
    "UPDATE identity SET value = hex(:x)",
)
