"""``lampq``: Fisher traces, scaled by type of layer, an integer linear program, and swaps on the quantised model.

Kim, Lee, Kim, Yun, Kwon and Kang, "LampQ: Towards Accurate Layer-wise Mixed Precision Quantization for Vision
Transformers":

    Omega_i  = alpha_t trace_i                        sensitivity of layer i of type t
    alpha_t  = mean measured loss rise of a few layers of type t at beta bits / mean trace of type t
    minimise sum of Omega_i gamma^-b_i                under the budgets

followed by swaps: one layer is raised and one lowered, chosen by the relative error of their outputs on the quantised
model (raising gains err(b) - err(b+1)), as long as the measured loss falls.

Here gamma^-b is counted from beta, which changes no plan, so that the objective is a loss. Quantised activations add
the same term with their bits: where all options have as many, or as many as weights, that changes no plan either.
Units without a trace (products of activations, layers in a body) have the rise that was measured for each option.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Layer, Option, Space
from onnxmpq.errors import InputError
from onnxmpq.methods.greedy import Bundles, Picked, bundles_of, precision
from onnxmpq.methods.study import Choices, Draft, Study
from onnxmpq.model.layers import constant, find_layers
from onnxmpq.sensitivity.table import Table, Variant

LayerType = Literal["attention-qkv", "attention-proj", "mlp-in", "mlp-out", "conv", "other"]
_SIZES = ("Shape", "Size")  # what reads a size reads no values


@dataclass(frozen=True, slots=True)
class Lampq:
    """Type-aware Fisher traces, an integer linear program, then at most ``swaps`` swaps.

    ``beta`` are the bits at which ``probes`` layers of each type are measured, ``gamma`` is by what a bit divides the
    loss. With ``per_option`` the probes are measured at every option, in place of the model gamma^-b. ``draws`` is the
    number of random directions of a trace.
    """

    name: ClassVar[str] = "lampq"
    beta: int = 4
    gamma: float = 4.0
    probes: int = 3
    draws: int = 4
    swaps: int = 50
    per_option: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.gamma <= 1 or self.probes < 1 or self.draws < 1 or self.swaps < 0 or self.beta < 1:
            raise InputError("lampq needs gamma above 1, beta, probes and draws of 1 or more, and swaps of 0 or more.")

    def propose(self, study: Study) -> Draft:
        """Measure traces and probes, solve once, then swap as long as the measured loss falls."""
        bundles = bundles_of(study)
        base, costs = self._costs(study)
        problem = study.problem(study.vector(costs), constant=base)
        solution = study.solve(problem)
        start: Choices = study.menu.choices(solution.choices)
        choices, count, notes = self._swapped(study, bundles, start) if self.swaps else (start, 0, ())
        predicted = problem.value(study.menu.index(choices))
        return Draft((choices,), (predicted,), (None if count else solution,), notes)

    def _costs(self, study: Study) -> tuple[float, dict[Variant, float]]:
        """Return the float model's loss, and for every variant of the menu the rise that the metric expects."""
        types = layer_types(study.engine.model, study.space)
        traces = {unit: found.value for unit, found in study.engine.traces(self.draws).items()}
        nothing = study.engine.cost(()).full_runs
        ends = tuple(Variant(unit, FLOAT) for unit in traces)
        study.spend(2 * self.draws * (study.engine.cost(ends).full_runs - nothing))
        probes = self._probes(study, types, traces)
        table = study.table(near=[probes[unit.name] for unit in study.menu.units])
        base = table.centre_loss.value
        # A loss that falls is as much a change as one that rises; KL cannot fall.
        rises = {v: abs(float(loss) - base) for v, loss in zip(table.variants, table.loss, strict=True)}
        costs: dict[Variant, float] = {}
        for variant in study.menu.variants:
            trace = traces.get(variant.unit)
            if trace is None:
                costs[variant] = rises[variant]
                continue
            alike = [unit for unit in traces if types[unit] == types[variant.unit]]
            mean = float(np.mean([traces[unit] for unit in alike])) or 1.0
            probed = {v: rise for v, rise in rises.items() if v.unit in alike}
            costs[variant] = trace / mean * self._mean_rise(probed, variant.option)
        return base, costs

    def _probes(
        self, study: Study, types: Mapping[str, LayerType], traces: Mapping[str, float]
    ) -> dict[str, tuple[Option, ...]]:
        """Return what to measure of every unit: of a few of each type the option nearest to beta bits, or all."""
        menu = {unit.name: options for unit, options in zip(study.menu.units, study.menu.options, strict=True)}
        offered = {name: tuple(option for option in options if option != FLOAT) for name, options in menu.items()}
        wanted: dict[str, tuple[Option, ...]] = {
            name: options if name not in traces else () for name, options in offered.items()
        }
        for kind in dict.fromkeys(types.values()):
            alike = [name for name, options in offered.items() if options and name in traces and types[name] == kind]
            for name in _spread(alike, self.probes):
                every = offered[name]
                wanted[name] = every if self.per_option else (min(every, key=self._from_beta),)
        return wanted

    def _from_beta(self, option: Option) -> tuple[int, Option]:
        return abs(option.weight_bits - self.beta), option

    def _mean_rise(self, probed: Mapping[Variant, float], option: Option) -> float:
        """Return the mean rise of probes at an option: measured, or as bits model what was measured near beta."""
        if self.per_option:
            same = [rise for variant, rise in probed.items() if variant.option == option]
            if same:
                return float(np.mean(same))
        at_beta = [rise / self._model(variant.option) for variant, rise in probed.items()]
        return float(np.mean(at_beta)) * self._model(option)

    def _model(self, option: Option) -> float:
        """Return what bits leave of the loss at beta bits."""
        bits = [count for count in (option.weight_bits, option.activation_bits) if count]
        return float(sum(self.gamma ** (self.beta - count) for count in bits))

    def _swapped(self, study: Study, bundles: Bundles, start: Choices) -> tuple[Choices, int, tuple[str, ...]]:
        """Return the plan after swaps, how many there were, and what is to be said of them."""
        alone = study.table()
        on_float = bundles.figures(dict(zip(alone.variants, map(float, alone.local), strict=True)))
        current, loss = start, study.losses([start])[0].value
        first, count, why = loss, 0, "no more were allowed"
        while count < self.swaps:
            errors = _errors(study, bundles, on_float, current)
            swap = _best_swap(study, bundles, errors, current)
            if swap is None:
                why = "no swap fits the budgets"
                break
            measured = study.losses([swap])[0].value
            if not measured < loss:
                why = "the next one does not lower the measured loss"
                break
            current, loss, count = swap, measured, count + 1
        return current, count, (f"{count} swaps took the measured loss from {first:.6g} to {loss:.6g}; then {why}.",)


