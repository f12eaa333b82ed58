"""Solutions, bounds and certificates: against brute force, a second solver, and tampering."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmpq.errors import InfeasibleError
from onnxmpq.solve import Budget, Certificate, Implication, Problem, branch, solve, verify
from onnxmpq.solve.certificate import Step
from tests.solve.brute import any_allowed, best_value
from tests.solve.strategies import problems

SAME = 1e-7


@pytest.fixture
def branching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no box be small enough to be enumerated, so that small problems take the way of large ones."""
    monkeypatch.setattr(branch, "ENUMERATED", 1)


def chained(units: int, seed: int, share: float = 0.4, budgets: int = 1) -> Problem:
    """Return a problem of correlated responses, three options a unit, like those that are measured."""
    rng = np.random.default_rng(seed)
    bits = np.array([2, 4, 8])
    sizes = np.exp(rng.normal(8, 1, units)).astype(np.int64)
    directions = rng.normal(size=(units, 40))
    for unit in range(1, units):
        directions[unit] += rng.uniform(-0.5, 0.8) * directions[unit - 1]
    damage = np.exp(rng.normal(0, 1, units))[:, None] * 2.0**-bits
    responses = (damage[:, :, None] * (directions[:, None] + 0.5 * rng.normal(size=(units, 3, 40)))).reshape(-1, 40)
    rows = [(sizes[:, None] * bits).ravel(), (sizes[:, None] * bits * rng.integers(1, 9, (units, 1))).ravel()]
    limits = [
        int(row.reshape(units, 3).min(1).sum() * (1 - share) + row.reshape(units, 3).max(1).sum() * share)
        for row in rows
    ]
    return Problem(
        tuple(f"unit{unit}" for unit in range(units)),
        (("2", "4", "8"),) * units,
        np.zeros(3 * units),
        responses @ responses.T,
        tuple(Budget(f"budget{i}", rows[i], limits[i]) for i in range(budgets)),
    )


def check(problem: Problem) -> None:
    """Solve with the proof kept, and compare everything that is said with brute force."""
    best = best_value(problem)
    solution = solve(problem, gap=0.0, proof=True)
    if best == inf:
        assert solution.status == "infeasible"
        assert bool(solution.choices) == (any_allowed(problem) and bool(problem.budgets))
        with pytest.raises(InfeasibleError):
            solution.checked()
        return
    scale = max(1.0, abs(best))
    assert solution.status == "optimal"
    assert problem.feasible(solution.choices)
    assert solution.usage == problem.usage(solution.choices)
    assert solution.objective == problem.value(solution.choices)
    assert solution.objective == pytest.approx(best, abs=SAME * scale)
    assert solution.bound <= best + 1e-12 * scale
    assert solution.bound >= best - 1e-6 * scale
    if solution.certificate is not None:
        assert solution.certificate.complete
        assert verify(problem, solution.certificate)
        above = replace(solution.certificate, bound=best + 1e-5 * scale)
        assert not verify(problem, above)


@settings(max_examples=1200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problems(units=(1, 4)))
def test_small_problems_equal_brute_force(problem: Problem) -> None:
    check(problem)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problems(units=(2, 5), quadratic=True))
def test_branching_equals_brute_force(branching: None, problem: Problem) -> None:
    check(problem)


@pytest.mark.parametrize("seed", range(3))
def test_proofs_of_middling_problems_verify_and_tampering_shows(seed: int) -> None:
    problem = chained(24, seed, budgets=1 + seed % 2)
    solution = solve(problem, proof=True)
    assert solution.status == "optimal"
    certificate = solution.certificate
    assert certificate is not None
    assert certificate.complete
    assert verify(problem, certificate)
    assert not verify(problem, replace(certificate, bound=solution.objective * 1.001))
    assert problem.quadratic is not None
    assert not verify(replace(problem, quadratic=0.9 * problem.quadratic), certificate)
    budget = problem.budgets[0]
    assert not verify(
        replace(problem, budgets=(replace(budget, limit=budget.limit + 1), *problem.budgets[1:])), certificate
    )
    assert not verify(problem, _without_a_branch(certificate))
    assert not verify(problem, _with_better_multipliers(certificate))


