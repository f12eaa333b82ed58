"""Small graphs that tests share."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise

Array = np.ndarray


def rng(seed: int = 0) -> np.random.Generator:
    """Return a seeded generator."""
    return np.random.default_rng(seed)


def from_text(text: str, weights: Mapping[str, Array] | None = None, opset: int = 17) -> ir.Model:
    """Read a graph in ONNX text form and add initialisers."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    proto = onnx.parser.parse_model(header + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items())
    return ir.from_proto(proto)


def layer_chain(op: str, grouping: str = "dense", rank: int = 2, seed: int = 0, wide: bool = False) -> ir.Model:
    """Build two layers of one kind with an activation between them, as a float model.

    ``wide``: a Gemm or Gather has 128 numbers to sum over, or in a row, which any block divides.
    """
    g = rng(seed)
    size = 128 if wide else {"Gemm": 64}.get(op, 16)

    def normal(*shape: int) -> Array:
        spread = np.exp(g.normal(size=(shape[0],) + (1,) * (len(shape) - 1)) * 0.3)
        values: Array = g.normal(size=shape) * spread / np.sqrt(np.prod(shape[1:]) or 1)
        return values.astype(np.float32)

    match op:
        case "Conv":
            groups = {"dense": 1, "depthwise": 16, "grouped": 4}[grouping]
            weights = {n: normal(16, 16 // groups, 3, 3) for n in ("w1", "w2")} | {"b1": normal(16), "b2": normal(16)}
            attributes = f"<group = {groups}, pads = [1, 1, 1, 1]>"
            body = f"h = Conv{attributes}(x, w1, b1) r = Relu(h) y = Conv{attributes}(r, w2, b2)"
            text = f"g (float[n, 16, 9, 9] x) => (float[n, 16, 9, 9] y) {{ {body} }}"
        case "ConvTranspose":
            weights = {"w1": normal(8, 8, 2, 2), "w2": normal(8, 8, 2, 2)}
            body = "h = ConvTranspose<strides = [2, 2]>(x, w1) r = Relu(h) y = ConvTranspose<strides = [2, 2]>(r, w2)"
            text = f"g (float[n, 8, 5, 5] x) => (float[n, 8, 20, 20] y) {{ {body} }}"
        case "Gemm":
            weights = {"w1": normal(size, size), "w2": normal(size, size), "b1": normal(size), "b2": normal(size)}
            body = "h = Gemm<transB = 1>(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2)"
            text = f"g (float[n, {size}] x) => (float[n, {size}] y) {{ {body} }}"
        case "MatMul" if rank == 2:
            weights = {"w1": normal(128, 128), "w2": normal(128, 128), "b1": normal(128), "b2": normal(128)}
            body = "m = MatMul(x, w1) h = Add(m, b1) r = Sigmoid(h) o = MatMul(r, w2) y = Add(b2, o)"
            text = f"g (float[1, 7, 128] x) => (float[1, 7, 128] y) {{ {body} }}"
        case "MatMul":
            weights = {"w1": normal(3, 16, 16), "w2": normal(3, 16, 16)}
            body = "h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2)"
            text = f"g (float[n, 3, 5, 16] x) => (float[n, 3, 5, 16] y) {{ {body} }}"
        case "MatMul:product":
            weights = {}
            body = "t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, t)"
            text = f"g (float[n, 12, 16] x) => (float[n, 12, 12] y) {{ {body} }}"
        case "Gather":
            weights = {"w1": normal(max(40, size), size), "w2": normal(size, size)}
            body = "i = ArgMax<axis = -1, keepdims = 0>(x) e = Gather(w1, i) s = Add(e, x) y = MatMul(s, w2)"
            text = f"g (float[3, 5, {size}] x) => (float[3, 5, {size}] y) {{ {body} }}"
        case "LSTM" | "GRU":
            gates = 4 if op == "LSTM" else 3
            weights = {"w1": normal(2, gates * 8, 16), "r1": normal(2, gates * 8, 8), "b1": normal(2, 2 * gates * 8)}
            body = f'y = {op}<hidden_size = 8, direction = "bidirectional">(x, w1, r1, b1)'
            text = f"g (float[5, n, 16] x) => (float[5, 2, n, 8] y) {{ {body} }}"
        case _:
            raise ValueError(op)
    return from_text(text, weights)


def feeds_for(model: ir.Model, count: int = 4, seed: int = 1) -> list[dict[str, Array]]:
    """Make feeds of one sample each; unknown dimensions are 1."""
    g = rng(seed)
    return [
        {
            value.name or "": g.normal(size=[d if isinstance(d, int) else 1 for d in value.shape or ()]).astype(
                np.float32
            )
            for value in model.graph.inputs
        }
        for _ in range(count)
    ]


def normal(model: ir.Model) -> ir.Model:
    """Return the model as the stages see it: normalised."""
    return normalise(load(ir.to_proto(model))).model
