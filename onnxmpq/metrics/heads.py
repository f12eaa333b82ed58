"""Find what the outputs of a model are: softmax heads, or anything else."""

from collections.abc import Sequence

import onnx_ir as ir

from onnxmpq.errors import InputError, nearest
from onnxmpq.metrics.losses import Head, Kind
from onnxmpq.model.layers import FLOAT_TYPES, constant, dimensions, is_standard
from onnxmpq.options import LOSSES

_SHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast"})


def find_heads(model: ir.Model, loss: str = "auto", outputs: Sequence[str] = ()) -> tuple[Head, ...]:
    """Return the outputs that count and the kind of each.

    ``auto``: kl for outputs of Softmax and LogSoftmax and for a single matrix of scores that a Gemm, or a MatMul with
    its bias, gives; power for other float outputs. A named ``loss`` (kl, ce, power) holds for all that count.
    ``outputs`` names those; all float outputs if it is empty. Classes stand on the axis of the Softmax; without one,
    on the last, or on the second of what has four axes or more.
    """
    if loss not in LOSSES:
        raise InputError(f"There is no loss '{loss}'.{nearest(loss, LOSSES)} Known: {', '.join(LOSSES)}.")
    names = [value.name or "" for value in model.graph.outputs]
    if unknown := [name for name in outputs if name not in names]:
        raise InputError(
            f"The model has no output '{unknown[0]}'.{nearest(unknown[0], names)} It has: {', '.join(names)}."
        )
    floats = [v for v in model.graph.outputs if isinstance(v.type, ir.TensorType) and v.dtype in FLOAT_TYPES]
    values = [value for value in floats if not outputs or value.name in outputs]
    if not values:
        raise InputError("No float output counts, so there is nothing to measure. Name another with --outputs.")
    named: dict[str, Kind] = {"kl": "kl", "ce": "ce", "power": "power"}
    heads = []
    for value in values:
        source = _behind_shaping(value)
        operator = source.op_type if source is not None and is_standard(source) else ""
        soft = operator in ("Softmax", "LogSoftmax")
        kind: Kind = "kl" if soft or (len(values) == 1 and _is_scores(value, source)) else "power"
        kind = named.get(loss, kind)
        axis = -1 if kind == "power" else _class_axis(value, source if soft else None)
        heads.append(Head(value.name or "", kind, probabilities=kind != "power" and operator == "Softmax", axis=axis))
    return tuple(heads)


def judged_heads(model: ir.Model) -> tuple[Head, ...]:
    """Return the outputs that a file is judged by; none where no output is float."""
    try:
        return find_heads(model)
    except InputError:
        return ()


def _class_axis(value: ir.Value, softmax: ir.Node | None) -> int:
    """Return the axis of an output that has the classes, counted from the end."""
    shape = dimensions(value)
    if softmax is None:
        return 1 - len(shape) if shape is not None and len(shape) > 3 else -1
    inner = dimensions(softmax.outputs[0])
    axis = softmax.attributes.get_int("axis", -1)
    if shape is None or inner is None or len(shape) != len(inner):
        return -1
    return axis - len(inner) if axis >= 0 else axis


def _behind_shaping(value: ir.Value) -> ir.Node | None:
    """Return the operator that gives an output, seen through what only shapes it."""
    node = value.producer()
    while node is not None and node.op_type in _SHAPING and is_standard(node) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _is_scores(value: ir.Value, node: ir.Node | None) -> bool:
    """Tell whether an output is a matrix [batch, classes] that a linear layer gives."""
    shape = dimensions(value)
    if node is None or shape is None or len(shape) != 2 or shape[1] == 1:
        return False
    if node.op_type == "Add":
        other = next((x for x in node.inputs if x is not None and constant(x) is None), None)
        node = other.producer() if other is not None else None
    return node is not None and node.op_type in ("Gemm", "MatMul")
