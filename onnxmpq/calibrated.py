"""A normalised model with what calibrating has counted: it lowers any plan, the same way for measuring and export."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Plan, Space
from onnxmpq.errors import InputError
from onnxmpq.graph.layers import constant, plain_product, shape_of
from onnxmpq.lower import Quantised, lower, pair_key
from onnxmpq.placement import Pair, Placement, place
from onnxmpq.ranges import METHODS, Affine, Histogram, Method, QuantisedType, choose_range, quantiser
from onnxmpq.target import Target
from onnxmpq.weights import METHODS as WEIGHT_METHODS
from onnxmpq.weights import Method as WeightMethod
from onnxmpq.weights import QuantisedWeight

CHANNEL_AXIS = {"Conv": 1, "Gemm": -1, "MatMul": -1}


@dataclass(frozen=True, slots=True)
class Numbers:
    """How ranges are chosen, for activations and for weights, and whether biases take up what rounding shifts."""

    activations: Method = "mse"
    weights: WeightMethod = "mse"
    bias_correction: bool = True

    @classmethod
    def of(cls, ranges: Mapping[str, str]) -> Self:
        """Read what a plan says about them; what it does not name is as usual."""
        told = {"activations": METHODS, "weights": WEIGHT_METHODS, "bias_correction": ("True", "False")}
        for key, value in ranges.items():
            if value not in told.get(key, ()):
                raise InputError(f"The plan's ranges say '{key}': '{value}', which means nothing to this version.")
        values: dict[str, Any] = dict(ranges)
        if "bias_correction" in values:
            values["bias_correction"] = values["bias_correction"] == "True"
        return cls(**values)


@dataclass(slots=True)
class Calibrated:
    """A model, a target, and what is known of the model's tensors; ``stats`` and ``means`` may grow.

    ``memory`` keeps weights that were quantised before, for whoever lowers many plans.
    """

    model: ir.Model
    space: Space
    target: Target
    numbers: Numbers
    stats: dict[str, Histogram] = field(default_factory=dict)
    means: dict[str, np.ndarray] = field(default_factory=dict)
    memory: dict[tuple[object, ...], QuantisedWeight] | None = None
    _affines: dict[tuple[object, ...], Affine] = field(default_factory=dict)

    def needs(self, plan: Plan) -> tuple[set[str], dict[str, int]]:
        """Return what a plan needs and is not known: tensors whose ranges, and tensors and axes whose means."""
        placement = place(self.model, self.space, self.target, plan.choices)
        tensors = {tensor for pair in placement.pairs for tensor in pair.group}
        means = dict(self._corrected(placement).values())
        return tensors - set(self.stats), {name: axis for name, axis in means.items() if name not in self.means}

    def lower(self, plan: Plan) -> Quantised:
        """Lower a plan whose needs are known."""
        placement = place(self.model, self.space, self.target, plan.choices)
        affines = {pair_key(pair): self._affine(pair) for pair in placement.pairs}
        means = {node: self.means[tensor] for node, (tensor, _) in self._corrected(placement).items()}
        return lower(
            self.model,
            self.space,
            self.target,
            plan,
            affines,
            means=means,
            weight_method=self.numbers.weights,
            memory=self.memory,
            placement=placement,
        )

    def _corrected(self, placement: Placement) -> dict[str, tuple[str, int]]:
        return corrected_inputs(self.model, placement) if self.numbers.bias_correction else {}

    def _affine(self, pair: Pair) -> Affine:
        """Choose scale and zero point for a pair, once: from the widest of the tensors that share them."""
        key = (frozenset(pair.group), pair.type, pair.bits)
        if key not in self._affines:
            self._affines[key] = self._chosen(pair)
        return self._affines[key]

    def _chosen(self, pair: Pair) -> Affine:
        widest = max((self.stats[name] for name in pair.group), key=lambda stats: stats.max - stats.min)
        signed = not pair.type.startswith("u")
        kind = QuantisedType(pair.bits, signed=signed, symmetric=signed)
        return quantiser(choose_range(widest, self.numbers.activations, kind), kind)


def corrected_inputs(model: ir.Model, placement: Placement) -> dict[str, tuple[str, int]]:
    """Return, for every layer whose bias can take up what rounding its weights shifts, its input and channel axis."""
    nodes = {node.name: node for node in model.graph}
    found = {}
    for form in placement.forms:
        layer = form.layer
        if layer.bias and layer.inputs == (0,) and layer.op in CHANNEL_AXIS and not layer.in_body:
            value, adder = nodes[layer.node].inputs[0], nodes[layer.bias_add or layer.node]
            bias = constant(next(v for v in adder.inputs if v is not None and v.name == layer.bias))
            channels = tuple(layer.weight_shape[axis] for axis in layer.channel_axes)
            if bias is None or shape_of(bias)[-1:] != channels:
                continue
            if value is not None and value.dtype == ir.DataType.FLOAT and plain_product(nodes[layer.node]):
                found[layer.node] = (value.name or "", CHANNEL_AXIS[layer.op])
    return found
