"""The benchmark of the solver: its problems are what they say, and the command runs."""

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.instances import BITS, Kind, generated, limit_at, of_table
from benchmarks.solve import PLAIN, Line, Row, compared, parse_suites, summarised
from onnxmpq.artifacts import FLOAT, Cost, Estimate, Option, Space, Unit
from onnxmpq.errors import InputError
from onnxmpq.sensitivity.table import Table, Variant
from onnxmpq.solve import Problem, solve


def all_at(problem: Problem, option: int) -> tuple[int, ...]:
    """Return the plan that takes one option everywhere."""
    return (option,) * len(problem.units)


def test_a_gram_problem_is_positive_semidefinite() -> None:
    problem = generated(30, 4, 3)
    assert problem.quadratic is not None
    assert np.linalg.eigvalsh(problem.quadratic)[0] > -1e-12
    assert not problem.linear.any()
    assert problem.quadratic.diagonal().max() == pytest.approx(1.0)


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_an_indefinite_problem_has_exact_losses_and_noisy_interactions(noise: float) -> None:
    problem, true = generated(54, 3, 0, "indefinite", noise=noise), generated(54, 3, 0)
    assert problem.quadratic is not None
    assert true.quadratic is not None
    assert np.linalg.eigvalsh(problem.quadratic)[0] < 0
    assert np.array_equal(problem.quadratic, problem.quadratic.T)
    unit = np.repeat(np.arange(54), 3)
    within = unit[:, None] == unit
    assert not problem.quadratic[within].any()
    losses = true.quadratic.diagonal()
    assert np.abs(problem.linear / losses - 1).max() < 2 * noise
    error = (problem.quadratic - true.quadratic) / np.sqrt(np.outer(losses, losses))
    assert 0.5 * noise < np.std(error[~within & (losses > np.median(losses))]) < 2 * noise


@pytest.mark.parametrize("options", BITS)
def test_damage_falls_by_four_with_every_bit(options: int) -> None:
    problem = generated(400, options, 1, "linear")
    assert problem.quadratic is None
    logarithms = np.log2(problem.linear.reshape(400, options)).mean(0)
    bits = np.array(BITS[options])
    np.testing.assert_allclose(logarithms - logarithms[0], -2.0 * (bits - bits[0]), atol=0.1)


def test_neighbours_correlate_more_than_others_and_with_both_signs() -> None:
    problem = generated(54, 3, 2)
    assert problem.quadratic is not None
    norms = np.sqrt(problem.quadratic.diagonal())
    correlations = (problem.quadratic / np.outer(norms, norms))[::3, ::3]
    beside, far = np.diag(correlations, 1), np.diag(correlations, 20)
    assert beside.min() < -0.1
    assert beside.max() > 0.1
    assert np.abs(beside).max() < 0.75
    assert np.abs(beside).mean() > 2 * np.abs(far).mean()


@pytest.mark.parametrize("kind", ["gram", "indefinite", "linear"])
@pytest.mark.parametrize("budgets", [1, 2, 3])
def test_budgets_can_be_met_and_bind(kind: Kind, budgets: int) -> None:
    problem = generated(20, 3, 5, kind, budgets, groups=2, implications=2, forbidden=2)
    assert [budget.name for budget in problem.budgets] == ["bytes", "bops", "latency"][:budgets]
    assert [budget.exact for budget in problem.budgets] == [True, True, False][:budgets]
    assert not problem.feasible(all_at(problem, 2))
    found = solve(problem, time_limit=10.0, gap=0.1)
    assert problem.feasible(found.choices)


def test_rules_take_units_of_their_own_and_forbid_the_fewest_bits() -> None:
    problem = generated(30, 4, 0, groups=3, implications=4, forbidden=5)
    assert (len(problem.groups), len(problem.implications), len(problem.forbidden)) == (3, 4, 5)
    named = [unit for group in problem.groups for unit in group]
    named += [unit for rule in problem.implications for unit in (rule.unit, rule.other)]
    named += [unit for unit, _ in problem.forbidden]
    assert len(named) == len(set(named)) == 3 * 3 + 2 * 4 + 5
    assert not problem.feasible(all_at(problem, 0))
    assert replace(problem, implications=(), forbidden=()).feasible(all_at(problem, 0))


