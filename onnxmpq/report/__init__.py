"""The report stage: what was found, on one page without a network, and the same numbers as JSON."""

from onnxmpq.report.view import Measured, View, make_view
from onnxmpq.report.write import Written, write_report

__all__ = ["Measured", "View", "Written", "make_view", "write_report"]
