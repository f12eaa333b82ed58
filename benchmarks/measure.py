"""``python -m benchmarks measure``: the engine against the naive way, and how well its predictions hold.

The naive way lowers the whole model for every variant, loads it in a session of its own with optimisation off (the
plain way to have Q/DQ computed as written) and runs all samples through it. It is timed on a random sample of
variants, and scaled. ``tuned`` does the same in the engine's own sessions, which are literal near float speed; ``peer``
rebuilds with onnxruntime's own static quantiser, told to quantise that one layer.
"""

import json
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table as Grid

from benchmarks import zoo
from benchmarks.peers import Peer, quantise
from onnxmpq.artifacts import Option, Plan, parse_options
from onnxmpq.errors import OnnxmpqError
from onnxmpq.options import MeasureOptions
from onnxmpq.runtimes import Mode, get_runtime
from onnxmpq.sensitivity.batches import read_batch
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.sensitivity.table import Table, Variant
from onnxmpq.sensitivity.workers.executors import open_executor
from onnxmpq.workspace.prepare import prepare
from onnxmpq.workspace.workspace import workspace

MODES: tuple[Mode, Mode] = ("unoptimised", "literal")


@dataclass(frozen=True, slots=True)
class Row:
    """What was seen on one model; times in seconds, ratios as naive over engine."""

    model: str
    units: int
    variants: int
    samples: int
    full_runs: float
    share: float
    engine_s: float
    naive_s: float
    ratio: float
    tuned_s: float
    tuned_ratio: float
    peer_s: float
    peer_ratio: float
    pairs_over_gram: float
    gram_correlation: float
    superposed_correlation: float
    alone_correlation: float
    least_eigenvalue: float
    pairs: int = 0
    pairs_s: float = 0.0
    naive_pairs_s: float = 0.0
    pairs_ratio: float = 0.0
    pair_loss_correlation: float = float("nan")
    interaction_correlation: float = float("nan")


def measured(
    name: str,
    model: Path,
    calibration: Any,
    target: str,
    options: list[Option],
    samples: int,
    pairs: bool,
    executor: Executor,
) -> Row:
    """Measure one model both ways."""
    prepared = prepare(model, target)
    with (
        workspace(prepared, calibration) as opened,
        Engine(opened, MeasureOptions(samples=samples, executor=executor)) as engine,
    ):
        table = engine.table(options)
        count = len(table.variants)
        generator = np.random.default_rng(0)
        chosen = [table.variants[i] for i in generator.choice(count, min(8, count), replace=False)]
        naive, tuned = (
            float(np.mean([_naive(engine, [variant], mode) for variant in chosen])) * count for mode in MODES
        )
        peer = float(np.mean([_peer(engine, variant) for variant in chosen[:3]])) * count
        units = len({variant.unit for variant in table.variants})
        per_unit = count / units
        every_pair = units * (units - 1) / 2 * per_unit**2
        plans = [_random_plan(table, generator) for _ in range(24)]
        true = [estimate.value for estimate in engine.losses(plans)]
        full_runs, seconds = table.cost["full_runs"], table.cost["seconds"]
        row = {
            "units": units,
            "variants": count,
            "samples": table.samples,
            "full_runs": full_runs,
            "share": full_runs / count,
            "engine_s": seconds,
            "naive_s": naive,
            "ratio": naive / seconds,
            "tuned_s": tuned,
            "tuned_ratio": tuned / seconds,
            "peer_s": peer,
            "peer_ratio": peer / seconds,
            "pairs_over_gram": every_pair / full_runs,
            "gram_correlation": _correlation(true, [table.predict(plan) for plan in plans]),
            "superposed_correlation": float("nan")
            if table.sketched
            else _correlation(true, [engine.superposed(table, plan) for plan in plans]),
            "alone_correlation": _correlation(true, [table.predict_alone(plan) for plan in plans]),
            "least_eigenvalue": float(np.linalg.eigvalsh(table.gram)[0] / np.linalg.eigvalsh(table.gram)[-1]),
        }
        if pairs:
            row |= _pairs(engine, table, generator)
        return Row(model=name, **row)  # type: ignore[arg-type]


def _pairs(engine: Engine, table: Table, generator: np.random.Generator) -> dict[str, float]:
    """Measure all exact pairs, and the naive way on a random sample of them."""
    began = time.perf_counter()
    full = engine.pairs(table)
    seconds = time.perf_counter() - began
    keys = list(full.pairs)
    chosen = [keys[i] for i in generator.choice(len(keys), min(8, len(keys)), replace=False)]
    naive = float(np.mean([_naive(engine, [a, b], "unoptimised") for a, b in chosen])) * len(keys)
    losses, expected, interactions, entries = [], [], [], []
    for (a, b), estimate in full.pairs.items():
        if a.option.weight_bits >= 4 and b.option.weight_bits >= 4:
            i, j = table.index(a), table.index(b)
            losses.append(estimate.value)
            expected.append(table.predict({a.unit: a.option, b.unit: b.option}))
            interactions.append(float(estimate.value - table.loss[i] - table.loss[j] + table.centre_loss.value))
            entries.append(float(table.gram[i, j]))
    return {
        "pairs": len(keys),
        "pairs_s": seconds,
        "naive_pairs_s": naive,
        "pairs_ratio": naive / seconds,
        "pair_loss_correlation": _correlation(losses, expected),
        "interaction_correlation": _correlation(interactions, entries),
    }


