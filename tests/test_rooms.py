"""Which room may import from which: data flows one way, and what is heavy is loaded where it is used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import onnxmpq

PACKAGE = Path(onnxmpq.__file__).parent
RUNTIMES = ("onnxruntime", "onnxruntime_qnn", "openvino")
MAY_IMPORT = {  # from the bottom up: every room, and every module that stands alone, imports what stands above it here
    "errors": "",
    "version": "",
    "machine": "",
    "disk": "errors",
    "registry": "disk errors",
    "artifacts": "disk errors",
    "options": "artifacts disk errors",
    "model": "artifacts disk errors registry",
    "data": "disk errors",
    "numerics": "artifacts errors machine model options",
    "carriers": "artifacts numerics registry",
    "dialects": "carriers errors numerics registry",
    "filerules": "carriers model numerics registry",
    "targets": "artifacts carriers dialects disk errors model numerics registry",
    "calibrate": "errors machine numerics",
    "lower": "artifacts calibrate carriers dialects errors model numerics options targets",
    "cuts": "artifacts errors model numerics targets",
    "metrics": "artifacts data errors model options",
    "runtimes": "data disk errors machine registry",
    "refit": "artifacts calibrate cuts lower machine metrics model numerics runtimes",
    "smooth": "calibrate metrics model options refit",
    "budgets": "artifacts disk errors registry",
    "verification": "artifacts budgets data disk errors filerules metrics model numerics runtimes targets",
    "workspace": (
        "artifacts calibrate cuts data disk errors lower machine metrics model numerics options refit runtimes "
        "smooth targets verification"
    ),
    "latency": "artifacts disk errors machine model numerics runtimes workspace",
    "sensitivity": (
        "artifacts cuts data disk errors lower machine metrics model numerics options runtimes targets version "
        "workspace"
    ),
    "solve": "errors machine",
    "methods": "artifacts budgets errors machine metrics model options registry sensitivity solve",
    "search": (
        "artifacts budgets data disk errors latency methods metrics numerics options sensitivity solve targets "
        "workspace"
    ),
    "guard": (
        "artifacts budgets data disk errors machine methods metrics model numerics options runtimes search "
        "targets verification workspace"
    ),
    "exchange": "artifacts carriers data disk errors lower methods model numerics options targets workspace",
    "api": (
        "artifacts budgets data disk errors guard latency machine methods metrics model options runtimes search "
        "sensitivity targets verification workspace"
    ),
    "for_targets": "api artifacts data disk errors options search targets verification workspace",
    "report": "api artifacts disk errors search sensitivity version",
    "doctor": "api disk errors machine options runtimes version",
    "": "api artifacts data errors for_targets guard methods options report search targets version",
    "cli": (
        " api artifacts data disk doctor errors exchange filerules for_targets guard model options registry report "
        "runtimes search sensitivity solve targets verification version workspace"
    ),
    "__main__": "cli",
}


def modules() -> dict[str, Path]:
    """Return every module of the package by its name within it."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix("."): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def room(name: str) -> str:
    """Return the room that a module is in: its folder, or itself where it stands alone.

    >>> room("onnxmpq.model.load"), room("onnxmpq.api"), room("onnxmpq")
    ('model', 'api', '')
    """
    return name.removeprefix("onnxmpq").strip(".").split(".")[0]


def imported_rooms(path: Path) -> set[str]:
    """Return the rooms from which a file imports."""
    known = {room(name) for name in modules()}
    return {room(name) for name in imports(path) if name.split(".")[0] == "onnxmpq" and room(name) in known}


def test_every_room_imports_what_is_listed_and_nothing_else() -> None:
    found: dict[str, set[str]] = {}
    for name, path in modules().items():
        found.setdefault(room(name), set()).update(imported_rooms(path) - {room(name)})
    found = {name: others - {""} for name, others in found.items()}  # the package itself is imported with any module
    assert found == {name: set(others.split()) for name, others in MAY_IMPORT.items()}


def test_no_room_imports_one_that_stands_above_it() -> None:
    places = {name: place for place, name in enumerate(MAY_IMPORT)}
    assert not [
        (name, other)
        for name, others in MAY_IMPORT.items()
        for other in others.split()
        if places[other] >= places[name]
    ]


@pytest.mark.parametrize("name", ["report.figures", "report.record", "report.page"])
def test_a_page_is_made_of_a_record_without_any_stage(name: str) -> None:
    assert imported_rooms(modules()[name]) - {""} <= {"artifacts", "disk", "errors", "report"}


def test_runtimes_are_imported_in_their_folder_only() -> None:
    found = {
        name.split(".")[0]
        for name, path in modules().items()
        for target in imports(path)
        if target.split(".")[0] in RUNTIMES
    }
    assert found == {"runtimes"}


def test_importing_onnxmpq_loads_nothing_heavy() -> None:
    heavy = ("onnxruntime", "openvino", "onnx", "onnx_ir", "numpy", "rich", "click")
    code = f"import sys, onnxmpq; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.strip() == "[]"


def test_importing_onnxmpq_takes_no_time() -> None:
    code = "import time; began = time.perf_counter(); import onnxmpq; print(time.perf_counter() - began)"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=60
    )
    assert float(shown.stdout) < 0.3


def test_the_command_line_loads_no_runtime() -> None:
    code = f"import sys, onnxmpq.cli; print([name for name in {RUNTIMES} if name in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in onnxmpq.__all__:
        assert getattr(onnxmpq, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = onnxmpq.nothing


def test_one_file_imports_highspy() -> None:
    assert [name for name, path in modules().items() if "highspy" in imports(path)] == ["solve.highs"]
