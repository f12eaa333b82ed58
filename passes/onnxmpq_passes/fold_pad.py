"""Fold a Pad with zeros into the convolutions behind it, which pad with zeros themselves.

    y = Conv<pads = p>(Pad(x, q, 0), w)   ->   y = Conv<pads = p + q>(x, w)

Float runtimes do so when they load a file; between Q and DQ they do not, and the Pad stays a step of its own. Kept: a
Pad that pads batch or channels, cuts off, has another mode or value, is public, or is read by anything but convolutions
with pads of their own (``auto_pad`` decides by the shape that it sees).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmpq.model.layers import all_graphs, constant, dimensions, is_standard
from onnxmpq.model.passkit import Pass, bypass


@dataclass(frozen=True)
class FoldPad(Pass):
    """Fold every Pad that convolutions can do themselves."""

    name: ClassVar[str] = "fold-pad"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Let convolutions take over the pads, then drop the Pad."""
        folded = 0
        for graph in all_graphs(model):
            for node in graph:
                if node.op_type == "Pad" and is_standard(node):
                    folded += _fold(node)
        return ir.passes.PassResult(model, modified=folded > 0)


def _fold(node: ir.Node) -> bool:
    """Fold one Pad, if all that read it are convolutions that can."""
    value = node.outputs[0]
    readers = [user for user, _ in value.uses()]
    rank = _rank(node)
    pads = _pads(node, rank) if rank else None
    if pads is None or not readers or value.is_graph_output() or not _pads_with_zeros(node):
        return False
    if not all(_can(user, value, node.graph) for user in readers):
        return False
    begins, ends = np.split(pads, 2)
    if any(begins[:2]) or any(ends[:2]) or pads.min() < 0:
        return False
    for user in dict.fromkeys(readers):
        own = np.array(user.attributes.get_ints("pads", [0] * 2 * (rank - 2)), np.int64)
        user.attributes["pads"] = ir.AttrInt64s("pads", (own + np.concatenate([begins[2:], ends[2:]])).tolist())
    return bypass(node)


def _rank(node: ir.Node) -> int:
    """Return how many axes what is padded has, as a convolution behind it says; 0 if none does."""
    shape = dimensions(node.inputs[0])
    if shape is not None:
        return len(shape)
    for user, _ in node.outputs[0].uses():
        weight = constant(user.inputs[1]) if user.op_type == "Conv" else None
        if weight is not None:
            return len(weight.shape.numpy())
    return 0


def _can(user: ir.Node, value: ir.Value, graph: ir.Graph | ir.Function | None) -> bool:
    """Tell whether a node is a convolution that reads ``value`` as its data alone, and whose pads are numbers."""
    return (
        user.op_type == "Conv"
        and is_standard(user)
        and user.graph is graph
        and [place for place, other in enumerate(user.inputs) if other is value] == [0]
        and user.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    )


def _pads(node: ir.Node, rank: int) -> np.ndarray | None:
    """Return the pads of every axis, first those in front; None where they are not known."""
    if "pads" in node.attributes:
        pads, axes = np.array(node.attributes.get_ints("pads", []), np.int64), list(range(rank))
    else:
        tensor = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        given = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
        if tensor is None or (len(node.inputs) > 3 and node.inputs[3] is not None and given is None):
            return None
        pads = np.asarray(tensor.numpy(), np.int64)
        axes = list(range(rank)) if given is None else [int(axis) % rank for axis in given.numpy()]
    if pads.size != 2 * len(axes):
        return None
    found = np.zeros((2, rank), np.int64)
    found[:, axes] = pads.reshape(2, -1)
    return found.reshape(-1)


def _pads_with_zeros(node: ir.Node) -> bool:
    if node.attributes.get_string("mode", "constant") != "constant":
        return False
    if "value" in node.attributes:
        return node.attributes.get_float("value", 0.0) == 0.0
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is None:
        return True
    tensor = constant(given)
    return tensor is not None and not np.any(tensor.numpy())
