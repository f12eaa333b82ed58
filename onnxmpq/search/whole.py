"""The whole file of a plan, as budgets look at it: each part is made when it is asked for, and once."""

from pathlib import Path

from onnxmpq.artifacts import Plan
from onnxmpq.data.samples import Samples
from onnxmpq.metrics.compared import fall
from onnxmpq.workspace.export import Exporter


class Whole:
    """The file of one plan; its metric is judged on samples, by their labels where they have some."""

    def __init__(self, exporter: Exporter, plan: Plan, judged: Samples, *, classes: bool) -> None:
        """Look at a plan; ``classes``: what the model gives first are classes."""
        self.exporter, self.plan, self.judged, self.classes = exporter, plan, judged, classes
        self._size: int | None = None
        self._path: Path | None = None
        self._fall: tuple[float, float] | None = None

    @property
    def size(self) -> int:
        """Its bytes, to which it is serialised and not written."""
        if self._size is None:
            self._size = self.exporter.size(self.plan)
        return self._size

    @property
    def path(self) -> Path:
        """The file, written to a temporary place."""
        if self._path is None:
            self._path = self.exporter.written(self.plan, "tried.onnx")
        return self._path

    @property
    def fall(self) -> tuple[float, float]:
        """How far the metric falls, as a share, and the standard error of that."""
        if self._fall is None:
            sessions = self.exporter.sessions(self.path)
            self._fall = fall(*sessions, self.judged, self.judged.labels, classes=self.classes)
        return self._fall
