"""Lowered graphs as texts, which ``tests/golden`` keeps: what changes in the lowering is seen in a diff.

    tests/golden/TARGET/SUBJECT.OPTION.txt

A subject is a few layers of one kind, or a graph with several kinds. Layers are lowered at every option that they have
on a target. Options that give the same text share the file of the first one, and its first line names them all. A
graph is lowered at w8a8 and at a plan that mixes options. Of a variant such as ``openvino@vnni`` only those texts are
kept that differ from its target's; the models are left out there. Float is kept for one target, as long as all of
them give the same.

A node is written behind its name, or without it where its output has the same. Weights are told by name, type and
shape alone; of activations, scale and zero point are told too, since no sum is behind them. No runtime runs: ranges
and means are made by hand, so that a text depends on neither processor nor release.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Option, Plan, Space
from onnxmpq.lower.calibrated import Calibrated
from onnxmpq.methods.uniform import uniform
from onnxmpq.model.layers import constant, shape_of
from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from onnxmpq.numerics.histograms import Histogram
from onnxmpq.options import Numbers
from onnxmpq.targets import ISAS, builtin_names, split_variant
from onnxmpq.targets import target as find_target
from onnxmpq.targets.space import make_space
from tests.graphs import Array, from_text, layer_chain, normal

FOLDER = Path(__file__).parent / "golden"
MODELS = Path(__file__).parents[1] / "models"
NUMBERS = Numbers(activations="minmax", weights="minmax")
RANGES = ((-1.0, 3.0), (-6.0, 2.0), (0.0, 2.0), (-1.0, 15.0))
"""What activations are said to hold. None of their zero points is near the middle of two codes."""
MEAN = 0.25
WISHES = ("w8a8", "w4", "w4a8", "w8a16", "a8", "float", "w8a8", "w4b32", "w2a8", "w8", "w2")
"""What the units of a mixed plan take in turn, if they have it."""
_NODE = re.compile(r"\s+(?:(?P<name>\S+): )?(?P<outputs>.+?) = [\w.]+\(")


@dataclass(frozen=True, slots=True)
class Subject:
    """A normalised model. ``op`` is the kind of layers whose options are tried; without it, whole plans are."""

    build: Callable[[], ir.Model]
    op: str = ""


# ---- subjects --------------------------------------------------------------------------------------------------------


def weight(*shape: int, dtype: type[np.floating] = np.float32) -> Array:
    """Return a weight: texts do not tell its numbers."""
    return np.linspace(-1, 1, int(np.prod(shape))).reshape(shape).astype(dtype)


def chain(op: str, grouping: str = "dense", rank: int = 2) -> Subject:
    """Return two layers of one kind, with something between them."""
    return Subject(lambda: normal(layer_chain(op, grouping, rank)), op.partition(":")[0])


def graph(text: str, weights: Mapping[str, Array], op: str = "") -> Subject:
    """Return a graph in ONNX text form."""
    return Subject(lambda: normal(from_text(text, weights)), op)


def embedded(name: str) -> Subject:
    """Return a model that comes with the project."""
    return Subject(lambda: normalise(load(MODELS / f"{name}.onnx")).model)


def in_bodies() -> ir.Model:
    """Build a product in each branch of an If: one with a weight from outside, one with a weight of the branch."""
    text = """g (float[1, 32] x, bool c) => (float[1, 32] y) {
        y = If(c) < then_branch = t () => (float[1, 32] p) { p = MatMul(x, w1) },
                    else_branch = e () => (float[1, 32] q) { h = MatMul(x, w2) q = Add(h, x) } >
    }"""
    proto = ir.to_proto(from_text(text, {"w1": weight(32, 32), "w2": weight(32, 32)}))
    body = next(branch.g for branch in proto.graph.node[0].attribute if branch.name == "else_branch")
    body.initializer.append(proto.graph.initializer.pop())
    return normal(ir.from_proto(proto))


def convs(*names: str, channels: int = 8) -> dict[str, Array]:
    """Return weights of convolutions with eight outputs, and their biases."""
    kernels = {name: weight(8, channels, 3, 3) for name in names}
    return kernels | {f"{name}b": weight(8) for name in names}


IMAGE = "float[n, 8, 8, 8]"
CONV = "Conv<pads = [1, 1, 1, 1]>"
HALF = np.float16
EMBEDDED = ("digits_cnn", "digits_vit")

SUBJECTS = {
    "conv": chain("Conv"),
    "conv-depthwise": chain("Conv", "depthwise"),
    "conv-grouped": chain("Conv", "grouped"),
    "convtranspose": chain("ConvTranspose"),
    "gemm": chain("Gemm"),
    "matmul": chain("MatMul"),
    "matmul-stack": chain("MatMul", rank=3),
    "matmul-product": chain("MatMul:product"),
    "matmul-half": graph(
        "g (float16[n, 32] x) => (float16[n, 32] y) { m = MatMul(x, w) y = Add(m, b) }",
        {"w": weight(32, 32, dtype=HALF), "b": weight(32, dtype=HALF)},
        "MatMul",
    ),
    "matmul-left": graph("g (float[32, 5] x) => (float[8, 5] y) { y = MatMul(w, x) }", {"w": weight(8, 32)}, "MatMul"),
    "matmul-shared": graph(
        "g (float[n, 32] x) => (float[n, 32] y, float[n, 32] z) "
        "{ a = MatMul(x, w) y = Add(a, b) s = Sigmoid(y) z = MatMul(s, w) }",
        {"w": weight(32, 32), "b": weight(32)},
        "MatMul",
    ),
    "matmul-bodies": Subject(in_bodies, "MatMul"),
    "gather": graph(
        "g (int64[3, n] i) => (float[3, n, 16] y, float[3, n, 16] z) { y = Gather(w, i) z = Sigmoid(y) }",
        {"w": weight(40, 16)},
        "Gather",
    ),
    "gather-half": graph(
        "g (int64[n] i) => (float16[n, 16] y) { y = Gather(w, i) }", {"w": weight(40, 16, dtype=HALF)}, "Gather"
    ),
    "lstm": chain("LSTM"),
    "gru": chain("GRU"),
    "residual": graph(
        f"g ({IMAGE} x) => ({IMAGE} y) {{ a = {CONV}(x, w1, w1b) r = Relu(a) b = {CONV}(r, w2, w2b) s = Add(b, x) "
        f"t = Clip(s, low, high) y = {CONV}(t, w3, w3b) }}",
        {**convs("w1", "w2", "w3"), "low": np.array(0, np.float32), "high": np.array(6, np.float32)},
    ),
    "concat": graph(
        f"g ({IMAGE} x) => (float[n, 10] y) {{ a = {CONV}(x, w1, w1b) b = {CONV}(x, w2, w2b) "
        f"c = Concat<axis = 1>(a, b) m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) d = {CONV}(m, w3, w3b) "
        "q = GlobalAveragePool(d) f = Flatten(q) y = Gemm<transB = 1>(f, w4, w4b) }",
        {**convs("w1", "w2"), **convs("w3", channels=16), "w4": weight(10, 8), "w4b": weight(10)},
    ),
    "attention": graph(
        "g (float[n, 6, 32] x) => (float[n, 6, 32] y) { q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(q, w3) "
        "t = Transpose<perm = [0, 2, 1]>(k) p = MatMul(q, t) s = Softmax(p) o = MatMul(s, v) u = MatMul(o, w4) "
        "y = Add(u, w4b) }",
        {**{f"w{i}": weight(32, 32) for i in (1, 2, 3, 4)}, "w4b": weight(32)},
    ),
    "outputs": graph(
        f"g ({IMAGE} x) => ({IMAGE} m, {IMAGE} y, {IMAGE} z, {IMAGE} v) {{ m = {CONV}(x, w1, w1b) "
        f"y = {CONV}(m, w2, w2b) z = {CONV}(m, w3, w3b) v = {CONV}(m, w4, w4b) }}",
        convs("w1", "w2", "w3", "w4"),
    ),
} | {name: embedded(name) for name in EMBEDDED}
TARGETS = tuple(name if isa == "any" else f"{name}@{isa}" for name in builtin_names() for isa in ISAS)


# ---- cases -----------------------------------------------------------------------------------------------------------


def cases(target: str, subject: str) -> dict[str, str]:
    """Return the texts of a subject on a target, by the names of their files."""
    elsewhere = _elsewhere(target, subject)
    groups: dict[str, list[str]] = {}
    for option, text in _told(target, subject).items():
        if elsewhere.get(option) != text:
            groups.setdefault(text, []).append(option)
    return {
        f"{target}/{subject}.{options[0]}.txt": f"options: {' '.join(options)}\n{text}"
        for text, options in groups.items()
    }


@cache
def every_case() -> dict[str, str]:
    """Return the texts of all cases, by the names of their files."""
    found: dict[str, str] = {}
    for target in TARGETS:
        for subject in SUBJECTS:
            if subject not in EMBEDDED or "@" not in target:
                found |= cases(target, subject)
    return found


def taken_apart(name: str) -> tuple[str, str, str]:
    """Return target, subject and option of a file.

    >>> taken_apart("ort-cpu@vnni/conv.w8a8.txt")
    ('ort-cpu@vnni', 'conv', 'w8a8')
    """
    target, _, file = name.partition("/")
    subject, option, _ = file.split(".")
    return target, subject, option


def rewrite() -> None:
    """Write the files of all cases, and remove those that no case has."""
    for name in set(kept()) - set(every_case()):
        (FOLDER / name).unlink()
    for name, text in every_case().items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")


def kept() -> list[str]:
    """Return the names of the files there are."""
    return sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())


def _elsewhere(target: str, subject: str) -> Mapping[str, str]:
    """Return the texts by option that need no file, since another target has them."""
    base, isa = split_variant(target)
    if isa != "any":
        return _told(base, subject)
    first = _told(TARGETS[0], subject) if target != TARGETS[0] else {}
    return {option: text for option, text in first.items() if option == "float"}


@cache
def _told(target: str, subject: str) -> dict[str, str]:
    """Return the text of every option of a subject."""
    options = options_of(units(target, subject), SUBJECTS[subject].op)
    return {option: _plan(target, subject, option) + shown(lowered(target, subject, option)) for option in options}


@cache
def lowered(target: str, subject: str, option: str) -> ir.Model:
    """Lower a subject with numbers made by hand."""
    return written(target, subject, _choices(units(target, subject), SUBJECTS[subject].op, option))


def written(target: str, subject: str, choices: Mapping[str, Option]) -> ir.Model:
    """Lower a subject with numbers made by hand, at choices of anybody's own."""
    model, space = _model(subject), units(target, subject)
    plan = Plan(target, "golden", choices)
    calibrated = Calibrated(model, space, find_target(target), NUMBERS)
    needs = calibrated.needs(plan)
    calibrated.known.tensors |= {name: _counted(name) for name in needs.tensors}
    calibrated.known.means |= {name: np.full(_size(model, name, axis), MEAN) for name, axis in needs.means.items()}
    return calibrated.lower(plan).model


