"""Transformers with planted outliers: a few channels of LayerNorms are larger, and their readers' weights smaller.

What they give in float is what they gave, but for rounding: 8-bit activations alone suffer.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

MODELS = Path(__file__).parents[1] / "models"
CALIBRATION, EVALUATION = MODELS / "digits_calibration.npz", MODELS / "digits_evaluation.npz"
FACTORS = (50.0, 200.0)
CHANNELS = 2


def planted(
    path: Path,
    model: Path = MODELS / "digits_vit.onnx",
    norms: Sequence[str] = (),
    between: tuple[float, float] = FACTORS,
) -> Path:
    """Write a model with outliers behind the LayerNorms whose names begin so; all of those that MatMuls alone read."""
    proto, random = onnx.load(model), np.random.default_rng(0)
    values = {tensor.name: tensor for tensor in proto.graph.initializer}

    def multiply(name: str, factors: np.ndarray) -> None:
        values[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(values[name]) * factors, name))

    for norm in (node for node in proto.graph.node if node.op_type == "LayerNormalization"):
        factors = np.ones(len(numpy_helper.to_array(values[norm.input[1]])), np.float32)
        factors[random.choice(len(factors), CHANNELS, replace=False)] = random.uniform(*between, CHANNELS)
        readers = [node for node in proto.graph.node if norm.output[0] in node.input]
        if any(node.op_type != "MatMul" for node in readers) or not norm.name.startswith(tuple(norms) or ""):
            continue
        for name in norm.input[1:]:
            multiply(name, factors)
        for node in readers:
            multiply(node.input[1], 1 / factors[:, None])
    onnx.save(proto, str(path))
    return path
