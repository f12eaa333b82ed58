"""``gram``: responses around a centre, their Gram matrix, a proved plan, and the same again around that plan.

One run of the rest of the model for every unit and option gives the responses z of its outputs. To second order

    loss(plan) = loss(centre) + sum of linear terms + 1/2 sum of Gram entries of what the plan changes

which is solved with a proof. Three other models share its measurements: the same with each unit's own loss as it was
measured, the same of a softened loss, and superposition, which knows saturation. What each proposes is measured, then
what superposition likes next to the best. Where that says that it pays, responses are measured again around the best
plans, one after another (options next to the plan's own), and the search goes on in a neighbourhood. Responses are
measured on the first stage of the samples, plans in a race. Half of what is measured on are blends of samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from onnxmpq.artifacts import Option
from onnxmpq.methods.likely import Work, pair_runs, raced_runs
from onnxmpq.methods.linked import linked
from onnxmpq.methods.models import EXACTLY, Candidate, Models, plan_of, plans_of, proved
from onnxmpq.methods.sparing import FAVOUR, FAVOUR_NEAR, contested, spared_table, spares
from onnxmpq.methods.study import Choices, Draft, Drawn, Menu, Study
from onnxmpq.sensitivity.table import Table
from onnxmpq.solve import Budget, Solution, solve_front
from onnxmpq.solve.refine import neighbours, refine

ROUNDS = {"quick": 0, "default": 6, "extensive": 12}
RADII = (0.15, 0.4, 1.0)  # shares of the units that may change around a centre
PROBES = {"quick": 0, "default": 3, "extensive": 10}
ROUGHLY = 0.3  # the gap that is left in rounds: they want a good plan soon, and what was measured decides
PLANS = 12  # about how many are measured before the first round
PROBED = 8  # neighbours that are measured at a time
LIKELY = {"quick": 0.0, "default": 1.0, "extensive": 12.0}  # rounds that a search does, where it affords them
SOLVED, AROUND = 9, 6  # about how many distinct plans models propose of the first table, and of one around a plan
NEAR = 0.4  # of the first table: what one around a plan usually takes
SHARE_OF_PAIRS = 0.1  # of the runs that all pairs take: what the usual effort may
MEASURED = 0.65  # of the first table: what is likely not to be spared
FORETOLD = 2.0  # standard errors of a loss within which a model has foretold it
FRONTED = 1e-3  # the gap of every plan of a front
NEARBY = 0.6  # the share of a menu that lies next to a plan


@dataclass(frozen=True, slots=True)
class Gram:
    """Responses, Gram matrix, proof, superposition, and re-centring as the effort allows."""

    name: ClassVar[str] = "gram"
    blends: ClassVar[bool] = True
    staged: ClassVar[bool] = True

    def most_runs(self, study: Study) -> float:
        """Return about how many runs a search takes at most."""
        least = _first(study) + PLANS
        if study.effort == "quick":
            return least
        probes = PROBES[study.effort] * PROBED * study.repeats(staged=True)
        rounds = ROUNDS[study.effort] * (_round(study) + probes)
        return max(min(_affordable(study), least + rounds), least)

    def likely(self, study: Study) -> Work:
        """Return what a search is likely to measure: rounds as they are affordable, and plans of each."""
        sparing = spares(study, _worthwhile(study))
        first, each = _first(study) * (MEASURED if sparing else 1.0), study.repeats(staged=True)
        left = _affordable(study) - first - SOLVED * each
        rounds = min(max(left / _round(study), 0.0), LIKELY[study.effort])
        seldom = study.effort == "default" and not study.engine.sketches  # probes tell first whether one pays
        rounds = rounds if rounds >= 1 and not seldom else 0.0
        plans = SOLVED + rounds * AROUND + (max(rounds, 1.0) * PROBED if study.effort != "quick" else 0.0)
        locally = len(study.menu.variants) if sparing else 0
        return Work(first, rounds * NEAR * first, raced_runs(study, plans), locally=locally)

    def front(self, study: Study, budget: str, limits: Sequence[int]) -> list[Drawn]:
        """Return plans over the limits of one budget, from one measurement."""
        return front_plans(study, budget, limits)

    def propose(self, study: Study) -> Draft:
        """Return measured plans, the best first."""
        first = Models.of(study, *spared_table(study, _worthwhile(study)))
        robust = _robust(study, first)
        solved = [*plans_of(study, first, EXACTLY), _alone(study, first)]
        found = [*_distinct([*solved, *_refined(study, first, [*solved, *robust])]), *robust]
        rounds, most = 0, _affordable(study) - _spared(study)
        made, centres = [first], list[Choices]()
        if left := ROUNDS[study.effort]:
            before, _ = _best(study, found)
            found = _distinct([*found, *_probed(study, first, most, before)])
            left = left if _worth_rounds(study, first, found, before) else 0
        while rounds < left and study.runs - study.settling + _round(study) <= most:
            centre = _next_centre(study, found, centres)
            if centre is None:
                break
            near, held = contested(study, centre.choices, _near(study, centre.choices)), study.menu.held(centre.choices)
            if not any(set(options) - {own} for options, own in zip(near, held, strict=True)):
                break  # no exchange is worth its price
            rounds += 1
            centres.append(centre.choices)
            models = Models.of(study, study.table(centre.choices, near, staged=True), near)
            made.append(models)
            closer = _around(study, models)
            closer += _probed(study, models, most, _best(study, [centre, *closer])[0])
            before, _ = _best(study, found)
            found = _distinct([*found, *closer])
            if not _goes_on(study, found, before):
                break
        best, _ = _best(study, found)
        ranked = [best, *(candidate for candidate in found if candidate.choices != best.choices)]
        engine = study.engine
        notes: tuple[str, ...] = (f"Rounds around a plan: {rounds}; plans measured: {len(list(study.tried()))}.",)
        if study.spared:
            known = len(first.table.variants)
            notes += (
                f"Around float {known} of {known + len(study.spared)} variants were measured. By what others err by "
                f"where they stand no plan would take them, even if they lost {FAVOUR_NEAR:g} to {FAVOUR:g} times less "
                "than is foreseen.",
            )
        if blends := engine.samples - engine.plain:
            notes += (f"Losses are means over {engine.plain} samples and {blends} blends of two samples.",)
        return Draft(
            tuple(candidate.choices for candidate in ranked),
            _predicted(study, made, [candidate.choices for candidate in ranked]),
            tuple(candidate.proof or proved(study, first, solved[0], candidate.choices) for candidate in ranked),
            notes,
        )


def foretold(study: Study, table: Table) -> Candidate:
    """Return the best plan of the quadratic model of a table, which a search measures first; here nothing is."""
    models = Models.of(study, table, _worthwhile(study), superposed=False)
    return plan_of(study, models, models.linear, EXACTLY)


def front_plans(study: Study, budget: str, limits: Sequence[int]) -> list[Drawn]:
    """Return plans over the limits of one budget: choices, limit, predicted loss, bound of the model and status.

    Every limit has the plan of the quadratic model, the same refined by superposition, and that of the softened model.
    """
    models = Models.of(study, study.table(staged=True), study.menu.options)
    problem = study.problem(models.linear, models.quadratic, constant=models.table.centre_loss.value)
    solved = solve_front(problem, budget, limits, gap=FRONTED, seed=study.seed)
    softened: Sequence[Solution | None] = [None] * len(limits)
    if models.softened is not None:
        softened = solve_front(study.problem(*models.softened), budget, limits, gap=FRONTED, seed=study.seed)
    found: list[Drawn] = []
    for limit, solution, soft in zip(limits, solved, softened, strict=True):
        if not solution.choices or solution.status == "infeasible":
            continue
        found.append((study.menu.choices(solution.choices), limit, solution.objective, solution.bound, solution.status))
        if models.superposition is not None:
            tight = tuple(replace(b, limit=limit) if b.name == budget else b for b in problem.budgets)
            choices, value = refine(replace(problem, budgets=tight), models.superposition, solution.choices)
            found.append((study.menu.choices(choices), limit, value, solution.bound, solution.status))
        if soft is not None and soft.choices:
            plan = study.menu.choices(soft.choices)
            found.append((plan, limit, models.value(study, plan), solution.bound, "gap"))
    return found


def _alone(study: Study, models: Models) -> Candidate:
    """Return the best plan where units do not interact."""
    problem = study.problem(models.alone, constant=models.table.centre_loss.value, near=models.near)
    solution = study.solve(problem)
    return Candidate(study.menu.choices(solution.choices), solution.objective, solution)


def _refined(
    study: Study, models: Models, starts: Sequence[Candidate], extra: Sequence[Budget] = ()
) -> list[Candidate]:
    """Return where steps from some plans end by the superposed loss."""
    if models.superposition is None:
        return []
    allowed = study.problem(np.zeros(len(models.linear)), near=models.near, extra=extra)
    found = []
    for start in starts:
        choices, value = refine(allowed, models.superposition, study.menu.index(start.choices))
        found.append(Candidate(study.menu.choices(choices), value, None))
    return found


def _around(study: Study, models: Models) -> list[Candidate]:
    """Return what the models propose within neighbourhoods of their centre, from small to all."""
    changes = np.ones(len(models.linear), dtype=np.int64)
    changes[study.menu.entries(models.table.centre)] = 0
    found: list[Candidate] = []
    for share in RADII:
        extra = (Budget("changes", changes, max(2, round(share * len(study.menu.units)))),)
        solved = plans_of(study, models, ROUGHLY, extra)
        found += [*solved, *_refined(study, models, solved, extra)]
    return _distinct(found)


def _robust(study: Study, models: Models) -> list[Candidate]:
    """Return plans for the noise of the outputs and for that of every unit's own output.

    Few samples decide a divergence where the model is sure of itself, and all of them a noise.
    """
    places = study.places(models.table)
    noise = (10.0 ** (-models.table.sqnr_db / 10)).sum(1)
    found = []
    for figures in (noise, models.table.local):
        problem = study.problem(np.where(places >= 0, figures[places], 0.0), near=models.near)
        found.append(Candidate(study.menu.choices(study.solve(problem, gap=1e-3).choices), None, None))
    return found


def _probed(study: Study, models: Models, most: float, best: Candidate) -> list[Candidate]:
    """Measure the likeliest flips and exchanges of a plan, as long as one of them helps; return what was measured."""
    if models.superposition is None:
        return []
    places = [
        [place for place, option in enumerate(options) if option in allowed]
        for options, allowed in zip(study.menu.options, models.near, strict=True)
    ]
    allowed = study.problem(np.zeros(len(models.linear)))
    found: list[Candidate] = []
    for _ in range(PROBES[study.effort]):
        begin = study.menu.index(best.choices)
        if any(place not in kept for place, kept in zip(begin, places, strict=True)):
            break
        if study.runs - study.settling + PROBED * study.repeats(staged=True) > most:
            break
        around = neighbours(allowed, models.superposition, begin, PROBED, near=places)
        if not around:
            break
        tried = [Candidate(study.menu.choices(choices), value, None) for choices, value in around]
        found += tried
        nearest, _ = _best(study, [best, *tried])
        if nearest is best or not _goes_on(study, tried, best):
            break
        best = nearest
    return found


def _worth_rounds(study: Study, first: Models, found: Sequence[Candidate], before: Candidate) -> bool:
    """Tell whether what a closer look could mend is more than chance: the most effort, and a large loss, ask for one.

    Else neighbours of the best plan must have been better than it or, where there are none, its loss not foretold.
    """
    measured = study.losses([before.choices])[0]
    if study.effort == "extensive" or not study.small(measured):
        return True
    if first.superposition is not None:
        return _goes_on(study, found, before)
    return abs(first.value(study, before.choices) - measured.value) > FORETOLD * measured.error


def _goes_on(study: Study, found: Sequence[Candidate], before: Candidate) -> bool:
    """Tell whether to look further: by default where what was found since is better, and not by chance."""
    return study.effort != "default" or study.improves(_best(study, found)[0].choices, before.choices)


def _predicted(study: Study, made: Sequence[Models], plans: Sequence[Choices]) -> tuple[float | None, ...]:
    """Return what is predicted for plans, each by the last models that know it and were not measured around it.

    What these say of the other plans that were measured corrects it.
    """
    measured = [(plan, loss.value) for plan, loss in study.tried()]
    said = [
        [(other, models.value(study, other), loss) for other, loss in measured if models.knows(study, other)]
        for models in made
    ]
    found: list[float | None] = []
    for plan in plans:
        pairs = zip(made, said, strict=True)
        knowing = [pair for pair in pairs if pair[0].knows(study, plan) and pair[0].table.centre != plan]
        if not knowing:
            found.append(None)
            continue
        last, others = knowing[-1]
        found.append(linked(last.value(study, plan), [(value, loss) for other, value, loss in others if other != plan]))
    return tuple(found)


def _next_centre(study: Study, found: Sequence[Candidate], used: Sequence[Choices]) -> Candidate | None:
    """Return the best plan that was measured and not yet searched around."""
    left = [candidate for candidate in found if candidate.choices not in used]
    return _best(study, left)[0] if left else None


def _first(study: Study) -> float:
    """Return what the responses around float cost, in runs."""
    variants = Menu(study.menu.units, _worthwhile(study)).variants
    return study.table_runs(variants, staged=True)


def _spared(study: Study) -> float:
    """Return the runs that were spared, which no further rounds are made of."""
    return study.table_runs(study.spared, staged=True) if study.spared else 0.0


def _round(study: Study) -> float:
    """Return what a round costs at most, in runs: responses of two neighbours of every unit, and plans."""
    return _first(study) * NEARBY + PROBED * study.repeats(staged=True)


def _affordable(study: Study) -> float:
    """Return the runs that the effort allows: by default a tenth of what measuring all pairs would take."""
    if study.effort == "extensive":
        return np.inf
    return SHARE_OF_PAIRS * pair_runs(study, study.menu.variants) * study.engine.first_share


def _worthwhile(study: Study) -> tuple[tuple[Option, ...], ...]:
    """Return the options of every unit but those of fewer bits that take as much of every budget as finer ones."""
    if not study.rows:
        return study.menu.options
    tied = {unit for tie in study.menu.ties for unit in tie}
    kept, start = [], 0
    for number, options in enumerate(study.menu.options):
        taken = [tuple(int(row.weights[start + place]) for row in study.rows) for place in range(len(options))]
        start += len(options)
        finer = {
            option
            for option, usage in zip(options, taken, strict=True)
            for other, of_other in zip(options, taken, strict=True)
            if usage == of_other
            and other.weight_bits > option.weight_bits
            and (other.activation_bits, other.block) == (option.activation_bits, option.block)
        }
        kept.append(tuple(o for o in options if o not in finer or number in tied))
    return tuple(kept)


def _near(study: Study, choices: Choices) -> tuple[tuple[Option, ...], ...]:
    """Return for every unit its option and those next to it in precision."""
    near = []
    for own, options in zip(study.menu.held(choices), _worthwhile(study), strict=True):
        order = sorted({*options, own}, key=lambda o: (not o.is_float, -o.weight_bits, o))
        place = order.index(own)
        near.append(tuple(order[max(place - 1, 0) : place + 2]))
    return tuple(near)


def _distinct(found: Sequence[Candidate]) -> list[Candidate]:
    kept: dict[tuple[tuple[str, Option], ...], Candidate] = {}
    for candidate in found:
        kept.setdefault(tuple(sorted(candidate.choices.items())), candidate)
    return list(kept.values())


def _best(study: Study, found: Sequence[Candidate]) -> tuple[Candidate, float]:
    """Measure candidates, in a race, and return the best."""
    losses = [estimate.value for estimate in study.raced([candidate.choices for candidate in found])]
    place = int(np.argmin(losses))
    return found[place], losses[place]