@cache
def _model(subject: str) -> ir.Model:
    return SUBJECTS[subject].build()


@cache
def units(target: str, subject: str) -> Space:
    """Return the units of a subject on a target."""
    return make_space(_model(subject), find_target(target))


def options_of(space: Space, op: str) -> list[str]:
    """Return the options that layers of a kind have, or the names of whole plans."""
    if not op:
        return ["w8a8", "mixed"] if any(len(unit.options) > 1 for unit in space.units) else []
    own = [str(option) for unit in space.units if unit.layers[0].op == op for option in unit.options]
    return list(dict.fromkeys(["float", *own]))


def _choices(space: Space, op: str, option: str) -> Mapping[str, Option]:
    """Return the plan of that name; layers of other kinds stay float where the kind is given."""
    if option == "mixed":
        return dict(_mixed(space))
    if not op:
        menu = find_target(space.target).menu
        return uniform(space, menu[0] if menu else Option.parse(option)).choices
    wanted = Option.parse(option)
    return {unit.name: wanted for unit in space.units if unit.layers[0].op == op and wanted in unit.options}


def _mixed(space: Space) -> Iterator[tuple[str, Option]]:
    """Let every unit take the next wish that it has."""
    wishes = [Option.parse(wish) for wish in WISHES]
    for number, unit in enumerate(space.units):
        first = number % len(wishes)
        yield unit.name, next(wish for wish in wishes[first:] + wishes[:first] if wish in unit.options)