def _errors(study: Study, bundles: Bundles, on_float: Sequence[np.ndarray], choices: Choices) -> list[np.ndarray]:
    """Return the relative output error of every bundle at every option on the inputs of the quantised model.

    What a unit's own option does is measured there; for the others it is scaled as their errors on float inputs are to
    one another, since measuring them would take a quantised model for each unit.
    """
    floated: list[tuple[Option, ...]] = [(FLOAT,) for _ in study.menu.units]
    measured: dict[str, float] = {}
    if any(option != FLOAT for option in choices.values()):
        table: Table = study.table(choices, floated)
        measured = {variant.unit: float(error) for variant, error in zip(table.variants, table.local, strict=True)}
    found = []
    for bundle, errors, place in zip(bundles.bundles, on_float, _picked(bundles, choices), strict=True):
        names = [study.menu.units[unit].name for unit in bundle.units]
        here = sum(measured.get(name, 0.0) for name in names)
        found.append(errors * here / errors[place] if here > 0 and errors[place] > 0 else errors)
    return found


def _best_swap(
    study: Study, bundles: Bundles, errors: Sequence[np.ndarray], choices: Choices
) -> dict[str, Option] | None:
    """Return the plan with one bundle raised and another lowered that gains the most and meets the budgets."""
    picked = _picked(bundles, choices)
    ups, downs = [], []
    for i, (bundle, place) in enumerate(zip(bundles.bundles, picked, strict=True)):
        up, down = (_next(bundle.options, place, sign) for sign in (1, -1))
        if up is not None:
            ups.append((float(errors[i][place] - errors[i][up]), i, up))
        if down is not None:
            downs.append((float(errors[i][down] - errors[i][place]), i, down))
    swaps = [(gain - price, i, up, j, down) for gain, i, up in ups for price, j, down in downs if i != j]
    for _, i, up, j, down in sorted(swaps, key=lambda swap: (-swap[0], *swap[1:])):
        changed = list(picked)
        changed[i], changed[j] = up, down
        plan = bundles.choices(tuple(changed))
        if study.feasible(plan):
            return plan
    return None


