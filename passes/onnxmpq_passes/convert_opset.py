"""Raise the opset of the ONNX domain.

    opset 9: Slice{starts, ends}(x)   ->   opset 13: Slice(x, starts, ends)

A model at or above the minimum keeps its opset. The IR version follows, and is lowered to what runtimes read if it is
newer than that.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.model.opset import raise_opset
from onnxmpq.model.passkit import Pass


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Bring a model below opset ``minimum`` to it."""

    name: ClassVar[str] = "convert-opset"
    minimum: int = 13

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert each node whose operator changed; raise InputError if one cannot be converted."""
        return ir.passes.PassResult(model, modified=raise_opset(model, self.minimum))
