"""The comparison with AIMET, which itself is not needed here: an order stands in for what it finds."""

import json
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.aimet import Bits, Case, Judged, Order, Row, Step, grid, largest_within, plan_of, stored
from benchmarks.aimet_amp import Batches
from benchmarks.held_out import data_of
from onnxmpq.artifacts import Option, Space
from onnxmpq.workspace.prepare import prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def space() -> Space:
    """Return the units of an embedded model."""
    return prepare(ROOT / "models" / "digits_cnn.onnx", "ort-cpu").space


def order_of(space: Space) -> Order:
    """Return an order that gives every weight 4 bits and then 2, the last unit first."""
    names = [layer.weights for unit in space.units for layer in unit.layers]
    steps = [Step(weights, bits) for bits in (4, 2) for weights in reversed(names)]
    return Order(tuple(name for each in names for name in each), (Step((), 4), *steps), 7.5, "2")


def row(difference: float, error: float, own: Judged | None = None, why: str = "") -> Row:
    """Return a row whose losses differ by so much."""
    ours, its = Judged(900, 0.1, 0.01), Judged(1000, 0.1 - difference, 0.01, (difference, error))
    return Row("net", "size=15%", 1100, 3, 9, {"w": 4}, ours, 5.0, its, 10.0, its, its, own, why)


def test_every_step_that_changes_weights_is_a_point_and_the_later_one_counts() -> None:
    order = Order(
        ("a", "b"), (Step((), 4), Step(("a",), 4), Step((), 2), Step(("b", "a"), 2), Step(("b",), 4)), 1.0, ""
    )
    assert order.points() == [{"a": 8, "b": 8}, {"a": 4, "b": 8}, {"a": 2, "b": 2}, {"a": 2, "b": 4}]


def test_points_become_plans_of_fewer_and_fewer_bytes(space: Space) -> None:
    points = order_of(space).points()
    plans = [plan_of(bits, space) for bits in points]
    assert len(points) == 2 * len(space.units) + 1
    assert set(plans[0].choices.values()) == {Option(8, 8)}
    assert plans[1].choices[space.units[-1].name].weight_bits == 4
    assert plans[1].choices[space.units[0].name] == Option(8, 8)
    sizes = [stored(plan, space) for plan in plans]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_weights_that_are_not_told_of_are_at_8_bits_and_others_never_coarser_than_told(space: Space) -> None:
    first, *others = space.units
    plan = plan_of(dict.fromkeys(first.layers[0].weights, 3), space)
    assert plan.choices[first.name].weight_bits >= 3
    assert {plan.choices[unit.name] for unit in others} == {Option(8, 8)}


@pytest.mark.parametrize(("allowed", "expected"), [(100, 0), (99, 1), (61, 4), (60, 4), (11, 9), (9, None)])
def test_the_largest_file_within_the_budget_is_taken_and_few_are_written(allowed: int, expected: int | None) -> None:
    points: list[tuple[int, Bits]] = [(index, {"w": 100 - 10 * index}) for index in range(10)]
    written = []

    def size_of(point: tuple[int, Bits]) -> int:
        written.append(point)
        return point[1]["w"]

    found = largest_within(points, allowed, size_of)
    assert (found and found[0]) == expected
    assert len(written) <= 4


@pytest.mark.parametrize(("difference", "who"), [(-0.03, "ours"), (0.03, "AIMET's"), (0.01, "neither")])
def test_a_verdict_needs_two_errors(difference: float, who: str) -> None:
    assert row(difference, 0.01).verdict == f"{who} lower, at 0.50 of its CPU"


def test_the_table_has_five_lines_for_each_row() -> None:
    told = StringIO()
    console = Console(width=190, file=told)
    console.print(grid([row(-0.03, 0.01, why="it has no such type"), row(0.03, 0.01, Judged(1234, 0.5, 0.1))], "2"))
    lines = [line for line in told.getvalue().splitlines() if line.startswith("│")]
    assert len(lines) == 10
    assert "AIMET's point 3 of 9" in lines[1]
    assert "-0.03 ± 0.01" in lines[1]
    assert "fitted as ours" in lines[3]
    assert "it has no such type" in lines[4]
    assert "1234" in lines[9]


def test_batches_are_as_large_as_the_model_is_fixed_to(tmp_path: Path) -> None:
    file = tmp_path / "samples.npz"
    np.savez(file, x=np.zeros((70, 3), np.float32))
    for first, sizes in (("n", [32, 32, 6]), ("20", [20, 20, 20])):
        graph = f"(float[{first}, 3] x) => (float[{first}, 3] y) {{ y = Relu(x) }}"
        batches = Batches(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {graph}'), str(file))
        assert [len(feed["x"]) for feed in batches] == sizes
        assert batches.samples == sum(sizes)


STANDS_IN = """#!{python}
import json, sys
script, command, model, samples, output = sys.argv[1:6]
if command == "export":
    sys.exit("It writes no 2 bits.")
open(output, "w").write({order!r})
"""


@pytest.fixture
def stand_in(tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return what is run in place of AIMET's interpreter."""
    monkeypatch.chdir(ROOT)
    order = order_of(space)
    steps = [{"weights": step.weights, "bits": step.bits} for step in order.steps]
    told = {"first": order.first, "steps": steps, "cpu_s": order.cpu_s, "version": order.version}
    python = tmp_path / "python"
    python.write_text(STANDS_IN.format(python=sys.executable, order=json.dumps(told)))
    python.chmod(0o755)
    return python


def test_a_small_run_searches_with_the_bytes_of_the_other(tmp_path: Path, stand_in: Path, space: Space) -> None:
    file = tmp_path / "rows.json"
    arguments = "--models digits_cnn -b size=25% --calibration 12 --samples 40".split()
    given = ["--given", "--effort quick --options w8a8,w4a8", "--python", str(stand_in), "--json", str(file)]
    ran = CliRunner().invoke(main, ["aimet", *arguments, *given], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    [found] = json.loads(file.read_text())
    assert found["ours"]["file_bytes"] <= found["aimet"]["file_bytes"] <= found["allowed_bytes"]
    assert found["aimet_cpu_s"] == 7.5
    assert 0 < found["point"] <= found["points"] == 2 * len(space.units)
    assert "It writes no 2 bits." in found["why_no_own"]
    assert len({found[way]["loss"] for way in ("aimet", "nearest", "fitted")}) == 3


def test_what_was_found_is_kept_for_the_same_samples(tmp_path: Path, stand_in: Path, space: Space) -> None:
    data = data_of("digits_cnn", 4)
    assert Case.of(data, tmp_path, str(stand_in), tmp_path / "kept").order == order_of(space)
    stand_in.write_text(f"#!{sys.executable}\nraise SystemExit('It is gone.')\n")
    assert Case.of(data, tmp_path, str(stand_in), tmp_path / "kept").order == order_of(space)
    others = replace(data, calibration={name: array[:5] for name, array in data.calibration.items()})
    with pytest.raises(click.ClickException, match="AIMET did not order: It is gone"):
        Case.of(others, tmp_path, str(stand_in), tmp_path / "kept")
