"""What machines read, from real processes: standard output is JSON and nothing else, and --quiet leaves the rest empty.

Libraries print by themselves, below Python's streams: an in-process runner does not see it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.graphs import feeds_for, layer_chain
from tests.processes import onnxmpq, python

SEARCH = ("-b", "size=60%", "--effort", "quick", "--allow-slower")
COMMANDS: dict[str, Sequence[str]] = {
    "inspect": ("inspect", "m.onnx"),
    "quantize": ("quantize", "m.onnx", "-c", "s.npz", "-o", "new.onnx", "--allow-slower"),
    "a search": ("quantize", "m.onnx", "-c", "s.npz", "-o", "found.onnx", *SEARCH),
    "a damaged result": ("quantize", "m.onnx", "-c", "s.npz", "-o", "two.onnx", "--option", "w2a8", "--allow-slower"),
    "dry run": ("quantize", "m.onnx", "-c", "s.npz", "-o", "dry.onnx", *SEARCH, "--dry-run"),
    "pareto": ("pareto", "m.onnx", "-c", "s.npz", "--points", "3"),
    "measure": ("measure", "m.onnx", "-c", "s.npz", "--options", "w4a8", "-o", "table.json"),
    "solve": ("solve", "t.json", "-b", "size=60%", "-o", "plan.json"),
    "diagnose": ("diagnose", "m.onnx", "-c", "s.npz", "--option", "w2a8"),
    "apply": ("apply", "m.onnx", "q.plan.json", "-c", "s.npz", "-o", "again.onnx"),
    "verify": ("verify", "q.onnx", "--float", "m.onnx", "-c", "s.npz"),
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a model, its samples and a quantised file."""
    folder = tmp_path_factory.mktemp("machine")
    model = layer_chain("Conv")
    onnx.save(ir.to_proto(model), str(folder / "m.onnx"))
    np.savez(folder / "s.npz", x=np.concatenate([feed["x"] for feed in feeds_for(model)]))
    assert onnxmpq("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--allow-slower", folder=folder).returncode == 0
    assert onnxmpq("measure", "m.onnx", "-c", "s.npz", "-o", "t.json", folder=folder).returncode == 0
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_standard_output_is_json_and_nothing_else(name: str, desk: Path) -> None:
    given = (*COMMANDS[name], "--json", "--quiet", *(["--overwrite"] if "-o" in COMMANDS[name] else []))
    loading = name == "a search"  # what libraries print when they are loaded would be seen, too
    ended = python("-m", "onnxmpq", *given, folder=desk) if loading else onnxmpq(*given, folder=desk)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert isinstance(json.loads(ended.stdout), dict)


@pytest.mark.parametrize("name", ["a search", "pareto"])
def test_nothing_but_our_own_lines_is_printed_for_people(name: str, desk: Path) -> None:
    ended = onnxmpq(*COMMANDS[name], *(["--overwrite"] if "-o" in COMMANDS[name] else []), folder=desk)
    assert ended.returncode == 0, ended.stderr
    for word in ("HiGHS", "Copyright", "licence terms"):
        assert word not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "arguments", [("inspect", "none.onnx"), ("verify", "s.npz", "--float", "m.onnx", "-c", "s.npz")]
)
def test_errors_leave_standard_output_empty(arguments: Sequence[str], desk: Path) -> None:
    ended = onnxmpq(*arguments, "--json", "--quiet", folder=desk)
    assert ended.returncode in (2, 4)
    assert ended.stdout == ""
    assert ended.stderr.startswith("Error: ")
