"""Every option of every target, on every kind of layer: it loads, and its runtime does what the simulation says."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxmpq.api import quantize
from onnxmpq.artifacts import Option
from onnxmpq.methods.uniform import uniform
from onnxmpq.options import GraphOptions, Numbers, VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.targets import LayerRule, builtin_names
from onnxmpq.targets import target as find_target
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import Workspace
from tests.graphs import feeds_for, layer_chain
from tests.kept import Kept
from tests.needed import need_runtime

_FORMS = ("w8a16", "w4a8", "a8", "a16", "w8")
"""One option of every form, for emulators, which are slow."""


def cases() -> list[tuple[str, LayerRule, Option]]:
    """Return target, rule and option for everything that a target offers: on an emulator, for one of every form."""
    return [
        (name, rule, option)
        for name in builtin_names()
        for rule in find_target(name).layers
        for option in rule.options
        if find_target(name).proof != "emulated" or str(option) in _FORMS
    ]


def label(case: tuple[str, LayerRule, Option]) -> str:
    """Name a case."""
    name, rule, option = case
    return f"{name}-{rule.op}{'-'.join(('', *rule.groupings))}-{option}"


@pytest.fixture(scope="module")
def exporters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str, int, bool], Exporter]:
    """Prepare and calibrate each model once for a target, whatever its layers take then."""

    @cache
    def made(name: str, op: str, grouping: str, rank: int, wide: bool) -> Exporter:
        model = layer_chain(op, grouping, rank, wide=wide)
        prepared = prepare(ir.to_proto(model), name, extra_passes=passes_for(name))
        workspace = Workspace(prepared, feeds_for(model), Numbers(), tmp_path_factory.mktemp("option"))
        return Exporter(workspace, runtime=Kept(get_runtime(prepared.target.runtime, soc=prepared.target.soc)))

    return made


def passes_for(name: str) -> tuple[str, ...]:
    """Return what a chain of layers goes through before a target takes it."""
    return ("fix-shapes{sizes=n:1}",) if find_target(name).static_shapes else ()


def least_agreement(name: str) -> float:
    """Return what a chain of two layers agrees to, in dB: less where a machine rounds to neighbouring codes."""
    return 40.0 if find_target(name).rounds == "exactly" else 33.0


def model_of(rule: LayerRule) -> tuple[str, str, int]:
    """Return what chain of layers a rule is for."""
    grouping = rule.groupings[-1] if rule.groupings else "dense"
    return rule.op, grouping, 3 if rule.op == "MatMul" and rule.weight_rank != 2 else 2


@pytest.mark.parametrize("case", cases(), ids=label)
def test_an_offered_option_loads_and_runs_as_simulated(
    case: tuple[str, LayerRule, Option], exporters: Callable[[str, str, str, int, bool], Exporter]
) -> None:
    name, rule, option = case
    need_runtime(name)
    exporter = exporters(name, *model_of(rule), bool(option.block))
    plan = uniform(exporter.prepared.space, option)
    verdict = exporter.build(plan, "q.onnx").verdict
    assert option in plan.choices.values()
    agreement = verdict["simulation"].value
    assert isinstance(agreement, float)
    assert agreement >= least_agreement(name)
    assert verdict["size"].ok
    assert verdict.ok


@pytest.mark.parametrize("case", list({label(c).rpartition("-")[0]: c for c in cases()}.values()), ids=label)
def test_a_rule_holds_on_the_whole_way(case: tuple[str, LayerRule, Option], tmp_path: Path) -> None:
    """What is published of the last option of every rule is what was asked for."""
    name, rule, option = case
    need_runtime(name)
    model = layer_chain(*model_of(rule), wide=bool(option.block))
    result = quantize(
        ir.to_proto(model),
        feeds_for(model),
        output=tmp_path / "q.onnx",
        target=name,
        plan=option,
        graph=GraphOptions(passes=passes_for(name)),
        verify=VerifyOptions(allow_slower=True, as_asked=True, speed_budget_s=0.0),
    )
    assert option in result.plan.choices.values()
    agreement = result.verdict["simulation"].value
    assert isinstance(agreement, float)
    assert agreement >= least_agreement(name)
    assert result.verdict["size"].ok
