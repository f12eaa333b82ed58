"""What holds for every test.

Tables are as wide as tests ask for: a width that a test runner gives its workers must not be taken up first.
What is drawn is the same in every run.
onnxruntime, which some tests import before onnxmpq, is told first not to report its use.
Temporary folders are in memory where it has room for them: a disk is waited for at thousands of places.
"""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

os.environ.pop("COLUMNS", None)

hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

MEMORY = Path("/dev/shm")
ROOM_BYTES = 8 << 30


def _use_memory() -> None:
    """Let temporary folders be in memory where it has room; what killed commands leave there goes with this process."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ROOM_BYTES:
        return
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)  # those of tests are kept as pytest keeps them
    folder, own = tempfile.mkdtemp(prefix="onnxmpq-tests-", dir=MEMORY), os.getpid()
    os.environ["TMPDIR"] = tempfile.tempdir = folder

    def remove() -> None:
        if os.getpid() == own:  # and no fork of it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)


_use_memory()


LONG = (
    "fuzz/test_fuzz.py",
    "solve/test_solver.py",
    "test_backend.py",
    "cli/test_measure.py",
    "sensitivity/test_engine.py",
    "sensitivity/test_resume.py",
    "test_documentation.py",
    "test_documentation_pages.py",
    "report/test_models_in_browser.py",
    "report/test_large.py",
    "solve/test_fronts.py",
    "test_memory.py",
    "test_offline.py",
    "test_killed.py",
    "disk/test_files.py",
    "search/test_search.py",
    "guard/test_guard.py",
    "benchmarks/",
)
"""Files that take longest, which begin first: two workers end at about the same time then. Nothing depends on it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long files begin first; the order within a file stays."""
    folder = f"{Path(__file__).parent}/"

    def place(item: pytest.Item) -> int:
        name = str(item.path).removeprefix(folder)
        return next((number for number, long in enumerate(LONG) if name.startswith(long)), len(LONG))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what is there for good, modules and all tests, and come less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the files of ``tests/golden`` anew."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew and remove what is stale")