def test_rules_change_nothing_else() -> None:
    plain, ruled = generated(30, 3, 4, budgets=3), generated(30, 3, 4, budgets=3, groups=3, implications=2)
    assert np.array_equal(np.asarray(plain.quadratic), np.asarray(ruled.quadratic))
    assert [budget.limit for budget in plain.budgets] == [budget.limit for budget in ruled.budgets]


@pytest.mark.parametrize("kind", ["gram", "indefinite", "linear"])
def test_a_seed_gives_one_problem(kind: Kind) -> None:
    first, again, other = (generated(10, 6, seed, kind, 3, groups=1) for seed in (7, 7, 8))
    assert np.array_equal(np.asarray(first.linear), np.asarray(again.linear))
    assert np.array_equal(np.asarray(first.quadratic), np.asarray(again.quadratic))
    assert (first.groups, [budget.limit for budget in first.budgets]) == (
        again.groups,
        [budget.limit for budget in again.budgets],
    )
    assert first.budgets[0].limit != other.budgets[0].limit


def test_what_cannot_be_generated_is_refused() -> None:
    with pytest.raises(InputError, match="no generator of 5 options"):
        generated(10, 5, 0)
    with pytest.raises(InputError, match="10 units are too few"):
        generated(10, 3, 0, groups=4)


def test_a_limit_lies_between_the_least_and_the_most_that_is_allowed() -> None:
    problem = replace(generated(2, 3, 0), forbidden=((0, 0),))
    weights = np.array([1, 2, 4, 10, 20, 40])
    assert [limit_at(problem, weights, share) for share in (0.0, 0.5, 1.0)] == [12.0, 28.0, 44.0]
    assert limit_at(problem, weights / 8, 0.5) == 28 / 8


def measured_table() -> tuple[Table, Space]:
    """Return a table of two units at two options, with the losses of its pairs, and the costs of these."""
    options = (Option.parse("w8"), Option.parse("w4"))
    variants = tuple(Variant(unit, option) for unit in "ab" for option in options)
    rng = np.random.default_rng(0)
    responses = rng.normal(size=(8, 4))
    ones = np.ones(4)
    table = Table(
        target="t",
        loss_name="mse",
        centre={},
        variants=variants,
        samples=8,
        centre_loss=Estimate(0.25, 0.0),
        loss=0.25 + rng.random(4),
        loss_error=ones,
        linear=rng.normal(size=4),
        linear_error=ones,
        gram=responses.T @ responses,
        gram_error=np.ones((4, 4)),
        local=ones,
        local_error=ones,
        sqnr_db=np.ones((4, 1)),
        sqnr_error_db=np.ones((4, 1)),
        outputs=("y",),
        sketched=False,
        pairs={(a, b): Estimate(1.0 + rng.random(), 0.0) for a in variants[:2] for b in variants[2:]},
    )
    costs = tuple(Cost(option, size, 0) for option, size in zip((FLOAT, *options), (400, 100, 50), strict=True))
    return table, Space("t", tuple(Unit(name, (), 100, 0, costs, "") for name in "ab"), (), 800)


def test_a_problem_of_a_gram_table_predicts_what_the_table_does() -> None:
    table, space = measured_table()
    problem = of_table(table, space, "gram", 0.5)
    assert problem.options == (("float", "w8", "w4"),) * 2
    for choices in ((0, 0), (1, 0), (2, 1)):
        plan = {unit: Option.parse(problem.options[0][choice]) for unit, choice in zip("ab", choices, strict=True)}
        assert problem.value(choices) == pytest.approx(table.predict(plan))
    [stored] = problem.budgets
    assert (stored.exact, stored.limit, problem.usage((0, 2))) == (True, 450.0, (450,))


