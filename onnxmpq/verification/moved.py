"""The literal simulation of a file, moved as far as it is not defined: what else would be as right as it.

with_moved_scales   the last bits of scales: what decides which of two codes a value in their middle gets
with_moved_codes    one code in eight off by one: what a machine does whose own arithmetic rounds in steps
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxmpq.disk.leftovers import temporary_folder
from onnxmpq.model.mapped import read_mapped, write_with
from onnxmpq.targets import Rounds


@contextmanager
def with_moved_scales(path: Path, towards: int) -> Iterator[Path | None]:
    """Give the model with the scale of every QuantizeLinear moved by its last bit; None where data is external."""
    proto, large = read_mapped(path)
    scales = {node.input[1] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield None
            return
        if tensor.name in scales and tensor.name not in large:
            value = onnx.numpy_helper.to_array(tensor)
            moved = np.nextafter(value, np.asarray(towards * np.inf, value.dtype))
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    with _written(proto, large) as place:
        yield place


@contextmanager
def with_moved_codes(path: Path, towards: int) -> Iterator[Path | None]:
    """Give the model with one in eight codes of every QuantizeLinear off by one.

    What is quantised moves by up to a fifth of a step, by chance and yet the same in every run: by the sine of itself
    in thousandths of a step. A zero stays one.
    """
    proto, large = read_mapped(path)
    known = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name not in large}
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(proto.graph.node):
        scale = known.get(node.input[1]) if node.op_type == "QuantizeLinear" else None
        if scale is not None and scale.data_location == onnx.TensorProto.EXTERNAL:
            yield None
            return
        if scale is not None:
            step = onnx.numpy_helper.to_array(scale).reshape(-1)[0]
            names = [f"moved_{number}_{part}" for part in ("fast", "small", "phase", "sine", "shift", "sum")]
            fast, small, phase, sine, shift, total = names
            for name, value in ((fast, 1000 / step), (small, 0.2 * towards * step)):
                proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
            nodes += [
                onnx.helper.make_node("Mul", [node.input[0], fast], [phase]),
                onnx.helper.make_node("Sin", [phase], [sine]),
                onnx.helper.make_node("Mul", [sine, small], [shift]),
                onnx.helper.make_node("Add", [node.input[0], shift], [total]),
            ]
            node.input[0] = total
        nodes.append(node)
    new = onnx.GraphProto(node=nodes)
    proto.graph.ClearField("node")
    proto.graph.node.extend(new.node)
    with _written(proto, large) as place:
        yield place


@contextmanager
def _written(proto: onnx.ModelProto, large: Mapping[str, ir.TensorProtocol]) -> Iterator[Path]:
    """Write a model to a place of its own."""
    with temporary_folder() as folder:
        place = Path(folder) / "moved.onnx"
        with place.open("wb") as file:
            write_with(proto, large, file)
        yield place


MOVED: Mapping[Rounds, Callable[[Path, int], AbstractContextManager[Path | None]]] = {
    "exactly": with_moved_scales,
    "to-neighbours": with_moved_codes,
}
