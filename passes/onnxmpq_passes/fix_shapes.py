"""Give open dimensions a number, for runtimes that load static shapes only.

    x: float[batch,length], y: float[batch,7]   ->   x: float[1,128], y: float[1,7]     fix-shapes{sizes=length:128}

An open first dimension of an input is a batch. A dimension that has a name gets its number wherever the name stands;
what only follows from it is inferred by the passes behind. Kept: open dimensions that are neither.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.errors import InputError
from onnxmpq.model.layers import all_graphs, values_of
from onnxmpq.model.passkit import Pass


@dataclass(frozen=True)
class FixShapes(Pass):
    """Put numbers into shapes: ``batch`` for first dimensions, ``sizes`` as ``NAME:NUMBER`` for others."""

    name: ClassVar[str] = "fix-shapes"
    batch: int = 1
    sizes: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fix what the inputs leave open, and what is called the same everywhere else."""
        sizes, changed = dict(map(_size, self.sizes)), 0
        for value in model.graph.inputs:
            if value.shape and isinstance(first := value.shape[0], ir.SymbolicDim) and first.value not in sizes:
                if first.value is not None:
                    sizes[first.value] = self.batch
                value.shape, changed = ir.Shape([self.batch, *list(value.shape)[1:]]), changed + 1
        for graph in all_graphs(model):
            changed += sum(_fix(value, sizes) for value in values_of(graph))
        return ir.passes.PassResult(model, modified=changed > 0)


def _size(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition(":")
    if not name or not number.isdigit() or not int(number):
        raise InputError(f"'{text}' fixes no dimension. Expected NAME:NUMBER, such as length:128.")
    return name, int(number)


def _fix(value: ir.Value, sizes: dict[str, int]) -> bool:
    dims = list(value.shape) if value.shape is not None else []
    fixed = [sizes.get(dim.value or "", dim) if isinstance(dim, ir.SymbolicDim) else dim for dim in dims]
    if fixed == dims:
        return False
    value.shape = ir.Shape(fixed)
    return True
