"""A plan from a table alone, without the model, samples or a runtime: predicted and proved, not measured.

The plan is the one that a search by ``gram`` solves first from the same responses. A search goes on from there: it
measures that plan and others, and takes the best. Here the loss is what the quadratic model says, and the file is as
large as the units and the sizes of uniform plans let foresee.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Never, cast

from onnxmpq.artifacts import FLOAT, Option, Plan, Space
from onnxmpq.budgets.limits import Limit, parse_limits
from onnxmpq.budgets.rows import Row
from onnxmpq.budgets.size import Size
from onnxmpq.errors import InputError, InternalError
from onnxmpq.methods.gram import Gram, foretold
from onnxmpq.methods.protocol import Measurer
from onnxmpq.methods.rows import make_rows
from onnxmpq.methods.study import Choices, Menu, Study
from onnxmpq.methods.uniform import nearest
from onnxmpq.options import Constraints
from onnxmpq.search.constraints import decided
from onnxmpq.search.decide import proof_json
from onnxmpq.sensitivity.facts import Facts
from onnxmpq.sensitivity.table import Table
from onnxmpq.solve import Solution
from onnxmpq.workspace.prepare import Progress, parsed, silent

_SHOWN = 3  # units that are named in a note


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, what the quadratic model predicts for it with the proof, and what it takes.

    ``rows`` are the budgets and ``usage`` what the plan takes of each; ``file_bytes`` are foreseen, up to the names of
    tensors that layers share.
    """

    plan: Plan
    space: Space
    proof: Solution
    loss_name: str
    rows: tuple[Row, ...]
    usage: tuple[int, ...]
    file_bytes: int
    float_file_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def predicted(self) -> float:
        """The loss that the quadratic model predicts."""
        return self.proof.objective

    @property
    def counts(self) -> Mapping[Option, int]:
        """How many units take each option."""
        return Counter(self.plan.choices.get(unit.name, FLOAT) for unit in self.space.units)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "plan": self.plan.to_json(),
            "loss_name": self.loss_name,
            "predicted": self.predicted,
            "measured": None,
            "proof": proof_json(self.proof),
            "budgets": [
                {"budget": str(row.limit), "usage": row.total(used), "limit": row.total(row.most)}
                for row, used in zip(self.rows, self.usage, strict=True)
            ],
            "foreseen_file_bytes": self.file_bytes,
            "float_file_bytes": self.float_file_bytes,
            "size_share": self.file_bytes / self.float_file_bytes if self.float_file_bytes else None,
            "units": {str(option): count for option, count in self.counts.items()},
            "notes": list(self.notes),
        }


def plan_from(
    table: Table | str | os.PathLike[str],
    *,
    budget: Mapping[str, object] | Sequence[str],
    options: Sequence[str | Option] = (),
    constraints: Constraints = Constraints(),
    seed: int = 0,
    progress: Progress = silent,
) -> Planned:
    """Return the best plan within budgets that the quadratic model of a table, or of the file of one, knows.

    Units take what was measured of ``options``, which is all of it where none are given, and else stay as they were.
    InfeasibleError is for budgets that nothing meets.

    >>> import numpy as np, onnx
    >>> model = onnx.parser.parse_model(
    ...     '<ir_version: 8, opset_import: ["": 17]> g (float[n, 64] x) => (float[n, 64] y) '
    ...     "{ h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }"
    ... )
    >>> weights = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    >>> model.graph.initializer.extend(map(onnx.numpy_helper.from_array, weights, "ab"))
    >>> from onnxmpq.api import measure
    >>> planned = plan_from(measure(model, {"x": weights[0]}), budget={"bits": 6})
    >>> sorted(str(option) for option in planned.plan.choices.values()), planned.proof.status
    (['w6a8', 'w6a8'], 'optimal')
    """
    limits = parse_limits(budget)
    _refuse_what_needs_files(limits)
    table = table if isinstance(table, Table) else Table.read(Path(table))
    facts = _facts_of(table)
    menu = _menu(table, facts, parsed(options), constraints)
    rows = make_rows(limits, menu, facts, facts.beside)
    study = Study(cast(Measurer, _Recorded(facts.space)), menu, rows, seed=seed, progress=progress)
    found = foretold(study, table)
    if found.proof is None:
        raise InternalError("A plan was solved without a proof.")
    return Planned(
        plan=replace(facts.empty, method=Gram.name, choices=found.choices),
        space=facts.space,
        proof=found.proof,
        loss_name=table.loss_name,
        rows=study.rows,
        usage=study.usage(found.choices),
        file_bytes=_file_bytes(study, facts, found.choices),
        float_file_bytes=facts.source_bytes,
        notes=tuple(_notes(study, table, found.choices)),
    )