def _counted(tensor: str) -> Histogram:
    """Return the range that a tensor is said to have: its name decides which."""
    return Histogram.of(np.array(RANGES[crc32(tensor.encode()) % len(RANGES)], np.float32))


def _size(model: ir.Model, name: str, axis: int) -> int:
    """Return the size of a tensor along an axis."""
    value = next(value for value in (*model.graph.inputs, *_outputs(model.graph)) if value.name == name)
    assert value.shape is not None
    size = value.shape[axis]
    assert isinstance(size, int)
    return size


# ---- text ------------------------------------------------------------------------------------------------------------


def _plan(target: str, subject: str, option: str) -> str:
    """Write the options of a graph's units; a chain needs no more than the name of its option."""
    op, space = SUBJECTS[subject].op, units(target, subject)
    if op:
        return ""
    choices = _choices(space, op, option)
    return "".join(["plan:\n", *(f"  {choices.get(unit.name, Option())} {unit.name}\n" for unit in space.units)])


def shown(model: ir.Model) -> str:
    """Write a model as text."""
    imports = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(model.opset_imports.items()))
    lines = [f"opsets: {imports}", f"ir: {model.ir_version}"]
    lines += ["inputs:", *(f"  {_typed(value)}" for value in model.graph.inputs)]
    lines += ["outputs:", *(f"  {_typed(value)}" for value in model.graph.outputs)]
    lines += ["nodes:", *_nodes(model.graph, "  ")]
    lines += ["initialisers:", *_initialisers(model.graph, "  ")]
    return "\n".join(lines) + "\n"


