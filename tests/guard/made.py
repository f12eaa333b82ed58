"""Networks that 8 bits ruin in one place: a spectrum before a logarithm, two ranges in one Concat, outlier channels.

Each is some twenty layers deep, and gives outputs that mean something: heads are fitted in closed form.
"""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from onnxmpq.runtimes import get_runtime
from tests.graphs import from_text, rng

Array = np.ndarray
SAMPLES = 128
BLOCKS = 8


def keywords() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A keyword spotter that computes its log-mel spectrum and cepstrum itself, as products of matrices."""
    g = rng(1)
    frames, window, bins, mels, coefficients, width, classes = 20, 128, 65, 24, 16, 24, 8
    time = np.arange(window)
    angle = 2 * np.pi * np.outer(time, np.arange(bins)) / window
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * time / window))[:, None]
    centres = np.linspace(0, bins - 1, mels + 2)
    rising = (np.arange(bins)[:, None] - centres[:-2]) / np.diff(centres)[:-1]
    falling = (centres[2:] - np.arange(bins)[:, None]) / np.diff(centres)[1:]
    weights = {
        "cosines": (hann * np.cos(angle)).astype(np.float32),
        "sines": (hann * np.sin(angle)).astype(np.float32),
        "mel": np.maximum(np.minimum(rising, falling), 0).astype(np.float32),
        "floor": np.array(1e-4, np.float32),
        "dct": (np.cos(np.pi * np.outer(np.arange(mels) + 0.5, np.arange(coefficients)) / mels) / 12).astype(
            np.float32
        ),
        "w0": _he(g, width, coefficients, 3),
        **_blocks(g, width, (3,)),
    }
    text = (
        f"g (float[n, {frames}, {window}] x) => (float[n, m] y) {{ re = MatMul(x, cosines) im = MatMul(x, sines) "
        "re2 = Mul(re, re) im2 = Mul(im, im) power = Add(re2, im2) bands = MatMul(power, mel) "
        "lifted = Add(bands, floor) logs = Log(lifted) cepstrum = MatMul(logs, dct) "
        "turned = Transpose<perm = [0, 2, 1]>(cepstrum) c0 = Conv<pads = [1, 1]>(turned, w0) h0 = Relu(c0) "
        + _chain("pads = [1, 1]")
        + "p = GlobalAveragePool(last) f = Flatten(p) y = Gemm(f, head, bias) }"
    )
    kinds = np.arange(SAMPLES) % classes
    pitch = np.array([5, 9, 14, 20, 27, 35, 44, 54])[kinds] + g.normal(0, 0.3, SAMPLES)
    phase = g.uniform(0, 2 * np.pi, (SAMPLES, frames, 1))
    loudness = 10 ** g.uniform(-1.5, 1.5, (SAMPLES, 1, 1))
    tone = np.sin(2 * np.pi * pitch[:, None, None] * time / window + phase)
    hum = 30 * np.sin(2 * np.pi * 2 * time / window + phase)
    x = loudness * (0.05 * tone + hum * 0.1 + 0.004 * g.normal(size=(SAMPLES, frames, window)))
    return _with_head(text, weights, {"x": x.astype(np.float32)}, kinds, classes)


def detector() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A detector whose head reads places in pixels beside features around one, from one Concat."""
    g = rng(2)
    width, size = 16, 12
    weights = {"w0": _he(g, width, 3, 3, 3)} | _blocks(g, width, (3, 3))
    weights |= {
        "wp": (30 * np.abs(_he(g, 4, width, 1, 1))).astype(np.float32),
        "ws": _he(g, 12, width, 1, 1),
        "head": np.concatenate(
            [
                np.concatenate([np.eye(4), np.zeros((4, 12))], 1),
                np.concatenate([np.zeros((6, 4)), g.normal(size=(6, 12)) / 2], 1),
            ]
        )[:, :, None, None].astype(np.float32),
    }
    text = (
        f"g (float[n, 3, {size}, {size}] x) => (float[n, 10, {size}, {size}] y) "
        "{ c0 = Conv<pads = [1, 1, 1, 1]>(x, w0) h0 = Relu(c0) "
        + _chain("pads = [1, 1, 1, 1]")
        + "pa = Conv(last, wp) places = Relu(pa) sa = Conv(last, ws) scores = Sigmoid(sa) "
        "both = Concat<axis = 1>(places, scores) y = Conv(both, head) }"
    )
    x = g.normal(size=(SAMPLES, 3, size, size)).astype(np.float32)
    return ir.to_proto(from_text(text, weights)), {"x": x}


