"""``local``: the error of every unit's own output on float inputs, spent where it saves most.

One float run scores every option of every unit, and no unit knows of what others do: the cheap baseline.
"""

from dataclasses import dataclass
from typing import ClassVar

from onnxmpq.methods.greedy import Bundles, Picked, bundles_of, finish
from onnxmpq.methods.study import Draft, Study


@dataclass(frozen=True, slots=True)
class Local:
    """Greedy: from the finest plan, the step with the least rise of local error per byte saved, until budgets are met.

    With other budgets than bytes, what is saved is counted in shares of the finest plan, summed over the budgets that
    are still exceeded.
    """

    name: ClassVar[str] = "local"

    def propose(self, study: Study) -> Draft:
        """Score every option once and walk down."""
        bundles = bundles_of(study)
        table = study.table()
        errors = dict(zip(table.variants, map(float, table.local), strict=True))
        picked = _walk(bundles, [figures.tolist() for figures in bundles.figures(errors)])
        choices, notes = finish(study, bundles.choices(picked), errors)
        return Draft((choices,), (None,), notes=notes)


def _walk(bundles: Bundles, errors: list[list[float]]) -> Picked:
    """Return where steps of the least error per saving end: where the budgets are met, or no step comes nearer."""
    picked = bundles.finest()
    usage = bundles.usage(picked)
    while (over := bundles.overrun(usage)) > 0:
        exceeded = usage > bundles.limits / bundles.scales
        best: tuple[float, int, int] | None = None
        for i, bundle in enumerate(bundles.bundles):
            spared = (bundle.usage[:, [picked[i]]] - bundle.usage) / bundles.scales[:, None]
            for place in range(len(bundle.options)):
                saved = float(spared[exceeded, place].sum())
                if saved > 0 and bundles.overrun(usage - spared[:, place]) < over:
                    step = ((errors[i][place] - errors[i][picked[i]]) / saved, i, place)
                    best = step if best is None else min(best, step)
        if best is None:
            break
        _, i, place = best
        picked = (*picked[:i], place, *picked[i + 1 :])
        usage = bundles.usage(picked)
    return picked
