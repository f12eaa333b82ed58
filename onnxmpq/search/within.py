"""The loop of budgets: solve, look at what the whole file takes, correct what was foreseen, and solve again.

rows foresee it (size, and what others add)      rows are shifted by what they were wrong by, until files fit
no rows (drop)                                   the smallest file within it is bisected, over sizes
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.budgets.limits import Limit
from onnxmpq.budgets.size import Size
from onnxmpq.errors import InfeasibleError
from onnxmpq.methods.study import Choices, Menu, Study
from onnxmpq.options import EFFORTS
from onnxmpq.search.decide import Decision, decide
from onnxmpq.search.loop import Search
from onnxmpq.search.whole import Whole

ROUNDS = 6
BISECTIONS = 6
SLACK = 0.01  # of a budget: what rows foresee too much is left to plans where it is more than this
NEARLY = 1.02  # of the best loss: a plan whose file fits is taken at that, and the search is not done again


def within(search: Search, limits: Sequence[Limit]) -> Decision:
    """Return the best measured plan whose whole file is within all budgets; of those without rows, the smallest."""
    if not any(limit.budget.whole and not limit.budget.rows for limit in limits):
        return _fitting(search, limits)
    decision, file = _smallest(search, limits)
    told = tuple(limit.budget.told(file) for limit in limits if not limit.budget.rows)
    return replace(decision, notes=(*told, *decision.notes))


# ---- budgets with rows -----------------------------------------------------------------------------------------------


def _fitting(search: Search, limits: Sequence[Limit]) -> Decision:
    """Return the best measured plan whose file is within the budgets, to the byte.

    Rows foresee the size of a file up to the names of shared tensors. Where the best plan's file takes more, or the
    nearest plan's less than its row says, the row is shifted and the search done again, with little effort until files
    fit. Where the best plan's takes far less, what that leaves is searched, too, for as long as it helps.
    """
    looked_up = [limit for limit in limits if limit.budget.whole]
    effort: str = EFFORTS[0] if looked_up else search.effort
    last: Choices | None = None
    before: Decision | None = None
    spent = _Spent()
    for number in range(ROUNDS):
        study = search.study(limits, effort=effort)
        files = _Files(search, study, looked_up)
        try:
            decision = spent.seen(decide(study, search.method, files.fit))
        except InfeasibleError:
            nearest = study.nearest()
            wrong = files.wrong(nearest) if nearest is not None else {}
            if nearest is None or not any(wrong.values()):
                raise
            search.shift(wrong)
            last = nearest if files.feasible(nearest) and files.fit(nearest) else last
            continue
        first = files.first
        if first is None:
            return spent.told(_judged(decision, study))
        if files.fit(decision.choices) and decision.least.value <= NEARLY * study.losses([first])[0].value:
            better = before is None or decision.least.value < before.least.value
            if better and (slack := files.slack(decision.choices)):
                search.shift(slack)
            elif effort == search.effort:
                return spent.told(_judged(decision, study) if before is None or better else before)
            else:
                effort = search.effort
            before = _judged(decision, study) if better else before
        else:
            search.shift({kind: over << number for kind, over in files.over(first).items() if over > 0})
    if before is not None:
        return spent.told(before)
    told = " and ".join(map(str, looked_up))
    if last is None:
        raise InfeasibleError(f"No plan was found whose file is within {told}. Loosen it by a few bytes.")
    held = tuple((last.get(unit.name, FLOAT),) for unit in search.menu.units)
    rest = [limit for limit in limits if limit not in looked_up]
    study = search.study(rest, menu=Menu(search.menu.units, held))
    return spent.told(_judged(spent.seen(decide(study, search.method)), study))


class _Spent:
    """What a search took that was done several times: measured once is measured for all, and the most counts it all."""

    def __init__(self) -> None:
        self.began = perf_counter()
        self.most: Decision | None = None

    def seen(self, decision: Decision) -> Decision:
        """Look at what one of them took."""
        if self.most is None or decision.runs >= self.most.runs:
            self.most = decision
        return decision

    def told(self, decision: Decision) -> Decision:
        """Return a decision with what all of them took, and what the method says of its work."""
        most = self.most or decision
        seconds = perf_counter() - self.began
        return replace(decision, runs=most.runs, seconds=seconds, notes=(*most.about, *decision.notes))


class _Files:
    """What the files of plans take of the budgets that are looked up in them; ``first`` is what was asked first."""

    def __init__(self, search: Search, study: Study, looked_up: Sequence[Limit]) -> None:
        self.search, self.study = search, study
        self.looked_up = [row for row in study.rows if row.limit in looked_up]
        self.first: dict[str, Option] | None = None

    def over(self, choices: Choices) -> dict[str, int]:
        """Return by how much the file of a plan exceeds each budget."""
        return self.beyond(choices, {row.limit: row.most for row in self.looked_up})

    def beyond(self, choices: Choices, used: Mapping[Limit, int]) -> dict[str, int]:
        """Return by how much the file of a plan takes more than rows foresee where units take ``used`` of them."""
        file = self.search.whole(choices)
        return {
            row.limit.kind: int(row.limit.budget.actual(file)) - row.foreseen(used[row.limit]) for row in self.looked_up
        }

    def fit(self, choices: Choices) -> bool:
        """Tell whether the file of a plan is within the budgets."""
        if self.looked_up and self.first is None:
            self.first = dict(choices)
        return all(over <= 0 for over in self.over(choices).values())

    def wrong(self, choices: Choices) -> dict[str, int]:
        """Return by how much the file of a plan takes more than rows foresee."""
        limits = [row.limit for row in self.study.rows]
        return self.beyond(choices, dict(zip(limits, self.study.usage(choices), strict=True)))

    def slack(self, choices: Choices) -> dict[str, int]:
        """Return by how much rows are wrong that foresee far more than the file of a plan takes."""
        wrong, most = self.wrong(choices), {row.limit.kind: row.foreseen(row.most) for row in self.looked_up}
        return {kind: off for kind, off in wrong.items() if -off > SLACK * most[kind]}

    def feasible(self, choices: Choices) -> bool:
        """Tell whether choices meet all rows but those that are looked up."""
        return self.study.feasible(choices, but=[row.limit.kind for row in self.looked_up])


def _judged(decision: Decision, study: Study) -> Decision:
    """Add how far the samples agree with themselves, and what is to be said of it."""
    found = study.agreement()
    return replace(decision, agreement=found, notes=(*decision.notes, *(found.notes if found else ())))


# ---- budgets without ---------------------------------------------------------------------------------------------


def _smallest(search: Search, limits: Sequence[Limit]) -> tuple[Decision, Whole]:
    """Return the smallest plan whose file is within the budgets that have no rows, and that file.

    Sizes are bisected: a larger file is taken to lose no more.
    """
    measured = [limit for limit in limits if not limit.budget.rows]
    sizes = [limit for limit in limits if limit.kind == Size.name]
    rest = [limit for limit in limits if limit not in measured and limit not in sizes]
    low, most = search.extremes()
    high = min([most, *(search.amount(limit) for limit in sizes)])
    finest = _fitting(search, [*rest, _size(high)])
    best = finest, search.whole(finest.choices)
    missed = [limit for limit in measured if not _keeps(best[1], limit)]
    if missed:
        raise InfeasibleError(
            f"No plan of {', '.join(map(str, search.options))} is within {missed[0]}. Of the best one that was found: "
            f"{missed[0].budget.told(best[1])} Offer more precise options, allow a larger {missed[0].kind}, or give "
            "more samples."
        )
    smallest = _tried(search, rest, low, measured)
    if smallest is not None:
        return smallest
    for _ in range(BISECTIONS):
        middle = round((low * high) ** 0.5)
        tried = _tried(search, rest, middle, measured)
        if tried is None:
            low = middle
        else:
            best, high = tried, min(middle, tried[1].size)
        if high <= low * 1.01:
            break
    return best


def _tried(
    search: Search, rest: Sequence[Limit], size: int, measured: Sequence[Limit]
) -> tuple[Decision, Whole] | None:
    """Return the best plan of a size, if its file is within what is measured."""
    try:
        decision = _fitting(search, [*rest, _size(size)])
    except InfeasibleError:
        return None
    file = search.whole(decision.choices)
    return (decision, file) if all(_keeps(file, limit) for limit in measured) else None


def _keeps(file: Whole, limit: Limit) -> bool:
    return limit.budget.actual(file) <= limit.amount


def _size(most: int) -> Limit:
    return Limit(Size.name, float(most), share=False)
