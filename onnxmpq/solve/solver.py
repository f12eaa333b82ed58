"""``solve``: a problem in, the best plan found and the proof of how good it is out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from time import perf_counter

import numpy as np

from onnxmpq.errors import InternalError
from onnxmpq.machine import one_thread
from onnxmpq.solve.bound import State
from onnxmpq.solve.branch import Found, Tree, first_plan, prepare
from onnxmpq.solve.certificate import Certificate
from onnxmpq.solve.highs import Outcome, assignment, milp, picked, version
from onnxmpq.solve.linear import solve_linear
from onnxmpq.solve.problem import Problem
from onnxmpq.solve.reduce import Integers, Presolved, Reduced, presolve
from onnxmpq.solve.search import Search, Walk
from onnxmpq.solve.shortfall import shortfall
from onnxmpq.solve.solution import Solution, Status, relative_gap

PROVEN = 1e-4  # relative gap up to which a plan counts as optimal
NEGLIGIBLE = 1e-8  # of the largest coefficient: what a bound may miss where the objective is about zero
PATIENCE = 400  # kicks without a better plan, and so many more ...
PER_UNIT = 12  # ... for each unit, after which the first search gives up
KNOWN = 60  # the same where a neighbour's plan is at hand, or a rough plan will do
ROUGH = 0.1  # the gap of a rough plan, or one that is wider


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to try: the relative gap to prove, seconds of wall time, and the seed of everything random."""

    gap: float = PROVEN
    time_limit: float = 60.0
    seed: int = 0
    proof: bool = False


def solve(
    problem: Problem,
    *,
    gap: float = PROVEN,
    time_limit: float = 60.0,
    seed: int = 0,
    start: Sequence[int] | None = None,
    proof: bool = False,
) -> Solution:
    """Find the plan with the least objective, and prove how far below any other can be.

    ``gap`` is the relative gap at which to stop; up to 1e-4 a plan is called optimal. ``start`` is a plan to begin
    with, whether it keeps the rules or not. ``proof`` keeps the certificate of the whole search and not only of its
    first bound, which takes as much memory as matrices were bounded.
    """
    run = Run(presolve(problem), Effort(gap, time_limit, seed, proof))
    return run.solution(None if start is None else tuple(start))


class Run:
    """One problem on its way to a solution; ``state`` is where its first relaxation ended."""

    def __init__(self, presolved: Presolved, effort: Effort, presolved_limits: tuple[float, ...] | None = None) -> None:
        """Start the clock. ``presolved_limits`` are the limits that presolving saw, where they were looser."""
        self.presolved, self.effort, self.began = presolved, effort, perf_counter()
        self.problem = presolved.problem
        self.limits = tuple(float(budget.limit) for budget in self.problem.budgets)
        self.presolved_limits = presolved_limits or self.limits
        self.state: State | None = None

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return perf_counter() - self.began

    def expired(self) -> bool:
        """Tell whether the time is up."""
        return self.seconds > self.effort.time_limit

    def solution(self, start: tuple[int, ...] | None = None, state: State | None = None) -> Solution:
        """Solve it; start and state come from where something like it was solved before."""
        with one_thread():
            return self._solution(start, state)

    def _solution(self, start: tuple[int, ...] | None, state: State | None) -> Solution:
        if not self.presolved.feasible:
            return self._infeasible()
        reduced = self.presolved.reduced
        begin = None if start is None else self._within(start)
        if not reduced.units:
            return self._finished(Found.only(reduced) if reduced.feasible(np.zeros(0, int)) else None)
        if reduced.is_linear:
            return self._linear(begin)
        search = Search(reduced, self.effort.seed, self.expired)
        first = first_plan(reduced, search, begin)
        if first is None:
            outcome, first = self._any_plan(reduced)
            if first is None:
                return self._infeasible() if outcome == "infeasible" else self._nothing_in_time()
        tree = Tree(reduced, self.effort.gap, self.effort.seed, self.expired, proof=self.effort.proof)
        thorough = state is None and self.effort.gap < ROUGH
        patience = PATIENCE + PER_UNIT * reduced.units if thorough else KNOWN
        prepare(tree, first, patience, known=state is not None)
        found = tree.run(state)
        self.state = found.state
        return self._finished(found)

    def _within(self, choices: tuple[int, ...]) -> Integers | None:
        """Return a plan in the positions of the reduced problem; what was dropped is replaced by the cheapest."""
        reduced = self.presolved.reduced
        wanted = set(self.problem.positions(choices).tolist())
        cheapest = Search(reduced, 0).cheapest()
        for position, entry in enumerate(reduced.identity):
            if wanted.issuperset(self.presolved.members[entry]):
                cheapest[reduced.owner[position]] = position
        return cheapest

    def _any_plan(self, reduced: Reduced) -> tuple[Outcome, Walk | None]:
        """Let HiGHS decide whether awkward rows can be kept at all."""
        model = replace(assignment(reduced, reduced.linear), integral=np.ones(reduced.options, dtype=bool))
        answer = milp(model, self.effort.time_limit, 1.0, self.effort.seed)
        if answer.values is None:
            return answer.outcome, None
        walk = Walk.start(reduced, picked(reduced, answer.values))
        return "time", walk if Search(reduced, self.effort.seed).repair(walk) else None

    def _linear(self, start: Integers | None) -> Solution:
        reduced, effort = self.presolved.reduced, self.effort
        decision = solve_linear(reduced, effort.time_limit, effort.gap, effort.seed, start)
        if decision.status == "infeasible":
            return self._infeasible()
        if decision.picked is None:
            return self._nothing_in_time()
        entries = np.concatenate([reduced.fixed, reduced.identity[decision.picked]])
        return self._finished(Found(entries, decision.objective, decision.bound, 0, None, None))

    def _finished(self, found: Found | None) -> Solution:
        """Recompute everything from the problem's own matrices."""
        if found is None or found.picked is None:
            return self._infeasible()
        choices = self.presolved.choices(found.picked)
        if not self.problem.feasible(choices):
            raise InternalError("The solver returned a plan that breaks its rules. Please report this problem.")
        objective = self.problem.value(choices)
        bound = min(found.bound * self.presolved.scale, objective)
        gap = relative_gap(objective, bound)
        negligible = objective - bound <= NEGLIGIBLE * self.presolved.scale
        status: Status = "optimal" if gap <= PROVEN or negligible else "gap" if gap <= self.effort.gap else "time"
        certificate = None
        if found.root is not None:
            claimed = found.bound if self.effort.proof else found.root_bound
            certificate = Certificate(
                claimed * self.presolved.scale, found.root, self.limits, self.presolved_limits, self.effort.proof
            )
        return Solution(
            status,
            choices,
            objective,
            bound,
            self.problem.usage(choices),
            self.effort.seed,
            self.seconds,
            found.nodes,
            version(),
            certificate,
        )

    def _nothing_in_time(self) -> Solution:
        """Say that it is not known whether any plan keeps the rules."""
        return Solution("time", (), inf, -inf, (), self.effort.seed, self.seconds, 0, version())

    def _infeasible(self) -> Solution:
        """Say how far the budgets are from being met, and what comes nearest."""
        choices, found = shortfall(self.presolved, self.effort.time_limit, self.effort.seed)
        objective = self.problem.value(choices) if choices else inf
        usage = self.problem.usage(choices) if choices else ()
        return Solution(
            "infeasible", choices, objective, inf, usage, self.effort.seed, self.seconds, 0, version(), None, found
        )