def _refuse_what_needs_files(limits: Sequence[Limit]) -> None:
    """Refuse budgets that are no sums over units, and none at all."""
    if not limits:
        raise InputError("A plan needs a budget: size=30%, bits=4, bops=25% or memory=40MB.")
    for limit in limits:
        if not limit.budget.rows:
            raise InputError(
                f"'{limit}' is measured on whole files, and a table has none. `onnxmpq quantize MODEL -b {limit}` "
                "searches for it."
            )


def _facts_of(table: Table) -> Facts:
    if table.facts is None:
        raise InputError(
            "The table does not have what its units cost, which budgets are counted from: it was written before tables "
            "kept that. Measure again; what is in a store is not measured twice."
        )
    return table.facts


def _menu(table: Table, facts: Facts, options: Sequence[Option], constraints: Constraints) -> Menu:
    """Return what units may take of the options, or of all that was measured; those without one stay as they were."""
    held = {unit.name: table.centre.get(unit.name, FLOAT) for unit in facts.space.units}
    measured: dict[str, list[Option]] = {name: [option] for name, option in held.items()}
    for variant in table.variants:
        measured[variant.unit].append(variant.option)
    offered = {}
    for unit in facts.space.units:
        known = measured[unit.name]
        asked = [nearest(unit, option) for option in options] if options else known
        if not options and len(known) > 1 and held[unit.name] == FLOAT:
            asked = known[1:]  # float is what is left, not what is offered
        allowed = tuple(dict.fromkeys(option for option in asked if option in known))
        offered[unit.name] = allowed or (held[unit.name],)
    if options and all(allowed == (FLOAT,) for allowed in offered.values()) and set(options) != {FLOAT}:
        there = dict.fromkeys(str(variant.option) for variant in table.variants)
        raise InputError(
            f"No unit of the table was measured at any of {', '.join(map(str, options))}. It has: {', '.join(there)}."
        )
    menu = decided(facts.space, offered, constraints)
    for unit, allowed in zip(menu.units, menu.options, strict=True):
        for option in allowed:
            if option not in measured[unit.name]:
                raise InputError(
                    f"'{unit.name}' is to take {option}, at which it was not measured. The table has it at "
                    f"{', '.join(map(str, measured[unit.name]))}. Measure with other --options, or decide otherwise."
                )
    return menu


def _notes(study: Study, table: Table, choices: Choices) -> Iterator[str]:
    """Say which units had nothing to choose from though they have options, and what of the size is not foreseen."""
    changed = {variant.unit for variant in table.variants}
    open_units = [unit.name for unit in study.menu.units if len(unit.options) > 1]
    left = [name for name in open_units if name not in changed]
    if left:
        named = ", ".join(left[:_SHOWN]) + (f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else "")
        yield f"No option was measured of these units, which stay as they were: {named}."
    floats = sum(choices.get(name, FLOAT) == FLOAT for name in open_units)
    if floats and choices and any(row.limit.budget.of_file for row in study.rows):
        yield (
            f"Units that stay float among quantised ones: {floats}. What stands around them in the file is not "
            "foreseen; `onnxmpq apply` says how large it is."
        )


def _file_bytes(study: Study, facts: Facts, choices: Choices) -> int:
    """Return the bytes of the file that a plan leads to, as sizes of uniform plans let foresee."""
    wide = make_rows((Limit(Size.name, 1e18, share=False),), study.menu, facts, facts.beside)
    return replace(study, rows=wide).foreseen_bytes(choices)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Stands where an engine does in a search: it knows the units, and measures nothing."""

    space: Space

    def __getattr__(self, name: str) -> Never:
        """Refuse everything else."""
        raise InternalError(f"A plan was to come from a table alone, and '{name}' was asked for.")
