"""Outliers moved into weights when a workspace is opened: all that comes behind sees the smoothed model.

    numbers.smooth   off                      the model as it is
                     0.5, 0.75, channels      as it says, which is how a plan is applied
                     auto                     measured at the choices that are tried; off where those are none

What it came to stands in the numbers that are returned, and so in plans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Option, Plan
from onnxmpq.calibrate.run import calibrate
from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.data.samples import spread
from onnxmpq.lower.calibrated import Calibrated
from onnxmpq.metrics.heads import judged_heads
from onnxmpq.model.load import digest_of_parts
from onnxmpq.options import Numbers
from onnxmpq.refit.accept import Judge
from onnxmpq.refit.moments import judges
from onnxmpq.smooth.choose import FEWEST_SEEN, MOST_SEEN, Choice, Feed, choose, smooth, uneven
from onnxmpq.targets.space import make_space
from onnxmpq.workspace.prepare import Prepared

if TYPE_CHECKING:
    from onnxmpq.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Opening:
    """A model as everything behind sees it, how its values become codes, and what is to be said of it."""

    prepared: Prepared
    numbers: Numbers
    note: str = ""

    def calibrated(self, known: Statistics) -> Calibrated:
        """Return what lowers plans of the model, once what they need is known."""
        prepared = self.prepared
        return Calibrated(prepared.model, prepared.space, prepared.target, self.numbers, known)


def smoothed(place: "Workspace", numbers: Numbers, tried: Mapping[str, Option]) -> Opening:
    """Smooth the model of a workspace as it is wanted, or as turns out to be best at the choices that are tried."""
    prepared = place.prepared
    as_it_is = Opening(prepared, replace(numbers, smooth="off"))
    if numbers.smooth == "off" or (numbers.smooth == "auto" and not _can_be_judged(place, tried)):
        return as_it_is
    places = spread(len(place.samples), MOST_SEEN)
    feeds = [feed for number, feed in enumerate(place.samples) if number in places]
    place.progress("smooth", 0, 0)
    known = uneven(prepared.model, place.runner, feeds)
    if not known:
        return as_it_is
    chosen = Choice(numbers.smooth)
    if numbers.smooth == "auto":
        trial = _Trial(place, replace(numbers, rounding="nearest"), tried, feeds)
        seen = uneven(prepared.model, place.runner, trial.seen)
        chosen = choose(prepared.model, seen, trial.figures, partial(place.progress, "smooth"))
    if chosen.how == "off":
        return replace(as_it_is, note=chosen.note)
    model = smooth(prepared.model, chosen.how, known)
    space, digest = make_space(model, prepared.target), digest_of_parts(model)[0]
    after = replace(prepared, model=model, space=space, smoothed=digest)
    return Opening(after, replace(numbers, smooth=chosen.how), chosen.note)


def _can_be_judged(place: "Workspace", tried: Mapping[str, Option]) -> bool:
    """Tell whether few bits of activations are tried, and there is enough to measure on."""
    few_bits = any(0 < option.activation_bits <= 8 for option in tried.values())
    return few_bits and len(place.samples) >= FEWEST_SEEN and bool(judged_heads(place.prepared.model))


class _Trial:
    """Measures a form of the model at some choices, with the nearest codes, on feeds that it is not calibrated on."""

    def __init__(
        self, place: "Workspace", numbers: Numbers, tried: Mapping[str, Option], feeds: Sequence[Feed]
    ) -> None:
        self.place, self.numbers = place, numbers
        self.seen = [feed for number, feed in enumerate(feeds) if not judges(number, len(feeds))]
        judging = [feed for number, feed in enumerate(feeds) if judges(number, len(feeds))]
        self.plan = Plan(place.prepared.space.target, "", dict(tried))
        before = place.reference.session(place.float_model, mode="deployed")
        self.judge = Judge(before, place.opened, judging, judged_heads(place.prepared.model), place.samples.batch)

    def figures(self, model: ir.Model) -> tuple[np.ndarray, float]:
        """Return the loss on every sample, and the power of errors over that of the signal."""
        target = self.place.prepared.target
        known = Calibrated(model, make_space(model, target), target, self.numbers)
        needs = known.needs(self.plan)
        run = self.place.runner(needs.tensors | set(needs.means), model)
        known.known.add(calibrate(run, self.seen, sorted(needs.tensors), needs.means))
        return self.judge.figures(known.lower(self.plan).model)
