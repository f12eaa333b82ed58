"""``python -m tests.killed``: every command killed at every call that changes a file, and what is there afterwards.

strace tells which writes, renames, links, unlinks, truncations and fsyncs there are, and kills the process at each.
There must be the old files then, or whole new ones, and the next run of the same command must go through.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxmpq.model.load import load
from onnxmpq.sensitivity.stored.store import Store
from tests.graphs import feeds_for, layer_chain
from tests.processes import calls_of, killing, onnxmpq

CALLS = (
    *("write", "pwrite64", "writev", "ftruncate", "fsync", "fdatasync"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
)
_ALONE = {"ONNXMPQ_ONE_PROCESS": "1"}  # so that nobody clears up


def _json(file: Path) -> None:
    json.loads(file.read_text(encoding="utf-8"))


def _page(file: Path) -> None:
    assert file.read_text(encoding="utf-8").rstrip().endswith("</html>"), f"{file} is cut short"


def _model(file: Path) -> None:
    load(file)


def _store(file: Path) -> None:
    with Store.open(file, None) as store:
        assert store.verify().ok, f"{file} is damaged"


def _some(file: Path) -> None:
    assert file.read_bytes(), f"{file} is empty"


@dataclass(frozen=True)
class Command:
    """A command, and the files that it writes with what tells that one is whole."""

    arguments: tuple[str, ...]
    writes: Mapping[str, Callable[[Path], None]]

    @property
    def name(self) -> str:
        """Return the command's own name."""
        return self.arguments[0]


_DATA = ("-c", "s.npz", "-q", "--overwrite")
COMMANDS = (
    Command(
        (
            "quantize",
            "m.onnx",
            *_DATA,
            "-o",
            "q.onnx",
            "--report",
            "r.html",
            "--save-config",
            "c.toml",
            "--allow-slower",
        ),
        {"q.onnx": _model, "q.plan.json": _json, "r.html": _page, "r.json": _json, "c.toml": _some},
    ),
    Command(
        (
            *("measure", "m.onnx", *_DATA, "-o", "t.json", "--record", "k.json", "--store", "x.store"),
            *("--options", "w8a8"),
        ),
        {"t.json": _json, "k.json": _json, "x.store": _store},
    ),
    Command(
        ("pareto", "m.onnx", *_DATA, "-o", "f.json", "--report", "p.html", "--options", "w8a8"),
        {"f.json": _json, "p.html": _page, "p.json": _json},
    ),
    Command(("apply", "m.onnx", "a.plan.json", *_DATA, "-o", "b.onnx"), {"b.onnx": _model, "b.plan.json": _json}),
    Command(("overrides", "m.onnx", "a.plan.json", *_DATA, "-o", "o.json"), {"o.json": _json}),
    Command(("report", "w.json", "--overwrite"), {"w.html": _page}),
    Command(("store", "compact", "y.store"), {"y.store": _store}),
)


def prepare(folder: Path) -> None:
    """Make a model, samples, a plan and a store."""
    model = layer_chain("Conv")
    onnx.save(ir.to_proto(model), str(folder / "m.onnx"))
    np.savez(folder / "s.npz", x=np.concatenate([feed["x"] for feed in feeds_for(model)]))
    run(folder, ("quantize", "m.onnx", *_DATA, "-o", "a.onnx", "--allow-slower"))
    run(folder, ("measure", "m.onnx", *_DATA, "--store", "y.store", "--record", "w.json", "--options", "w8a8"))


def run(folder: Path, arguments: tuple[str, ...], traced: tuple[str, ...] = ()) -> int:
    """Run a command in ``folder`` and return how it ended; one that nobody killed must go through."""
    ended = onnxmpq(*arguments, folder=folder, traced=traced, more=_ALONE)
    assert ended.returncode in ((0,) if not traced else (0, -9, 137)), ended.stderr
    return ended.returncode


def points(folder: Path, command: Command, step: int = 1) -> Iterator[tuple[str, int]]:
    """Kill a command at every ``step``-th of its calls, check what is there, and yield the calls."""
    run(folder, command.arguments)
    old = {name: (folder / name).read_bytes() for name in command.writes}
    calls = calls_of(CALLS, *command.arguments, folder=folder, more=_ALONE)
    for place, (call, number) in enumerate(calls[::step]):
        for name, content in old.items():
            (folder / name).write_bytes(content)
        code = run(folder, command.arguments, killing(call, number))
        for name, is_whole in command.writes.items():
            file = folder / name
            if name.endswith(".plan.json") and not file.exists():
                continue  # an old plan goes before its model is replaced
            if file.suffix == ".store" or file.read_bytes() != old[name]:
                is_whole(file)
        for model in (name for name in command.writes if name.endswith(".onnx")):
            plan = folder / model.replace(".onnx", ".plan.json")
            assert not plan.exists() or (folder / model).read_bytes(), f"{plan} beside nothing"
        for left in folder.glob(".onnxmpq-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if code:
            yield call, number
        if place % 25 == 0:
            run(folder, command.arguments)


def main() -> None:
    """Kill every command at every call and print how many there were."""
    for command in COMMANDS:
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name))
            count = len(list(points(Path(name), command)))
        print(
            f"{command.name:12} killed at {count:5,} calls: all files old or new, and the next run goes through",
            flush=True,
        )


if __name__ == "__main__":
    main()
