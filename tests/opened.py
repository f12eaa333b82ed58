"""Workspaces and engines as tests open them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from onnxmpq.options import MeasureOptions, Numbers
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.workspace.prepare import Progress, prepare, silent
from onnxmpq.workspace.workspace import workspace


@contextmanager
def engine_on(
    model: Any,
    samples: Any,
    options: MeasureOptions | None = None,
    *,
    target: str = "ort-cpu",
    numbers: Numbers | None = None,
    progress: Progress = silent,
    **more: Any,
) -> Iterator[Engine]:
    """Open an engine on a model and samples, in a workspace of its own."""
    measure = replace(options or MeasureOptions(), **more)
    with workspace(prepare(model, target), samples, numbers, progress) as opened, Engine(opened, measure) as engine:
        yield engine