def _feeds(engine: Engine) -> list[dict[str, np.ndarray]]:
    """Return the samples as the engine runs them."""
    return [feed for batch in range(engine.batches) for feed in read_batch(engine.layout.folder, batch).feeds]


def _run_all(model: bytes, feeds: list[dict[str, np.ndarray]], mode: Mode) -> None:
    session = get_runtime("onnxruntime").session(model, mode=mode)
    for feed in feeds:
        session.run(feed)


def _naive(engine: Engine, variants: list[Variant], mode: Mode) -> float:
    """Time lowering, loading and running the whole model for one choice."""
    choices, feeds = {variant.unit: variant.option for variant in variants}, _feeds(engine)
    began = time.perf_counter()
    lowered = engine.calibrated.lower(Plan(engine.target.name, "", choices))
    _run_all(ir.to_proto(lowered.model).SerializeToString(), feeds, mode)
    return time.perf_counter() - began


def _peer(engine: Engine, variant: Variant) -> float:
    """Time the same with onnxruntime's static quantiser in place of lowering."""
    nodes = [layer.node for layer in engine.space.unit(variant.unit).layers]
    model, feeds = ir.to_proto(engine.model).SerializeToString(), _feeds(engine)
    peer = Peer("static u8s8, raw", "static", True, preprocess=False)
    began = time.perf_counter()
    _run_all(quantise(peer, model, feeds, nodes), feeds, "unoptimised")
    return time.perf_counter() - began


def _random_plan(table: Table, generator: np.random.Generator) -> Mapping[str, Option]:
    """Draw an option, or float, for every unit."""
    options: dict[str, list[Option]] = {}
    for variant in table.variants:
        options.setdefault(variant.unit, [Option()]).append(variant.option)
    return {unit: found[generator.integers(len(found))] for unit, found in options.items()}


def _correlation(a: list[float], b: list[float]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@click.command()
@click.option(
    "--models", default="", help="Files or names of the zoo, separated by commas; the embedded ones if empty."
)
@click.option("--calibration", type=click.Path(path_type=Path), help="Samples, for models given as files.")
@click.option("--options", default="w8a8,w4a8,w3a8", show_default=True)
@click.option("--target", default="ort-cpu", show_default=True)
@click.option("--samples", default=256, show_default=True)
@click.option("--executor", default="inline", show_default=True, help="As for onnxmpq measure.")
@click.option("--pairs", is_flag=True, help="Measure all exact pairs, too.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def measure(
    models: str,
    calibration: Path | None,
    options: str,
    target: str,
    samples: int,
    executor: str,
    pairs: bool,
    file: Path | None,
) -> None:
    """Time the measuring engine against rebuilding the model for every variant."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=170)
    wanted = list(parse_options(options.split(",")))
    rows = []
    try:
        for name in models.split(",") if models else ("models/digits_cnn.onnx", "models/digits_vit.onnx"):
            log.print(name, highlight=False)
            path, data = Path(name), calibration or Path("models/digits_calibration.npz")
            given: Any = data
            if not path.is_file():
                path = zoo.folder() / "models" / f"{name}.onnx"
                first = get_runtime("onnxruntime").session(path, mode="deployed").inputs[0].name
                given = dict(zoo.zoo_model(name, first).calibration)
            with open_executor(executor) as pool:
                rows.append(measured(path.stem, path, given, target, wanted, samples, pairs, pool))
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    grid = Grid("model", title=f"{options} on {target}", title_justify="left")
    names = (
        "variants",
        "full runs",
        "per variant",
        "engine s",
        "naive s",
        "ratio",
        "tuned ratio",
        "peer ratio",
        "all pairs / gram",
    )
    for column in (
        *names,
        "r gram",
        "r superposed",
        "r alone",
        "pairs",
        "pairs s",
        "ratio",
        "r pairs",
        "r interactions",
    ):
        grid.add_column(column, justify="right")
    for row in rows:
        pair_columns = (
            str(row.pairs),
            f"{row.pairs_s:.0f}",
            f"{row.pairs_ratio:.1f}",
            f"{row.pair_loss_correlation:.3f}",
        )
        grid.add_row(
            *(row.model, str(row.variants), f"{row.full_runs:.1f}", f"{row.share:.2f}", f"{row.engine_s:.1f}"),
            *(
                f"{row.naive_s:.1f}",
                f"{row.ratio:.1f}",
                f"{row.tuned_ratio:.1f}",
                f"{row.peer_ratio:.1f}",
                f"{row.pairs_over_gram:.0f}",
                f"{row.gram_correlation:.3f}",
            ),
            *(f"{row.superposed_correlation:.3f}", f"{row.alone_correlation:.3f}"),
            *((*pair_columns, f"{row.interaction_correlation:.3f}") if row.pairs else ("",) * 5),
        )
    console.print(grid)
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
