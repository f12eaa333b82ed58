"""Pages of the documentation, taken apart and carried out, each in a folder of its own.

    ```console      lines that begin with "$ " are run; other lines are output that they must show,
                    up to an ellipsis
    ```python       run as a program, unless the first line names a file
    ```toml         read, and written where the first line names a file

A first line "# name.toml" says which file a block is. A file that a command has written by then must be what is shown.
Of ``make``, ``pip install``, benchmarks and programs of ``examples/`` only what they name is looked up.
"""

import importlib
import importlib.util
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import pytest

from benchmarks.__main__ import main as bench
from onnxmpq.cli import main
from onnxmpq.model import passes
from onnxmpq.registry import BUDGETS, METHODS, RUNTIMES
from onnxmpq.verification.verify import verify
from tests.asked import untimed
from tests.small import MODELS, small_model

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PHOTOS = "photos"
EXAMPLE = "models/digits_cnn.onnx"
"""The embedded example of which a part is copied, on which searches take less; ``make demo`` is tried on the whole."""
FEW = 24
"""Samples that are copied of more."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language and text, the file that it is if it names one, and the words behind it."""

    language: str
    text: str
    after: str

    @property
    def file(self) -> str:
        """Return the name of the file that the block is, or nothing."""
        found = _FILE.match(self.text)
        return found[1] if found and self.language in ("python", "toml") else ""

    @property
    def steps(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield the words of every command with the lines that it must show."""
        command, shown = "", list[str]()
        for line in [*self.text.replace("\\\n", " ").splitlines(), "$ "]:
            if not line.startswith("$ "):
                shown.append(line)
                continue
            if command:
                yield shlex.split(command, comments=True), shown
            command, shown = line[2:], []

    @property
    def expected_code(self) -> int:
        """Return the exit code that the page tells of the block's last command."""
        told = re.match(r"\s*Exit code (\d+)", self.after)
        return int(told[1]) if told else 0


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    text = page.read_text("utf-8")
    return [Block(found[1], found[2], text[found.end() :]) for found in _FENCE.finditer(text)]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


class Desk:
    """A folder in which a page is carried out; ``given`` are the files that pages take for granted."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, given: bool = True
    ) -> None:
        """Go there; no time is spent on timing."""
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.pictures = importlib.util.find_spec("PIL") is not None
        self.programs = 0
        monkeypatch.chdir(folder)
        sys.path.insert(0, str(folder))
        monkeypatch.setattr("onnxmpq.api.quantize", untimed)
        monkeypatch.setattr("onnxmpq.cli.verify.verify", partial(verify, speed_budget_s=0.0))
        if given:
            shutil.copy(small_model(), "model.onnx")
            copied(MODELS / "digits_calibration.npz", Path("samples.npz"))
            copied(MODELS / "digits_evaluation.npz", Path("labelled.npz"))
            self._photos()

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *_: object) -> None:
        """Forget modules of the folder, and what was found there."""
        sys.path.remove(str(self.folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self.folder)):
                del sys.modules[name]
        forget()

    def carry_out(self, page: Path) -> None:
        """Do what a page says, block after block."""
        for block in blocks(page):
            if block.language == "console":
                for command, shown in block.steps:
                    self.step(command, shown, block.expected_code if shown else 0)
            elif block.file:
                self.write(block)
            elif block.language == "python":
                self.program(block.text)
            elif block.language == "toml":
                tomllib.loads(block.text)
            else:
                assert block.language == "text", f"{page.name}: nobody runs a block of '{block.language}'"

    def write(self, block: Block) -> None:
        """Write the file that a block is; one that a command has made must be the same."""
        path = self.folder / block.file
        if path.exists():
            assert path.read_text("utf-8") == block.text.partition("\n")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, "utf-8")

    def program(self, text: str) -> None:
        """Run a program, unless it needs pictures that cannot be read here."""
        if PHOTOS in text and not self.pictures:
            return
        self.programs += 1
        path = self.folder / f"program{self.programs}.py"
        path.write_text(text, "utf-8")
        runpy.run_path(str(path), run_name="__main__")

    def step(self, command: list[str], shown: list[str], code: int = 0) -> None:
        """Run one command, or look up what it names."""
        match command:
            case ["onnxmpq", *rest]:
                if PHOTOS not in rest or self.pictures:
                    self._onnxmpq(command, shown, code)
            case ["cp", source, goal]:
                copied(ROOT / source if source != EXAMPLE else small_model(), Path(goal))
                self._photos()
            case ["pip", "install", "-e", "."]:
                install(self.folder)
            case ["pip", "install", *wanted]:
                self._extras(wanted)
            case ["make", goal]:
                assert f"\n{goal}:" in (ROOT / "Makefile").read_text("utf-8")
            case ["python", "-m", "benchmarks", name, *rest]:
                known = options_of(bench.commands[name])
                assert {word for word in rest if word.startswith("--")} <= known, command
            case ["python", program, *_]:
                assert (ROOT / program).is_file(), program
            case _:
                pytest.fail(f"nobody knows how to check '{shlex.join(command)}'")

    def _onnxmpq(self, command: list[str], shown: list[str], code: int) -> None:
        self.monkeypatch.setattr(sys, "argv", command)
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = self.capsys.readouterr()
        assert int(ended.value.code or 0) == code, f"{shlex.join(command)}\n{told.err}"
        for line in shown:
            assert line.partition(" …")[0] in told.out + told.err, command

    def _extras(self, wanted: list[str]) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        for extra in re.findall(r"(?:onnxmpq|\.)\[([\w,]+)\]", " ".join(wanted)):
            assert set(extra.split(",")) <= set(project["optional-dependencies"]), wanted

    def _photos(self) -> None:
        """Make a folder of pictures."""
        if not self.pictures or Path(PHOTOS).exists():
            return
        from PIL import Image

        Path(PHOTOS).mkdir()
        random = np.random.default_rng(0)
        for number in range(8):
            Image.fromarray(random.integers(0, 256, (20, 24), dtype=np.uint8)).save(f"{PHOTOS}/{number}.png")


def copied(source: Path, goal: Path) -> None:
    """Copy a file; of samples without labels the first ones, since most commands read all of them again and again."""
    shutil.copy(source, goal)
    if source.suffix == ".npz":
        with np.load(source) as data:
            if "labels" not in data.files:
                np.savez(goal, **{name: data[name][:FEW] for name in data.files})


def install(folder: Path) -> None:
    """Do what ``pip install -e .`` does for entry points: leave the metadata beside the modules."""
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    place = folder / f"{project['name']}-{project['version']}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n", "utf-8")
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups]
    (place / "entry_points.txt").write_text("\n".join(lines), "utf-8")
    importlib.invalidate_caches()
    forget()


def forget() -> None:
    """Let everything that has a name be looked for again."""
    passes.passes.cache_clear()
    for known in (BUDGETS, METHODS, RUNTIMES):
        known.forget()


def options_of(command: click.Command) -> set[str]:
    """Return the options of a command, and of those in it where it is a group."""
    found = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            found |= options_of(inner) if inner is not None else set()
    return {name for name in found if name.startswith("-")} | {"--help", "-h"}
