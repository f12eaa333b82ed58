"""What TensorRT asks of a file with explicit quantisation."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.filerules.base import Broken, FileRules, Rule
from onnxmpq.model.layers import all_nodes, constant

_QUANTIZE = "docs.nvidia.com/deeplearning/tensorrt/operators/docs/Quantize.html"
_DEQUANTIZE = "docs.nvidia.com/deeplearning/tensorrt/operators/docs/Dequantize.html"
_TYPES = "docs.nvidia.com/deeplearning/tensorrt: Working with Quantized Types"
_EXPLICIT = "docs.nvidia.com/deeplearning/tensorrt: Explicit Quantization"
_HEADER = "NVIDIA/TensorRT, include/NvInfer.h, IQuantizeLayer and IDequantizeLayer"

ZERO = Rule("zero-point", "Zero points are left out, or all are 0.", f"{_QUANTIZE}, zero_point")
CODES = Rule(
    "signed-codes", "Codes are int8, int4 or float8: none are unsigned, none have 16 bits.", f"{_QUANTIZE}, T3"
)
CONSTANT = Rule("constant-scale", "Scales are constants when the engine is built.", f"{_QUANTIZE}, scale")
POSITIVE = Rule("positive-scale", "Scales are above 0 and finite.", _HEADER)
TYPED = Rule("scale-type", "A scale has the type of what is quantised, or turned back.", f"{_QUANTIZE}, T1; {_HEADER}")
PER_TENSOR = Rule("one-scale", "Activations have one scale.", f"{_TYPES}, granularity of activations")
WEIGHT_ONLY = Rule("four-bit-weights", "Codes of 4 bits are constants: activations never have them.", f"{_TYPES}, INT4")
BLOCKS = Rule(
    "blocks",
    "Blocks are of int4 weights, along their last or last but one axis, and divide it.",
    f"{_DEQUANTIZE}, scale",
)
CHANNEL = Rule(
    "weight-axis", "Scales of weights lie along the outputs of the layer.", f"{_EXPLICIT}, Quantized Weights"
)
BIAS = Rule(
    "float-bias", "A bias is a float: nothing turns it back from codes.", f"{_EXPLICIT}; the builder quantises it"
)
ACTIVATION = Rule(
    "no-q-before-activation", "No Q stands between a convolution and its activation.", f"{_EXPLICIT}, placement of Q/DQ"
)
PAIRED = Rule("q-then-dq", "Codes of a Q are read by DQs alone.", f"{_EXPLICIT}, ONNX Support")
BOTH = Rule(
    "both-operands",
    "Of the layers that read codes of one activation some have codes of weights, too: no Q is for float layers alone.",
    f"{_EXPLICIT}, placement",
)
KNOWN = Rule(
    "known-operators",
    "Quantisation is said by Q and DQ: not by operators on codes or scales at run time.",
    "onnx/onnx-tensorrt, docs/operators.md: ConvInteger, DynamicQuantizeLinear, MatMulInteger, QLinear*: N",
)

_REFUSED = ("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "Gelu", "Elu")
_KNOWN = (ir.DataType.INT8, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN)


class TensorRtRules(FileRules):
    """Rules of explicit quantisation."""

    name: ClassVar[str] = "tensorrt"
    rules: ClassVar[tuple[Rule, ...]] = (
        *(ZERO, CODES, CONSTANT, POSITIVE, TYPED, PER_TENSOR, WEIGHT_ONLY, BLOCKS, CHANNEL, BIAS, ACTIVATION),
        *(PAIRED, BOTH, KNOWN),
    )

    def check(self, model: ir.Model) -> Iterator[Broken]:
        """Look at every Q and DQ, and at what reads them."""
        for node in all_nodes(model):
            if node.op_type in _REFUSED:
                yield Broken(KNOWN, node.name or "", f"it is a {node.op_type}")
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                yield from _numbers(node)
                yield from _codes(node)
            if node.op_type == "QuantizeLinear":
                yield from _activation(node)
            if node.op_type in _WEIGHTED:
                yield from _layer(node)


def _numbers(node: ir.Node) -> Iterator[Broken]:
    """Look at the scale and the zero point of a Q or DQ."""
    where, scale = node.name or "", constant(node.inputs[1])
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None:
        known = constant(zero)
        if known is None or np.any(known.numpy() != 0):
            yield Broken(ZERO, where, f"zero point '{zero.name}' is {'not 0' if known is not None else 'computed'}")
    if scale is None:
        yield Broken(CONSTANT, where, "its scale is computed")
        return
    numbers = scale.numpy().astype(np.float64)
    if not np.all(np.isfinite(numbers)) or np.any(numbers <= 0):
        yield Broken(POSITIVE, where, f"a scale is {numbers.min():.3g}")
    plain = node.inputs[0] if node.op_type == "QuantizeLinear" else node.outputs[0]
    if plain is not None and plain.dtype not in (None, scale.dtype):
        yield Broken(TYPED, where, f"the scale is {scale.dtype.name.lower()}, the tensor is not")


def _codes(node: ir.Node) -> Iterator[Broken]:
    """Look at the type of the codes, and at blocks."""
    where, codes = node.name or "", node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    dtype = codes.dtype if codes is not None and codes.dtype is not None else (zero.dtype if zero is not None else None)
    if node.op_type == "QuantizeLinear" and dtype is None:
        dtype = ir.DataType.UINT8  # what the standard says of a Q without a zero point
    weight = constant(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
    if dtype is ir.DataType.INT32 and node.op_type == "DequantizeLinear":
        return  # a bias, of which another rule speaks
    if dtype is not None and dtype not in _KNOWN:
        yield Broken(CODES, where, f"codes are {dtype.name.lower()}")
    if dtype is ir.DataType.INT4 and weight is None:
        yield Broken(WEIGHT_ONLY, where, "codes of 4 bits are computed")
    block = node.attributes.get_int("block_size", 0)
    if block:
        shape = tuple(weight.shape.numpy()) if weight is not None else ()
        axis = node.attributes.get_int("axis", 1) % max(len(shape), 1)
        if dtype is not ir.DataType.INT4 or len(shape) < 2 or axis < len(shape) - 2 or shape[axis] % block:
            yield Broken(BLOCKS, where, f"blocks of {block} along axis {axis} of {list(shape)}")


def _activation(node: ir.Node) -> Iterator[Broken]:
    """Look at a Q: one scale, nothing but DQs behind it, no activation either."""
    where, scale = node.name or "", constant(node.inputs[1])
    if scale is not None and scale.size != 1 and constant(node.inputs[0]) is None:
        yield Broken(PER_TENSOR, where, f"{scale.size} scales")
    strangers = [user.op_type for user, _ in node.outputs[0].uses() if user.op_type != "DequantizeLinear"]
    if strangers or node.outputs[0].is_graph_output():
        yield Broken(PAIRED, where, f"codes are read by {', '.join(strangers) or 'the caller'}")
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None or before.op_type not in _WEIGHTED:
        return
    for turned, _ in node.outputs[0].uses():
        for user, _ in turned.outputs[0].uses() if turned.op_type == "DequantizeLinear" else ():
            if user.op_type in _ACTIVATIONS:
                yield Broken(ACTIVATION, where, f"between {before.op_type} '{before.name}' and {user.op_type}")


def _layer(node: ir.Node) -> Iterator[Broken]:
    """Look at the operands and the bias of a layer."""
    where = node.name or ""
    turned = [value.producer() if value is not None else None for value in node.inputs]
    operands = [one if one is not None and one.op_type == "DequantizeLinear" else None for one in turned]
    if len(operands) > 2 and node.op_type != "MatMul" and operands[2] is not None:
        yield Broken(BIAS, where, "its bias comes from a DequantizeLinear")
    data, weight = operands[0], operands[1]
    activations = data is not None and constant(data.inputs[0]) is None
    if data is not None and activations and weight is None and not _serves(data):
        yield Broken(BOTH, where, "its weight, or second operand, is a float")
    if weight is not None and constant(weight.inputs[0]) is not None and not weight.attributes.get_int("block_size", 0):
        yield from _channels(node, weight)


def _serves(turned: ir.Node) -> bool:
    """Tell whether some layer has both operands in codes, and one of them is what this DQ turns back."""
    codes = turned.inputs[0]
    back = [one for one, _ in codes.uses() if one.op_type == "DequantizeLinear"] if codes is not None else []
    layers = [user for one in back for user, _ in one.outputs[0].uses() if user.op_type in _WEIGHTED]
    return any(
        all((maker := value.producer()) is not None and maker.op_type == "DequantizeLinear" for value in operands)
        for operands in ([value for value in layer.inputs[:2] if value is not None] for layer in layers)
    )


def _channels(node: ir.Node, weight: ir.Node) -> Iterator[Broken]:
    """Look at the axis along which a weight has scales."""
    scale, codes = constant(weight.inputs[1]), constant(weight.inputs[0])
    if scale is None or codes is None or scale.size == 1:
        return
    rank = len(codes.shape.numpy())
    axis = weight.attributes.get_int("axis", 1) % rank
    match node.op_type:
        case "Conv":
            wanted = 0
        case "ConvTranspose":
            wanted = 1
        case "Gemm":
            wanted = 0 if node.attributes.get_int("transB", 0) == 1 else 1
        case _:
            wanted = rank - 1
    if axis != wanted:
        yield Broken(CHANNEL, node.name or "", f"scales lie along axis {axis}, outputs along {wanted}")
