"""What was measured beside what the model of the loss foresaw: of units alone, of pairs and of whole plans.

    unit i     centre + linear[i] + Gram[i, i] / 2
    i with j   centre + both of these + Gram[i, j]
    plan       as the search foresaw it

Where both agree, the model of the loss can be believed.
"""

from collections.abc import Sequence

from onnxmpq.artifacts import Estimate
from onnxmpq.report.figures import Alone, Guess, PlanFigures
from onnxmpq.sensitivity.table import Array, Table, Variant

PAIRS = 1000  # that a page can hold: all pairs of 100 units are 4,950


def alone_figures(table: Table, own: Array) -> list[Alone]:
    """Return what every variant loses alone; ``own`` is the diagonal of the Gram matrix."""
    predicted = table.centre_loss.value + table.linear + 0.5 * own
    return [
        Alone(
            variant.unit,
            str(variant.option),
            Estimate(float(table.loss[row]), float(table.loss_error[row])),
            float(predicted[row]),
            float(table.local[row]),
            float(table.sqnr_db[row].min()),
        )
        for row, variant in enumerate(table.variants)
    ]


def guesses(table: Table | None, own: Array, plans: Sequence[PlanFigures]) -> tuple[Guess, ...]:
    """Return predictions beside what was measured, of whole plans and of pairs from the smallest to the largest."""
    found: list[Guess] = []
    if table is not None and table.pairs:
        row = {variant: number for number, variant in enumerate(table.variants)}
        alone = table.linear + 0.5 * own
        for (a, b), measured in spaced(table):
            i, j = row[a], row[b]
            predicted = float(table.centre_loss.value + alone[i] + alone[j] + table.gram[i, j])
            found.append(Guess(f"{a} with {b}", "pair", predicted, measured))
    found += [Guess(plan.name, "plan", plan.predicted, plan.loss) for plan in plans if plan.predicted is not None]
    return tuple(found)


def spaced(table: Table) -> list[tuple[tuple[Variant, Variant], Estimate]]:
    """Return no more pairs that were measured than a page shows, evenly from the smallest loss to the largest."""
    ordered = sorted(table.pairs.items(), key=lambda item: item[1].value)
    return ordered[:: max(-(-len(ordered) // PAIRS), 1)]
