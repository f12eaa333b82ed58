"""Progress of measuring counts work: a job that runs the whole model counts for more than one at its end."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.artifacts import Option
from onnxmpq.options import ROUNDINGS, Numbers
from onnxmpq.sensitivity.cost import Estimator
from onnxmpq.sensitivity.table import Variant
from onnxmpq.sensitivity.workers.worker import LocalJob
from tests.opened import engine_on

W4A8 = Option.parse("w4a8")

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def samples() -> dict[str, np.ndarray]:
    """Take a few samples of the embedded examples."""
    with np.load(MODELS / "digits_calibration.npz") as data:
        return {"image": data["image"][:6]}


def test_work_goes_up_to_all_of_it_and_stored_results_are_none(samples: dict[str, np.ndarray], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    model = MODELS / "digits_cnn.onnx"
    for options, ran in ((["w4a8"], 18), (["w4a8", "w2a8"], 18), (["w4a8"], 0)):
        told.clear()
        with engine_on(model, samples, store=tmp_path / "s.store", progress=lambda *step: told.append(step)) as engine:
            engine.table([Option.parse(option) for option in options])
        steps = [(done, of) for what, done, of in told if what == "responses"]
        assert all(a <= b for (a, _), (b, _) in pairwise(steps))
        assert steps[-1][0] == steps[-1][1]
        assert len({of for _, of in steps}) == 1
        assert len(steps) == ran + 1


def test_early_units_are_more_work_than_late_ones(
    samples: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODELS / "digits_cnn.onnx"
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(Estimator, "_sample_seconds", lambda *_: 2.0)  # as if the model were large
    with engine_on(model, samples, progress=lambda *step: told.append(step)) as engine:
        engine.table([Option.parse("w4a8")])
    steps = [done for what, done, _ in told if what == "responses"]
    work = [b - a for a, b in pairwise(steps)]
    assert work[0] == max(work) > 5000
    assert work[-1] < work[0] / 5


def test_what_a_unit_errs_by_takes_the_rounding_of_its_weights(samples: dict[str, np.ndarray]) -> None:
    model, seconds = MODELS / "digits_cnn.onnx", dict[str, float]()
    for rounding in ROUNDINGS:
        with engine_on(model, samples, numbers=Numbers(rounding=rounding)) as engine:
            foreseen = engine.estimator.rounding_seconds
            of_size = sorted(engine.space.units, key=lambda unit: unit.parameters)
            few, many = of_size[0].name, of_size[-1].name
            assert foreseen(Variant(many, Option.parse("float"))) == 0.0
            assert 0.0 < foreseen(Variant(few, W4A8)) < foreseen(Variant(many, W4A8))
            seconds[rounding] = foreseen(Variant(many, W4A8))
            job = LocalJob((many, "w4a8"), 0)
            assert engine.estimator.work([job], engine.layout)[job] >= round(1000 * seconds[rounding])
    assert seconds["gptq"] > seconds["nearest"]