def outliers() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A text classifier whose embedding has two channels that are some thousand times the others."""
    g = rng(3)
    words, length, width, classes = 200, 12, 48, 6
    table = g.normal(size=(words, width))
    kinds = np.arange(SAMPLES) % classes
    table[:, 5] = 1500 + 5 * g.normal(size=words)
    table[:, 31] = -2200 + 5 * g.normal(size=words)
    first = g.normal(size=(width, width)) / np.sqrt(width)
    first[[5, 31]] *= 0.0001
    weights = {"table": table.astype(np.float32), "w0": first.astype(np.float32)}
    weights |= {
        f"w{block}{end}": (g.normal(size=(width, width)) / np.sqrt(width) / 2).astype(np.float32)
        for block in range(1, BLOCKS + 1)
        for end in "ab"
    }
    body = "".join(
        f"a{i} = MatMul(h{i - 1}, w{i}a) r{i} = Relu(a{i}) b{i} = MatMul(r{i}, w{i}b) h{i} = Add(b{i}, h{i - 1}) "
        for i in range(1, BLOCKS + 1)
    )
    text = (
        f"g (int64[n, {length}] words) => (float[n, m] y) {{ e = Gather(table, words) c0 = MatMul(e, w0) h0 = Tanh(c0) "
        + body
        + f"f = ReduceMean<axes = [1], keepdims = 0>(h{BLOCKS}) y = Gemm(f, head, bias) }}"
    )
    favourites = g.integers(0, words, (classes, 8))
    chosen = np.where(
        g.random((SAMPLES, length)) < 0.8,
        favourites[kinds[:, None], g.integers(0, 8, (SAMPLES, length))],
        g.integers(0, words, (SAMPLES, length)),
    )
    return _with_head(text, weights, {"words": chosen.astype(np.int64)}, kinds, classes)


def _he(g: np.random.Generator, *shape: int) -> Array:
    values: Array = g.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
    return values.astype(np.float32)


def _blocks(g: np.random.Generator, width: int, kernel: tuple[int, ...]) -> dict[str, Array]:
    return {
        f"w{block}{end}": _he(g, width, width, *kernel) * np.float32(0.5)
        for block in range(1, BLOCKS + 1)
        for end in "ab"
    }


def _chain(attributes: str) -> str:
    """Return residual blocks of two convolutions, from h0 to ``last``."""
    text = ""
    for i in range(1, BLOCKS + 1):
        end = "last" if i == BLOCKS else f"h{i}"
        text += (
            f"a{i} = Conv<{attributes}>(h{i - 1}, w{i}a) r{i} = Relu(a{i}) b{i} = Conv<{attributes}>(r{i}, w{i}b) "
            f"s{i} = Add(b{i}, h{i - 1}) {end} = Relu(s{i}) "
        )
    return text


def _with_head(
    text: str, weights: Mapping[str, Array], samples: dict[str, Array], kinds: Array, classes: int
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Fit the last layer to the classes by least squares, so that the network really tells them apart."""
    width = next(len(array) for name, array in weights.items() if name == "w1a")
    blank = {"head": np.zeros((width, classes), np.float32), "bias": np.zeros(classes, np.float32)}
    proto = ir.to_proto(from_text(text, {**weights, **blank}))
    runtime = get_runtime("onnxruntime")
    features = runtime.session(proto.SerializeToString(), mode="plain", outputs=["f"]).run(samples)["f"]
    known = np.concatenate([features, np.ones((len(features), 1))], 1).astype(np.float64)
    wanted = 10.0 * (kinds[:, None] == np.arange(classes)) - 5.0
    ridge = 1e-2 * np.trace(known.T @ known) / known.shape[1] * np.eye(known.shape[1])
    solved = np.linalg.solve(known.T @ known + ridge, known.T @ wanted)
    head = {"head": solved[:-1].astype(np.float32), "bias": solved[-1].astype(np.float32)}
    return ir.to_proto(from_text(text, {**weights, **head})), samples
