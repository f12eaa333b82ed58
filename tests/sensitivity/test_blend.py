"""Blends of samples: which are made, from what, and that the engine measures on them as on samples."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onnxmpq.artifacts import Option
from onnxmpq.data.blends import FEW, FIRST, Blended, blend, may_blend
from onnxmpq.errors import InputError
from onnxmpq.metrics.losses import Head, doubt
from onnxmpq.options import MeasureOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.sensitivity.engine import Engine
from tests.graphs import from_text
from tests.opened import engine_on

MODELS = Path(__file__).parents[2] / "models"


@given(st.integers(2, 2000))
@example(96)  # half of the samples that stay come first in a blend
def test_there_are_as_many_blends_as_samples_that_stay(count: int) -> None:
    found = Blended(count)
    plain, pairs = found.plain, found.pairs
    assert plain == sorted(set(plain))
    assert len(pairs) == len(plain) == max(min(count, FEW), count // 2)
    assert all(0 <= place < count for place in (*plain, *(place for pair in pairs for place in pair)))
    assert all(first != second for first, second in pairs)
    assert len(set(range(count)) - {*plain, *(first for first, _ in pairs)}) <= 1


def test_a_blend_is_of_samples_far_apart() -> None:
    pairs = Blended(1000).pairs
    assert min(abs(first - second) for first, second in pairs) > 400


def test_feeds_come_as_samples_then_blends() -> None:
    class Readings:
        """Serves samples and counts how often."""

        count = 0

        def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
            """Yield numbers as samples."""
            self.count += 1
            return iter([{"x": np.array([number], np.float32)} for number in range(10)])

    found, samples = Blended(10, few=4), Readings()
    assert (found.plain, found.pairs[:2]) == ([0, 2, 4, 6, 8], [(1, 4), (3, 6)])
    values = [float(feed["x"][0]) for feed in found.feeds(samples)]
    assert values[:5] == [0, 2, 4, 6, 8]
    assert values[5:] == pytest.approx([FIRST * first + (1 - FIRST) * second for first, second in found.pairs])
    assert samples.count <= 5


def test_types_stay_and_shapes_that_differ_are_not_blended() -> None:
    first, second = {"x": np.ones((1, 4), np.float16)}, {"x": np.zeros((1, 4), np.float16)}
    assert blend(first, second)["x"].dtype == np.float16
    longer = {"x": np.zeros((1, 5), np.float16)}
    assert blend(first, longer) is first


@pytest.mark.parametrize(
    ("feeds", "answer"),
    [
        ([{"x": np.ones(3, np.float32)}] * 2, True),
        ([{"x": np.ones(3, np.float32)}], False),
        ([{"x": np.ones(3, np.int64)}] * 2, False),
        ([{"x": np.ones(3, np.float32), "length": np.array([3])}] * 2, False),
        ([{"x": np.ones(3, np.float32)}, {"x": np.ones(4, np.float32)}], False),
    ],
)
def test_only_floats_of_one_shape_may_be_blended(feeds: list[dict[str, Any]], answer: bool) -> None:
    assert may_blend(feeds) is answer


def engine(store: Path | None = None, samples: int = 8, **settings: Any) -> AbstractContextManager[Engine]:
    """Open an engine on the embedded network of convolutions."""
    with np.load(MODELS / "digits_evaluation.npz") as data:
        given = {"image": data["image"][:samples], "labels": data["labels"][:samples]}
    return engine_on(MODELS / "digits_cnn.onnx", given, MeasureOptions(**settings), store=store)


def test_the_engine_measures_blends_as_it_does_samples_that_are_given() -> None:
    with engine(blends=True) as blended, engine() as alone:
        assert (blended.plain, blended.samples, blended.repeats) == (8, 16, 2.0)
        on_both, on_samples = (opened.sample_losses(opened.table([Option(2, 8)])) for opened in (blended, alone))
        np.testing.assert_allclose(on_both[:, :8], on_samples, rtol=1e-3, atol=1e-6)
        images = np.concatenate([feed["image"] for feed in Blended(8).feeds(blended.workspace.samples)])
        outputs = blended.float_outputs()
    session = get_runtime("onnxruntime").session(MODELS / "digits_cnn.onnx", mode="deployed")
    (logits,) = session.run({"image": images}).values()
    np.testing.assert_allclose(outputs, logits, rtol=1e-4, atol=1e-4)


def test_a_store_of_samples_is_refused_for_blends(tmp_path: Path) -> None:
    with engine(store=tmp_path / "results.store"):
        pass
    with pytest.raises(InputError, match="samples"), engine(blends=True, store=tmp_path / "results.store"):
        pytest.fail("it is open")


@pytest.mark.parametrize("settings", [{"loss": "ce"}, {"blends": None}, {"blends": False}])
def test_labels_or_no_wish_for_them_leave_samples_alone(settings: dict[str, Any]) -> None:
    with engine(**{"blends": True, **settings}) as opened:
        assert (opened.plain, opened.samples, opened.repeats) == (8, 8, 1.0)


@pytest.mark.parametrize(
    ("sharpness", "loss", "wanted", "blends"),
    [
        (10.0, "kl", "sure", 64),  # sure of every sample, of half of one and half of another less so
        (0.1, "kl", "sure", 0),  # sure of nothing
        (10.0, "power", "sure", 0),  # there are no classes to be sure of
        (0.1, "kl", True, 64),  # asked for
    ],
)
def test_blends_are_measured_where_the_model_is_surer_of_samples(
    sharpness: float, loss: str, wanted: Any, blends: int
) -> None:
    model = from_text("g (float[n, 6] x) => (float[n, 6] y) { y = MatMul(x, w) }", {"w": np.eye(6, dtype=np.float32)})
    feeds = [{"x": np.eye(6, dtype=np.float32)[[number % 5]] * sharpness} for number in range(72)]
    settings = MeasureOptions(loss=loss, blends=wanted)
    with engine_on(ir.to_proto(model), feeds, settings) as opened:
        assert (opened.plain, opened.samples - opened.plain) == (64 if blends else 72, blends)
    with engine_on(ir.to_proto(model), feeds[:FEW], settings) as few:
        assert (few.plain, few.samples) == (64, 128), "of few samples all stay beside their blends"


def test_doubt_is_what_is_left_of_a_distribution() -> None:
    outputs = {"a": np.log([[[0.5, 0.5], [1.0, 1e-30]]]), "b": np.array([[0.25, 0.75]]), "c": np.ones((1, 3))}
    heads = (Head("a", "kl"), Head("b", "ce", probabilities=True), Head("c", "power"))
    assert doubt(outputs, heads) == pytest.approx((0.25 + 0.375) / 2)
    assert doubt(outputs, heads[2:]) == 0
