"""What a report shows, as numbers: from results, fronts and tables to plain data.

    units ─▶ plans ─┬▶ interactions ─┐
                    └▶ predictions ──┴▶ make_view ─▶ View

Everything but the subject may be absent: a uniform build has no table, a front has no verdict.
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
    title: str = "",
    command: str = "",
) -> View:
    """Gather what a report shows of a build, of a front, or of both.

    ``table`` is what was measured for them, ``space`` the units of a front without a build, ``others`` plans to
    compare with, ``command`` what reproduces it all.
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
        title=title or (result.path.name if result else f"Front over {front.over}" if front else "Report"),
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
        notes=_notes(result, front, space, table),
    )


def _portions(result: Result | None) -> tuple[PortionFigures, ...]:
    if result is None or result.float_portions is None or result.portions is None:
        return ()
    before, after = dict(result.float_portions.parts()), dict(result.portions.parts())
    return tuple(PortionFigures(n, before.get(n, 0), after.get(n, 0)) for n in dict.fromkeys((*before, *after)))


def _summary(result: Result | None, front: Front | None, table: Table | None) -> Summary:
    decision = result.decision if result and is_as_searched(result) else None
    plan = result.plan if result else front.plans[0] if front and front.plans else None
    method = result.decision.chosen if result and result.decision else plan.method if plan else ""
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
        full_runs=result.decision.runs if result and result.decision else None,
        seconds=result.decision.seconds if result and result.decision else None,
    )


def _notes(result: Result | None, front: Front | None, space: Space | None, table: Table | None) -> tuple[str, ...]:
    """Return what was noticed on the way, then what is always so on this target."""
    found = [*(result.notes if result else ()), *(front.notes if front else ())]
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
