"""onnx's own backend tests through quantize: each gives a file that loads and holds, or one clear refusal.

Single operators come with all operands as inputs; here every operand but the first becomes a constant, as in an
exported model, so that layers have weights.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.api import quantize
from onnxmpq.errors import InputError
from onnxmpq.options import VerifyOptions
from tests.test_backend import CHUNKS, Sample, node_samples, run, stored_samples


def frozen(sample: Sample) -> Sample:
    """Make constants of all inputs but the first."""
    model = onnx.ModelProto.FromString(sample.model.SerializeToString())
    first = model.graph.input[0].name if model.graph.input else ""
    tensors = {name for name, feed in sample.feeds.items() if isinstance(feed, np.ndarray | np.generic)}
    kept = [value for value in model.graph.input if value.name == first or value.name not in tensors]
    names = {value.name for value in kept}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in sample.feeds.items()
        if name not in names and name in {value.name for value in model.graph.input}
    )
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return Sample(sample.name, model, {name: array for name, array in sample.feeds.items() if name in names})


def outcome(sample: Sample, folder: Path) -> str:
    """Tell how one model fared."""
    try:
        run(sample.model, sample.feeds)
    except Exception:  # onnxruntime raises a dozen types
        return "onnxruntime cannot run it as it is"
    try:
        quantize(
            sample.model,
            [sample.feeds] * 2,
            output=folder / "q.onnx",
            plan="w8a8",
            overwrite=True,
            verify=VerifyOptions(speed_budget_s=0.0),
        )
    except InputError as error:
        message = str(error)
        assert "\n" not in message, sample.name
        return "nothing to quantise" if message.startswith("Nothing in this model") else "refused"
    return "quantised"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_single_operators_are_quantised_or_refused(chunk: int, tmp_path: Path) -> None:
    counts = Counter(outcome(frozen(sample), tmp_path) for sample in node_samples(chunk))
    print(dict(counts))
    assert counts["quantised"] >= 5
    assert counts["quantised"] + counts["nothing to quantise"] >= 100


def test_stored_models_are_quantised_or_refused(tmp_path: Path) -> None:
    counts = Counter(
        outcome(sample, tmp_path) for sample in stored_samples("simple", "pytorch-converted", "pytorch-operator")
    )
    print(dict(counts))
    assert counts["quantised"] >= 30
