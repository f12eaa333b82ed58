"""What holds for every test.

Tables are as wide as tests ask for: a width that a test runner gives its workers must not be taken up first.
onnxruntime, which some tests import before onnxmpq, is told first not to report its use.
"""

import os

os.environ.pop("COLUMNS", None)

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
