"""Every choice of a small problem, straight from its definition."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import inf

from onnxmpq.solve.problem import Problem


def every_choice(problem: Problem) -> Iterator[tuple[int, ...]]:
    """Return all choices, whether they keep the rules or not."""
    yield from product(*(range(len(names)) for names in problem.options))


def best_value(problem: Problem) -> float:
    """Return the least objective of the choices that keep the rules; infinite when there are none."""
    return min((problem.value(choices) for choices in every_choice(problem) if problem.feasible(choices)), default=inf)


def any_allowed(problem: Problem) -> bool:
    """Tell whether the rules have a solution without the budgets."""
    free = replace(problem, budgets=())
    return any(free.feasible(choices) for choices in every_choice(free))


def least_usage(problem: Problem, budget: int) -> float:
    """Return the least that one budget can be, whatever the others are."""
    free = replace(problem, budgets=())
    return min(problem.usage(choices)[budget] for choices in every_choice(free) if free.feasible(choices))


def overrun(problem: Problem, choices: tuple[int, ...]) -> float:
    """Return the largest share by which choices exceed a limit that is positive."""
    usage = problem.usage(choices)
    return max(used / budget.limit - 1.0 for used, budget in zip(usage, problem.budgets, strict=True))


def least_overrun(problem: Problem) -> float:
    """Return the smallest such share."""
    free = replace(problem, budgets=())
    return min(overrun(problem, choices) for choices in every_choice(free) if free.feasible(choices))
