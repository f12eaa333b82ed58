"""Every option of every target, on every kind of layer: it loads, and its runtime does what the simulation says."""

from pathlib import Path

import onnx_ir as ir
import pytest

from onnxmpq.api import quantize
from onnxmpq.artifacts import Option
from onnxmpq.options import VerifyOptions
from onnxmpq.targets import LayerRule, builtin_names
from onnxmpq.targets import target as find_target
from tests.graphs import feeds_for, layer_chain


def cases() -> list[tuple[str, LayerRule, Option]]:
    """Return target, rule and option for everything that any built-in target offers."""
    return [(name, rule, o) for name in builtin_names() for rule in find_target(name).layers for o in rule.options]


def label(case: tuple[str, LayerRule, Option]) -> str:
    """Name a case."""
    name, rule, option = case
    return f"{name}-{rule.op}{'-'.join(('', *rule.groupings))}-{option}"


@pytest.mark.parametrize("case", cases(), ids=label)
def test_an_offered_option_loads_and_runs_as_simulated(case: tuple[str, LayerRule, Option], tmp_path: Path) -> None:
    name, rule, option = case
    pytest.importorskip(find_target(name).runtime)
    grouping = rule.groupings[-1] if rule.groupings else "dense"
    rank = 3 if rule.op == "MatMul" and rule.weight_rank != 2 else 2
    model = layer_chain(rule.op, grouping, rank)
    result = quantize(
        ir.to_proto(model),
        feeds_for(model),
        output=tmp_path / "q.onnx",
        target=name,
        plan=option,
        verify=VerifyOptions(allow_slower=True, as_asked=True, speed_budget_s=0.0),
    )
    assert option in result.plan.choices.values()
    agreement = result.verdict["simulation"].value
    assert isinstance(agreement, float)
    assert agreement >= 40
    assert result.verdict["size"].ok
