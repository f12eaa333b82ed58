"""The report stage: what was found, on one page without a network, and the same numbers as JSON."""

from onnxmpq.report.figures import View
from onnxmpq.report.plans import Measured
from onnxmpq.report.view import make_view
from onnxmpq.report.write import Written, write_report

__all__ = ["Measured", "View", "Written", "make_view", "write_report"]
