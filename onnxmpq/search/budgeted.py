"""One plan within budgets: what cannot hold is told first; then the best is searched, or the smallest within a drop."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxmpq.artifacts import Option, Plan
from onnxmpq.budgets.limits import Limit
from onnxmpq.data.samples import Samples
from onnxmpq.errors import VerifyError
from onnxmpq.metrics.compared import fall
from onnxmpq.search.decide import Decision
from onnxmpq.search.loop import Search


def plan_within(
    search: Search, limits: Sequence[Limit], graded: Samples | None, notes: list[str]
) -> tuple[Plan, Decision]:
    """Search a plan within budgets, and note what is to be said; a metric is judged on labels where there are some."""
    exporter = search.exporter
    judged = graded if graded is not None and graded.labels is not None else exporter.workspace.samples
    rehearse(search, notes)
    classes = search.engine.heads[0].kind != "power"

    def metric(choices: Mapping[str, Option]) -> tuple[float, float]:
        path = exporter.written(search.plan(choices), "tried.onnx")
        return fall(*exporter.sessions(path), judged, judged.labels, classes=classes)

    if any(limit.budget.bisected for limit in limits):
        decision, (drop, error) = search.within_drop(limits, metric)
        notes.append(f"The metric falls by {100 * drop:.2f} ± {100 * error:.2f} points on the data it was judged on.")
    else:
        decision = search.decide(limits)
    notes += decision.notes
    return replace(search.plan(decision.choices), method=search.method.name), decision


def rehearse(search: Search, notes: list[str]) -> None:
    """Build the smallest plan on offer before anything is searched: what does not hold here is told at once.

    Where few bits are what it fails at, the largest plan still shows whether the target's kernels do what they should.
    """
    exporter, (smallest, largest) = search.exporter, search.ends()
    told = exporter.tried(search.plan(smallest)).failures
    if not told:
        return
    if exporter.tried(search.plan(largest)).failures:
        raise VerifyError(
            "Before the search was begun the smallest file was tried, and it does not hold in "
            f"{exporter.runtime.name}: {told}. Neither does the largest. No model was written. Give other --options, "
            "or another --target."
        )
    notes.append(f"The smallest file that was on offer does not hold in {exporter.runtime.name}: {told}.")
