"""Fronts: one problem under many limits of one budget, each with its bound.

Presolving sees the loosest limit. From there to the tightest, every point begins with its neighbour's plan and with
the multipliers of its neighbour's relaxation: the quadratic part is the same, only one row moves. At the end plans
move to looser limits and bounds to tighter ones wherever they are better there, so that both are monotone.
"""

from collections.abc import Sequence
from dataclasses import replace

from onnxmpq.errors import InputError
from onnxmpq.solve.bound import State
from onnxmpq.solve.problem import Problem
from onnxmpq.solve.reduce import limited, presolve
from onnxmpq.solve.solution import Solution, Status, relative_gap
from onnxmpq.solve.solver import PROVEN, Effort, Run


def solve_front(
    problem: Problem,
    budget: str,
    limits: Sequence[float],
    *,
    gap: float = PROVEN,
    time_limit: float = 600.0,
    seed: int = 0,
    proof: bool = False,
) -> tuple[Solution, ...]:
    """Solve the problem for every limit of one budget, in the order given; ``time_limit`` is for all of them."""
    names = [known.name for known in problem.budgets]
    if names.count(budget) != 1:
        raise InputError(f"The front runs over budget '{budget}', expected one of {', '.join(map(repr, names))}.")
    row = names.index(budget)
    others = [float(known.limit) for known in problem.budgets]

    def everything(limit: float) -> tuple[float, ...]:
        return (*others[:row], limit, *others[row + 1 :])

    order = sorted(set(limits), reverse=True)
    found: dict[float, Solution] = {}
    if not order:
        return ()
    loosest = everything(order[0])
    presolved = presolve(limited(problem, loosest))
    start: tuple[int, ...] | None = None
    state: State | None = None
    left = time_limit
    for number, limit in enumerate(order):
        share = left / (len(order) - number)
        run = Run(presolved.tightened(everything(limit)), Effort(gap, share, seed, proof), loosest)
        solution = run.solution(start, state)
        found[limit] = solution
        left -= solution.seconds
        if solution.status != "infeasible":
            start, state = solution.choices, run.state or state
    points = dict(zip(order, _monotone([found[limit] for limit in order], gap), strict=True))
    return tuple(points[limit] for limit in limits)


def _monotone(found: Sequence[Solution], gap: float) -> list[Solution]:
    """Move plans to looser limits and bounds to tighter ones; ``found`` goes from loose to tight."""
    points = list(found)
    for place in range(len(points) - 1, 0, -1):
        plan, looser = points[place], points[place - 1]
        if plan.status != "infeasible" and plan.objective < looser.objective:
            points[place - 1] = replace(looser, choices=plan.choices, objective=plan.objective, usage=plan.usage)
    for place in range(1, len(points)):
        looser, point = points[place - 1], points[place]
        if point.status != "infeasible" and looser.bound > point.bound:
            points[place] = replace(point, bound=looser.bound, certificate=looser.certificate)
    return [point if point.status == "infeasible" else replace(point, status=_status(point, gap)) for point in points]


def _status(point: Solution, gap: float) -> Status:
    if point.status == "optimal" or relative_gap(point.objective, point.bound) <= PROVEN:
        return "optimal"
    return "gap" if relative_gap(point.objective, point.bound) <= gap else "time"
