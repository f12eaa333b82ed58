"""``onnxmpq solve``: a plan from a table alone, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from onnxmpq.artifacts import Plan
from onnxmpq.errors import InfeasibleError, InputError
from tests.cli.running import refused, run
from tests.processes import python
from tests.small import small_model

MEASURED = ("-c", "s.npz", "--samples", "8", "-q")
WHOLE = ("--options", "w8a8,w4a8,w2a8")  # codes that have a type of their own
LOADED = (
    "import sys\nfrom onnxmpq.cli import cli\n"
    "cli.main(['solve', 't.json', '-b', 'size=30%', '-o', 'p.json', '--overwrite', '-q'], standalone_mode=False)\n"
    "print([name for name in ('onnxruntime', 'openvino') if name in sys.modules])"
)


@pytest.fixture
def made(desk: Path) -> Path:
    """Go to a folder with a table."""
    if not (desk / "t.json").exists():
        run("measure", str(small_model()), *MEASURED, "-o", "t.json")
    return desk


def test_a_plan_is_told_as_predicted_and_written(made: Path) -> None:
    shown = run("solve", "t.json", "-b", "size=25%", "-b", "bits=6", "-o", "p.json", "--overwrite", "-q").stdout
    data = json.loads(run("solve", "t.json", "-b", "size=25%", "-b", "bits=6", "-q", "--json").stdout)
    assert "predicted, not measured" in shown
    assert re.search(r"proof +optimal: objective .* in the model of the loss", shown)
    assert re.search(r"size .*foreseen +\(2\d% of float\)", shown)
    assert "budget  size=25%: " in shown
    assert "budget  bits=6: " in shown
    assert "onnxmpq apply MODEL p.json -c SAMPLES -o p.onnx" in shown
    plan = Plan.read(made / "p.json")
    assert Plan.from_json(data["plan"]) == plan
    assert plan.method == "gram"
    assert data["measured"] is None
    assert [budget["budget"] for budget in data["budgets"]] == ["size=25%", "bits=6"]
    assert all(budget["usage"] <= budget["limit"] for budget in data["budgets"])
    assert data["proof"]["bound"] <= data["predicted"]
    for option, count in data["units"].items():
        assert f"{count} at {option}" in shown


def test_apply_takes_the_plan_and_its_file_is_within_the_size(made: Path) -> None:
    run("solve", "t.json", "-b", "size=25%", *WHOLE, "-o", "p.json", "--overwrite", "-q")
    told = json.loads(run("solve", "t.json", "-b", "size=25%", *WHOLE, "-q", "--json").stdout)
    applied = ("apply", str(small_model()), "p.json", "-c", "s.npz", "-o", "q.onnx", "--overwrite", "-q", "--json")
    done = json.loads(run(*applied).stdout)
    assert done["plan"] == told["plan"]
    assert done["verdict"]["ok"]
    assert done["float_file_bytes"] == told["float_file_bytes"]
    assert abs(done["file_bytes"] - told["foreseen_file_bytes"]) <= 100
    assert done["file_bytes"] <= 0.25 * done["float_file_bytes"]


def test_decisions_by_hand_and_options_are_taken(made: Path) -> None:
    by_hand = ("--keep", "op:Gemm=w8a8", "--exclude", "stem.*", "--tie", "stage1.*", "--options", "w4a8,w2a8")
    data = json.loads(run("solve", "t.json", "-b", "bits=6", *by_hand, "-q", "--json").stdout)
    choices = data["plan"]["choices"]
    assert choices["head/Gemm"] == "w8a8"
    assert not [name for name in choices if name.startswith("stem")]
    assert len({choices[name] for name in choices if name.startswith("stage1")}) == 1
    assert set(data["units"]) <= {"float", "w8a8", "w4a8", "w2a8"}


def test_without_an_output_it_says_how_to_keep_the_plan(made: Path) -> None:
    assert "Keep the plan with -o plan.json" in run("solve", "t.json", "-b", "bits=6", "-q").stdout


def test_measure_ends_with_a_command_that_makes_a_plan(made: Path) -> None:
    shown = run("measure", str(small_model()), *MEASURED, "-o", "again.json", "--overwrite").stdout
    assert "onnxmpq solve again.json -b size=30% -o again.plan.json" in shown
    run("solve", "again.json", "-b", "size=30%", "-o", "again.plan.json", "--overwrite")


def test_no_runtime_is_loaded(made: Path) -> None:
    ended = python("-c", LOADED, folder=made)
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("t.json",), "A plan needs a budget"),
        (("t.json", "-b", "drop=1%"), "is measured on whole files"),
        (("t.json", "-b", "sise=1%"), "There is no budget 'sise'"),
        (("t.json", "-b", "size=30%", "-b", "size=20%"), "given twice"),
        (("t.json", "-b", "size=30%", "-o", "t.json"), "The output 't.json' is the table, too."),
        (("t.json", "-b", "size=30%", "-o", "s.npz"), "The output 's.npz' exists."),
        (("none.json", "-b", "size=30%"), "The table 'none.json' cannot be read"),
        (("s.npz", "-b", "size=30%"), "The table 's.npz' is not"),
        (("old.json", "-b", "size=30%"), "Measure again"),
        (("cut.json", "-b", "size=30%"), "The table 'cut.json' is damaged. 'facts.units' does not have"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], message: str, made: Path) -> None:
    data = json.loads((made / "t.json").read_text())
    (made / "old.json").write_text(json.dumps({name: value for name, value in data.items() if name != "facts"}))
    data["facts"]["units"] = data["facts"]["units"][1:]
    (made / "cut.json").write_text(json.dumps(data))
    error = refused("solve", *arguments, "-q")
    assert isinstance(error, InputError)
    assert message in str(error)


def test_a_budget_that_nothing_meets_ends_with_what_would_do(made: Path) -> None:
    error = refused("solve", "t.json", "-b", "size=3%", "-o", "new.json", "-q")
    assert isinstance(error, InfeasibleError)
    assert "size=3% cannot be met: the least is" in str(error)
    assert not (made / "new.json").exists()
