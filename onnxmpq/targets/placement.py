"""Where Q/DQ stand for a plan: a pure function of graph, target and choices, with no numbers in it.

Both the prediction of sizes and the lowering read the same placement, so what is predicted is what is written.

    layer with activation bits  -> its inputs are quantised; its output too where the kernel wants a Q behind it
    follower (Add, pools, ...)  -> joins when all its inputs are quantised and its output is asked for
    float layer on a DQ         -> gets a DQ of its own on runtimes that would quantise it behind our back

Where a target converts, types spread in another way: see ``onnxmpq.targets.converting``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Layer, Option, Space
from onnxmpq.model.layers import constant, dimensions, is_standard, shape_of, sole_use
from onnxmpq.targets.converting import Converting
from onnxmpq.targets.placed import (
    OUTSIDE,
    Constant,
    Form,
    Island,
    Pair,
    Placement,
    all_readers,
    data_inputs,
    end_of,
)
from onnxmpq.targets.schema import FollowerRule, Target

__all__ = ["Constant", "Form", "Island", "Pair", "Placement", "form_of", "place"]

_ISLAND_AXES = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}


def place(model: ir.Model, space: Space, target: Target, choices: Mapping[str, Option]) -> Placement:
    """Decide where Q/DQ stand when every unit takes its option of ``choices`` (float where it is not named)."""
    forms = []
    for unit in space.units:
        option = unit.cost(choices.get(unit.name, FLOAT)).option
        if not option.is_float:
            forms += [form_of(layer, option, target) for layer in unit.layers]
    return (Converting if target.converts else _Placer)(model, target).run(tuple(forms))


def form_of(layer: Layer, option: Option, target: Target) -> Form:
    rule = target.rule(layer)
    assert rule is not None
    exact = bool(option.weight_bits and option.activation_bits and layer.bias) and rule.bias == "int32"
    saturates = rule.saturates if target.isa == "any" and option.activation_bits == 8 else ()
    return Form(layer, option, rule.carrier(option), exact, rule.zero_point, saturates)


class _Placer:
    """The demands for quantised tensors while they spread."""

    def __init__(self, model: ir.Model, target: Target) -> None:
        self.target = target
        self.nodes = {node.name or "": node for node in model.graph}
        self.demand: dict[tuple[ir.Value, str, int], dict[tuple[str, int], None]] = {}
        self.group: dict[ir.Value, dict[ir.Value, None]] = {}
        self.tied: dict[ir.Value, dict[ir.Value, None]] = {}
        self.own: dict[tuple[ir.Value, tuple[str, int]], tuple[str, int]] = {}
        self.joined: set[str] = set()

    def run(self, forms: tuple[Form, ...]) -> Placement:
        """Spread demands from the layers to the followers, then read off pairs and islands."""
        for form in forms:
            self.ask_for_layer(form)
        kinds: list[tuple[str, int]] = list(dict.fromkeys((kind, bits) for _, kind, bits in self.demand))
        while any([self.join(node, rule, *kind) for node, rule in self.open_followers() for kind in kinds]):
            pass
        self.settle()
        return Placement(forms, self.pairs(), self.islands(forms), self.target.dialect)

    def need(self, value: ir.Value, kind: str, bits: int, readers: Iterable[tuple[str, int]]) -> None:
        """Ask that ``readers`` see ``value`` through Q/DQ."""
        self.demand.setdefault((value, kind, bits), {}).update(dict.fromkeys(readers))

    def need_itself(self, value: ir.Value, kind: str, bits: int, reader: tuple[str, int]) -> None:
        """Ask that one reader, which computes on these codes, sees ``value`` through Q/DQ."""
        self.need(value, kind, bits, [reader])
        self.own[value, reader] = (kind, bits)

    def settle(self) -> None:
        """Let every reader of a tensor that was asked for in several types see one: its own, else the widest.

        A demand that nobody sees goes.
        """
        kinds: dict[ir.Value, list[tuple[str, int]]] = {}
        for value, kind, bits in self.demand:
            kinds.setdefault(value, []).append((kind, bits))
        for value, several in kinds.items():
            if len(several) == 1:
                continue
            readers = {reader for kind, bits in several for reader in self.demand[value, kind, bits]}
            widest = max(several, key=lambda each: each[1])
            seen = {reader: self.own.get((value, reader), widest) for reader in readers}
            for kind, bits in several:
                before = self.demand[value, kind, bits]
                left = dict.fromkeys(reader for reader in before if seen[reader] == (kind, bits))
                if (kind, bits) == widest:
                    left |= dict.fromkeys(reader for reader in all_readers(value) if seen.get(reader) == widest)
                if left:
                    self.demand[value, kind, bits] = left
                else:
                    del self.demand[value, kind, bits]

    def ask_for_layer(self, form: Form) -> None:
        """Ask for the quantised inputs, and the quantised output, of an integer layer."""
        rule, layer, bits = self.target.rule(form.layer), form.layer, form.option.activation_bits
        if not bits or rule is None:
            return
        node = self.nodes[layer.node]
        for index in layer.inputs:
            value = node.inputs[index]
            assert value is not None
            producer = value.producer()
            kind = rule.activation_type(form.option, producer.op_type if producer is not None else "")
            if rule.readers == "all":
                self.need(value, kind, bits, all_readers(value))
            self.need_itself(value, kind, bits, (layer.node, index))
        if rule.output == "quantised":
            end = end_of(node.outputs[0], rule)
            self.need(end, rule.activation_type(form.option), bits, all_readers(end))

    def open_followers(self) -> list[tuple[ir.Node, FollowerRule]]:
        """Return the nodes that may still join."""
        return [
            (node, rule)
            for name, node in self.nodes.items()
            if name not in self.joined
            and is_standard(node)
            and (rule := self.target.follower(node.op_type)) is not None
        ]

    def join(self, node: ir.Node, rule: FollowerRule, kind: str, bits: int) -> bool:
        """Let a follower run on codes if its output is asked for and its inputs are, or can be, quantised."""
        end, inputs = end_of(node.outputs[0], rule), data_inputs(node)
        name = node.name or ""
        if name in self.joined or (end, kind, bits) not in self.demand or not inputs:
            return False
        if not all(self.available(value, kind, bits) for _, value in inputs):
            return False
        for index, value in inputs:
            if (value, kind, bits) not in self.demand:  # pulled: its producer will run on codes, all readers see that
                self.need(value, kind, bits, all_readers(value))
            self.need_itself(value, kind, bits, (name, index))
        self.need(end, kind, bits, all_readers(end))
        if rule.same_scale:
            self.tie(self.group, [*(value for _, value in inputs), end])
            if not rule.unlike_apart:
                self.tie(self.tied, [*(value for _, value in inputs), end])
        self.joined.add(name)
        return True

    def available(self, value: ir.Value, kind: str, bits: int) -> bool:
        """Tell whether ``value`` is quantised, or its producer could give it in codes if it was asked to."""
        if (value, kind, bits) in self.demand:
            return True
        users = {reader.node for reader in _follow_uses(value)}
        if not any(self._pulls(user) for user in users):
            return False
        producer = value.producer()
        while (
            producer is not None and producer.op_type in ("Relu", "Clip") and sole_use(producer.outputs[0]) is not None
        ):
            before = producer.inputs[0]
            if before is None or sole_use(before) is None:
                break
            producer = before.producer()
        if producer is None or not is_standard(producer) or producer.name not in self.nodes:
            return False
        rule = self.target.follower(producer.op_type)
        if rule is None or end_of(producer.outputs[0], rule) is not value:
            return False
        inputs = data_inputs(producer)
        return bool(inputs) and all(self.available(source, kind, bits) for _, source in inputs)

    def _pulls(self, node: ir.Node) -> bool:
        rule = self.target.follower(node.op_type) if is_standard(node) else None
        return rule is not None and rule.pull

    def tie(self, groups: dict[ir.Value, dict[ir.Value, None]], values: Iterable[ir.Value]) -> None:
        """Make values share one scale."""
        merged: dict[ir.Value, None] = {}
        for value in values:
            merged.update(groups.get(value, {value: None}))
        for value in merged:
            groups[value] = merged

    def pairs(self) -> tuple[Pair, ...]:
        """Return the demands as pairs, in the order in which they were made."""
        return tuple(
            Pair(
                tensor=value.name or "",
                type=kind,
                bits=bits,
                group=tuple(member.name or "" for member in self.group.get(value, {value: None})),
                readers=tuple(reader for reader in readers if reader != OUTSIDE),
                public=OUTSIDE in readers,
                tied=tuple(member.name or "" for member in self.tied.get(value, {value: None})),
            )
            for (value, kind, bits), readers in self.demand.items()
        )

    def islands(self, forms: tuple[Form, ...]) -> tuple[Island, ...]:
        """Find float layers that read a DQ, where the target needs to protect them."""
        if not self.target.islands:
            return ()
        integer = {form.layer.node for form in forms if form.option.activation_bits}
        found = []
        for (value, kind, _), readers in self.demand.items():
            for name, index in readers:
                node = self.nodes.get(name)
                if node is None or index != 0 or name in integer or node.op_type not in _ISLAND_AXES:
                    continue
                channels = _channels(node)
                if channels:
                    rank = len(dimensions(value) or ())
                    axis = 0 if node.attributes.get_int("transA", 0) else _ISLAND_AXES[node.op_type]
                    found.append(Island(name, index, value.name or "", kind, axis % rank if rank else axis, channels))
        return tuple(found)


def _follow_uses(value: ir.Value) -> list["_Use"]:
    return [_Use(node, index) for node, index in value.uses()]


@dataclass(frozen=True, slots=True)
class _Use:
    node: ir.Node
    index: int


def _channels(node: ir.Node) -> int:
    """Return the number of input channels of a layer with a constant weight, 0 if it cannot be known."""
    weight = constant(node.inputs[1])
    if weight is None:
        return 0
    shape = shape_of(weight)
    match node.op_type:
        case "Conv":
            return shape[1] * node.attributes.get_int("group", 1)
        case "Gemm":
            return shape[1] if node.attributes.get_int("transB", 0) else shape[0]
        case "MatMul":
            return shape[-2] if len(shape) > 1 else 0
        case _:
            return shape[0]
