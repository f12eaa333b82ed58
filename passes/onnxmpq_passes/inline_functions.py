"""Put the bodies of the model's own functions in the place of their calls.

    y = mine.Gelu(x)   ->   a = Div(x, c); b = Erf(a); ...

A function may name another opset of the ONNX domain than the model, as long as its operators are the same in both, as
the standard asks; otherwise it is refused, since runtimes do not agree on what it means.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxmpq.errors import InputError
from onnxmpq.model.opset import changed_between
from onnxmpq.model.passkit import Pass

MOST_NODES = 1_000_000
"""How many nodes calls may become; the largest exports have some ten thousand."""


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Inline every function and drop it."""

    name: ClassVar[str] = "inline-functions"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inline with onnx_ir; raise InputError for what it cannot do."""
        if not model.functions:
            return ir.passes.PassResult(model, modified=False)
        _check_growth(model)
        _align_opsets(model)
        nodes = [node for f in model.functions.values() for node in f.all_nodes()] + list(model.graph.all_nodes())
        for node in nodes:
            if node.op_identifier() in model.functions:
                _forget_empty_names(node)
        for function in model.functions.values():
            _own_outputs(function)
        try:
            InlinePass()(model)
        except (ValueError, RuntimeError, ir.passes.PreconditionError) as error:
            raise InputError(
                f"The functions of the model cannot be inlined: {str(error).rstrip('.')}. Export the model without "
                "functions, or inline them with onnx.inliner."
            ) from error
        model.functions.clear()
        return ir.passes.PassResult(model, modified=True)


def _check_growth(model: ir.Model) -> None:
    """Refuse functions whose calls of each other multiply beyond reason: 22 that call the one before twice are 2^22."""
    sizes: dict[ir.OperatorIdentifier, int] = {}

    def size(key: ir.OperatorIdentifier, above: tuple[ir.OperatorIdentifier, ...]) -> int:
        if key in above:  # what calls itself is told by onnx_ir
            return 1
        if key not in sizes:
            calls = (node.op_identifier() for node in model.functions[key].all_nodes())
            sizes[key] = sum(size(call, (*above, key)) if call in model.functions else 1 for call in calls)
        return sizes[key]

    calls = [node.op_identifier() for node in model.graph.all_nodes()]
    total = sum(size(call, ()) for call in calls if call in model.functions)
    if total > MOST_NODES:
        raise InputError(
            f"The functions of the model call each other so often that it has {total:,} nodes; expected at most "
            f"{MOST_NODES:,}. Export it without functions."
        )


def _align_opsets(model: ir.Model) -> None:
    """Give every function the opset of the model, if that makes no difference."""
    everyone = (model.opset_imports, *(function.opset_imports for function in model.functions.values()))
    for imports in everyone:
        if "ai.onnx" in imports:
            imports[""] = imports.pop("ai.onnx")
    for function in model.functions.values():
        own = function.opset_imports.get("", 0)
        opset = model.opset_imports.setdefault("", own)
        if not own or own == opset:
            continue
        changed = {
            node.op_type for g in (function.graph, *function.subgraphs()) for node in changed_between(g, own, opset)
        }
        if changed:
            raise InputError(
                f"Function '{function.name}' is written in opset {own}, the model in {opset}, and "
                f"{', '.join(sorted(changed))} changed between them. Export the model with one opset."
            )
        function.opset_imports[""] = opset


def _forget_empty_names(call: ir.Node) -> None:
    """Let outputs that a call leaves out be named by what the function computes for them."""
    for value in call.outputs:
        value.name = value.name or None


def _own_outputs(function: ir.Function) -> None:
    """Give a function whose output is an input, or another output, an output of its own: two names stay two names."""
    seen: set[ir.Value] = set(function.inputs)
    for index, value in enumerate(function.outputs):
        if value in seen:
            identity = ir.node("Identity", [value])
            function.append(identity)
            function.outputs[index] = identity.outputs[0]
        seen.add(function.outputs[index])
