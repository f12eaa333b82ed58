"""Where Q/DQ stand on a machine on which every operator computes in one type, that of what it reads and gives.

    layer with activation bits   reads and gives codes of these bits
    follower (Add, Softmax ...)  computes in the widest type in which its output is read, whatever its inputs come in,
                                 if one is given in codes or read so, and layers give the others
    tensor                       quantised in the type in which its producer gives it; for a reader of another type
                                 these values are quantised once more: x -> Q -> DQ -> Q' -> DQ', one conversion
    float layer                  an island, if there are any codes in the file

Readers decide before producers do: nodes are looked at from the last to the first.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from onnxmpq.model.layers import constant, is_standard
from onnxmpq.numerics.formats import TYPES
from onnxmpq.targets.placed import (
    OUTSIDE,
    Constant,
    Form,
    Island,
    Pair,
    Placement,
    all_readers,
    end_of,
    followed,
)
from onnxmpq.targets.schema import FollowerRule, Target

_PROTECTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_HIDING = 4096.0
"""What is added to scores to hide some: on the codes of such a range the others would all be one."""
Reader = tuple[str, int]
Ties = dict[ir.Value, dict[ir.Value, None]]


class Converting:
    """In which types the tensors of a model are read, and in which they are given."""

    def __init__(self, model: ir.Model, target: Target) -> None:
        self.target = target
        self.graph = model.graph
        self.nodes = {node.name or "": node for node in model.graph}
        self.read: defaultdict[ir.Value, dict[Reader, str]] = defaultdict(dict)
        self.given: dict[ir.Value, str] = {}
        self.constants: list[Constant] = []
        self.group: Ties = {}
        self.tied: Ties = {}
        self._integer: set[str] = set()
        self._available: set[ir.Value] = set()

    def run(self, forms: tuple[Form, ...]) -> Placement:
        """Let types spread from the layers to the followers, then read off what is to be written."""
        for form in forms:
            self.layer(form)
        for node in reversed(list(self.graph)):
            self.follow(node)
        pairs = tuple(self.pairs())
        islands = tuple(self.islands()) if pairs and self.target.islands else ()
        return Placement(forms, pairs, islands, self.target.dialect, tuple(self.constants))

    def layer(self, form: Form) -> None:
        """Let an integer layer read and give codes."""
        rule, layer, option = self.target.rule(form.layer), form.layer, form.option
        if not option.activation_bits or rule is None:
            return
        node = self.nodes[layer.node]
        for index in layer.inputs:
            value = node.inputs[index]
            assert value is not None
            producer = value.producer()
            kind = rule.activation_type(option, producer.op_type if producer is not None else "", index)
            self.read[value][layer.node, index] = kind
        last = self.nodes[layer.bias_add] if layer.bias_add else node
        self.given[end_of(last.outputs[0], rule)] = rule.activation_type(option)
        self._integer |= {layer.node, layer.bias_add}

    def follow(self, node: ir.Node) -> None:
        """Let a node compute on codes if its output is read in codes, and one of its inputs can be had in them."""
        rule = self.rule_of(node)
        if rule is None or node.name in self._integer or self.is_fused(node):
            return
        end = end_of(node.outputs[0], rule)
        kinds = self.read.get(end, {}).values()
        inputs = [(index, value) for index, value in followed(node) if constant(value) is None]
        if not kinds or end in self.given or not self.can_join(node, rule):
            return
        kind = f"uint{max(TYPES[each].bits for each in kinds)}"
        self.given[end] = kind
        self._integer.add(node.name or "")
        for index, value in inputs:
            self.read[value][node.name or "", index] = kind
        self.constants += self.constants_of(node, rule, kind)
        if rule.same_scale:
            self.tie(self.group, [*(value for _, value in inputs), end])
            if not rule.unlike_apart:
                self.tie(self.tied, [*(value for _, value in inputs), end])

    def rule_of(self, node: ir.Node) -> FollowerRule | None:
        """Return the rule for a node without weights."""
        return self.target.follower(node.op_type) if is_standard(node) else None

    def is_fused(self, node: ir.Node) -> bool:
        """Tell whether the follower in front of a node computes it, too."""
        value = node.inputs[0] if node.inputs else None
        producer = value.producer() if value is not None else None
        rule = self.rule_of(producer) if producer is not None else None
        if producer is None or rule is None:
            return False
        return end_of(producer.outputs[0], rule) is node.outputs[0] and self.can_join(producer, rule)

    def can_join(self, node: ir.Node, rule: FollowerRule) -> bool:
        """Tell whether a follower could compute on codes."""
        operands = followed(node)
        inputs = [value for _, value in operands if constant(value) is None]
        if not inputs or any(value.dtype != ir.DataType.FLOAT for _, value in operands):
            return False
        if len(inputs) < len(operands) and not rule.constants:
            return False
        behind = node.inputs[1 : 1 + len(rule.parameters)]
        if rule.parameters and (len(behind) < len(rule.parameters) or any(constant(one) is None for one in behind)):
            return False
        if any(_hides(value) for _, value in operands if node.op_type == "Add"):
            return False
        had = [self.is_available(value) for value in inputs]
        return any(had) and all(own or self.is_of_layer(value) for own, value in zip(had, inputs, strict=True))

    def is_available(self, value: ir.Value) -> bool:
        """Tell whether a tensor is given or read in codes, or its producer could give it so."""
        if value in self.given or value in self.read or value in self._available:
            return True
        producer = value.producer()
        if producer is not None and producer.op_type in ("Relu", "Clip") and self.is_fused(producer):
            producer = producer.inputs[0].producer() if producer.inputs[0] is not None else None
        rule = self.rule_of(producer) if producer is not None and producer.name in self.nodes else None
        if producer is None or rule is None or end_of(producer.outputs[0], rule) is not value:
            return False
        if not self.can_join(producer, rule):
            return False
        self._available.add(value)
        return True

    def is_of_layer(self, value: ir.Value) -> bool:
        """Tell whether a float layer gives a tensor, directly or through operators that read nothing else."""
        node = value.producer()
        while node is not None and is_standard(node) and node.op_type not in _PROTECTED:
            inputs = [each for _, each in followed(node) if constant(each) is None]
            if self.rule_of(node) is None or len(inputs) != 1:
                return False
            node = inputs[0].producer()
        return node is not None and is_standard(node)

    def constants_of(self, node: ir.Node, rule: FollowerRule, kind: str) -> Iterator[Constant]:
        """Yield the constants that a follower reads in codes."""
        name = node.name or ""
        for index, value in followed(node):
            if constant(value) is not None:
                yield Constant(name, index, value.name or "", kind)
        for index, how in enumerate(rule.parameters, start=1):
            value_of = node.inputs[index]
            assert value_of is not None
            yield Constant(name, index, value_of.name or "", how, scaled=how == "int32")

    def tie(self, groups: Ties, values: Iterable[ir.Value]) -> None:
        """Make values share one scale."""
        merged: dict[ir.Value, None] = {}
        for value in values:
            merged.update(groups.get(value, {value: None}))
        for value in merged:
            groups[value] = merged

    def pairs(self) -> Iterator[Pair]:
        """Yield a pair for every type of every tensor: first that in which it is given, then what is made of it."""
        values = [*self.graph.inputs, *(value for node in self.graph for value in node.outputs)]
        for value in values:
            kinds = dict.fromkeys(self.read.get(value, {}).values())
            own = self.given.get(value, "")
            for kind in (own, *(each for each in kinds if each != own)) if own else kinds:
                readers = [reader for reader, wanted in self.read.get(value, {}).items() if wanted == kind]
                if kind == own:
                    readers += [reader for reader in all_readers(value) if reader not in self.read.get(value, {})]
                yield self.pair(value, kind, readers, own if kind != own else "")

    def pair(self, value: ir.Value, kind: str, readers: list[Reader], behind: str) -> Pair:
        """Describe one pair."""
        return Pair(
            tensor=value.name or "",
            type=kind,
            bits=TYPES[kind].bits,
            group=tuple(member.name or "" for member in self.group.get(value, {value: None})),
            readers=tuple(reader for reader in readers if reader != OUTSIDE),
            public=OUTSIDE in readers,
            tied=tuple(member.name or "" for member in self.tied.get(value, {value: None})),
            behind=behind,
        )

    def islands(self) -> Iterator[Island]:
        """Yield the float layers: the runtime moves Q/DQ past operators, so that any of them may come to read codes."""
        for name, node in self.nodes.items():
            value = node.inputs[0] if node.inputs else None
            if name in self._integer or node.op_type not in _PROTECTED or not is_standard(node) or value is None:
                continue
            if node.outputs[0].dtype == ir.DataType.FLOAT:
                yield Island(name, 0, value.name or "", "", 0, 0, half=True)


def _hides(value: ir.Value) -> bool:
    """Tell whether a constant is there to hide what it is added to."""
    tensor = constant(value)
    return tensor is not None and bool(np.any(np.abs(tensor.numpy().astype(np.float64)) >= _HIDING))
