"""What other packages add by entry points, each in one file: it is found by its name and does the whole way."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

import onnxmpq
from onnxmpq import registry
from onnxmpq.artifacts import Option, Plan, Unit
from onnxmpq.budgets.base import Budget, WholeFile
from onnxmpq.budgets.limits import parse_limits
from onnxmpq.carriers.base import Carried, Carrier, Pen, carrier
from onnxmpq.dialects.base import Activation, Dialect, IntegerBias, IslandInput, Written, dialect
from onnxmpq.errors import InfeasibleError, InputError, InternalError, RuntimeMissingError, VerifyError
from onnxmpq.filerules.base import Broken, FileRules, Rule
from onnxmpq.methods.study import Draft, Study
from onnxmpq.model.load import load
from onnxmpq.numerics.formats import CodeType
from onnxmpq.options import Constraints, MeasureOptions, Numbers, SearchOptions, VerifyOptions
from onnxmpq.registry import BUDGETS, CARRIERS, DIALECTS, FILE_RULES, METHODS, RUNTIMES, TARGETS
from onnxmpq.runtimes.base import Ability, KernelReport, Mode, Session, missing
from onnxmpq.runtimes.ort import OnnxRuntime
from onnxmpq.search.loop import Search
from onnxmpq.search.within import within
from onnxmpq.targets import names, parse_target, target
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace
from tests.asked import asked
from tests.graphs import feeds_for, from_text, layer_chain
from tests.small import MODELS, small_model

BOARD = """
schema = 2
extends = "generic"
name = "board"
title = "a board"

[limits]
highest_opset = 21

[[layers]]
op = "Conv"
options = ["w8a8"]

[[variants]]
name = "rev2"
title = "the second board"
soc = "b2"
runtime = "null"

[[variants.layers]]
op = "Conv"
options = ["w8a8", "w4a8"]
"""
MODEL, DATA = small_model(), MODELS / "digits_calibration.npz"
GENERIC = (Path(onnxmpq.__file__).parent / "targets" / "builtin" / "generic.toml").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Careful:
    """A runtime of another package: onnxruntime, of which neither kernels nor time are shown."""

    loaded: ClassVar[list[Mode]] = []
    name: ClassVar[str] = "careful"
    version: ClassVar[str] = "7"
    abilities: ClassVar[frozenset[Ability]] = frozenset(("run",))
    float_type: ClassVar[str] = "f32"

    def session(
        self, model: bytes | Path, *, mode: Mode, threads: int = 1, outputs: Sequence[str] | None = None
    ) -> Session:
        """Load a model in onnxruntime, and say so."""
        self.loaded.append(mode)
        return OnnxRuntime().session(model, mode=mode, threads=threads, outputs=outputs)

    def kernels(self, model: bytes | Path) -> KernelReport:
        """Refuse: it is not asked for what it cannot do."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Finest:
    """A method of another package: the finest option everywhere that the budgets allow."""

    name: ClassVar[str] = "finest"

    def propose(self, study: Study) -> Draft:
        """Choose by the number of bits alone."""
        table = study.table()
        costs = {variant: 1.0 / max(variant.option.weight_bits, 1) for variant in table.variants}
        solution = study.solve(study.problem(study.vector(costs)))
        return Draft((study.menu.choices(solution.choices),), (None,), (solution,))


class Coarse(Budget):
    """A budget of another package: how many units have weights of fewer than eight bits."""

    name: ClassVar[str] = "coarse"
    examples: ClassVar[str] = "coarse=3"
    shares: ClassVar[bool] = False

    def weight(self, unit: Unit, option: Option) -> int:
        """Count a unit whose weights have fewer than eight bits."""
        return int(0 < option.weight_bits < 8)


class Zipped(Budget):
    """A budget of another package: the bytes of the file once it is packed, of which little is known beforehand."""

    name: ClassVar[str] = "zipped"
    examples: ClassVar[str] = "zipped=100kB"
    shares: ClassVar[bool] = False
    whole: ClassVar[bool] = True
    guess: ClassVar[float] = 1.0

    def weight(self, unit: Unit, option: Option) -> int:
        """Guess from the bytes that a unit stores."""
        return int(self.guess * unit.cost(option).stored_bytes)

    def actual(self, file: WholeFile) -> int:
        """Pack the file."""
        return len(zlib.compress(file.path.read_bytes()))


