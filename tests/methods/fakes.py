"""A study of a model that is a formula: losses are sums of what variants do alone and in pairs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, cast

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Cost, Estimate, Layer, Option, Space, Unit
from onnxmpq.budgets.limits import Limit, budget
from onnxmpq.budgets.rows import Row, weights_of
from onnxmpq.methods.protocol import Measurer
from onnxmpq.methods.study import Choices, Menu, Study
from onnxmpq.sensitivity.table import Cost as RunCost
from onnxmpq.sensitivity.table import Table, Variant

W8, W4, W2 = Option(8), Option(4), Option(2)


@dataclass(frozen=True, slots=True)
class Given:
    """What budgets are counted from."""

    space: Space
    source_bytes: int = 0
    overhead: int = 0
    live_bytes: int = 0


def unit_of(name: str, parameters: int, options: Sequence[Option] = (W8, W4, W2)) -> Unit:
    """Make a unit of one product; a byte holds eight bits of weights, and a weight is used once."""
    layer = Layer(name, "MatMul", "dense", (f"{name}.w",), (1, parameters), "FLOAT", (1,), (0,), "", "", "", 1, False)
    costs = tuple(
        Cost(o, parameters * (o.weight_bits or 32) // 8, parameters * (o.weight_bits or 32) * (o.activation_bits or 32))
        for o in (FLOAT, *options)
    )
    return Unit(name, (layer,), parameters, parameters, costs, "")


@dataclass
class FakeEngine:
    """Answers as the engine does, from ``alone``, ``together`` and what else is given for each variant."""

    units: tuple[Unit, ...]
    alone: Mapping[Variant, float]
    together: Mapping[tuple[Variant, Variant], float] = field(default_factory=dict)
    base: float = 0.0
    local: Mapping[Variant, float] = field(default_factory=dict)
    decibels: Mapping[Variant, Sequence[float]] = field(default_factory=dict)
    trace: Mapping[str, float] = field(default_factory=dict)
    measure: Callable[[Choices], float] | None = None
    measured: list[dict[str, Option]] = field(default_factory=list)
    batches: int = 1
    first: int = 1
    first_share: float = 1.0
    samples: int = 1
    plain: int = 1
    repeats: float = 1.0
    sketches: bool = True

    @property
    def space(self) -> Space:
        """Return the space of the units."""
        return Space("fake", self.units, (), sum(unit.cost(FLOAT).stored_bytes for unit in self.units))

    @property
    def model(self) -> ir.Model:
        """Return a model without nodes."""
        return ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 21}), ir_version=10)

    def true_loss(self, plan: Choices) -> float:
        """Return the loss of a plan: by the formula, or as told."""
        if self.measure is not None:
            return self.measure(plan)
        chosen = [Variant(unit, option) for unit, option in plan.items() if option != FLOAT]
        rises = sum(self.alone.get(variant, 0.0) for variant in chosen)
        return self.base + rises + sum(self._together(a, b) for a, b in combinations(chosen, 2))

    def _together(self, a: Variant, b: Variant) -> float:
        return self.together.get((a, b), 0.0) + self.together.get((b, a), 0.0)

    def cost(self, variants: Sequence[Variant], batches: int | None = None) -> RunCost:
        """Count two runs and one for each variant."""
        return RunCost(len(variants), len(variants), 2.0 + len(variants), 0, 0.0)

    def table(
        self, options: Sequence[Option], centre: Choices, variants: Sequence[Variant], batches: int | None = None
    ) -> Table:
        """Measure variants alone around a centre."""
        zeros = np.zeros(len(variants))
        around = self.true_loss(centre)
        losses = np.array([self.true_loss({**centre, v.unit: v.option}) for v in variants])
        outputs = max((len(found) for found in self.decibels.values()), default=1)
        decibels = np.array([self.decibels.get(v, [-10.0] * outputs) for v in variants]).reshape(-1, outputs)
        return Table(
            target="fake",
            loss_name="fake",
            centre=dict(centre),
            variants=tuple(variants),
            samples=1,
            centre_loss=Estimate(around, 0.0),
            loss=losses,
            loss_error=zeros,
            linear=losses - around,
            linear_error=zeros,
            gram=np.zeros((len(variants), len(variants))),
            gram_error=np.zeros((len(variants), len(variants))),
            local=np.array([self._local(v, centre) for v in variants]),
            local_error=zeros,
            sqnr_db=decibels,
            sqnr_error_db=np.zeros_like(decibels),
            outputs=tuple(f"y{i}" for i in range(outputs)),
            sketched=True,
        )

    def local_errors(self, variants: Sequence[Variant]) -> dict[Variant, float]:
        """Return errors as they are given, or a quarter for every bit."""
        return {variant: self.local.get(variant, 4.0**-variant.option.weight_bits) for variant in variants}

    def _local(self, variant: Variant, centre: Choices) -> float:
        """Return the error of a variant on float inputs, or of the centre's option where the variant is float."""
        if variant.option == FLOAT:
            variant = Variant(variant.unit, centre.get(variant.unit, FLOAT))
        return self.local.get(variant, 0.0)

    def pairs(self, table: Table, wanted: Iterable[tuple[Variant, Variant]] | None = None) -> Table:
        """Add all pairs, the later variant first where that is the order of names."""
        both = {
            (b, a): Estimate(self.true_loss({a.unit: a.option, b.unit: b.option}), 0.0)
            for a, b in combinations(table.variants, 2)
            if a.unit != b.unit
        }
        return replace(table, pairs=both)

    def losses(self, plans: Sequence[Choices]) -> list[Estimate]:
        """Measure plans, and remember which."""
        self.measured += [dict(plan) for plan in plans]
        return [Estimate(self.true_loss(plan), 0.0) for plan in plans]

    def sample_losses_of(self, plans: Sequence[Choices], batches: int) -> np.ndarray:
        """Return the losses of plans on the one sample."""
        return np.array([[self.true_loss(plan)] for plan in plans])

    def error_powers(self, plans: Sequence[Choices]) -> np.ndarray:
        """Return the losses of plans: what errs more loses more."""
        return np.array([self.true_loss(plan) for plan in plans])

    def traces(self, draws: int = 4) -> dict[str, Estimate]:
        """Return the traces as given."""
        return {unit: Estimate(value, 0.0) for unit, value in self.trace.items()}


