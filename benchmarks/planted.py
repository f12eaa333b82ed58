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
    also: Sequence[str] = (),
) -> Path:
    """Write a model with outliers behind the LayerNorms whose names begin so; all of those that MatMuls alone read.

    ``also``: how weights begin in whose attention there are outliers among the values, too.
    """
    proto, random = onnx.load(model), np.random.default_rng(0)
    values = {tensor.name: tensor for tensor in proto.graph.initializer}

    def multiply(name: str, factors: np.ndarray) -> None:
        values[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(values[name]) * factors, name))

    def drawn(count: int) -> np.ndarray:
        factors = np.ones(count, np.float32)
        factors[random.choice(count, CHANNELS, replace=False)] = random.uniform(*between, CHANNELS)
        return factors

    for norm in (node for node in proto.graph.node if node.op_type == "LayerNormalization"):
        factors = drawn(len(numpy_helper.to_array(values[norm.input[1]])))
        readers = [node for node in proto.graph.node if norm.output[0] in node.input]
        if any(node.op_type != "MatMul" for node in readers) or not norm.name.startswith(tuple(norms) or ""):
            continue
        for name in norm.input[1:]:
            multiply(name, factors)
        for node in readers:
            multiply(node.input[1], 1 / factors[:, None])
    for name in [name for name in values if name.endswith("attention.value.weight") and name.startswith(tuple(also))]:
        block, factors = name.removesuffix("value.weight"), drawn(numpy_helper.to_array(values[name]).shape[1])
        multiply(name, factors)
        multiply(f"{block}value.bias", factors)
        multiply(f"{block}project.weight", 1 / factors[:, None])
    onnx.save(proto, str(path))
    return path
