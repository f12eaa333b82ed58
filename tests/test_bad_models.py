"""Models that are broken, strange or hostile: one sentence each, or a file that holds."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.api import inspect, quantize
from onnxmpq.errors import InputError, InternalError
from onnxmpq.model.normalise import Normal
from onnxmpq.options import SearchOptions, VerifyOptions
from tests.processes import python

WEIGHT = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
FEEDS = {"x": np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)}
LOWEST = np.array([np.iinfo(np.int64).min])


def model(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """Read a graph; ``w`` is there."""
    made = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>' + text)
    weights = {"w": WEIGHT} | weights
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return made


def plain() -> onnx.ModelProto:
    """Return a model with nothing wrong."""
    return model("g (float[n, 64] x) => (float[n, 64] y) { h = MatMul(x, w) y = MatMul(h, w) }")


def with_node(operator: str, inputs: list[str]) -> Callable[[], onnx.ModelProto]:
    """Return a model with one node more, which nobody reads."""

    def made() -> onnx.ModelProto:
        broken = plain()
        broken.graph.node.append(helper.make_node(operator, inputs, ["more"]))
        return broken

    return made


def reference_outside() -> onnx.ModelProto:
    """Return a node that takes an attribute from a function, in the main graph."""
    broken = model("g (float[n, 64] x) => (float[n, 64] y) { y = Gemm<alpha = 1.0>(x, w) }")
    broken.graph.node[0].attribute[0].ref_attr_name = "outer"
    return broken


def body_is_missing() -> onnx.ModelProto:
    """Return an If whose branch is no graph."""
    broken = plain()
    node = helper.make_node("If", ["c"], ["more"])
    node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
    node.attribute.add(name="else_branch", type=onnx.AttributeProto.GRAPH)
    broken.graph.node.append(node)
    broken.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    return broken


def function_reads_outside() -> onnx.ModelProto:
    """Return a function that reads a value of the graph that calls it."""
    broken = model("g (float[n, 64] x) => (float[n, 64] y) { h = MatMul(x, w) y = mine.F(h) }")
    broken.opset_import.add(domain="mine", version=1)
    node = helper.make_node("Add", ["a", "h"], ["b"])
    broken.functions.append(helper.make_function("mine", "F", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
    return broken


def functions_that_multiply() -> onnx.ModelProto:
    """Return 23 functions, each of which calls the one before twice."""
    broken = model("g (float[n, 64] x) => (float[n, 64] y) { h = MatMul(x, w) y = mine.F22(h) }")
    broken.opset_import.add(domain="mine", version=1)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    for k in range(23):
        names = (("a", "c"), ("c", "b"))
        nodes = [helper.make_node(f"F{k - 1}", [i], [o], domain="mine") for i, o in names]
        nodes = nodes if k else [helper.make_node("Relu", ["a"], ["b"])]
        broken.functions.append(helper.make_function("mine", f"F{k}", ["a"], ["b"], nodes, opsets))
    return broken


def division() -> onnx.ModelProto:
    """Divide the smallest integer by -1."""
    text = "g (float[n, 64] x) => (float[n, 64] y) { q = Div(a, b) f = Cast<to = 1>(q) h = MatMul(x, w) y = Add(h, f) }"
    return model(text, a=LOWEST, b=np.array([-1]))


def cannot_run() -> onnx.ModelProto:
    """Reshape to more than there is."""
    text = "g (float[n, 64] x) => (float[n, k] y) { h = MatMul(x, w) s = Shape(h) t = Add(s, one) y = Reshape(h, t) }"
    return model(text, one=np.array([1, 1]))


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "Gather of one input": (with_node("Gather", ["w"]), r"\(Gather\) has 1 inputs, expected 2"),
    "BatchNormalization of one input": (with_node("BatchNormalization", ["h"]), "has 1 inputs, expected 5"),
    "Relu of none": (with_node("Relu", []), "has 0 inputs, expected 1"),
    "an input left out": (with_node("Gather", ["", "w"]), r"leaves out its input 0 \('data'\)"),
    "an attribute that is needed": (with_node("Cast", ["h"]), "lacks attribute 'to'"),
    "a body that is not there": (body_is_missing, "The float model does not load in onnxruntime"),
    "a reference outside functions": (reference_outside, "takes attribute 'alpha' from a function, and stands in none"),
    "a function that reads outside": (function_reads_outside, "reads 'h', which nothing produces"),
    "functions that multiply": (functions_that_multiply, "has 4,194,304 nodes; expected at most 1,000,000"),
    "a deadly division": (division, "divides the smallest int64 by -1, which has no result"),
    "a float model that cannot run": (cannot_run, "The float model does not run on the first sample: .*Reshape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_broken_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    made, told = REFUSED[name]
    with pytest.raises(InputError, match=told) as error:
        quantize(made(), FEEDS, output=tmp_path / "q.onnx", verify=VerifyOptions(speed_budget_s=0.0))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_names_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(plain().SerializeToString().replace(b"\x01h", b"\x01\xff"))
    with pytest.raises(InputError, match=r"'.*m\.onnx' holds a name that is not UTF-8"):
        inspect(file)


def test_names_that_are_not_utf_8_are_refused_in_bodies_too(tmp_path: Path) -> None:
    made = loop()
    made.graph.node[1].attribute[0].g.input[2].name = "inner_name"
    file = tmp_path / "m.onnx"
    file.write_bytes(made.SerializeToString().replace(b"inner_name", b"\xff" * 10))
    with pytest.raises(InputError, match=r"holds a name that is not UTF-8"):
        inspect(file)


def test_an_external_file_with_nul_in_its_name_is_refused(tmp_path: Path) -> None:
    broken = plain()
    tensor = broken.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="a\0b")
    (tmp_path / "m.onnx").write_bytes(broken.SerializeToString())
    with pytest.raises(InputError, match="outside its own folder, which is refused"):
        inspect(tmp_path / "m.onnx")


def untyped() -> onnx.ModelProto:
    """Return a model that does not say what its output is."""
    made = plain()
    made.graph.output[0].ClearField("type")
    return made


def declared(*sizes: int) -> Callable[[], onnx.ModelProto]:
    """Return a model that says that its output is something else than it gives."""

    def made() -> onnx.ModelProto:
        wrong = plain()
        dims = wrong.graph.output[0].type.tensor_type.shape.dim
        for dim, size in zip(dims, sizes, strict=False):
            dim.dim_value = size
        for size in sizes[len(dims) :]:
            dims.add().dim_value = size
        return wrong

    return made


def sequence(alone: bool = False) -> onnx.ModelProto:
    """Return a model with a sequence among its outputs."""
    made = model("g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) s = SequenceConstruct(y, y) }")
    if alone:
        del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    return made


def nothing() -> onnx.ModelProto:
    """Return a model with an optional output that is not there."""
    made = model("g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }")
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    made.graph.node.append(helper.make_node("Optional", [], ["s"], type=kind))
    made.graph.output.append(helper.make_value_info("s", helper.make_optional_type_proto(kind)))
    return made


def loop() -> onnx.ModelProto:
    """Return a loop whose body reads a weight and a value of the outer graph."""
    body = "(int64 i, bool c, float[4, 64] a) => (bool d, float[4, 64] z)"
    text = f"""g (float[4, 64] x) => (float[4, 64] y) {{ v = MatMul(x, w) y = Loop(n, , x)
               <body = b {body} {{ d = Identity(c) q = Add(a, v) z = MatMul(q, w) }}> }}"""
    return model(text, n=np.array(2))


STRANGE: dict[str, Callable[[], onnx.ModelProto]] = {
    "an output without a type": untyped,
    "an output of another batch": declared(7, 64),
    "an output of another size": declared(4, 63),
    "an output of another rank": declared(4, 64, 1),
    "a sequence": sequence,
    "nothing but a sequence": lambda: sequence(alone=True),
    "an optional output that is not there": nothing,
    "a loop that reads outside": loop,
    "weights that are all zero": lambda: model(
        "g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }", w=0 * WEIGHT
    ),
}


@pytest.mark.parametrize("searched", [False, True], ids=["uniform", "searched"])
@pytest.mark.parametrize("name", STRANGE)
def test_what_is_strange_gives_a_file_that_holds(name: str, searched: bool, tmp_path: Path) -> None:
    budget = ["size=60%"] if searched and name != "nothing but a sequence" else []
    result = quantize(
        STRANGE[name](),
        FEEDS,
        output=tmp_path / "q.onnx",
        budget=budget,
        search=SearchOptions(effort="quick"),
        verify=VerifyOptions(speed_budget_s=0.0),
    )
    assert result.verdict.ok
    assert result.verdict["sqnr"].value != -np.inf


def test_ten_thousand_nodes_are_named_in_one_sweep() -> None:
    made = model("g (float[n, 64] x) => (float[n, 64] y) { v0 = MatMul(x, w) }")
    for k in range(10_000):
        made.graph.node.append(helper.make_node("Relu", [f"v{k}"], [f"v{k + 1}"]))
    made.graph.node.append(helper.make_node("Identity", ["v10000"], ["y"]))
    assert inspect(made).units[0].name == "MatMul_0"


def test_what_a_stage_trips_over_is_the_models_fault_where_its_runtime_refuses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trip(*_: object, **__: object) -> Normal:
        raise InternalError("a stage tripped")

    monkeypatch.setattr("onnxmpq.workspace.prepare.normalise", trip)
    with pytest.raises(InternalError, match="a stage tripped"):
        inspect(plain())
    with pytest.raises(InputError, match=r"The model is broken: .*Nothing"):
        inspect(with_node("Nothing", ["h"])())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="commands are supervised on Linux")
@pytest.mark.parametrize("name", ["SIGFPE", "SIGSEGV", "SIGKILL", "SIGABRT"])
def test_a_death_in_native_code_is_told_and_loses_nothing(name: str, tmp_path: Path) -> None:
    """A runtime that is killed half-way through a search, as by a crash of its own or as memory runs out."""
    onnx.save(plain(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "s.npz", **FEEDS)  # type: ignore[arg-type]
    code = (
        "import onnxmpq.runtimes.ort as ort, onnxmpq.search.budgeted as search, os, signal\n"
        f"exec(compile('def die(*a, **k): os.kill(os.getpid(), signal.{name})', ort.__file__, 'exec'))\n"
        "real = search.within\n"
        "def decide(*a, **k):\n    real(*a, **k)\n    ort.OrtSession.run = die\n    ort.OrtSession.run(None)\n"
        "search.within = decide\nfrom onnxmpq.cli import entry; entry()"
    )
    given = ("quantize", "m.onnx", "-c", "s.npz", "-o", "q[red].onnx", "-b", "size=60%", "--effort", "quick", "-q")
    ended = python("-c", code, *given, folder=tmp_path)
    number = signal.Signals[name]
    assert ended.returncode == (137 if number == signal.SIGKILL else 2), ended.stderr
    assert "Traceback" not in ended.stderr
    if number == signal.SIGKILL:
        assert "The process was killed, most likely as memory ran out" in ended.stderr
    else:
        assert f"onnxruntime crashed ({name})" in ended.stderr
    assert "q[red].store': the same command with --store" in ended.stderr  # a name is no markup
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "s.npz", "q[red].store"}