def study_of(
    engine: FakeEngine, ties: Sequence[tuple[int, ...]] = (), options: Sequence[Option] | None = None, **limits: int
) -> Study:
    """Open a study over all options of the units, or over some, with limits in what the rows count."""
    offered = tuple(
        unit.options if options is None else tuple(o for o in options if o in unit.options) for unit in engine.units
    )
    menu = Menu(engine.units, offered, tuple(ties))
    rows = tuple(
        Row(Limit(kind, most, share=False), weights_of(budget(kind), menu.units, menu.options), most)
        for kind, most in limits.items()
    )
    return Study(cast(Measurer, engine), menu, rows)


def drawn(seed: int, units: int = 5, spread: float = 0.3, **more: Any) -> FakeEngine:
    """Draw a model: rises fall four-fold with every two bits, pairs have either sign."""
    generator = np.random.default_rng(seed)
    made = tuple(unit_of(f"u{i}", int(generator.integers(10, 50)) * 8) for i in range(units))
    size = generator.uniform(0.5, 2.0, units)
    alone = {
        Variant(u.name, o): float(s * 4.0**-o.weight_bits)
        for u, s in zip(made, size, strict=True)
        for o in (W8, W4, W2)
    }
    together = {
        (a, b): float(spread * generator.normal() * np.sqrt(alone[a] * alone[b]))
        for a, b in combinations(alone, 2)
        if a.unit != b.unit
    }
    return FakeEngine(made, alone, together, **more)