class Altered(Budget):
    """A budget of another package that is measured: by how many points the metric changes, with no error counted."""

    name: ClassVar[str] = "altered"
    examples: ClassVar[str] = "altered=2"
    shares: ClassVar[bool] = False
    rows: ClassVar[bool] = False
    whole: ClassVar[bool] = True

    def actual(self, file: WholeFile) -> float:
        """Return the points."""
        return 100 * abs(file.fall[0])


class Turned(Carrier):
    """A carrier of another package: the sign is turned twice, -(-codes) * scale."""

    name: ClassVar[str] = "turned"

    def write(self, pen: Pen, carried: Carried) -> ir.Value:
        """Write four nodes for each layer that reads the weight."""
        value, channels = carried.value, carried.layer.channel_axes
        shape = [n if axis in channels else 1 for axis, n in enumerate(carried.quantised.codes.shape)]
        scale = pen.initializer(value, "scale", carried.quantised.scale.reshape(shape))
        found = pen.node("Cast", [carried.codes], f"{value.name}_cast", value, {"to": int(ir.DataType.FLOAT)})
        for _ in range(2):
            found = pen.node("Neg", [found], f"{value.name}_turned", value, {})
        return pen.narrowed(value, pen.node("Mul", [found, scale], f"{value.name}_mul", value, {}))


