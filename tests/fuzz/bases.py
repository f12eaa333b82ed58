"""What the fuzzing starts from: whole small models of every kind of layer, the embedded ones, and onnx's own."""

import functools
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from tests.graphs import layer_chain

MODELS = Path(__file__).parents[2] / "models"
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMul:product", "Gather", "LSTM", "GRU")
_LARGEST_CASE = 20_000


@functools.cache
def models() -> dict[str, bytes]:
    """Return models by name; the small ones come first and are the larger part."""
    found = {op: bytes(ir.to_proto(layer_chain(op)).SerializeToString()) for op in LAYERS}
    found["digits_cnn"] = (MODELS / "digits_cnn.onnx").read_bytes()
    found["digits_vit"] = (MODELS / "digits_vit.onnx").read_bytes()
    return found | _cases()


def _cases() -> dict[str, bytes]:
    """Return onnx's cases of single operators that hold layers or bodies, operands but the first made constants."""
    from onnx.backend.test import loader

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators overflow on purpose
        cases = sorted(loader.load_model_tests(kind="node"), key=lambda case: str(case.name))
        for case in cases[::9]:
            assert case.model is not None
            assert case.data_sets
            model = onnx.ModelProto.FromString(case.model.SerializeToString())
            inputs, _ = case.data_sets[0]
            for value, array in list(zip(list(model.graph.input), inputs, strict=False))[1:]:
                if isinstance(array, np.ndarray):
                    model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
            data = bytes(model.SerializeToString())
            if len(data) < _LARGEST_CASE:
                found[str(case.name)] = data
    return found


def samples(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    """Make two samples for what a model says of its inputs, as far as it can be believed."""
    chance = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    made = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [min(max(dim.dim_value, 1), 64) for dim in tensor.shape.dim]
        if value.name in weights or not tensor.elem_type or np.prod(shape, dtype=np.int64) > 1 << 20:
            continue
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if shape and not tensor.shape.dim[0].dim_value:
            shape[0] = 2
        made[value.name] = np.asarray(chance.normal(size=shape) * (1 if kind.kind == "f" else 3)).astype(kind)
    return made
