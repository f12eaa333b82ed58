"""Who may import whom: stages pass data to one another and do not call one another; runtimes are loaded on demand."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import onnxmpq

PACKAGE = Path(onnxmpq.__file__).parent
STAGES = ("normalise", "space", "calibrate", "lower", "verify", "methods")
RUNTIMES = ("onnxruntime", "openvino")
ALLOWED = {("lower", "space")}  # what is stored is counted where it is predicted, so that both are one
FOUNDATIONS = ("artifacts", "errors", "files", "graph", "ledger", "reading")
ORDER = {  # what stages may import besides one another, from the bottom up
    "graph": ("graph", "artifacts", "errors", "files", "ledger"),
    "files": ("errors", "ledger", "reading"),
    "reading": ("errors",),
    "ledger": (),
    "saturation": FOUNDATIONS,
    "targets": FOUNDATIONS,
    "placement": ("targets", *FOUNDATIONS),
    "ranges": FOUNDATIONS,
    "weights": ("saturation", *FOUNDATIONS),
    "gptq": ("saturation",),
    "hessians": ("gptq", "weights", *FOUNDATIONS),
    "images": ("errors", "reading"),
    "sources": ("images", *FOUNDATIONS),
    "samples": ("sources", *FOUNDATIONS),
    "passkit": FOUNDATIONS,
    "runtime": ("machine", "runtime", "samples", *FOUNDATIONS),
    "normalise": ("passkit", "registry", *FOUNDATIONS),
    "space": ("placement", "targets", *FOUNDATIONS),
    "calibrate": ("ranges", *FOUNDATIONS),
    "lower": ("placement", "targets", "ranges", "saturation", "weights", *FOUNDATIONS),
    "verify": ("processors", "runtime", "samples", "targets", *FOUNDATIONS),
    "processors": ("hessians", "runtime", "saturation", "targets", *FOUNDATIONS),
    "methods": ("budgets", "sensitivity", "solve", *FOUNDATIONS),
    "solve": ("solve", "errors"),
    "executors": ("errors", "reading"),
    "report": ("report", "compile", "front", "sensitivity", *FOUNDATIONS),
    "budgets": FOUNDATIONS,
    "machine": (),
    "doctor": ("compile", "machine", "runtime", *FOUNDATIONS),
    "requirements": ("budgets", "sensitivity", "runtime", "samples", *FOUNDATIONS),
    "constraints": FOUNDATIONS,
    "publish": ("build", *FOUNDATIONS),
    "guard": (
        *("guard", "build", "calibrated", "compile", "constraints", "machine", "runtime", "samples", "sensitivity"),
        *("targets", "weights", *FOUNDATIONS),
    ),
    "rescue": ("sensitivity", *FOUNDATIONS),
    "search": ("budgets", "build", "calibrated", "constraints", "sensitivity", "samples", "solve", *FOUNDATIONS),
    "front": (
        *("budgets", "build", "calibrated", "compile", "constraints", "sensitivity", "registry", "runtime", "samples"),
        *("search", *FOUNDATIONS),
    ),
    "forecast": (
        *("budgets", "build", "calibrated", "compile", "constraints", "sensitivity", "methods", "registry", "samples"),
        *("search", *FOUNDATIONS),
    ),
    "calibrated": ("hessians", "lower", "placement", "ranges", "targets", "weights", *FOUNDATIONS),
    "overrides": ("placement", *FOUNDATIONS),
    "sensitivity": (
        *(
            "sensitivity",
            "build",
            "calibrated",
            "executors",
            "hessians",
            "machine",
            "placement",
            "ranges",
            "runtime",
            "samples",
            "space",
            "targets",
            "weights",
        ),
        *FOUNDATIONS,
    ),
}


def modules() -> dict[str, Path]:
    """Return every module of the package by its name within it."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
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


def own(path: Path) -> set[str]:
    """Return the parts of onnxmpq that a file imports: ``graph``, ``space`` ..."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("onnxmpq.")} & {
        name.split(".")[0] for name in modules()
    }


def test_stages_do_not_import_one_another() -> None:
    found = {
        (stage, other)
        for name, path in modules().items()
        if (stage := name.split(".")[0]) in STAGES
        for other in own(path)
        if other in STAGES and other != stage
    }
    assert found == ALLOWED


@pytest.mark.parametrize("part", ORDER)
def test_a_part_imports_only_what_stands_below_it(part: str) -> None:
    paths = [path for name, path in modules().items() if name.split(".")[0] == part]
    assert paths
    above = {other for path in paths for other in own(path)} - {*ORDER[part], part, *STAGES}
    assert not above


def test_runtimes_are_imported_in_their_folder_only() -> None:
    found = {
        name.split(".")[0]
        for name, path in modules().items()
        for target in imports(path)
        if target.split(".")[0] in RUNTIMES
    }
    assert found <= {"runtime", "bench"}
    assert "runtime" in found


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