def named_nodes(text: str) -> list[str]:
    """Return the names of the nodes in a text, in order.

    >>> named_nodes("nodes:\\n  x_q = QuantizeLinear(x, s, z)\\n  Conv_0: y = Conv(x_q, w)\\n")
    ['x_q', 'Conv_0']
    """
    return [found["name"] or found["outputs"] for found in map(_NODE.match, text.splitlines()) if found]


def _nodes(graph: ir.Graph, indent: str) -> Iterator[str]:
    """Write the nodes of a graph; below each, the bodies that it carries."""
    for node in graph:
        outputs = ", ".join(_name(value) for value in node.outputs)
        inputs = ", ".join(_name(value) for value in node.inputs)
        domain = f"{node.domain}." if node.domain else ""
        bodies = {a.name: a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH}
        plain = [_attribute(node, a) for a in node.attributes.values() if a.name not in bodies]
        attributes = f" {{{', '.join(sorted(plain))}}}" if plain else ""
        name = "" if node.name == outputs else f"{node.name}: "
        yield f"{indent}{name}{outputs} = {domain}{node.op_type}({inputs}){attributes}"
        for branch, body in sorted(bodies.items()):
            ends = ", ".join(_name(value) for value in body.outputs)
            yield f"{indent}  {branch} ({', '.join(_name(value) for value in body.inputs)}) => ({ends})"
            yield from _nodes(body, f"{indent}    ")
            yield from _initialisers(body, f"{indent}    ")


def _attribute(node: ir.Node, attribute: ir.Attr) -> str:
    """Write an attribute; floats have six digits, and a Cast names its type."""
    match attribute.type:
        case ir.AttributeType.INT if node.op_type == "Cast" and attribute.name == "to":
            value = ir.DataType(attribute.as_int()).name.lower()
        case ir.AttributeType.FLOAT:
            value = f"{attribute.as_float():g}"
        case ir.AttributeType.FLOATS:
            value = f"[{', '.join(f'{each:g}' for each in attribute.as_floats())}]"
        case ir.AttributeType.INTS:
            value = str(list(attribute.as_ints()))
        case ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            value = f"{tensor.dtype.name.lower()}{_dimensions(shape_of(tensor))}"
        case _:
            value = str(attribute.value)
    return f"{attribute.name} = {value}"


def _initialisers(graph: ir.Graph, indent: str) -> Iterator[str]:
    """Write the initialisers of a graph in their order."""
    for value in graph.initializers.values():
        number = _number(value)
        yield f"{indent}{_typed(value)}{f' = {number}' if number else ''}"


def _number(value: ir.Value) -> str:
    """Write the scale or zero point of an activation; nothing for any other tensor."""
    tensor = constant(value)
    if tensor is None or tensor.size != 1 or all(node.op_type != "QuantizeLinear" for node, _ in value.uses()):
        return ""
    number = tensor.numpy().item()
    return f"{number:.4g}" if isinstance(number, float) else str(number)


def _typed(value: ir.Value) -> str:
    kind = value.dtype.name.lower() if value.dtype is not None else "?"
    return f"{value.name} {kind}{_dimensions(value.shape)}"


def _dimensions(shape: Iterable[int | ir.SymbolicDim] | None) -> str:
    if shape is None:
        return "[?]"
    return f"[{', '.join(str(size) if isinstance(size, int) else size.value or '?' for size in shape)}]"


def _outputs(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from node.outputs


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else "-"
