"""What a search by a method is likely to measure, before anything is: what forecasts tell, and the clock runs by."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxmpq.methods.study import CONTENDERS, Method, Study, staged
from onnxmpq.sensitivity.table import Variant, pairs_of


@dataclass(frozen=True, slots=True)
class Work:
    """What a search is likely to measure, in runs of the model on all that was given.

    ``first`` is the table around the float model, ``again`` tables around plans, ``plans`` whole plans, ``pairs`` pairs
    of variants. ``locally`` are variants of which it is found what they err by where they stand, which is hardly a run.
    """

    first: float
    again: float = 0.0
    plans: float = 0.0
    pairs: float = 0.0
    locally: int = 0

    @property
    def runs(self) -> float:
        """Return all of it."""
        return self.first + self.again + self.plans + self.pairs


def likely(method: Method, study: Study) -> Work:
    """Return what a search by a method is likely to measure: by its own ``likely``, or all variants and its plan."""
    own = getattr(method, "likely", None)
    if own is not None:
        found: Work = own(study)
        return found
    return Work(study.table_runs(study.menu.variants, staged=staged(method)), plans=raced_runs(study, 1))


def raced_runs(study: Study, plans: float) -> float:
    """Return how many runs it takes to measure some plans in a race."""
    rest = study.repeats(staged=False) - study.repeats(staged=True)
    return plans * study.repeats(staged=True) + min(plans, CONTENDERS) * rest


def pair_runs(
    study: Study, variants: Sequence[Variant], pairs: Iterable[tuple[Variant, Variant]] | None = None
) -> float:
    """Return how many runs of the whole model pairs are worth (all if None): each starts where its later unit does."""
    nothing = study.engine.cost(()).full_runs
    share = {variant: study.engine.cost((variant,)).full_runs - nothing for variant in variants}
    wanted = pairs_of(variants) if pairs is None else pairs
    return sum(min(share[first], share[second]) for first, second in wanted)
