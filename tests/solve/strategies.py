"""Small assignment problems for Hypothesis: with ties and zeros, and budgets that are just met or just missed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from hypothesis import strategies as st

from onnxmpq.errors import InputError
from onnxmpq.solve.problem import Budget, Implication, Problem
from onnxmpq.solve.reduce import merged

NAMES = ("2", "4", "8", "16")


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    units: tuple[int, int] = (1, 5),
    budgets: tuple[int, int] = (0, 3),
    quadratic: bool | None = None,
    rules: bool = True,
) -> Problem:
    """Draw a problem; ``quadratic`` None lets Hypothesis choose. Many have no solution."""
    count = draw(st.integers(*units))
    names = tuple(NAMES[:size] for size in draw(st.lists(st.integers(1, len(NAMES)), min_size=count, max_size=count)))
    total = sum(len(known) for known in names)
    problem = Problem(
        units=tuple(f"layer{unit}" for unit in range(count)),
        options=names,
        linear=draw(_arrays((total,))),
        quadratic=draw(_arrays((total, total))) if (draw(st.booleans()) if quadratic is None else quadratic) else None,
        constant=draw(st.sampled_from((0.0, 0.0, 2.5, -7.0))),
    )
    if rules:
        problem = draw(_with_rules(problem))
    tight = tuple(draw(_budgets(problem, f"budget{index}")) for index in range(draw(st.integers(*budgets))))
    return replace(problem, budgets=tight)


@st.composite
def _arrays(draw: st.DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    """Draw small integers, so that there are ties and zeros, or real numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind: Literal["integers", "reals", "few"] = draw(st.sampled_from(("integers", "reals", "few")))
    if kind == "reals":
        return rng.normal(size=shape)
    values = rng.integers(-5, 6, size=shape).astype(np.float64)
    return values if kind == "integers" else np.where(rng.random(shape) < 0.7, 0.0, values)


@st.composite
def _budgets(draw: st.DrawFn, problem: Problem, name: str) -> Budget:
    """Draw a budget that a random plan meets exactly, or misses by one."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    total = len(problem.linear)
    low, high = draw(st.sampled_from(((0, 20), (-5, 10), (1, 10**9), (0, 1))))
    weights: np.ndarray = rng.random(total) if high == 1 else rng.integers(low, high, size=total)
    plan = [int(rng.integers(len(names))) for names in problem.options]
    used = weights[problem.positions(plan)].sum().item()
    return Budget(name, weights, used - draw(st.sampled_from((0, 0, 1))))


@st.composite
def _with_rules(draw: st.DrawFn, problem: Problem) -> Problem:
    """Draw groups, forbidden options and implications; groups always have an option in common."""
    count = len(problem.units)
    unit, several = st.integers(0, count - 1), st.integers(0, 2)

    def option_of(index: int) -> int:
        return draw(st.integers(0, len(problem.options[index]) - 1))

    groups = draw(st.lists(st.lists(unit, min_size=1, max_size=3, unique=True).map(tuple), max_size=1))
    forbidden = [(index, option_of(index)) for index in draw(st.lists(unit, max_size=1))]
    implications = []
    for _ in range(draw(several)):
        cause, other = draw(unit), draw(unit)
        allowed: Sequence[int] = draw(st.lists(st.integers(0, len(problem.options[other]) - 1), unique=True))
        implications.append(Implication(cause, option_of(cause), other, tuple(allowed)))
    ruled = replace(problem, groups=tuple(groups), implications=tuple(implications))
    try:
        merged(replace(ruled, forbidden=tuple(forbidden)))
    except InputError:  # a unit with no option left is refused, not solved
        return ruled
    return replace(ruled, forbidden=tuple(forbidden))