def _next(options: Sequence[Option], place: int, sign: int) -> int | None:
    """Return the option one step more precise (or less, with ``sign`` -1), of the same kind where there is one."""
    now = options[place]

    def level(option: Option) -> int:
        weight, activation, _ = precision(option)
        return activation if _only_activations(options) else weight

    def far(other: int) -> tuple[int, bool, bool, int]:
        option = options[other]
        differs = option.activation_bits != now.activation_bits
        return abs(level(option) - level(now)), differs, option.block != now.block, other

    beyond = [other for other, option in enumerate(options) if sign * (level(option) - level(now)) > 0]
    return min(beyond, key=far, default=None)


def _only_activations(options: Sequence[Option]) -> bool:
    return not any(option.weight_bits for option in options)


def _picked(bundles: Bundles, choices: Choices) -> Picked:
    return tuple(
        bundle.options.index(choices.get(bundles.menu.units[bundle.units[0]].name, FLOAT)) for bundle in bundles.bundles
    )


def _spread(names: Sequence[str], count: int) -> list[str]:
    """Return ``count`` names from the first to the last, evenly apart."""
    if len(names) <= count:
        return list(names)
    return [names[round(float(place))] for place in np.linspace(0, len(names) - 1, count)]


# ---- types of layers -------------------------------------------------------------------------------------------------


def layer_types(model: ir.Model, space: Space) -> dict[str, LayerType]:
    """Return the type of every unit, found from what stands before and after its first layer."""
    layers = {layer.node: layer for layer in find_layers(model) if layer.weights}
    nodes = {node.name or "": node for node in model.graph}
    types: dict[str, LayerType] = {}
    for unit in space.units:
        layer = unit.layers[0]
        node = nodes.get(layer.node)
        types[unit.name] = "other" if node is None else _type(layer, node, layers)
    return types


def _type(layer: Layer, node: ir.Node, layers: Mapping[str, Layer]) -> LayerType:
    if layer.op in ("Conv", "ConvTranspose"):
        return "conv"
    if layer.op not in ("MatMul", "Gemm") or not layer.weights:
        return "other"
    after, before = _reached(node, layers, forward=True), _reached(node, layers, forward=False)
    if any(_mixes(other) for other in after):
        return "attention-qkv"
    if any(_mixes(other) for other in before):
        return "attention-proj"
    if _growth(layer) > 0 and after and all(_growth(layers.get(other.name or "")) < 0 for other in after):
        return "mlp-in"
    if _growth(layer) < 0 and before and all(_growth(layers.get(other.name or "")) > 0 for other in before):
        return "mlp-out"
    return "other"


def _reached(node: ir.Node, layers: Mapping[str, Layer], *, forward: bool) -> list[ir.Node]:
    """Return the nearest layers with weights and products of activations after (or before) a node."""
    found: list[ir.Node] = []
    seen: set[ir.Node] = set()
    pending = _neighbours(node, forward=forward)
    while pending:
        other = pending.pop()
        if other in seen:
            continue
        seen.add(other)
        if other.name in layers or _mixes(other):
            found.append(other)
        else:
            pending += _neighbours(other, forward=forward)
    return found


def _neighbours(node: ir.Node, *, forward: bool) -> list[ir.Node]:
    if forward:
        near = [user for value in node.outputs for user, _ in value.uses()]
    else:
        near = [source for value in node.inputs if value is not None and (source := value.producer()) is not None]
    return [other for other in near if other.op_type not in _SIZES]


def _mixes(node: ir.Node) -> bool:
    """Tell whether a node multiplies activations with one another, as attention does."""
    if node.op_type in ("MatMul", "Einsum"):
        return len(node.inputs) > 1 and all(constant(value) is None for value in node.inputs)
    return "Attention" in node.op_type


def _growth(layer: Layer | None) -> int:
    """Return by how many values the output of a product with a weight is wider than its input; 0 for others."""
    if layer is None or layer.op not in ("MatMul", "Gemm"):
        return 0
    rank = len(layer.weight_shape)
    out = layer.channel_axes[-1]
    into = next(axis for axis in (rank - 1, rank - 2) if axis != out)
    return layer.weight_shape[out] - layer.weight_shape[into]
