"""What a report shows, as numbers: from results, fronts and tables to plain data.

    units ─▶ plans ─┬▶ interactions ─┐
                    └▶ predictions ──┴▶ make_view ─▶ View

Everything but the subject may be absent: a uniform build has no table, a front has no verdict, and a table alone no
plan.
"""

from collections.abc import Sequence

import numpy as np

from onnxmpq.api import Result
from onnxmpq.artifacts import Space
from onnxmpq.report.figures import PortionFigures, Proof, Summary, View
from onnxmpq.report.interactions import maps, strongest_pairs
from onnxmpq.report.plans import Measured, is_as_searched, plan_figures
from onnxmpq.report.predictions import alone_figures, guesses, spaced
from onnxmpq.report.units import option_figures, options_of, unit_figures, unquantised, with_costs_of
from onnxmpq.search.decide import Decision
from onnxmpq.search.front import Front
from onnxmpq.sensitivity.table import Table
from onnxmpq.version import __version__


def make_view(
    result: Result | None = None,
    *,
    front: Front | None = None,
    table: Table | None = None,
    space: Space | None = None,
    others: Sequence[Measured] = (),
    notes: Sequence[str] = (),
    title: str = "",
    command: str = "",
) -> View:
    """Gather what a report shows of a build, of a front, of both, or of a table alone.

    ``table`` is what was measured for them, ``space`` the units where there is no build, ``others`` plans to compare
    with, ``notes`` what else was noticed, ``command`` what reproduces it all.
    """
    space = result.space if result else space
    decision = result.decision if result else None
    units = unit_figures(space, front, table)
    chosen = options_of(result.plan.choices, units) if result else ()
    searched = options_of(decision.choices, units) if decision else chosen
    plans = plan_figures(result, front, others, units)
    options = option_figures(plans, chosen, table)
    units = with_costs_of(units, {option.name for option in options})
    own = np.array(np.diag(table.gram)) if table else np.zeros(0)
    named = {unit.name: unit.op for unit in units}
    return View(
        title=title or _title(result, front, table),
        version=__version__,
        command=command,
        summary=_summary(result, front, table),
        portions=_portions(result),
        options=options,
        units=units,
        chosen=chosen,
        plans=plans,
        alone=tuple(alone_figures(table, own)) if table else (),
        maps=tuple(maps(table, own, named, dict(zip(named, searched, strict=False)))) if table else (),
        pairs=strongest_pairs(table, own) if table else (),
        guesses=guesses(table, own, plans),
        unquantised=unquantised(space, result),
        verified=result.verdict.ok if result else None,
        checks=result.verdict.checks if result else (),
        proof=_proof(decision),
        notes=_notes(result, front, space, table, notes),
    )


def _title(result: Result | None, front: Front | None, table: Table | None) -> str:
    if result is not None:
        return result.path.name
    return f"Front over {front.over}" if front else "What was measured" if table else "Report"


def _portions(result: Result | None) -> tuple[PortionFigures, ...]:
    if result is None or result.float_portions is None or result.portions is None:
        return ()
    before, after = dict(result.float_portions.parts()), dict(result.portions.parts())
    return tuple(PortionFigures(n, before.get(n, 0), after.get(n, 0)) for n in dict.fromkeys((*before, *after)))


def _summary(result: Result | None, front: Front | None, table: Table | None) -> Summary:
    decision = result.decision if result and is_as_searched(result) else None
    plan = result.plan if result else front.plans[0] if front and front.plans else None
    method = result.decision.chosen if result and result.decision else plan.method if plan else ""
    full_runs, seconds = _taken(result, front, table)
    return Summary(
        target=plan.target if plan else table.target if table else "",
        runtime=result.verdict.runtime if result else "",
        method=method,
        float_file_bytes=result.float_file_bytes if result else front.float_file_bytes if front else None,
        file_bytes=result.file_bytes if result else None,
        loss=decision.loss if decision else None,
        predicted=decision.predicted if decision else None,
        loss_name=table.loss_name if table else "",
        samples=table.samples if table else None,
        accuracy=result.accuracy if result else None,
        speeds=tuple(c for c in result.verdict.checks if c.name.startswith("speed")) if result else (),
        full_runs=full_runs,
        seconds=seconds,
    )


def _taken(result: Result | None, front: Front | None, table: Table | None) -> tuple[float | None, float | None]:
    """Return what searching took, or measuring where nothing was searched: runs of the whole model, and seconds."""
    if result is not None and result.decision is not None:
        return result.decision.runs, result.decision.seconds
    if result is None and front is None and table is not None:
        return table.cost.get("full_runs"), table.cost.get("seconds")
    return None, None


def _notes(
    result: Result | None, front: Front | None, space: Space | None, table: Table | None, more: Sequence[str]
) -> tuple[str, ...]:
    """Return what was noticed on the way, then what is always so on this target."""
    found = [*(result.notes if result else ()), *(front.notes if front else ()), *more]
    if result is not None and result.decision is not None and not is_as_searched(result):
        found.append(
            "The losses are those of the plan as it was searched; the file computes the same weights in float."
        )
    if table is not None and (shown := len(spaced(table))) < len(table.pairs):
        found.append(
            f"Of {len(table.pairs):,} pairs that were measured, prediction against measurement shows {shown:,}, evenly "
            "from the smallest loss to the largest."
        )
    return tuple(dict.fromkeys([*found, *(space.notes if space else ())]))


def _proof(decision: Decision | None) -> Proof | None:
    proof = decision.proof if decision else None
    if proof is None:
        return None
    return Proof(
        proof.objective, proof.bound, proof.gap, str(proof.status), proof.solver, proof.seed, float(proof.seconds)
    )
