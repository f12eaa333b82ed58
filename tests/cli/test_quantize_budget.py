"""``onnxmpq quantize`` with budgets: what it prints, what it refuses, and the code it ends with."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxmpq.artifacts import Plan
from onnxmpq.cli import cli
from onnxmpq.errors import InfeasibleError
from onnxmpq.sensitivity.stored.store import Store
from onnxmpq.sensitivity.workers.judge import Results
from onnxmpq.sensitivity.workers.worker import Job, Worker
from tests.cli.running import MODEL, refused, run

SEARCH = ("quantize", MODEL, "-c", "s.npz", "-o", "q.onnx", "--allow-slower", "--overwrite", "-q")
FAST = ("--effort", "quick", "--tie", "stage.*", "--store", "q.store", "--no-blends")


def test_plan_loss_proof_and_search_are_shown(desk: Path) -> None:
    arguments = ("--no-blends", "--store", "q.store", "-b", "size=18%", "-b", "bops=25%", "--method", "clado-star")
    shown = run(*SEARCH, "--effort", "quick", *arguments).stdout
    for word in ("plan  ", "at w2a8", "loss  ", "measured", "predicted (ratio", "uniform w2a8: "):
        assert word in shown
    for word in ("proof  ", "optimal: objective", "none below", "gap 0.0", "search  ", "runs of the whole model"):
        assert word in shown
    assert (desk / "q.onnx").stat().st_size <= 0.18 * Path(MODEL).stat().st_size


def test_json_has_the_decision(desk: Path) -> None:
    data = json.loads(run(*SEARCH, *FAST, "-b", "size=27%", "--json").stdout)
    decision = data["decision"]
    assert decision["loss"] > 0
    assert decision["full_runs"] > 0
    assert {"predicted", "proof", "uniforms", "agreement", "chosen"} <= set(decision)
    assert data["plan"]["ranges"]["rounding"] == "sequential"
    assert data["size_share"] <= 0.27


def test_without_a_budget_nothing_is_searched(desk: Path) -> None:
    data = json.loads(run(*SEARCH, "--json").stdout)
    assert data["decision"] is None
    assert data["plan"]["method"] == "uniform"
    assert data["plan"]["ranges"]["rounding"] == "nearest"


def test_rounding_is_as_told(desk: Path) -> None:
    run(*SEARCH, "--effort", "quick", "--tie", ".*", "-b", "size=50%", "--rounding", "nearest", "--samples", "2")
    assert Plan.read(desk / "q.plan.json").ranges["rounding"] == "nearest"


def test_decisions_by_hand_and_the_menu_hold(desk: Path) -> None:
    more = ("--options", "w4a8, w2a8", "--keep", "op:Gemm=w8a8", "--exclude", "stem.*")
    data = json.loads(run(*SEARCH, *FAST, *more, "-b", "size=30%", "--json").stdout)
    choices = data["plan"]["choices"]
    assert choices["head/Gemm"] == "w8a8"
    assert "stem.conv/Conv" not in choices
    assert len({option for unit, option in choices.items() if unit.startswith("stage")}) == 1


def test_decisions_by_hand_hold_without_a_budget(desk: Path) -> None:
    decisions = ("--keep", "op:Gemm=w8", "--exclude", "stem.*", "--tie", "stage.*", "--option", "w4a8")
    choices = json.loads(run(*SEARCH, *decisions, "--json").stdout)["plan"]["choices"]
    assert choices["head/Gemm"] == "w8"
    assert choices["stem.conv/Conv"] == "float"
    assert {option for unit, option in choices.items() if unit.startswith("stage")} == {"w4a8"}
    assert Plan.read(desk / "q.plan.json").to_json()["choices"] == choices


def test_options_of_a_method_are_given(desk: Path) -> None:
    arguments = (*SEARCH, *FAST, "-b", "size=27%", "--json", "--method")
    for method, option in (("sqnr", "search=sequential"), ("local", "")):
        data = json.loads(run(*arguments, method, *(("-m", option) if option else ())).stdout)
        assert data["plan"]["method"] == method


def test_an_impossible_budget_ends_with_3_and_the_least(desk: Path) -> None:
    error = refused(*SEARCH, *FAST, "-b", "size=3%")
    assert isinstance(error, InfeasibleError)
    assert error.exit_code == 3
    assert "size=3% cannot be met: the least is " in str(error)
    assert "% of float)" in str(error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-b", "siez=30%"), "There is no budget 'siez'. Known: size, bits, bops, memory, drop. Did you mean 'size'?"),
        (("-b", "size=lots"), "'size=lots' is not a budget. Expected an amount: size=30%, size=5MB."),
        (("-b", "size=3%", "-b", "size=4%"), "The budget 'size' is given twice."),
        (
            ("-b", "size=30%", "--method", "clad"),
            "sqnr, lampq, local, uniform. Did you mean 'clado'?",
        ),
        (
            ("-b", "size=30%", "--method", "clado", "-m", "psdd=no"),
            "has no option 'psdd'. Known: psd. Did you mean 'psd'?",
        ),
        (("-b", "size=30%", "--method", "clado", "-m", "psd=maybe"), "'psd=maybe' is neither yes nor no."),
        (("-b", "size=30%", "--method", "clado", "-m", "psd"), "'psd' is no option of a method. Expected name=value"),
        (("-b", "size=30%", "--method", "lampq", "-m", "gamma=big"), "'gamma=big' is no number."),
        (("-b", "size=30%", "--method", "lampq", "-m", "beta=1.5"), "'beta=1.5' is no whole number."),
        (("-b", "size=30%", "--keep", "haed/Gemm=w8a8"), "Did you mean 'head/Gemm'?"),
        (("-b", "size=30%", "--options", "w4a8,w1"), "'w1' is not an option"),
        (("-b", "size=30%", "--option", "w4a8"), "with a budget --options names what units may take"),
        (("-b", "size=30%", "--memory", "lots"), "'lots' is no amount of memory"),
        (("--method", "gram"), "A search needs a budget"),
        (("--effort", "quick"), "--effort belongs to a search: give a budget too"),
        (("--tie", "a,b"), "No unit is called 'a', nor matches it."),
        (("--plan", "p.json", "--tie", "stage.*"), "leave out keep, exclude and ties, or the plan"),
        (("-m", "psd=no"), "--method-option belongs to a search"),
        (("--point", "1", "--plan", "p.json"), "is one plan and no front"),
    ],
)
def test_what_the_caller_can_mend_is_refused_with_2(arguments: tuple[str, ...], message: str, desk: Path) -> None:
    (desk / "p.json").write_text(json.dumps(Plan("ort-cpu", "none", {}).to_json()))
    error = refused(*SEARCH, *arguments)
    assert error.exit_code == 2
    assert message in str(error)


def test_an_interrupt_says_what_the_store_has(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []

    whole = Worker.__call__

    def some(worker: Worker, job: Job) -> Results:
        if len(ran) == 9:
            raise KeyboardInterrupt
        ran.append(job)
        return whole(worker, job)

    monkeypatch.setattr(Worker, "__call__", some)
    done = CliRunner().invoke(cli, [*SEARCH, "-b", "size=27%", "--store", "other.store"])
    assert done.exit_code == 130
    with Store.open(desk / "other.store", None) as store:
        assert store.count == len(ran)
    assert f"Interrupted: {len(ran)} results are in 'other.store'. The same command goes on" in done.stderr
