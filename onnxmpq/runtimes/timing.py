"""Fair timing of two things on a machine that others use too.

Wall-clock ratios wander by 15 % on a shared machine; CPU time of the process, taken in pairs that alternate their
order, repeats within 2 to 4 %. Raw values are kept.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxmpq.errors import InputError
from onnxmpq.runtimes.base import Feed, Session

NOISY_SPREAD = 0.10
"""Interquartile range of the ratios, as a share of their median, above which two choices should not be ranked."""


@dataclass(frozen=True, slots=True)
class PairedTiming:
    """Times of ``a`` and ``b`` in seconds; entry i of both was taken back to back."""

    a_s: tuple[float, ...]
    b_s: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Time of a over time of b, pair by pair."""
        return tuple(a / b for a, b in zip(self.a_s, self.b_s, strict=True))

    @property
    def ratio(self) -> float:
        """Median of the ratios: how many times faster b is than a."""
        return float(np.median(self.ratios))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the ratios."""
        low, high = np.quantile(self.ratios, (0.25, 0.75))
        return float(low), float(high)

    @property
    def noisy(self) -> bool:
        """Say whether the ratios scatter too much to rank the two."""
        low, high = self.quartiles
        return high - low > NOISY_SPREAD * self.ratio

    @property
    def a_median_s(self) -> float:
        """Median time of a."""
        return float(np.median(self.a_s))

    @property
    def b_median_s(self) -> float:
        """Median time of b."""
        return float(np.median(self.b_s))


def paired(
    a: Callable[[], object],
    b: Callable[[], object],
    *,
    budget_s: float = 1.5,
    min_pairs: int = 7,
    max_pairs: int = 400,
    min_sample_s: float = 5e-4,
    clock: Callable[[], float] = time.process_time,
) -> PairedTiming:
    """Time ``a`` and ``b`` alternately for about ``budget_s`` seconds of wall clock.

    Each runs twice before anything is kept. What takes less than ``min_sample_s`` is repeated within a sample, so that
    the clock's own step does not show. CPU time is the right clock for code that computes on this processor; give
    another for work done elsewhere.
    """
    if min_pairs < 1 or max_pairs < min_pairs:
        raise InputError(f"Timing needs 1 <= min_pairs <= max_pairs, not {min_pairs} and {max_pairs}.")
    for work in (a, b):  # warm-up: buffers, caches
        work()
    start = clock()
    a()
    middle = clock()
    b()
    shorter = max(min(middle - start, clock() - middle), 1e-9)
    repeats = max(1, min(1000, round(min_sample_s / shorter)))

    def sample(work: Callable[[], object]) -> float:
        start = clock()
        for _ in range(repeats):
            work()
        return max(clock() - start, 1e-9) / repeats

    a_s: list[float] = []
    b_s: list[float] = []
    end = time.perf_counter() + budget_s
    while len(a_s) < max_pairs and (len(a_s) < min_pairs or time.perf_counter() < end):
        if len(a_s) % 2 == 0:
            a_s.append(sample(a))
            b_s.append(sample(b))
        else:
            b_s.append(sample(b))
            a_s.append(sample(a))
    return PairedTiming(tuple(a_s), tuple(b_s))


def runner(session: Session, feed: Feed) -> Callable[[], object]:
    """Give a function that runs the session once on this feed, with inputs and outputs bound beforehand."""
    return session.bind(feed)
