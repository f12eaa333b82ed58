"""The kinds of input that are damaged: how a mutant is made from a number, and which command is tried on it."""

import functools
import importlib
import io
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnx_ir as ir

import onnxmpq.targets
from tests.asked import untimed
from tests.fuzz import contents
from tests.fuzz.bases import models, samples
from tests.fuzz.children import Outcome, fresh, run
from tests.fuzz.models import damaged
from tests.graphs import from_text
from tests.loaded import load


@dataclass(frozen=True, slots=True)
class Recipe:
    """A mutant: its base, the seeds of its changes, and the seed of all else."""

    base: str
    changes: tuple[int, ...]
    seed: int
    command: tuple[str, ...]

    def without(self, place: int) -> "Recipe":
        """Return the recipe with one change less."""
        return replace(self, changes=self.changes[:place] + self.changes[place + 1 :])


class Kind(Protocol):
    """One kind of input."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def bases(self) -> Callable[[], Mapping[str, bytes]]:
        """What mutants are made from."""
        ...

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """Commands that are tried."""
        ...

    def recipe(self, number: int) -> Recipe:
        """Return what a number stands for."""
        ...

    def make(self, recipe: Recipe, folder: Path, /) -> None:
        """Write the files of a mutant."""
        ...

    def tried(self, recipe: Recipe, folder: Path) -> Outcome:
        """Try a mutant."""
        ...

    def outcome(self, number: int, folder: Path) -> Outcome:
        """Try the mutant of a number."""
        ...


@dataclass(frozen=True)
class Made:
    """A kind whose mutants are files, made by ``write``, tried by one command of the command line."""

    name: str
    bases: Callable[[], Mapping[str, bytes]]
    write: Callable[[Recipe, bytes, Path], None]
    commands: tuple[tuple[str, ...], ...]
    most_changes: int = 4

    def recipe(self, number: int) -> Recipe:
        """Choose the base, how many changes, and the command."""
        chance = random.Random(number)
        base = chance.choice(list(self.bases()))
        count = min(1 + int(chance.expovariate(1.2)), self.most_changes)
        changes = tuple(chance.randrange(1 << 31) for _ in range(count))
        return Recipe(base, changes, number, chance.choice(self.commands))

    def make(self, recipe: Recipe, folder: Path) -> None:
        """Write the files."""
        self.write(recipe, self.bases()[recipe.base], folder)

    def tried(self, recipe: Recipe, folder: Path) -> Outcome:
        """Write the files into an empty folder and run the command there."""
        self.make(recipe, fresh(folder))
        keep = frozenset(path.name for path in folder.iterdir())
        return run(lambda: command(*recipe.command), folder, keep=keep)

    def outcome(self, number: int, folder: Path) -> Outcome:
        """Try the mutant of a number."""
        return self.tried(self.recipe(number), folder)


def command(*arguments: str) -> None:
    """Run the command line in this process as a user does, but without timing any export."""
    import sys

    import onnxmpq.api
    from onnxmpq.cli import entry

    onnxmpq.api.quantize = untimed
    sys.argv = ["onnxmpq", *arguments]
    entry()


def preload() -> None:
    """Import what commands need, so that forked children need not."""
    importlib.import_module("PIL.Image")
    load()


def _write_model(recipe: Recipe, base: bytes, folder: Path) -> None:
    data = damaged(base, list(recipe.changes))
    (folder / "m.onnx").write_bytes(data)
    try:
        arrays = samples(onnx.ModelProto.FromString(data), recipe.seed)
        np.savez(folder / "s.npz", **arrays)  # type: ignore[arg-type]
    except Exception:  # names and types that numpy does not take: the samples of the base do
        np.savez(folder / "s.npz", **samples(onnx.ModelProto.FromString(base), recipe.seed))  # type: ignore[arg-type]


def _with_model(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(models()["Conv"])
    if not (folder / "s.npz").exists():
        np.savez(folder / "s.npz", **samples(onnx.ModelProto.FromString(models()["Conv"]), 0))  # type: ignore[arg-type]


def _write_samples(recipe: Recipe, base: bytes, folder: Path) -> None:
    damage = contents.archive if recipe.base.endswith(".npz") else contents.raw
    (folder / recipe.base).write_bytes(damage(base, recipe.changes))
    if recipe.base.endswith(".npy"):
        (folder / "x.npy").rename(folder / "s.npy")
    _with_model(folder)


@functools.cache
def _arrays() -> dict[str, bytes]:
    array = samples(onnx.ModelProto.FromString(models()["Conv"]), 0)["x"]
    one, many = io.BytesIO(), io.BytesIO()
    np.save(one, array)
    np.savez(many, x=array, labels=np.arange(len(array)))
    return {"s.npz": many.getvalue(), "x.npy": one.getvalue()}


def _write_picture(recipe: Recipe, base: bytes, folder: Path) -> None:
    (folder / "s").mkdir()
    name, _, spec = base.partition(b"\0")
    picture = _pictures()[name.decode()]
    of_spec = recipe.seed % 2
    (folder / "s" / name.decode()).write_bytes(picture if of_spec else contents.raw(picture, recipe.changes))
    (folder / "s" / "preprocess.toml").write_bytes(contents.text(spec, recipe.changes) if of_spec else spec)
    (folder / "m.onnx").write_bytes(_seeing())


@functools.cache
def _seeing() -> bytes:
    """Return a model that takes pictures."""
    weights = {"w": np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)}
    text = "g (float[n, 3, 16, 16] x) => (float[n, 8, 14, 14] y) { y = Conv(x, w) }"
    return bytes(ir.to_proto(from_text(text, weights)).SerializeToString())


@functools.cache
def _pictures() -> dict[str, bytes]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 3)).astype(np.uint8)
    found = {}
    for suffix in ("png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, {"jpg": "jpeg"}.get(suffix, suffix))
        found[f"a.{suffix}"] = file.getvalue()
    return found


_SPEC = b"""size = [16, 16]
resize = "shorter-side"
crop = 0.9
color = "RGB"
layout = "NCHW"
scale = 0.00392156862745098
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
resample = "bilinear"
"""


def _picture_bases() -> dict[str, bytes]:
    return {name: name.encode() + b"\0" + _SPEC for name in _pictures()}


@functools.cache
def _texts() -> dict[str, bytes]:
    """Return a file of each kind that is read as text, made by the commands that write them, in processes of theirs."""
    with tempfile.TemporaryDirectory() as name:
        folder = fresh(Path(name) / "made")
        _with_model(folder)
        for arguments in (
            ("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "-q", "--allow-slower"),
            ("measure", "m.onnx", "-c", "s.npz", "-o", "t.json", "--store", "x.store", "-q"),
            ("pareto", "m.onnx", "-c", "s.npz", "-o", "f.json", "--record", "r.json", "-q"),
            ("overrides", "m.onnx", "q.plan.json", "-c", "s.npz", "-o", "o.json", "-q"),
        ):
            ended = run(functools.partial(command, *arguments), folder, keep=frozenset())
            assert not ended.code, ended.told
        names = ("q.plan.json", "f.json", "r.json", "t.json", "o.json", "x.store")
        found = {file: (folder / file).read_bytes() for file in names}
    found["c.toml"] = b'calibration = "s.npz"\noption = "w4a8"\nseed = 3\nallow-slower = true\nkeep = ["Conv_0=w8a8"]\n'
    return found | {"t.toml": (Path(onnxmpq.targets.__file__).parent / "builtin" / "ort-cpu.toml").read_bytes()}


def _of(name: str) -> Callable[[], Mapping[str, bytes]]:
    return lambda: {name: _texts()[name]}


def _write_text(recipe: Recipe, base: bytes, folder: Path) -> None:
    damage = contents.store if recipe.base == "x.store" else contents.text
    (folder / recipe.base).write_bytes(damage(base, recipe.changes))
    _with_model(folder)


_QUANTIZE = ("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "-q", "--allow-slower")
_OUT = ("-o", "q.onnx", "-q", "--allow-slower")
_MEASURE = ("measure", "m.onnx", "-c", "s.npz", "--store", "x.store", "-q")

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Made(
            "models",
            models,
            _write_model,
            (
                ("inspect", "m.onnx"),
                *((*_QUANTIZE, "--option", option) for option in ("w8a8", "w8a8", "w4a8", "w4b32", "w2a8")),
                (*_QUANTIZE, "--target", "openvino"),
                (*_QUANTIZE, "-b", "size=60%", "--effort", "quick"),
            ),
        ),
        Made("archives", lambda: {"s.npz": _arrays()["s.npz"]}, _write_samples, (_QUANTIZE,)),
        Made(
            "arrays",
            lambda: {"x.npy": _arrays()["x.npy"]},
            _write_samples,
            (("quantize", "m.onnx", "-c", "s.npy", *_OUT),),
        ),
        Made("pictures", _picture_bases, _write_picture, (("quantize", "m.onnx", "-c", "s", *_OUT),)),
        Made(
            "plans",
            _of("q.plan.json"),
            _write_text,
            (("apply", "m.onnx", "q.plan.json", "-c", "s.npz", "-o", "new.onnx", "-q"),),
        ),
        Made(
            "fronts",
            _of("f.json"),
            _write_text,
            (("apply", "m.onnx", "f.json", "--point", "1", "-c", "s.npz", "-o", "new.onnx", "-q"),),
        ),
        Made("records", _of("r.json"), _write_text, (("report", "r.json"), ("report", "r.json", "-o", "."))),
        Made(
            "tables",
            _of("t.json"),
            _write_text,
            (
                ("solve", "t.json", "-b", "size=60%", "-o", "p.json", "-q"),
                (
                    "solve",
                    "t.json",
                    "-b",
                    "bits=5",
                    "-b",
                    "bops=20%",
                    "-b",
                    "memory=90%",
                    "--keep",
                    "op:Conv=w4a8",
                    "-q",
                ),
            ),
        ),
        Made("overrides", _of("o.json"), _write_text, (("overrides", "m.onnx", "o.json", "--read", "-o", "p.json"),)),
        Made(
            "configurations",
            _of("c.toml"),
            _write_text,
            (("quantize", "m.onnx", "--config", "c.toml", "-o", "q.onnx", "-q"),),
        ),
        Made(
            "targets",
            _of("t.toml"),
            _write_text,
            ((*_QUANTIZE, "--target", "t.toml"), ("inspect", "m.onnx", "-t", "t.toml"), ("targets", "t.toml")),
        ),
        Made(
            "stores",
            _of("x.store"),
            _write_text,
            (
                _MEASURE,
                _MEASURE,
                ("store", "show", "x.store"),
                ("store", "verify", "x.store"),
                ("store", "compact", "x.store"),
            ),
        ),
    )
}
