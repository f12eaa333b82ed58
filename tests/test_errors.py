"""Errors point at the nearest name that is there."""

from collections.abc import Callable

import pytest

from onnxmpq.artifacts import FLOAT, Cost, Option, Space, Unit
from onnxmpq.budgets.limits import Limit
from onnxmpq.errors import InputError, nearest
from onnxmpq.methods.named import method
from onnxmpq.model.passes import make_pass
from onnxmpq.options import ACTIVATION_RANGES
from onnxmpq.runtimes import get_runtime
from onnxmpq.sensitivity.workers.executors import open_executor
from onnxmpq.targets import target

UNIT = Unit("stage1/conv", (), 8, 8, (Cost(FLOAT, 32, 0), Cost(Option(8), 8, 0)), "")
SPACE = Space("ort-cpu", (UNIT,), (), 32)


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("sise", ("size", "bits"), " Did you mean 'size'?"),
        ("SIZE", ("size", "bits"), " Did you mean 'size'?"),
        ("conv1", ("Conv1", "Conv2"), " Did you mean 'Conv1'?"),
        ("magic", ("size", "bits"), ""),
        ("", ("size",), ""),
        ("size", (), ""),
    ],
)
def test_the_nearest_word_is_asked_for(word: str, known: tuple[str, ...], expected: str) -> None:
    assert nearest(word, known) == expected


def executor() -> None:
    """Open an executor whose name is misspelt."""
    with open_executor("proceses:2"):
        pass


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: target("ortcpu"), "ort-cpu"),
        (lambda: method("grams"), "gram"),
        (lambda: method("clado", pds=True), "psd"),
        (lambda: make_pass("fold-batchnorm"), "fold-batch-norm"),
        (lambda: make_pass("convert-opset", minimun=3), "minimum"),
        (lambda: Limit.parse("sise=30%"), "size"),
        (lambda: Option.parse("w8aa8"), "w8a8"),
        (lambda: Option.parse("W8A8"), "w8a8"),
        (lambda: SPACE.unit("stage1.conv"), "stage1/conv"),
        (lambda: UNIT.cost(Option(8, 8)), "w8"),
        (lambda: get_runtime("onnxrutnime"), "onnxruntime"),
        (executor, "processes"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(call: Callable[[], object], meant: str) -> None:
    with pytest.raises(InputError, match=f"Did you mean '{meant}'"):
        call()


def test_nothing_is_offered_where_nothing_is_near() -> None:
    assert not any(nearest("zzz", names) for names in (ACTIVATION_RANGES, ("onnxruntime", "openvino")))
