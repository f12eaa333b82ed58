"""Every method on parts of both embedded models, and methods by name."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from onnxmpq import registry
from onnxmpq.artifacts import Option
from onnxmpq.budgets.limits import parse_limits
from onnxmpq.errors import InputError, InternalError
from onnxmpq.methods import named
from onnxmpq.methods.clado import Clado
from onnxmpq.methods.gram import Gram
from onnxmpq.methods.models import EXACTLY, Models, plans_of, proved
from onnxmpq.methods.rows import make_rows
from onnxmpq.methods.sqnr import Sqnr
from onnxmpq.methods.study import Menu, Study
from onnxmpq.options import MeasureOptions
from onnxmpq.registry import METHODS
from onnxmpq.sensitivity.engine import Engine
from tests.methods.fakes import Given
from tests.opened import engine_on
from tests.small import MODELS, part

OPTIONS = (Option(8, 8), Option(2, 8))


@pytest.fixture(scope="module", params=["digits_conv", "digits_attention"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Open an engine on a part of an embedded model with eight images."""
    with np.load(MODELS / "digits_calibration.npz") as data:
        feeds: list[dict[str, Any]] = [{"image": data["image"][i : i + 1]} for i in range(8)]
    with engine_on(part(request.param), feeds, MeasureOptions(batch=8)) as opened:
        yield opened


def study_of(engine: Engine, *limits: str, every: int = 1) -> Study:
    """Open a study over float and two options for one in ``every`` units; the others have the first."""
    units = engine.space.units
    offered = tuple(tuple(o for o in unit.options if o.is_float or o in OPTIONS) for unit in units)
    menu = Menu(units, tuple(o if place % every == 0 else OPTIONS[:1] for place, o in enumerate(offered)))
    stored = sum(unit.cost(Option()).stored_bytes for unit in units)
    of_float = engine.space.float_bytes
    facts = Given(engine.space, source_bytes=of_float, overhead=of_float - stored)
    return Study(engine, menu, make_rows(parse_limits(limits), menu, facts), effort="quick")


@pytest.mark.parametrize("name", METHODS.own)
def test_every_method_gives_plans_within_the_budgets(engine: Engine, name: str) -> None:
    every = 4 if name == "clado" else 1  # all pairs of all units take long
    study = study_of(engine, "size=30%", "bops=20%", every=every)
    draft = named.method(name).propose(study)
    assert draft.plans
    assert all(study.feasible(plan) for plan in draft.plans)
    assert len(draft.predicted) == len(draft.plans)
    assert all(np.isfinite(found.value) for found in study.losses(draft.plans))
    assert study.runs > 0


def test_the_softened_plan_has_the_proof_of_the_quadratic_model(engine: Engine) -> None:
    study = study_of(engine, "size=30%")
    models = Models.of(study, study.table(), study.menu.options)
    exact, _, softened = plans_of(study, models, EXACTLY)
    for plan in (exact, softened):
        assert plan.proof is not None
        assert study.feasible(plan.choices)
        assert plan.predicted == pytest.approx(models.value(study, plan.choices), rel=1e-6)
        assert plan.proof.objective == plan.predicted
        assert plan.proof.choices == study.menu.index(plan.choices)
        assert plan.proof.usage == pytest.approx(study.usage(plan.choices))
    assert exact.proof is not None
    assert softened.proof is not None
    assert softened.proof.bound == exact.proof.bound <= exact.proof.objective <= softened.proof.objective + 1e-9
    assert softened.proof.status == ("optimal" if softened.proof.gap <= EXACTLY else "gap")


def test_every_plan_of_gram_is_told_with_a_proof(engine: Engine) -> None:
    study = study_of(engine, "size=30%")
    draft = Gram().propose(study)
    bounds = set()
    for plan, proof in zip(draft.plans, draft.proofs, strict=True):
        assert proof is not None
        assert proof.choices == study.menu.index(plan)
        assert proof.objective >= proof.bound - 1e-9
        bounds.add(proof.bound)
    assert len(draft.plans) > 3
    assert len(bounds) < len(draft.plans), "most have that of the quadratic model's best plan"


def test_an_option_that_a_model_does_not_know_has_no_proof(engine: Engine) -> None:
    study = study_of(engine, "size=30%")
    models = Models.of(study, study.table(), study.menu.options, superposed=False)
    best, *_ = plans_of(study, models, EXACTLY)
    fewer = replace(models, near=(study.menu.options[0][:1], *models.near[1:]))
    other = {**best.choices, study.menu.units[0].name: study.menu.options[0][-1]}
    assert proved(study, models, best, other) is not None
    assert proved(study, fewer, best, other) is None


def test_importing_the_table_loads_no_method() -> None:
    assert all(isinstance(home, str) for home in METHODS.own.values())


@pytest.mark.parametrize("name", METHODS.own)
def test_every_method_is_called_by_its_name(name: str) -> None:
    assert named.method(name).name == name


def test_options_of_a_method_are_its_fields() -> None:
    assert named.method("clado", psd=False) == Clado(psd=False)
    assert named.method("sqnr", search="interpolation", most=0.1) == Sqnr("interpolation", 0.1)


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"no method 'clad'.*Did you mean 'clado'"):
        named.method("clad")


def test_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"'clado' has no option 'psdd'.*Did you mean 'psd'"):
        named.method("clado", psdd=True)
    with pytest.raises(InputError, match="Known: none"):
        named.method("local", x=1)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Install entry points of other packages for a while."""
    installed: list[EntryPoint] = []

    def found(group: str) -> list[EntryPoint]:
        return [entry for entry in installed if entry.group == group]

    monkeypatch.setattr(registry, "entry_points", found)
    METHODS.forget()
    yield installed
    METHODS.forget()


def test_a_method_of_another_package_is_found(entries: list[EntryPoint]) -> None:
    entries.append(EntryPoint("mine", "onnxmpq.methods.local:Local", METHODS.group))
    assert named.method("mine").name == "local"


def test_two_methods_of_one_name_are_an_error_that_names_both(entries: list[EntryPoint]) -> None:
    entries.append(EntryPoint("clado", "other.package:Clado", METHODS.group))
    with pytest.raises(InternalError, match=r"onnxmpq\.methods.clado:Clado and other\.package:Clado"):
        named.method("clado")


def test_an_entry_that_is_no_method_is_refused(entries: list[EntryPoint]) -> None:
    entries.append(EntryPoint("mine", "onnxmpq.artifacts:Option", METHODS.group))
    with pytest.raises(InternalError, match="is no data class with a 'propose'"):
        named.method("mine")