def _without_a_branch(certificate: Certificate) -> Certificate:
    """Drop the last box of the proof."""

    def dropped(step: Step) -> Step:
        if not step.children:
            return step
        kept = (
            step.children[:-1] if not step.children[-1].children else [*step.children[:-1], dropped(step.children[-1])]
        )
        return Step(step.mask, step.multipliers, step.prices, kept)

    assert certificate.root.children
    return replace(certificate, root=dropped(certificate.root))


def _with_better_multipliers(certificate: Certificate) -> Certificate:
    """Add to the multipliers what would raise the bound if it were allowed."""
    multipliers = certificate.root.multipliers
    assert multipliers is not None
    matrix = multipliers.matrix.copy()
    matrix[0, 0] += 1.0
    root = Step(certificate.root.mask, replace(multipliers, matrix=matrix), certificate.root.prices, [])
    return replace(certificate, root=root)


def test_a_first_bound_has_a_certificate_without_the_whole_proof() -> None:
    problem = chained(24, 5)
    certificate = solve(problem).certificate
    assert certificate is not None
    assert not certificate.complete
    assert verify(problem, certificate)


def test_an_indefinite_matrix_is_solved_as_it_is() -> None:
    rng = np.random.default_rng(1)
    clean = chained(14, 1)
    assert clean.quadratic is not None
    noise = rng.normal(size=(42, 42)) * 0.2 * np.abs(clean.quadratic).max()
    noisy = clean.quadratic + noise + noise.T
    assert np.linalg.eigvalsh(noisy)[0] < 0
    problem = replace(clean, quadratic=noisy)
    solution = solve(problem, gap=0.0, proof=True)
    assert solution.status == "optimal"
    assert solution.certificate is not None
    assert verify(problem, solution.certificate)


def test_one_seed_gives_one_answer() -> None:
    problem = chained(30, 7)
    first, second = solve(problem, seed=3), solve(problem, seed=3)
    assert (first.choices, first.bound, first.nodes) == (second.choices, second.bound, second.nodes)


def test_a_time_limit_leaves_a_plan_and_an_honest_bound() -> None:
    problem = chained(60, 3)
    hurried, patient = solve(problem, time_limit=0.05), solve(problem)
    assert hurried.status == "time"
    assert problem.feasible(hurried.choices)
    assert hurried.bound <= patient.objective
    assert hurried.objective >= patient.bound


def test_a_gap_that_was_asked_for_is_named_so() -> None:
    solution = solve(chained(40, 2), gap=0.05)
    assert solution.status == "gap" or solution.gap <= 1e-4
    assert solution.gap <= 0.05


def test_values_of_any_size_are_solved_alike() -> None:
    problem = chained(20, 4)
    assert problem.quadratic is not None
    small = replace(problem, quadratic=problem.quadratic * 2.0**-60, linear=problem.linear * 2.0**-60)
    assert solve(small).choices == solve(problem).choices


@pytest.mark.parametrize("seed", range(3))
def test_groups_implications_and_forbidden_options_are_kept(seed: int) -> None:
    problem = replace(
        chained(24, seed, share=0.5),
        groups=((0, 5, 9), (9, 11)),
        forbidden=((3, 0), (4, 2)),
        implications=(Implication(1, 2, 2, (1, 2)), Implication(7, 0, 8, (0,))),
    )
    solution = solve(problem, proof=True)
    assert solution.status == "optimal"
    assert problem.feasible(solution.choices)
    assert solution.certificate is not None
    assert verify(problem, solution.certificate)


def test_a_budget_nothing_meets_says_what_would() -> None:
    problem = chained(12, 0)
    budget = problem.budgets[0]
    least = int(budget.weights.reshape(12, 3).min(1).sum())
    solution = solve(replace(problem, budgets=(replace(budget, limit=least - 1),)))
    assert solution.status == "infeasible"
    assert solution.choices == (0,) * 12
    with pytest.raises(InfeasibleError, match=f"'budget0' allows {least - 1:,}: at least {least:,} by itself"):
        solution.checked()
    assert solve(replace(problem, budgets=(replace(budget, limit=least),))).choices == (0,) * 12


@given(st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_a_start_is_never_made_worse(seed: int) -> None:
    problem = chained(12, 1, share=0.7)
    start = tuple(np.random.default_rng(seed).integers(0, 3, 12).tolist())
    solution = solve(problem, start=start, time_limit=0.01)
    if problem.feasible(start):
        assert solution.objective <= problem.value(start) * (1 + 1e-9)
