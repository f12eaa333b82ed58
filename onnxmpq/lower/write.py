"""The lowering: the only code that writes quantised tensors into a graph.

weight            codes, which a carrier turns back (see ``onnxmpq.carriers``)
activation, bias  as a dialect writes them (see ``onnxmpq.dialects``); scale of a bias = input scale * weight scale
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Layer, Neighbours, Option, Plan, Space
from onnxmpq.carriers.base import Carried, Carrier, carrier
from onnxmpq.dialects.base import Activation, Dialect, IntegerBias, IslandInput, Written, dialect
from onnxmpq.errors import InternalError
from onnxmpq.lower.bias import int32_codes, least_scale, on_grid, shift, widened
from onnxmpq.lower.operands import Operands, halve
from onnxmpq.model.layers import all_graphs, all_nodes, constant, values_of
from onnxmpq.model.mapped import let_go
from onnxmpq.model.opset import raise_opset
from onnxmpq.numerics.formats import TYPES, weight_type
from onnxmpq.numerics.ranges import Affine
from onnxmpq.numerics.saturation import rule
from onnxmpq.numerics.weights import QuantisedWeight, quantise_weight
from onnxmpq.options import WeightRanges
from onnxmpq.targets import Target
from onnxmpq.targets.placement import Form, Island, Pair, Placement, place
from onnxmpq.targets.sizes import stored_bytes

RoundWeight = Callable[[str, np.ndarray, QuantisedWeight], QuantisedWeight]
"""Gives other codes for the weight of that name, on the scales that were chosen for it."""


@dataclass(frozen=True, slots=True)
class Quantiser:
    """How weights become codes: by which search for scales, and what rounds better than to the nearest code.

    ``memory`` keeps quantised weights for whoever lowers many plans of one model, ``shifts`` what they move biases by.
    """

    method: WeightRanges = "mse"
    better: RoundWeight | None = None
    memory: MutableMapping[tuple[object, ...], QuantisedWeight] | None = None
    shifts: MutableMapping[tuple[object, ...], np.ndarray | float] | None = None

    def rounded(self, name: str, weight: np.ndarray, quantised: QuantisedWeight) -> QuantisedWeight:
        """Return a weight with better codes, if there is a way to them."""
        return quantised if self.better is None else self.better(name, weight, quantised)


@dataclass(frozen=True, slots=True)
class Quantised:
    """A lowered model, what was placed in it, and the bytes its tensors will take in the file."""

    model: ir.Model
    placement: Placement
    stored_bytes: int


def lower(
    model: ir.Model,
    space: Space,
    target: Target,
    plan: Plan,
    activations: Mapping[str, Affine],
    *,
    means: Mapping[str, np.ndarray] | None = None,
    quantiser: Quantiser = Quantiser(),
    placement: Placement | None = None,
) -> Quantised:
    """Write ``plan`` into a copy of a normalised model.

    ``activations`` maps ``pair_key(pair)`` to scale and zero point for every pair of the placement; ``means`` maps
    layers to the mean of their input, which lets their biases take up what rounding the weights shifts.
    ``placement`` is that of the plan, if it is known.
    """
    placement = placement or place(model, space, target, plan.choices)
    lowered = model.clone()
    need = [target.opset_for(form.option, form.layer) for form in placement.forms]
    if placement.forms:
        raise_opset(lowered, max(need))
    _Writer(lowered, activations, means or {}, quantiser, dialect(placement.dialect)).write(placement)
    return Quantised(lowered, placement, stored_bytes(model, placement))


def pair_key(pair: Pair) -> str:
    """Return the name under which the numbers of a pair are kept."""
    return f"{pair.tensor}:{pair.type}:{pair.bits}"


class _Writer:
    def __init__(
        self,
        model: ir.Model,
        activations: Mapping[str, Affine],
        means: Mapping[str, np.ndarray],
        quantiser: Quantiser,
        dialect: Dialect,
    ) -> None:
        self.model, self.activations, self.means, self.quantiser = model, activations, means, quantiser
        self.dialect = dialect
        self.nodes = {node.name or "": node for node in all_nodes(model)}
        self.values = {value.name: value for graph in all_graphs(model) for value in values_of(graph)}
        self.quantised: dict[str, QuantisedWeight] = {}
        self.kept: dict[str, tuple[object, ...]] = {}
        self.floors: dict[str, np.ndarray] = {}
        self.saturates: dict[str, tuple[Neighbours, ...]] = {}
        self.readers: Counter[str] = Counter()
        self.made: dict[str, ir.Value] = {}
        self.written: dict[tuple[str, str], tuple[Activation, Written]] = {}
        self.heads = {id(graph): next(iter(graph), None) for graph in all_graphs(model)}
        self.taken = {name for name in self.values if name} | set(self.nodes)

    def write(self, placement: Placement) -> None:
        """Write weights, then activations, then drop what nobody reads any more."""
        scales = {
            reader: float(self.activations[pair_key(pair)].scale) for pair in placement.pairs for reader in pair.readers
        }
        for form in placement.forms:
            self.make_room(form, scales.get((form.layer.node, 0)))
        quantised = [form for form in placement.forms if form.option.weight_bits]
        self.readers.update(name for form in quantised for name in form.layer.weights)
        for form in quantised:
            self.weights(form, scales.get((form.layer.node, 0)))
            self.forget(form.layer.weights)
        operands = Operands(self, self.dialect, scales)
        for one in placement.constants:
            operands.write(one, self.nodes[one.node], self.values[one.tensor])
        for pair in placement.pairs:
            self.written[pair.tensor, pair.type] = self.pair(pair)
        for island in placement.islands:
            self.island(island)
        self.drop_unread()

    # ---- weights -------------------------------------------------------------------------------------------------

    def make_room(self, form: Form, input_scale: float | None) -> None:
        """Note what all layers that share a weight ask of it.

        Which of its products must not saturate, and the least scale per channel that lets the bias fit in int32.
        """
        for name in form.layer.weights:
            self.saturates[name] = tuple(dict.fromkeys((*self.saturates.get(name, ()), *form.saturates)))
        bias = constant(self.values.get(form.layer.bias)) if form.bias else None
        if bias is None or not input_scale:
            return
        floor = least_scale(bias.numpy(), input_scale)
        for name in form.layer.weights:
            self.floors[name] = np.maximum(self.floors.get(name, 0.0), floor)

    def weights(self, form: Form, input_scale: float | None) -> None:
        """Replace the weights of one layer, and its bias where the kernel wants that in int32."""
        node, layer = self.nodes[form.layer.node], form.layer
        bias = constant(self.values.get(layer.bias))
        for index, value in enumerate(node.inputs):
            if value is None or value.name not in layer.weights or index in layer.inputs:
                continue
            held = carrier(form.carrier or "dq")
            stored, quantised = self.coded(form, value, held)
            carried = Carried(node, value, stored, quantised, form.option, layer, form.zero_point)
            new = held.write(self, carried)
            if new is None:
                continue
            node.replace_input_with(index, new)
            if bias is not None:
                self.bias(form, bias.numpy() - self.moved(node, layer, value, quantised), quantised, input_scale)

    def coded(self, form: Form, value: ir.Value, held: Carrier) -> tuple[ir.Value, QuantisedWeight]:
        """Quantise a weight, once, and write its codes once for all carriers that store them alike."""
        name = value.name or ""
        if name not in self.quantised:
            self.quantised[name] = self.quantise(form, value, self.floors.get(name))
        found = self.quantised[name]
        make = partial(held.write_codes, self, value, found, form.option)
        return self.shared(f"{name}/{held.stored}", make), found

    def moved(self, node: ir.Node, layer: Layer, value: ir.Value, quantised: QuantisedWeight) -> np.ndarray | float:
        """Return what rounding a weight moves a bias by, once for codes that are kept."""
        codes, shifts = self.kept.get(value.name or ""), self.quantiser.shifts
        known = {} if codes is None or shifts is None else shifts
        if (layer.node, codes) not in known:
            known[layer.node, codes] = shift(node, layer, constant(value), self.means.get(layer.node), quantised)
        return known[layer.node, codes]

    def forget(self, weights: Iterable[str]) -> None:
        """Let go of the codes of weights that no other layer reads, and of the pages they were made from."""
        self.readers.subtract(weights)
        for name in weights:
            if not self.readers[name]:
                if name in self.quantised:
                    let_go(self.quantised.pop(name).codes)
                let_go(constant(self.values.get(name)))

    def quantise(self, form: Form, value: ir.Value, floor: np.ndarray | None) -> QuantisedWeight:
        """Quantise one weight; ``floor`` is the least scale per channel that lets the bias fit in int32."""
        tensor = constant(value)
        if tensor is None:
            raise InternalError(f"The weight '{value.name}' is not a constant.")
        option, layer = form.option, form.layer
        weight = np.asarray(tensor.numpy()).astype(np.float32, copy=False)
        inner = next(axis for axis in range(weight.ndim) if axis not in layer.channel_axes)
        saturates = self.saturates.get(value.name or "", ())
        how, memory = self.quantiser, self.quantiser.memory
        by = how.method, how.better is not None
        key = (value.name, option.weight_bits, option.block, layer.channel_axes, *by, saturates)
        found = memory.get(key) if memory is not None else None
        if found is None:
            quantised = quantise_weight(
                weight,
                bits=option.weight_bits,
                axes=None if option.block else layer.channel_axes,
                block=(inner, option.block) if option.block else None,
                method=how.method,
                rule=rule(saturates, weight.shape, layer.channel_axes),
            )
            found = how.rounded(value.name or "", weight, quantised)
            if memory is not None:
                memory[key] = found
                found = memory[key]
        if floor is None or not np.any(found.scale < floor):
            if memory is not None:
                self.kept[value.name or ""] = key
            return found
        return how.rounded(value.name or "", weight, widened(found, weight, floor))

    def initializer(self, like: ir.Value, suffix: str, array: np.ndarray, option: Option | None = None) -> ir.Value:
        """Add an initialiser named after ``like`` to the graph that holds it."""
        tensor = ir.Tensor(np.asarray(array)) if option is None else _stored(array, option)
        return self.add_initializer(like, f"{like.name}_{suffix}", tensor)

    def constant(self, like: ir.Value, name: str, array: np.ndarray) -> ir.Value:
        """Add an initialiser that several weights read to the graph that holds ``like``."""
        return self.add_initializer(like, name, ir.Tensor(np.asarray(array)))

    def add_initializer(self, like: ir.Value, name: str, tensor: ir.Tensor[Any] | ir.PackedTensor[Any]) -> ir.Value:
        """Add an initialiser to the graph that holds ``like``."""
        name = self.fresh(name)
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        tensor.name = name
        graph = self.graph_of(like)
        graph.initializers[name] = value
        self.values[name] = value
        return value

    def graph_of(self, value: ir.Value) -> ir.Graph:
        """Return the graph in which ``value`` is an initialiser, an input or an output of a node."""
        producer = value.producer()
        graph = producer.graph if producer is not None else value.graph
        if not isinstance(graph, ir.Graph):
            raise InternalError(f"The value '{value.name}' belongs to no graph.")
        return graph

    def narrowed(self, value: ir.Value, single: ir.Value, before: ir.Node | None = None) -> ir.Value:
        """Return a weight in the float type that it had: half weights are computed in float32, and cast."""
        if value.dtype in (None, ir.DataType.FLOAT):
            return single
        name, to = f"{value.name}_narrow", {"to": int(value.dtype)}
        return self.node("Cast", [single], name, value, to, value.dtype, before=before)

    def replace_output(self, node: ir.Node, codes: ir.DataType, make: Callable[[ir.Value], list[ir.Node]]) -> None:
        """Let a node give codes, and the last of the nodes made from them what it gave before."""
        output = node.outputs[0]
        graph, name, dtype = node.graph, output.name or "", output.dtype
        readers = list(output.uses())
        public = output.is_graph_output()
        output.name = self.fresh(f"{name}_quantized")
        output.type = ir.TensorType(codes)
        new = make(output)
        result = new[-1].outputs[0]
        result.name, result.shape = name, output.shape
        if result.type is None and dtype is not None:
            result.type = ir.TensorType(dtype)
        for reader, index in readers:
            reader.replace_input_with(index, result)
        if graph is None:
            raise InternalError(f"The node '{node.name}' belongs to no graph.")
        if public:
            graph.outputs[list(graph.outputs).index(output)] = result
        graph.insert_after(node, new)
        self.values[name] = result

    def bias(self, form: Form, bias: np.ndarray, quantised: QuantisedWeight, input_scale: float | None) -> None:
        """Write the bias: as int32 codes whose scale is that of the input times that of the weight, or in float."""
        layer = form.layer
        node = self.nodes[layer.bias_add or layer.node]
        value = self.values[layer.bias]
        index = next(i for i, operand in enumerate(node.inputs) if operand is value)
        if not form.bias or not input_scale:
            summed = form.option.activation_bits and not form.option.block and not layer.bias_add
            steps = input_scale if summed else None
            if steps:
                bias = on_grid(bias, steps, quantised)
            if (steps or layer.node in self.means) and len(value.uses()) == 1 and not value.is_graph_output():
                dtype = value.dtype or ir.DataType.FLOAT
                node.replace_input_with(index, self.initializer(value, "corrected", bias.astype(dtype.numpy())))
            return
        codes, scale = int32_codes(bias, input_scale, quantised)
        node.replace_input_with(index, self.dialect.bias(self, IntegerBias(node, value, codes, scale)))

    # ---- activations ---------------------------------------------------------------------------------------------

    def pair(self, pair: Pair) -> tuple[Activation, Written]:
        """Quantise a tensor, or what another pair made of it, and give the result to its readers."""
        value = self.written[pair.tensor, pair.behind][1].result if pair.behind else self.values[pair.tensor]
        graph = self.graph_of(value)
        name = f"{pair.tensor}_{pair.type}" if pair.behind else pair.tensor
        activation = Activation(name, value, TYPES[pair.type], self.activations[pair_key(pair)])
        written = self.dialect.activation(self, activation)
        for reader, index in pair.readers:
            self.nodes[reader].replace_input_with(index, written.result)
        if pair.public:
            value.name = self.fresh(f"{pair.tensor}_unquantized")
            written.result.name = pair.tensor
            graph.outputs[list(graph.outputs).index(value)] = written.result
        return activation, written

    def island(self, island: Island) -> None:
        """Give a float layer numbers that were turned back for it alone, or let it compute in half precision."""
        node = self.nodes[island.node]
        if island.half:
            halve(self, node)
            return
        activation, written = self.written[island.tensor, island.type]
        own = self.dialect.island(self, activation, written.codes, IslandInput(node, island.axis, island.channels))
        node.replace_input_with(island.index, own)

    # ---- pieces --------------------------------------------------------------------------------------------------

    def shared(self, key: str, make: Callable[[], ir.Value]) -> ir.Value:
        """Make a value once."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def node(
        self,
        op: str,
        inputs: list[ir.Value],
        name: str,
        like: ir.Value,
        attributes: Mapping[str, int | str],
        dtype: ir.DataType = ir.DataType.FLOAT,
        before: ir.Node | None = None,
        shape: Sequence[int] | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Add a node in front of ``before``, or at the head of the graph that holds ``like``; return its output."""
        new = ir.node(op, inputs, dict(attributes), domain=domain, name=self.fresh(name))
        value = new.outputs[0]
        value.name = new.name
        value.type, value.shape = ir.TensorType(dtype), like.shape if shape is None else ir.Shape(shape)
        self.insert_before(before, [new], self.graph_of(like))
        return value

    def insert_before(self, node: ir.Node | None, new: list[ir.Node], graph: ir.Graph) -> None:
        """Insert nodes in front of ``node``, or where the nodes of ``graph`` began before anything was written."""
        anchor = node or self.heads[id(graph)]
        if anchor is None or not isinstance(anchor.graph, ir.Graph):
            raise InternalError(f"There is no node in graph '{graph.name}' to write in front of.")
        anchor.graph.insert_before(anchor, new)

    def behind(self, value: ir.Value, nodes: list[ir.Node]) -> None:
        """Insert nodes right behind the one that gives ``value``, or at the head of its graph."""
        producer, graph = value.producer(), self.graph_of(value)
        if producer is not None:
            graph.insert_after(producer, nodes)
        else:
            self.insert_before(None, nodes, graph)

    def fresh(self, name: str) -> str:
        """Return ``name``, with a number behind it if it is taken."""
        candidate, count = name, 1
        while candidate in self.taken:
            candidate, count = f"{name}_{count}", count + 1
        self.taken.add(candidate)
        return candidate

    def use(self, domain: str, version: int) -> None:
        """Let the model have the operators of a domain."""
        self.model.opset_imports.setdefault(domain, version)

    def define(self, domain: str, name: str, version: int, make: Callable[[int], ir.Function]) -> None:
        """Let the model say once what an operator of a domain does."""
        self.use(domain, version)
        if (domain, name, "") not in self.model.functions:
            self.model.functions[domain, name, ""] = make(self.model.opset_imports[""])

    def drop_unread(self) -> None:
        """Remove initialisers that nobody reads any more."""
        for graph in all_graphs(self.model):
            for name, value in list(graph.initializers.items()):
                if not value.uses() and not value.is_graph_output():
                    del graph.initializers[name]


def _stored(codes: np.ndarray, option: Option) -> ir.Tensor[Any] | ir.PackedTensor[Any]:
    """Return codes as they are stored: several to a byte where they are narrow."""
    kind = weight_type(option)
    tensor = ir.Tensor(codes.astype(kind.dtype, copy=False), dtype=kind.onnx)
    if kind.bits == 8:
        return tensor
    return ir.PackedTensor(np.frombuffer(tensor.tobytes(), np.uint8), kind.onnx, shape=tensor.shape)
