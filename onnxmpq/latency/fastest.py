"""The fastest kernels of a model: foreseen, measured, learnt from, and foreseen again; only measured time decides.

Beside what is foreseen to be fastest the uniform plans are measured, so that nothing slower than those is taken; all of
them are measured once more, in turn and for longer, before one is chosen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.latency.design import Kernels
from onnxmpq.latency.model import Latency
from onnxmpq.latency.observe import PAIRS, Watch

ROUNDS = 2
"""Times that the fastest foreseen is observed, and what is foreseen is fitted anew."""
STARTS = 6
"""Random plans from which the fastest is sought, beside the uniform ones."""
FINAL_PAIRS = 15
_GAIN_S = 1e-9


@dataclass(frozen=True, slots=True)
class Placed:
    """The kernels that were chosen, how many times faster than float they ran, and so did uniform plans.

    Without being ``measured`` all that is foreseen by a table.
    """

    kernels: Mapping[str, Option]
    ratio: float
    uniform: Mapping[str, float]
    latency: Latency
    foreseen_ratio: float
    measured: bool = True


def fastest(watch: Watch, seed: int = 0) -> Placed:
    """Return the kernels on which a model was measured to be fastest."""
    latency, seen = watch.learn(seed)
    tried: list[dict[str, Option]] = []
    for _ in range(ROUNDS):
        found = quickest(latency, watch.kernels, seed)
        if found in tried:
            break
        tried.append(found)
        seen.append(watch.observe(found, whole=True))
        latency = watch.fitted(seen)
    last = quickest(latency, watch.kernels, seed)
    tried += [last] if last not in tried else []
    uniform = {str(each): watch.kernels.uniform(each) for each in watch.kernels.every}
    candidates = [*tried, *(plan for plan in uniform.values() if plan not in tried)]
    ratios = [watch.ratio(plan, PAIRS) for plan in candidates]
    near = [place for place, ratio in enumerate(ratios) if ratio >= 0.9 * max(ratios)]
    finals = {place: watch.ratio(candidates[place], FINAL_PAIRS) for place in near}
    best = max(finals, key=finals.__getitem__)
    told = {name: ratios[candidates.index(plan)] for name, plan in uniform.items()}
    return Placed(candidates[best], finals[best], told, latency, latency.ratio(candidates[best]))


def quickest(latency: Latency, kernels: Kernels, seed: int, held: Mapping[str, Option] = {}) -> dict[str, Option]:
    """Return the kernels of the least foreseen time: the best of several descents, one unit at a time.

    Units without a choice run on those that are ``held``.
    """
    found = [_descended(latency, kernels, {**held, **start}) for start in _starts(kernels, seed)]
    return min(found, key=latency.seconds)


def _starts(kernels: Kernels, seed: int) -> Iterator[dict[str, Option]]:
    for each in kernels.every:
        yield kernels.uniform(each)
    random = np.random.default_rng(seed)
    for _ in range(STARTS):
        yield {unit: tuple(found)[random.integers(len(found))] for unit, found in kernels.offered.items()}


def _descended(latency: Latency, kernels: Kernels, start: Mapping[str, Option]) -> dict[str, Option]:
    """Change single units, and pairs of units beside each other, for as long as time falls."""
    plan = dict(start)
    while True:
        before = latency.seconds(plan)
        for unit, offered in kernels.offered.items():
            changes = {each: latency.change(plan, unit, each) for each in offered if each != plan[unit]}
            best = min(changes, key=changes.__getitem__, default=FLOAT)
            if changes and changes[best] < -_GAIN_S:
                plan[unit] = best
        for region in latency.regions.values():
            for border in region.behind:
                if {border.before, border.behind} <= kernels.offered.keys():
                    _both(latency, plan, border.before, border.behind, kernels)
        if latency.seconds(plan) > before - _GAIN_S:
            return plan


def _both(latency: Latency, plan: dict[str, Option], one: str, other: str, kernels: Kernels) -> None:
    """Put two units on the same kernel, if that is faster."""
    for each in kernels.offered[one]:
        if each not in kernels.offered[other] or (plan[one] == each and plan[other] == each):
            continue
        first = latency.change(plan, one, each)
        if first + latency.change(plan | {one: each}, other, each) < -_GAIN_S:
            plan[one] = plan[other] = each
            return
