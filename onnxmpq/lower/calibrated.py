"""A normalised model with what calibrating has counted: it lowers any plan, the same way for measuring and export."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Plan, Space
from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.errors import InternalError
from onnxmpq.lower.write import Quantised, Quantiser, lower, pair_key
from onnxmpq.model.layers import constant, plain_product, shape_of
from onnxmpq.numerics.formats import TYPES
from onnxmpq.numerics.hessians import Reading, View, find_readings, told
from onnxmpq.numerics.ranges import Affine, QuantisedType, choose_range, quantiser
from onnxmpq.numerics.weights import QuantisedWeight
from onnxmpq.options import Numbers
from onnxmpq.targets import Target
from onnxmpq.targets.placement import Pair, Placement, place

CHANNEL_AXIS = {"Conv": 1, "Gemm": -1, "MatMul": -1}
UNLIKE = 8.0
"""How often the range of a tensor goes into that of one joined with it from where on they are unlike: it would lose
three bits by that scale, and what rounding twice adds is a 64th of the noise that its Concat has anyway."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What is to be counted: tensors whose ranges, tensors and axes whose means, weights whose Hessians."""

    tensors: set[str]
    means: dict[str, int]
    hessians: dict[str, tuple[Reading, ...]]


@dataclass(slots=True)
class Calibrated:
    """A model, a target, and what is known of the model's tensors, which may grow.

    ``memory`` keeps weights that were quantised before, for whoever lowers many plans.
    """

    model: ir.Model
    space: Space
    target: Target
    numbers: Numbers
    known: Statistics = field(default_factory=Statistics)
    memory: MutableMapping[tuple[object, ...], QuantisedWeight] | None = None
    _shifts: dict[tuple[object, ...], np.ndarray | float] = field(default_factory=dict)
    _affines: dict[tuple[object, ...], Affine] = field(default_factory=dict)
    _readings: tuple[dict[str, tuple[Reading, ...]], dict[str, str]] | None = field(default=None, init=False)

    def needs(self, plan: Plan) -> Needs:
        """Return what a plan needs and is not known."""
        placement = self.place(plan)
        tensors = {tensor for pair in placement.pairs for tensor in pair.group}
        means = dict(self.corrected(placement).values())
        return Needs(
            tensors - set(self.known.tensors),
            {name: axis for name, axis in means.items() if name not in self.known.means},
            self.missing_hessians(plan),
        )

    def missing_hessians(self, plan: Plan) -> dict[str, tuple[Reading, ...]]:
        """Return the weights of a plan whose Hessians are not counted yet, and who reads them."""
        if not self._to_hessians:
            return {}
        readings, known = self._read()[0], self.known.hessians or ()
        return {name: readings[name] for name in self._weights(plan) if name in readings and name not in known}

    def keep_hessian(self, weight: str, hessian: np.ndarray) -> None:
        """Keep a Hessian for rounding; one of zeros leaves the nearest codes, which ``notes`` say then."""
        if self.known.hessians is None:
            raise InternalError(f"There is no place for the Hessian of '{weight}'.")
        self.known.hessians.keep(weight, hessian)
        if not hessian.any():
            self._read()[1][weight] = "its inputs are zero, or too large to be squared"

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """Say which weights of a plan are not rounded as they should be, and why."""
        return told(self._read()[1], self._weights(plan)) if self._to_hessians else ()

    def hessian_views(self) -> dict[str, View]:
        """Return how every weight is seen that is rounded to a Hessian: one of columns by columns for each group."""
        return {name: readings[0].view for name, readings in self._read()[0].items()} if self._to_hessians else {}

    def apart(self, known: Statistics) -> "Calibrated":
        """Return the same model, whose weights may become others, with other statistics."""
        return Calibrated(self.model.clone(), self.space, self.target, self.numbers, known)

    def replace(self, constants: Mapping[str, np.ndarray]) -> None:
        """Give initialisers of the model other numbers."""
        for name, array in constants.items():
            self.model.graph.initializers[name].const_value = ir.Tensor(array, name=name)

    def place(self, plan: Plan) -> Placement:
        """Decide where Q/DQ stand for a plan."""
        return place(self.model, self.space, self.target, plan.choices)

    def lower(self, plan: Plan, placement: Placement | None = None) -> Quantised:
        """Lower a plan whose needs are known, or just the part of it that is in ``placement``."""
        placement = placement or self.place(plan)
        affines = {pair_key(pair): self._affine(pair) for pair in placement.pairs}
        means = {node: self.known.means[tensor] for node, (tensor, _) in self.corrected(placement).items()}
        return lower(
            self.model,
            self.space,
            self.target,
            plan,
            affines,
            means=means,
            quantiser=Quantiser(
                self.numbers.weights,
                self._round if self._to_hessians else None,
                self.memory,
                None if self.memory is None else self._shifts,
            ),
            placement=placement,
        )

    @property
    def readings(self) -> Mapping[str, tuple[Reading, ...]]:
        """Who reads each weight that can be rounded to a Hessian."""
        return self._read()[0]

    def corrected(self, placement: Placement) -> dict[str, tuple[str, int]]:
        """Return the layers whose biases take up what rounding shifts, their inputs and the axes of channels there."""
        return corrected_inputs(self.model, placement) if self.numbers.bias_correction else {}

    @property
    def _to_hessians(self) -> bool:
        return self.numbers.rounding != "nearest"

    def _round(self, name: str, weight: np.ndarray, quantised: QuantisedWeight) -> QuantisedWeight:
        """Round a weight to its Hessian; as it is where that cannot be counted."""
        readings = self._read()[0].get(name)
        if readings is None:
            return quantised
        hessians = self.known.hessians
        if hessians is None or name not in hessians:
            raise InternalError(f"The weight '{name}' is to be rounded with GPTQ, and its Hessian was not counted.")
        return hessians.rounded(name, weight, quantised, readings[0].view)

    def _read(self) -> tuple[dict[str, tuple[Reading, ...]], dict[str, str]]:
        """Find once who reads each weight, and for which weights that cannot be told."""
        if self._readings is None:
            layers = [layer for unit in self.space.units for layer in unit.layers]
            self._readings = find_readings(self.model, layers)
        return self._readings

    def _weights(self, plan: Plan) -> list[str]:
        """Return the weights that a plan rounds."""
        return [
            name
            for unit in self.space.units
            if unit.name in plan.choices and plan.choices[unit.name].weight_bits
            for layer in unit.layers
            for name in layer.weights
        ]

    def _affine(self, pair: Pair) -> Affine:
        """Choose scale and zero point for a pair, once: from the widest of the tensors that share them."""
        group = self._sharing(pair)
        key = (frozenset(group), pair.type, pair.bits)
        if key not in self._affines:
            self._affines[key] = self._chosen(pair, group)
        return self._affines[key]

    def _sharing(self, pair: Pair) -> tuple[str, ...]:
        """Return the tensors whose widest gives a pair its scale: where it is far below the others, those it must."""
        tied = pair.tied or pair.group
        if len(tied) == len(pair.group):
            return pair.group
        own, whole = (max(self._span(name) for name in names) for names in (tied, pair.group))
        return tied if own * UNLIKE <= whole else pair.group

    def _span(self, tensor: str) -> float:
        stats = self.known.tensors[tensor]
        return float(stats.max - stats.min)

    def _chosen(self, pair: Pair, group: tuple[str, ...]) -> Affine:
        widest = max((self.known.tensors[name] for name in group), key=lambda stats: stats.max - stats.min)
        signed = TYPES[pair.type].signed
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
