"""Results, tables and fronts made up for reports: any number of units, and names that try to break out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxmpq.api import Result
from onnxmpq.artifacts import (
    FLOAT,
    Accuracy,
    Check,
    Cost,
    Estimate,
    Layer,
    Leftover,
    Option,
    Plan,
    Space,
    Unit,
    Verdict,
)
from onnxmpq.model.portions import Portions
from onnxmpq.search.decide import Decision
from onnxmpq.search.front import Front
from onnxmpq.search.loop import Point
from onnxmpq.sensitivity.table import Table, Variant
from onnxmpq.solve import Solution
from tests.graphs import rng

OPTIONS = tuple(map(Option.parse, ("w8a8", "w4a8", "w2a8")))
FOUR = (*OPTIONS, Option.parse("w3a8"))
WEIGHTS_ONLY = tuple(Option(option.weight_bits) for option in OPTIONS)
EVIL = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>&\"'`${x}"


def space(count: int, offered: Sequence[Option] = OPTIONS) -> Space:
    """Return units of two operators, one of which has float alone."""
    units = []
    for number in range(count):
        op = ("Conv", "MatMul")[number % 2]
        name = EVIL if number == 0 else f"blocks.{number}.layer/{op}"
        size = 1000 + 37 * number
        layer = Layer(
            name, op, "dense", (f"{name}.w",), (10, size // 10), "FLOAT", (1,), (0,), "", "", "y", size, False
        )
        options = (FLOAT,) if number == count - 1 else (FLOAT, *offered, *WEIGHTS_ONLY)
        costs = tuple(Cost(o, size * (o.weight_bits or 32) // 8, size * (o.weight_bits or 32)) for o in options)
        units.append(Unit(name, (layer,), size, size, costs, "it has no kernel" if len(options) == 1 else ""))
    leftovers = (Leftover("embed", "Gather", 4096, "operator Gather is not one that onnxmpq quantises"),)
    return Space(
        "ort-cpu", tuple(units), leftovers, sum(u.cost(FLOAT).stored_bytes for u in units), ("a target's note",)
    )


def table(space: Space, *, pairs: bool = False, errors: bool = True) -> Table:
    """Return a table of random responses, larger for fewer bits; exact pairs where asked for.

    Without ``errors`` those of the Gram matrix, which a report does not read, are one 0 that is seen everywhere.
    """
    g = rng(3)
    variants = tuple(Variant(unit.name, option) for unit in space.units for option in unit.options if option in FOUR)
    count = len(variants)
    scale = np.array([2.0**-variant.option.weight_bits for variant in variants])
    responses = (g.normal(size=(count, 24)) + 0.5 * g.normal(size=24)) * scale[:, None]
    gram = responses @ responses.T
    linear = 1e-3 * g.normal(size=count) * np.diag(gram)
    loss = (linear + 0.5 * np.diag(gram)) * np.exp(0.1 * g.normal(size=count))
    exact = {(variants[0], variants[4]): Estimate(float(loss[0] + loss[4] + gram[0, 4] + 1e-6), 1e-7)}
    return Table(
        target="ort-cpu",
        loss_name="kl(y)",
        centre={},
        variants=variants,
        samples=64,
        centre_loss=Estimate(0.0, 0.0),
        loss=loss,
        loss_error=0.1 * loss,
        linear=linear,
        linear_error=0.1 * np.abs(linear),
        gram=gram,
        gram_error=0.1 * np.abs(gram) if errors else np.broadcast_to(0.0, gram.shape),
        local=scale**2,
        local_error=0.01 * scale**2,
        sqnr_db=np.where(np.arange(count) == 0, np.inf, 20.0 + g.normal(size=count))[:, None],
        sqnr_error_db=np.full((count, 1), 0.5),
        outputs=("y",),
        sketched=False,
        pairs=exact if pairs else {},
    )


def choices(space: Space, seed: int) -> dict[str, Option]:
    """Return one option for every unit that has any."""
    g = rng(seed)
    return {unit.name: OPTIONS[int(g.integers(3))] for unit in space.units if len(unit.options) > 1}


def result(space: Space, *, uniform_only: bool = False) -> Result:
    """Return what a search within a budget gives, or a build of a uniform plan."""
    checks = (
        Check("loads", True, "1.31.1", "the runtime accepts the file"),
        Check("simulation", True, float("inf"), "at least 40.0 dB", "runtime against literal Q/DQ"),
        Check("kernels", True, 17, "18 integer layers", "1 Q/DQ left over, 0 layers in float"),
        Check("speed", None, 1.93, "times f32", "quartiles 1.73 to 2.07, 0.258 ms to 0.133 ms"),
    )
    plan = Plan("ort-cpu", "gram", choices(space, 1), "0" * 64)
    taken = sum(unit.cost(plan.choices.get(unit.name, FLOAT)).stored_bytes for unit in space.units)
    proof = Solution("optimal", (), 0.011, 0.01099, (taken,), 7, 1.5, 12, "HiGHS 1.15.1")
    uniform = {unit: OPTIONS[2] for unit in plan.choices}
    decision = Decision(
        *(
            plan.choices,
            Estimate(0.012, 0.001),
            Estimate(0.0118, 0.001),
            0.011,
            proof,
            plan.choices,
            Estimate(0.012, 0.001),
        ),
        *({"w2a8": (uniform, Estimate(0.4, 0.02))}, "gram", 35.0, 3.7, ("a note of the search",)),
    )
    return Result(
        path=Path("out.onnx"),
        plan_path=Path("out.plan.json"),
        plan=plan,
        space=space,
        verdict=Verdict("onnxruntime 1.31.1", checks),
        accuracy=Accuracy(0.98, 0.975, 0.002, 1000),
        float_file_bytes=space.float_bytes + 5000,
        file_bytes=taken + 9000,
        notes=("a note of the search", EVIL),
        decision=None if uniform_only else decision,
        float_portions=Portions(space.float_bytes, 0, 100, 2900, 2000),
        portions=Portions(taken, 500, 100, 8400, 0),
    )


def front(space: Space, points: int = 12) -> Front:
    """Return plans of growing size and falling loss, one of them uniform."""
    found, plans = [], []
    for number in range(points):
        picked = choices(space, 100 + number)
        size = 20_000 + 3000 * number
        loss = Estimate(0.5 * 2.0**-number, 0.05 * 2.0**-number)
        uniform = number == points - 1
        foreseen = None if uniform else 0.9 * loss.value
        found.append(
            Point(size, picked, size, size, foreseen, foreseen, loss, "optimal", "uniform w8a8" if uniform else "gram")
        )
        plans.append(Plan("ort-cpu", "pareto", picked))
    return Front("size", space.float_bytes + 5000, tuple(plans), tuple(found))
