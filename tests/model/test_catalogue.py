"""Silence is not success: every pass is in the table, has tests and a line in the catalogue."""

import importlib
import pkgutil
from importlib.metadata import EntryPoint
from pathlib import Path

import onnx_ir as ir
import pytest

import onnxmpq_passes
from onnxmpq import registry
from onnxmpq.errors import InputError, InternalError
from onnxmpq.model import passes
from onnxmpq.model.passkit import Pass
from onnxmpq_passes import PASSES, RemoveIdentity

ROOT = Path(__file__).parents[2]


def test_every_class_of_a_pass_is_in_the_table() -> None:
    names = [module.name for module in pkgutil.iter_modules(onnxmpq_passes.__path__)]
    modules = [importlib.import_module(f"onnxmpq_passes.{name}") for name in names]
    classes = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Pass) and value.__module__ == module.__name__
    }
    assert classes == set(PASSES)


@pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)
def test_every_pass_has_tests_and_a_line_in_the_catalogue(kind: type[Pass]) -> None:
    file = kind.name.replace("-", "_")
    assert kind.__module__ == f"onnxmpq_passes.{file}"
    assert "FiveTests" in (ROOT / "tests" / "passes" / f"test_{file}.py").read_text("utf-8")
    assert f"| `{kind.name}` |" in (ROOT / "passes" / "README.md").read_text("utf-8")


def test_pipelines_name_passes_that_exist() -> None:
    folder = ROOT / "passes" / "onnxmpq_passes" / "pipelines"
    for file in folder.glob("*.toml"):
        assert passes.pipeline(file.stem).passes


def test_options_come_from_the_pipeline() -> None:
    specs = [step.spec() for step in passes.pipeline("normalise").passes]
    assert specs.index("convert-opset") < specs.index("lift-constants") < specs.index("fold-constants")
    assert passes.make_pass("convert-opset", minimum=21).spec() == "convert-opset{minimum=21}"
    assert passes.make_pass("remove-identity", keep=["a", "b"]) == RemoveIdentity(keep=("a", "b"))


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match=r"There is no pass 'fold-laundry'. Known: convert-opset"):
        passes.make_pass("fold-laundry")
    with pytest.raises(InputError, match=r"Pass 'convert-opset' has no option 'maximum'. Known: minimum"):
        passes.make_pass("convert-opset", maximum=3)
    with pytest.raises(InputError, match="There is no pipeline 'oil'"):
        passes.pipeline("oil")


class Clash(Pass):
    """A pass of somebody else with a name that is taken."""

    name = "remove-identity"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Do nothing."""
        return ir.passes.PassResult(model, modified=False)


class Stranger(Clash):
    """A pass of somebody else."""

    name = "stranger"


def _found(monkeypatch: pytest.MonkeyPatch, home: str) -> dict[str, type[Pass]]:
    entry = EntryPoint(name="entry", value=home, group=registry.PASSES.group)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == registry.PASSES.group else [])
    registry.PASSES.forget()
    passes.passes.cache_clear()
    try:
        return passes.passes()
    finally:
        registry.PASSES.forget()
        passes.passes.cache_clear()


def test_passes_of_other_distributions_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _found(monkeypatch, f"{__name__}:Stranger")["stranger"] is Stranger


def test_two_passes_of_one_name_are_an_error_that_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InternalError, match=r"'remove-identity': onnxmpq_passes.remove_identity and .*test_catalogue"):
        _found(monkeypatch, f"{__name__}:Clash")


def test_an_entry_point_that_is_no_pass_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InternalError, match=r"'entry' \(builtins:int\) is no onnxmpq.model.passkit.Pass"):
        _found(monkeypatch, "builtins:int")