class Spelled(Dialect):
    """A dialect of another package: codes are turned back by what is computed, (codes - zero point) * scale."""

    name: ClassVar[str] = "spelled"

    def activation(self, pen: Pen, activation: Activation) -> Written:
        """Write a Q, Cast, Sub and Mul."""
        value, affine, name = activation.value, activation.affine, activation.name
        scale = pen.initializer(value, "scale", np.asarray(affine.scale, np.float32))
        zero = pen.initializer(value, "zero_point", np.asarray(affine.zero_point, activation.type.dtype))
        point = pen.initializer(value, "point", np.asarray(affine.zero_point, np.float32))
        quantise = ir.node("QuantizeLinear", [value, scale, zero], name=pen.fresh(f"{name}_q"))
        cast = ir.node("Cast", quantise.outputs, {"to": int(ir.DataType.FLOAT)}, name=pen.fresh(f"{name}_cast"))
        shifted = ir.node("Sub", [*cast.outputs, point], name=pen.fresh(f"{name}_shifted"))
        scaled = ir.node("Mul", [*shifted.outputs, scale], name=pen.fresh(f"{name}_scaled"))
        nodes = [quantise, cast, shifted, scaled]
        for node in nodes:
            kind = activation.type.onnx if node is quantise else ir.DataType.FLOAT
            node.outputs[0].name, node.outputs[0].shape = node.name, value.shape
            node.outputs[0].type = ir.TensorType(kind)
        pen.behind(value, nodes)
        return Written(quantise.outputs[0], scaled.outputs[0])

    def island(self, pen: Pen, activation: Activation, codes: ir.Value, island: IslandInput) -> ir.Value:
        """Write a Cast, Sub and Mul for one layer."""
        value, affine, name, node = activation.value, activation.affine, activation.name, island.node
        scale = pen.initializer(value, "scale", np.asarray(affine.scale, np.float32))
        point = pen.initializer(value, "point", np.asarray(affine.zero_point, np.float32))
        cast = pen.node("Cast", [codes], f"{name}_own", value, {"to": int(ir.DataType.FLOAT)}, before=node)
        shifted = pen.node("Sub", [cast, point], f"{name}_own", value, {}, before=node)
        return pen.node("Mul", [shifted, scale], f"{name}_own", value, {}, before=node)

    def bias(self, pen: Pen, bias: IntegerBias) -> ir.Value:
        """Write a Cast and Mul."""
        value, node = bias.value, bias.node
        codes, scale = (pen.initializer(value, "bias", array) for array in (bias.codes, bias.scale))
        cast = pen.node("Cast", [codes], f"{value.name}_cast", value, {"to": int(ir.DataType.FLOAT)}, before=node)
        return pen.node("Mul", [cast, scale], f"{value.name}_mul", value, {}, before=node)

    def activation_bytes(self, kind: CodeType) -> int:
        """Count the zero point twice: as a code and as a number."""
        return super().activation_bytes(kind) + 4

    def island_bytes(self, kind: CodeType, channels: int) -> int:
        """Count a scale and a zero point, both numbers."""
        return 8


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Install entry points of other packages for a while."""
    entries: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry for entry in entries if entry.group == group])
    yield entries
    for known in (BUDGETS, CARRIERS, DIALECTS, FILE_RULES, METHODS, RUNTIMES, TARGETS):
        known.forget()


def install(entries: list[EntryPoint], known: registry.Registry, name: str, home: str) -> None:
    entries.append(EntryPoint(name, home, known.group))
    known.forget()


def samples() -> dict[str, np.ndarray]:
    with np.load(DATA) as data:
        return {name: data[name][:16] for name in data.files}


def elsewhere(folder: Path, runtime: str) -> str:
    """Write a target whose files a certain runtime runs."""
    path = folder / f"{runtime}.toml"
    path.write_text(GENERIC.replace('runtime = "onnxruntime-exact"', f'runtime = "{runtime}"'), "utf-8")
    return str(path)


def test_a_runtime_from_outside_loads_and_runs_what_is_written(installed: list[EntryPoint], tmp_path: Path) -> None:
    install(installed, RUNTIMES, "careful", f"{__name__}:Careful")
    Careful.loaded.clear()
    result = onnxmpq.quantize(MODEL, samples(), output=tmp_path / "q.onnx", target=elsewhere(tmp_path, "careful"))
    assert "deployed" in Careful.loaded
    assert result.verdict.runtime == "careful 7"
    assert result.verdict["loads"].ok is True
    assert result.verdict["simulation"].ok is True
    assert (result.verdict["kernels"].value, result.verdict["speed"].value) == (None, None)


def test_null_runs_nothing_and_says_so(tmp_path: Path) -> None:
    result = onnxmpq.quantize(MODEL, samples(), output=tmp_path / "q.onnx", target=elsewhere(tmp_path, "null"))
    verdict = result.verdict
    assert [check.name for check in verdict.checks if check.ok is True] == ["size", "processors"]
    for name in ("loads", "simulation", "kernels", "speed"):
        assert verdict[name].ok is None
        assert "not run here" in verdict[name].detail
    assert isinstance(verdict["sqnr"].value, float)
    assert verdict["sqnr"].value > 20


def test_a_target_names_a_runtime_that_there_is() -> None:
    with pytest.raises(InputError, match=r"'runtime' is 'nul'; allowed: 'null', .*Did you mean 'null'"):
        parse_target(GENERIC.replace('runtime = "onnxruntime-exact"', 'runtime = "nul"'), "mine")


# ---- proof -----------------------------------------------------------------------------------------------------------


class NoPools(FileRules):
    """An engine that wants no pools."""

    name: ClassVar[str] = "no-pools"
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("no-pool", "There is no pool.", "its manual"),
        Rule("named", "Every node has a name.", "its manual"),
    )

    def check(self, model: ir.Model) -> Iterator[Broken]:
        """Yield every pool."""
        for node in model.graph:
            if node.op_type.endswith("Pool"):
                yield Broken(self.rules[0], node.name or "", f"a {node.op_type}")


def with_rules(folder: Path, **keys: str) -> str:
    """Write a target that has these keys."""
    path = folder / "ruled.toml"
    told = "".join(f'{key} = "{value}"\n' for key, value in keys.items())
    path.write_text(f'schema = 2\nextends = "generic"\nname = "ruled"\n{told}', "utf-8")
    return str(path)


def test_rules_from_outside_are_checked_on_the_file(installed: list[EntryPoint], tmp_path: Path) -> None:
    install(installed, FILE_RULES, "no-pools", f"{__name__}:NoPools")
    ruled = with_rules(tmp_path, rules="no-pools", runtime="null", proof="rules")
    with pytest.raises(
        VerifyError, match=r"rules is 1 of 2 \(expected all 2 rules of no-pools; no-pool at '\S+': a \w+"
    ):
        onnxmpq.quantize(MODEL, samples(), output=tmp_path / "q.onnx", target=ruled)
    assert not (tmp_path / "q.onnx").exists()


def test_a_file_that_keeps_the_rules_says_how_far_they_prove_it(
    installed: list[EntryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(installed, FILE_RULES, "no-pools", f"{__name__}:NoPools")
    monkeypatch.setattr(NoPools, "check", lambda self, model: iter(()))
    ruled = with_rules(tmp_path, rules="no-pools", runtime="null", proof="rules")
    verdict = onnxmpq.quantize(MODEL, samples(), output=tmp_path / "q.onnx", target=ruled).verdict
    assert (verdict["rules"].ok, verdict["rules"].value) == (True, "2 of 2")
    assert verdict["proof"].value == "rules"
    assert "not run in its runtime" in verdict["proof"].detail


def test_what_stands_in_for_a_runtime_proves_less(
    installed: list[EntryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(installed, RUNTIMES, "absent", f"{__name__}:Absent")
    with pytest.raises(RuntimeMissingError, match="absent is not installed"):
        onnxmpq.quantize(MODEL, samples(), output=tmp_path / "q.onnx", target=with_rules(tmp_path, runtime="absent"))
    standing = with_rules(tmp_path, runtime="absent", stand_in="null")
    verdict = onnxmpq.quantize(MODEL, samples(), output=tmp_path / "q.onnx", target=standing).verdict
    assert (verdict["proof"].value, verdict["loads"].ok) == ("simulated", None)
    assert "absent" in verdict["proof"].detail


class Absent:
    """A runtime that is not installed."""

    def __init__(self) -> None:
        """Say so."""
        raise missing("absent", "pip install absent")


def test_a_target_stands_on_known_names() -> None:
    text = GENERIC.replace("schema = 1", "schema = 2").replace("integer_kernels", 'stand_in = "nul"\ninteger_kernels')
    with pytest.raises(InputError, match=r"'stand_in' is 'nul'; allowed: 'null'"):
        parse_target(text, "mine")
    with pytest.raises(InputError, match=r"'proof' is 'seen'; allowed: 'run', 'emulated'"):
        parse_target(text.replace('stand_in = "nul"', 'proof = "seen"'), "mine")


def test_a_target_from_outside_with_a_variant_is_found(
    installed: list[EntryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "boards"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "board.toml").write_text(BOARD, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    install(installed, TARGETS, "board", "boards:board.toml")
    assert "board" in names()
    found, newer = target("board"), target("board@rev2")
    assert (found.name, newer.name, newer.title) == ("board", "board@rev2", "the second board")
    assert (found.runtime, newer.runtime) == ("onnxruntime-exact", "null")
    assert (found.limits.highest_opset, found.limits.lowest_opset) == (21, target("generic").limits.lowest_opset)
    assert [str(option) for option in found.layers[0].options] == ["w8a8"]
    assert [str(option) for option in newer.layers[0].options] == ["w8a8", "w4a8"]
    assert newer.layers[1:] == found.layers
    assert [rule.op for rule in found.layers[1:]] == [rule.op for rule in target("generic").layers]
    assert not any(option.weight_bits == 2 for rule in found.layers for option in rule.options)  # above opset 21
    with pytest.raises(InputError, match=r"no variant '@rev3'. Known: any, vnni, rev2. Did you mean 'rev2'"):
        target("board@rev3")
    for name, option in (("board", "w8a8"), ("board@rev2", "w4a8")):
        result = onnxmpq.quantize(
            MODEL,
            samples(),
            output=tmp_path / f"{option}.onnx",
            target=name,
            plan=option,
            verify=VerifyOptions(as_asked=True),
        )
        assert result.plan.target == name
        assert {str(taken) for unit, taken in result.plan.choices.items() if "Conv" in unit} == {option}
        assert (result.verdict["speed"].value is None) == (name == "board@rev2")


def test_a_method_from_outside_makes_a_plan(installed: list[EntryPoint], tmp_path: Path) -> None:
    install(installed, METHODS, "finest", f"{__name__}:Finest")
    result = onnxmpq.quantize(
        MODEL,
        samples(),
        output=tmp_path / "q.onnx",
        budget=["size=60%"],
        search=SearchOptions(method="finest", effort="quick"),
    )
    assert result.plan.method == "finest"
    assert result.file_bytes <= 0.6 * result.float_file_bytes


def test_a_budget_from_outside_is_kept(installed: list[EntryPoint], tmp_path: Path) -> None:
    install(installed, BUDGETS, "coarse", f"{__name__}:Coarse")
    given = {"method": "local", "effort": "quick", "overwrite": True, "options": ["w8a8", "w4a8"]}

    def coarse(*budget: str) -> int:
        result = onnxmpq.quantize(MODEL, samples(), **asked(output=tmp_path / "q.onnx", budget=budget, **given))
        return sum(0 < option.weight_bits < 8 for option in result.plan.choices.values())

    assert coarse("size=22%") > 3
    assert 0 < coarse("size=27%", "coarse=3") <= 3
    with pytest.raises(InfeasibleError, match="size=24% cannot be met together with the others"):
        coarse("size=24%", "coarse=0")
    with pytest.raises(InputError, match="'coarse=5%' is not a budget: expected a number, for example coarse=3"):
        coarse("coarse=5%")


@contextmanager
def searching(folder: Path, *options: str) -> Iterator[Search]:
    """Open a search of the small model, with little effort; what was measured is kept."""
    asked_for = SearchOptions(effort="quick", options=options)
    with (
        workspace(prepare(MODEL, "ort-cpu"), samples(), Numbers(rounding="gptq")) as place,
        Search(
            Exporter(place),
            Plan("ort-cpu", "", {}),
            asked_for,
            MeasureOptions(store=folder / "m.store", blends=False),
            Constraints(),
        ) as found,
    ):
        yield found


def test_a_budget_from_outside_is_looked_up_in_files(
    installed: list[EntryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(installed, BUDGETS, "zipped", f"{__name__}:Zipped")

    def packed(*budget: str) -> float:
        with searching(tmp_path, "w8a8", "w4a8") as search:
            decision = within(search, parse_limits(budget))
            written = search.whole(decision.choices).path.read_bytes()
        assert len(zlib.compress(written)) <= parse_limits(budget)[0].amount < len(written)
        return decision.least.value

    losses = {}
    for guess in (0.8, 1.0, 1.15, 2.0):  # what units store, taken for too little and for far too much
        monkeypatch.setattr(Zipped, "guess", guess)
        losses[guess] = packed("zipped=35000")
    assert max(losses.values()) <= 1.5 * min(losses.values()) < packed("zipped=26500")
    packed("zipped=31000", "size=25%")
    with pytest.raises(InfeasibleError, match=r"zipped=1000 cannot be met: the least is"):
        packed("zipped=1000")


def test_the_smallest_file_is_found_for_a_measured_budget_from_outside(
    installed: list[EntryPoint], tmp_path: Path
) -> None:
    install(installed, BUDGETS, "altered", f"{__name__}:Altered")
    with searching(tmp_path, "w8a8", "w2a8") as search:
        loose, tight = (within(search, parse_limits([f"altered={points}"])) for points in (100, 2))
        sizes = [search.whole(decision.choices).size for decision in (loose, tight)]
        assert sizes[0] < sizes[1]
        assert "It takes 0." in tight.notes
        with pytest.raises(
            InfeasibleError, match=r"is within altered=0\. .* It takes \d+\. Offer more precise options"
        ):
            within(search, parse_limits(["altered=0", "size=21%"]))


def test_a_carrier_from_outside_is_written(installed: list[EntryPoint], tmp_path: Path) -> None:
    install(installed, CARRIERS, "turned", f"{__name__}:Turned")
    carrier.cache_clear()
    text = (GENERIC.replace('op = "Gemm"', 'op = "Gemm"\nweight_only = { 8 = "turned" }', 1)).replace(
        'name = "generic"', 'name = "mine"'
    )
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    w = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    model = from_text("g (float[n, 16] x) => (float[n, 32] y) { y = Gemm(x, w) }", {"w": w})
    feeds = [{"x": np.random.default_rng(k).normal(size=(1, 16)).astype(np.float32)} for k in range(4)]
    given = {"target": str(path), "option": "w8", "as_asked": True, "speed_budget_s": 0.0}
    result = onnxmpq.quantize(ir.to_proto(model), feeds, **asked(output=tmp_path / "q.onnx", **given))
    assert [node.op_type for node in load(result.path).model.graph] == ["Cast", "Neg", "Neg", "Mul", "Gemm"]
    assert isinstance(result.verdict["sqnr"].value, float)
    assert result.verdict["sqnr"].value > 40
    assert result.verdict["size"].value == 16 * 32 + 4 * 32


SPEAKING = """
schema = 2
extends = "generic"
name = "mine"
title = "t"
dialect = "{dialect}"
islands = true

