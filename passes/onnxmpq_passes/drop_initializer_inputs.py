"""Make initialisers that are also graph inputs plain initialisers.

    inputs x, w; initialiser w   ->   input x; initialiser w

IR version 3 asked for every weight to be listed as an input too; such a weight can be overridden, so no weight would
be a constant. Inputs of bodies are left alone: they are fed by position.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.model.passkit import Pass


@dataclass(frozen=True)
class DropInitializerInputs(Pass):
    """Drop inputs that have an initialiser."""

    name: ClassVar[str] = "drop-initializer-inputs"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove them from the inputs of the main graph; IR version 4 is the first to allow that."""
        inputs = model.graph.inputs
        places = [place for place, value in enumerate(inputs) if value.is_initializer()]
        for place in reversed(places):
            inputs.pop(place)
        if places:
            model.ir_version = max(model.ir_version, 4)
        return ir.passes.PassResult(model, modified=bool(places))
