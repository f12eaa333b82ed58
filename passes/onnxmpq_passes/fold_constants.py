"""Compute what depends on constants alone.

    w = Transpose(W)        ->   initialiser w
    n = Shape(x), x: [1,3]  ->   initialiser n

Each node is evaluated by onnx's reference implementation. Only operators whose results do not depend on chance are
evaluated, and not those that would make the model much bigger (``growth``, ``slack_bytes``), unless they unpack a
weight (DequantizeLinear, Cast). Kept: outputs of graphs, and what the reference cannot compute.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnxmpq.errors import InputError
from onnxmpq.model.layers import all_graphs, constant, dimensions, is_standard
from onnxmpq.model.passkit import Pass, replace_by_initializer

_FOLDED = frozenset(
    """
    Abs Add And ArgMax ArgMin Cast CastLike Ceil Clip Concat ConstantOfShape Cos CumSum DequantizeLinear Div Einsum
    Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity Less
    LessOrEqual Log MatMul Max Mean Min Mod Mul Neg NonZero Not OneHot Or Pad Pow QuantizeLinear Range Reciprocal
    ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round
    ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu
    Unsqueeze Where Xor
    """.split()
)
_UNPACK = frozenset({"Cast", "CastLike", "DequantizeLinear"})


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Fold in every graph and body; results may be ``growth`` times as big as what they come from, and a bit."""

    name: ClassVar[str] = "fold-constants"
    growth: float = 1.25
    slack_bytes: int = 65536

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Go through each graph in order, so that whole chains fold in one sweep."""
        opset, folded = model.opset_imports.get("", 0), 0
        done: dict[object, tuple[ir.Value, ...]] = {}
        for graph in all_graphs(model):
            for node in graph:
                if node.op_type not in _FOLDED or not is_standard(node):
                    continue
                if any(value.is_graph_output() for value in node.outputs):
                    continue
                folded += self._fold(node, opset, done)
        return ir.passes.PassResult(model, modified=folded > 0)

    def _fold(self, node: ir.Node, opset: int, done: dict[object, tuple[ir.Value, ...]]) -> bool:
        """Replace the outputs of a node by initialisers; the same done twice to the same weight gives one of them."""
        graph = node.graph
        assert graph is not None
        key = _key(node)
        if key not in done:
            results = self._results(node, opset)
            if results is None:
                return False
            made = []
            for value, array in zip(node.outputs, results, strict=False):
                used = bool(value.uses())
                made.append(replace_by_initializer(value, ir.tensor(array)) if used else value)
            done[key] = tuple(made)
        else:
            for value, same in zip(node.outputs, done[key], strict=True):
                if value.uses() and not same.is_initializer():
                    return False
                value.replace_all_uses_with(same)
        graph.remove(node, safe=True)
        return True

    def _results(self, node: ir.Node, opset: int) -> list[np.ndarray[Any, Any]] | None:
        if node.op_type in ("Shape", "Size"):
            return _measured(node)
        tensors = [constant(value) for value in node.inputs]
        like = node.inputs[1] if node.op_type == "CastLike" else None
        if like is not None and like.dtype is not None and tensors[1] is None:  # only its type is read
            tensors[1] = ir.tensor(np.zeros((), like.dtype.numpy()), like.dtype)
        if any(t is None and v is not None for t, v in zip(tensors, node.inputs, strict=True)):
            return None
        given = [tensor for tensor in tensors if tensor is not None]
        if any(tensor.dtype == ir.DataType.STRING for tensor in given) or _overflows(node, given):
            return None
        _refuse_deadly_division(node, given)
        allowed = self.growth * sum(tensor.nbytes for tensor in given) + self.slack_bytes
        if node.op_type not in _UNPACK and _foreseen_bytes(node, given) > allowed:
            return None
        results = _evaluated(node, [None if tensor is None else tensor.numpy() for tensor in tensors], opset)
        if results is None or (node.op_type not in _UNPACK and sum(array.nbytes for array in results) > allowed):
            return None
        return results


def _key(node: ir.Node) -> object:
    attributes = sorted((name, _written(a).SerializeToString()) for name, a in node.attributes.items())
    return (id(node.graph), node.op_type, tuple(map(id, node.inputs)), tuple(attributes), len(node.outputs))


def _written(attribute: ir.Attr) -> onnx.AttributeProto:
    """Write an attribute; ``ir.to_proto`` takes ten times as long to find out that it is one."""
    if attribute.is_ref():
        return ir.serde.serialize_reference_attribute(attribute)
    return ir.serde.serialize_attribute(attribute)


def _measured(node: ir.Node) -> list[np.ndarray[Any, Any]] | None:
    """Return the result of Shape or Size if the shape is all numbers."""
    shape = dimensions(node.inputs[0])
    if shape is None or None in shape:
        return None
    numbers = np.array(shape, np.int64)
    if node.op_type == "Size":
        return [np.array(math.prod(numbers.tolist()), np.int64)]
    end = node.attributes.get("end")
    return [numbers[node.attributes.get_int("start", 0) : None if end is None else end.as_int()]]


def _overflows(node: ir.Node, given: list[ir.TensorProtocol]) -> bool:
    """Tell whether a Cast to integers meets numbers outside their range, where every machine answers differently."""
    if node.op_type not in ("Cast", "CastLike"):
        return False
    kind = ir.DataType(node.attributes.get_int("to", 0)) if node.op_type == "Cast" else given[1].dtype
    if not kind.is_integer() or given[0].dtype.is_integer():
        return False
    numbers, limits = given[0].numpy().astype(np.float64), np.iinfo if kind.bitwidth >= 8 else ml_dtypes.iinfo
    low, high = limits(kind.numpy()).min, limits(kind.numpy()).max
    return not bool(np.all((numbers > float(low) - 1) & (numbers < float(high) + 1)))


def _refuse_deadly_division(node: ir.Node, given: list[ir.TensorProtocol]) -> None:
    """Refuse the one integer division that has no result: on x86 it ends the process of every runtime that tries."""
    if node.op_type != "Div" or len(given) != 2 or not given[0].dtype.is_integer():
        return
    above, below = (tensor.numpy() for tensor in given)
    if above.dtype.kind == "i" and (above == np.iinfo(above.dtype).min).any() and (below == -1).any():
        raise InputError(
            f"Node '{node.name}' (Div) divides the smallest {above.dtype} by -1, which has no result and ends "
            "onnxruntime. Correct its constants."
        )


def _foreseen_bytes(node: ir.Node, given: list[ir.TensorProtocol]) -> int:
    """Foresee how big a result gets for operators whose result may be far bigger than their inputs."""
    arrays = [tensor.numpy() for tensor in given if tensor.nbytes < 1 << 16]
    match node.op_type:
        case "ConstantOfShape":
            return 8 * math.prod(max(0, int(n)) for n in arrays[0])
        case "Expand" | "Tile":
            return given[0].nbytes * math.prod(max(0, int(n)) for n in arrays[-1])
        case "Range":
            start, limit, delta = (float(array.reshape(-1)[0]) for array in arrays)
            return int(8 * abs(limit - start) / max(abs(delta), 1e-30))
        case "OneHot":
            return 8 * given[0].size * int(arrays[-2].reshape(-1)[0])
        case "EyeLike":
            return 8 * given[0].size
        case "Pad":
            return given[0].nbytes + 8 * math.prod(1 + abs(int(n)) for n in arrays[-1 if len(given) == 2 else 1])
        case "MatMul":
            return 8 * math.prod(given[0].shape.numpy()[:-1]) * math.prod(given[1].shape.numpy()[-1:])
        case _:
            return 0


def _evaluated(
    node: ir.Node, given: list[np.ndarray[Any, Any] | None], opset: int
) -> list[np.ndarray[Any, Any]] | None:
    """Evaluate one node, or return None if the reference does not manage, or contradicts the types of the model."""
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(given)]
    outputs = [f"y{i}" for i in range(len(node.outputs))]
    proto = onnx.NodeProto(op_type=node.op_type, input=names, output=outputs)
    proto.attribute.extend(map(_written, node.attributes.values()))
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(proto, opsets={"": opset})
            results = evaluator.run(None, {n: a for n, a in zip(names, given, strict=True) if a is not None})
    except Exception:  # the reference raises anything at all for what it lacks
        return None
    arrays = [array for array in results if isinstance(array, np.ndarray) and array.dtype != object]
    if len(arrays) != len(node.outputs):
        return None
    for value, array in zip(node.outputs, arrays, strict=True):
        if value.dtype is not None and ir.DataType.from_numpy(array.dtype) != value.dtype:
            return None
    return arrays