def test_a_problem_of_pairs_has_their_losses() -> None:
    table, space = measured_table()
    problem = of_table(table, space, "indefinite")
    assert problem.value((0, 0)) == 0.25
    assert problem.value((2, 0)) == pytest.approx(table.loss[1])
    assert problem.value((2, 1)) == pytest.approx(table.pairs[table.variants[1], table.variants[2]].value)


def row(value: float, seconds: float, solver: str = "onnxmpq", seed: int = 0) -> Row:
    """Return a run of the plain class."""
    return Row(PLAIN.name, "gram", 54, 3, 1, seed, solver, "optimal", value, value, 0.0, seconds)


def test_medians_are_held_against_the_line() -> None:
    rows = compared([row(1.0, 4.0), row(2.0, 6.0, seed=1), row(2.0, 50.0, seed=2), row(1.25, 5.0, "SCIP")])
    assert [entry.above_best for entry in rows] == [0.0, 0.0, 0.0, pytest.approx(0.2)]
    own, rival = summarised(rows, [PLAIN])
    assert (own.runs, own.cpu_s, own.slowest_s, own.kept) == (3, 6.0, 50.0, True)
    assert (rival.solver, rival.line, rival.kept) == ("SCIP", "", None)
    [late] = summarised(rows[:3], [replace(PLAIN, line=Line(5.0))])
    assert late.kept is False


def test_a_class_is_held_against_the_plain_one() -> None:
    ruled = replace(PLAIN, groups=2, line=Line(plain=PLAIN.name, factor=2.0))
    rows = [row(1.0, 4.0), replace(row(1.0, 9.0), case=ruled.name)]
    assert [(entry.against_plain, entry.kept) for entry in summarised(rows, [PLAIN, ruled])][1] == (2.25, False)
    assert summarised(rows[1:], [ruled])[0].kept is None


def test_suites_and_sizes_are_read() -> None:
    cases = parse_suites("54x3,paper,indefinite:12x4,linear:100x8")
    assert cases[0] == PLAIN
    assert [case.name for case in cases].count(PLAIN.name) == 1
    assert [case.name for case in cases[-2:]] == ["indefinite 12x4, 2% noise", "linear 100x8, 3 budgets"]
    with pytest.raises(click.BadParameter, match="'54x5' is no suite"):
        parse_suites("54x5")


def test_the_command_runs_and_writes_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    options = ("--suite", "6x3,linear:8x3", "--seeds", "2", "--rivals", "highs", "--incumbents", "--inline")
    result = CliRunner().invoke(main, ["solve", *options, "--json", str(file)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "gram 6x3" in result.output
    data = json.loads(file.read_text(encoding="utf-8"))
    assert [(entry["case"], entry["solver"]) for entry in data["rows"]] == [
        *[("gram 6x3", solver) for solver in ("onnxmpq", "HiGHS", "onnxmpq, 5 s")] * 2,
        *[("linear 8x3, 3 budgets", solver) for solver in ("onnxmpq", "HiGHS")] * 2,
    ]
    for entry in data["rows"]:
        assert (entry["status"], entry["note"]) == ("optimal", "")
        assert entry["gap"] <= 1e-4
        assert entry["above_best"] <= 1e-4
    assert [entry["proof"] for entry in data["rows"][:6]] == [True, None, None] * 2
    assert data["medians"][0]["optimal"] == 2


def test_scip_finds_the_same_optimum(tmp_path: Path) -> None:
    pytest.importorskip("pyscipopt")
    file = tmp_path / "rows.json"
    options = ("--suite", "6x3,indefinite:6x3,linear:8x3", "--seeds", "1", "--rivals", "scip", "--inline")
    result = CliRunner().invoke(main, ["solve", *options, "--json", str(file)], catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [(entry["solver"], entry["status"]) for entry in rows] == [("onnxmpq", "optimal"), ("SCIP", "optimal")] * 3
    assert max(entry["above_best"] for entry in rows) <= 1e-4
