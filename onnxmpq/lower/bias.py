"""Biases: their int32 codes and scales, and how far rounding the weights moves what they are added to."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Layer
from onnxmpq.model.layers import paddings
from onnxmpq.numerics.weights import QuantisedWeight, code_limits, dequantise, held

_LIMIT = 2.0**30  # of codes, with room for what is added to them


def least_scale(bias: np.ndarray, input_scale: float) -> np.ndarray:
    """Return the least scale of the weights of every channel that lets its bias fit in int32."""
    return np.asarray(np.abs(bias.reshape(-1)).astype(np.float64) / (input_scale * _LIMIT))


def widened(quantised: QuantisedWeight, weight: np.ndarray, floor: np.ndarray) -> QuantisedWeight:
    """Raise scales to ``floor`` where they are below it, and round the weights of those channels again."""
    scale = np.maximum(quantised.scale, floor).astype(np.float32)
    axis = (quantised.axes or (0,))[0]
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    rounded = np.clip(np.rint(weight / scale.reshape(shape)), *code_limits(quantised.bits)).astype(np.int8)
    codes = np.where((quantised.scale < floor).reshape(shape), rounded, quantised.codes)
    return held(replace(quantised, codes=codes, scale=scale), weight)


def int32_codes(bias: np.ndarray, input_scale: float, quantised: QuantisedWeight) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of a bias, and their scale: that of the input times that of the weight."""
    scale = _step(input_scale, quantised)
    limit = 2.0**31 - 1
    codes = np.clip(np.rint(bias.reshape(-1) / scale.astype(np.float64)), -limit, limit).astype(np.int32)
    return codes.reshape(scale.shape if scale.ndim else (-1,)), scale


def on_grid(bias: np.ndarray, input_scale: float, quantised: QuantisedWeight) -> np.ndarray:
    """Return a float bias in whole steps of the sums that it is added to.

    A runtime that computes in integers rounds it so by itself; written so, it means the same wherever it runs. A bias
    that has not one number for each step is left as it is.
    """
    step = _step(input_scale, quantised).astype(np.float64).reshape(-1)
    if step.size not in (1, bias.size):
        return bias
    return np.asarray(np.rint(bias.reshape(-1) / step) * step).reshape(bias.shape)


def _step(input_scale: float, quantised: QuantisedWeight) -> np.ndarray:
    """Return the step of the sums of every channel: the scale of the input times that of the weight."""
    return (np.float32(input_scale) * quantised.scale.astype(np.float32)).astype(np.float32)


def shift(
    node: ir.Node,
    layer: Layer,
    weight: ir.TensorProtocol | None,
    mean: np.ndarray | None,
    quantised: QuantisedWeight,
) -> np.ndarray | float:
    """Return how far rounding the weights moves the mean of each output: sum of weight error times input mean.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, with
    measured means.
    """
    if weight is None or mean is None:
        return 0.0
    error = dequantise(quantised).astype(np.float64)
    error -= weight.numpy()
    match layer.op:
        case "Conv":  # [outputs, inputs of the group, kernel ...]
            taps = tap_means(node, mean, error.shape)
            outputs, inputs = error.shape[:2]
            groups = taps.shape[0] // inputs
            grouped = taps.reshape(groups, 1, -1)
            return np.asarray((error.reshape(groups, outputs // groups, -1) * grouped).sum(2).reshape(-1))
        case "MatMul" | "Gemm":
            vector = mean.reshape(-1, mean.shape[-1]).mean(0)
            return np.asarray(error @ vector if layer.channel_axes == (0,) else vector @ error)
        case _:
            return 0.0


def tap_means(node: ir.Node, mean: np.ndarray, weight_shape: tuple[int, ...]) -> np.ndarray:
    """Return what each tap of a convolution's kernel sees on average, zeros of the padding included.

    ``mean`` is the mean input [channels, positions ...], or [channels] where positions vary; the result has the shape
    [channels, kernel ...].
    """
    kernel = weight_shape[2:]
    if mean.ndim != 1 + len(kernel):
        return np.broadcast_to(mean.reshape(-1, *[1] * len(kernel)), (mean.size, *kernel))
    strides = node.attributes.get_ints("strides") or [1] * len(kernel)
    dilations = node.attributes.get_ints("dilations") or [1] * len(kernel)
    pads = paddings(node, mean.shape[1:], kernel, strides, dilations)
    padded = np.pad(mean, [(0, 0), *pads])
    outputs = [
        (size - dilation * (width - 1) - 1) // stride + 1
        for size, width, stride, dilation in zip(padded.shape[1:], kernel, strides, dilations, strict=True)
    ]
    taps = np.zeros((mean.shape[0], *kernel))
    for tap in np.ndindex(*kernel):
        window = tuple(
            slice(k * d, k * d + s * (n - 1) + 1, s)
            for k, d, s, n in zip(tap, dilations, strides, outputs, strict=True)
        )
        taps[(slice(None), *tap)] = padded[(slice(None), *window)].mean(axis=tuple(range(1, mean.ndim)))
    return taps
