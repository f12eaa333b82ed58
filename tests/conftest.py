"""What holds for every test.

Tables are as wide as tests ask for: a width that a test runner gives its workers must not be taken up first.
What is drawn is the same in every run.
onnxruntime, which some tests import before onnxmpq, is told first not to report its use.
"""

import os

import hypothesis
import pytest

os.environ.pop("COLUMNS", None)

hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the files of ``tests/golden`` anew."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew and remove what is stale")
