"""One plan within budgets: what cannot hold is told first; then the best is searched, or the smallest within a drop."""

from collections.abc import Sequence
from dataclasses import replace

from onnxmpq.artifacts import Plan
from onnxmpq.budgets.limits import Limit
from onnxmpq.errors import VerifyError
from onnxmpq.search.decide import Decision
from onnxmpq.search.duration import foretell
from onnxmpq.search.loop import Search
from onnxmpq.search.within import within
from onnxmpq.workspace.clock import Clock


def plan_within(search: Search, limits: Sequence[Limit], notes: list[str]) -> tuple[Plan, Decision]:
    """Search a plan within budgets, and note what is to be said."""
    left = foretell(search, limits)
    rehearse(search, notes)
    if isinstance(clock := search.workspace.progress, Clock):
        clock.foresee(left)  # files that were tried passed through stages of the end, too
    decision = within(search, limits)
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