[[layers]]
op = "Gemm"
options = ["w8a8", "w4a8"]
readers = "all"
bias = "int32"
"""


def speaking(folder: Path, written: str) -> str:
    """Write a target whose files are written in a certain dialect."""
    path = folder / f"{written}.toml"
    path.write_text(SPEAKING.format(dialect=written), "utf-8")
    return str(path)


def test_a_dialect_from_outside_writes_activations_islands_and_biases(
    installed: list[EntryPoint], tmp_path: Path
) -> None:
    install(installed, DIALECTS, "spelled", f"{__name__}:Spelled")
    g = np.random.default_rng(0)
    weights = {name: g.normal(size=(16, 32)).astype(np.float32) for name in ("v", "w")}
    weights["b"] = g.normal(size=32).astype(np.float32)
    text = "g (float[n, 16] x) => (float[n, 32] y, float[n, 32] z) { y = Gemm(x, w, b) z = Gemm(x, v) }"
    feeds = [{"x": np.random.default_rng(k).normal(size=(1, 16)).astype(np.float32)} for k in range(4)]
    outputs = []
    for name in ("qdq", "spelled"):
        given = {"option": "w8a8", "exclude": ["Gemm_1"], "as_asked": True, "speed_budget_s": 0.0}
        given |= {"target": speaking(tmp_path, name), "output": tmp_path / f"{name}.onnx"}
        result = onnxmpq.quantize(ir.to_proto(from_text(text, weights)), feeds, **asked(**given))
        session = OnnxRuntime().session(result.path, mode="literal")
        outputs.append([session.run(feed) for feed in feeds])
        assert result.verdict.ok, result.verdict
        assert result.verdict["simulation"].ok is True
        assert result.verdict["size"].ok is True
    nodes = [node.op_type for node in load(result.path).model.graph]
    back = ["Cast", "Sub", "Mul"]
    assert sorted(nodes) == sorted(["QuantizeLinear", *back, *back, "Cast", "Mul", "DequantizeLinear", "Gemm", "Gemm"])
    for one, other in zip(*outputs, strict=True):
        np.testing.assert_array_equal(one["y"], other["y"])
        np.testing.assert_array_equal(one["z"], other["z"])


def test_a_search_sees_the_same_losses_in_every_dialect(installed: list[EntryPoint], tmp_path: Path) -> None:
    install(installed, DIALECTS, "spelled", f"{__name__}:Spelled")
    model, found = layer_chain("Gemm"), []
    for name in ("qdq", "spelled"):
        given = {"method": "local", "effort": "quick", "budget": ["bits=6"], "allow_slower": True}
        given |= {"target": speaking(tmp_path, name), "output": tmp_path / f"{name}.onnx", "speed_budget_s": 0.0}
        result = onnxmpq.quantize(ir.to_proto(model), feeds_for(model), **asked(**given))
        assert result.decision is not None
        found.append((result.plan.choices, result.decision.loss.value))
    assert found[0] == found[1]
    assert set(map(str, result.plan.choices.values())) == {"w8a8", "w4a8"}
    assert {"QuantizeLinear", "Sub"} <= {node.op_type for node in load(result.path).model.graph}


def test_a_dialect_of_a_target_is_one_that_there_is(installed: list[EntryPoint], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 6: 'dialect' is 'qdk'; allowed: 'qdq', 'quant'. Did you mean 'qdq'"):
        target(speaking(tmp_path, "qdk"))
    install(installed, DIALECTS, "spelled", f"{__name__}:Spelled")
    path = speaking(tmp_path, "qdq")
    with Path(path).open("a", encoding="utf-8") as file:
        file.write('[[variants]]\nname = "other"\ndialect = "spelled"\n')
    assert (target(path).dialect, target(f"{path}@other").dialect) == ("qdq", "spelled")
    assert dialect("spelled").name == "spelled"
    with pytest.raises(InputError, match="'dialect' is a key of schema 2"):
        parse_target(GENERIC.replace("schema = 1", 'schema = 1\ndialect = "qdq"'), "mine")


def test_two_of_one_name_are_an_error_that_names_both(installed: list[EntryPoint]) -> None:
    install(installed, RUNTIMES, "openvino", "other.package:Engine")
    with pytest.raises(InternalError, match=r"Two runtimes are called 'openvino': .*OpenVino and other.package:Engine"):
        RUNTIMES.names()


def test_what_is_not_where_it_is_said_to_be_is_refused(installed: list[EntryPoint]) -> None:
    install(installed, RUNTIMES, "lost", "onnxmpq.runtimes.ort:Nothing")
    with pytest.raises(InternalError, match=r"The runtime 'lost' is said to be onnxmpq.runtimes.ort:Nothing"):
        RUNTIMES.load("lost")
