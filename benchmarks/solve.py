"""``python -m benchmarks solve``: how good the solver's plans are, how well they are proved, and in what time.

Times are CPU seconds of one thread in a process of its own; time limits are wall time. Every class of problems is
solved for several seeds and has a line that its medians should keep. Rivals get the same time: HiGHS on linearised
products, and SCIP, where PySCIPOpt is installed, on the quadratic objective as it is. Both work on the presolved
problem, so that what is compared is not presolving. ``best`` is the best value that any run of a problem found.
"""

import json
import os
import platform
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import import_module
from math import inf, isfinite
from pathlib import Path
from statistics import median
from typing import Any, Literal

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.instances import BITS, BUDGETS, Kind, generated, limit_at, measured
from onnxmpq.errors import OnnxmpqError
from onnxmpq.runtimes.base import one_line
from onnxmpq.sensitivity.workers.executors import InlineExecutor, open_executor
from onnxmpq.solve import Problem, relative_gap, solve_front, verify
from onnxmpq.solve import solve as solve_problem
from onnxmpq.solve.exact import linearised
from onnxmpq.solve.highs import assignment, version
from onnxmpq.solve.linear import solve_exactly
from onnxmpq.solve.reduce import Floats, Integers, Presolved, presolve
from onnxmpq.solve.solver import PROVEN

Solver = Literal["onnxmpq", "HiGHS", "SCIP"]
RIVALS: dict[str, tuple[Solver, ...]] = {
    "none": (),
    "highs": ("HiGHS",),
    "scip": ("SCIP",),
    "all": ("HiGHS", "SCIP"),
}
VERIFIED = 250  # options up to which certificates are kept and verified
OVERRUN = 1.02  # of a time limit, which is only looked at between steps
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
SIZE = re.compile(r"(?:(?P<kind>gram|indefinite|linear):)?(?P<units>\d+)x(?P<options>\d+)")
CALIBRATION = Path("models/digits_calibration.npz")


@dataclass(frozen=True, slots=True)
class Line:
    """What medians should keep: a gap within CPU seconds, or a multiple of what the class ``plain`` takes."""

    seconds: float = inf
    gap: float = PROVEN
    plain: str = ""
    factor: float = inf

    def __str__(self) -> str:
        """Write it shortly."""
        if self.plain:
            return f"≤ {self.factor:g} x {self.plain}"
        return f"{'proven' if self.gap == PROVEN else f'≤ {self.gap:.1%}'} in {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Case:
    """A class of problems, one for every seed; with ``model`` the one that is measured from it.

    ``points`` are the budgets of a front; ``seeds`` are how many are solved at most.
    """

    kind: Kind
    units: int = 0
    options: int = 0
    budgets: int = 1
    noise: float = 0.02
    groups: int = 0
    implications: int = 0
    forbidden: int = 0
    model: str = ""
    points: int = 0
    time_limit: float = 60.0
    seeds: int = 1000
    line: Line | None = None

    @property
    def name(self) -> str:
        """Say what is special about it."""
        parts = [self.model or f"{self.kind} {self.units}x{self.options}"]
        parts += [self.kind] if self.model else []
        parts += [f"{self.noise:.0%} noise"] if self.kind == "indefinite" and not self.model else []
        parts += [f"{self.budgets} budgets"] if self.budgets > 1 else []
        for count, what in (
            (self.groups, "groups"),
            (self.implications, "implications"),
            (self.forbidden, "forbidden"),
        ):
            parts += [f"{count} {what}"] if count else []
        return ", ".join(parts)

    def problem(self, seed: int) -> Problem:
        """Make or measure the problem."""
        return _problem(self, seed)


@cache
def _problem(case: Case, seed: int) -> Problem:
    if case.model:
        return measured(Path(case.model), CALIBRATION, case.kind)
    rules = {"groups": case.groups, "implications": case.implications, "forbidden": case.forbidden}
    return generated(case.units, case.options, seed, case.kind, case.budgets, noise=case.noise, **rules)


PLAIN = Case("gram", 54, 3, line=Line(10.0))
SUITES: dict[str, tuple[Case, ...]] = {
    "quick": (
        Case("gram", 14, 4, line=Line(5.0)),
        Case("gram", 20, 3, line=Line(5.0)),
        Case("indefinite", 20, 3, line=Line(5.0)),
        Case("linear", 200, 8, 3, line=Line(5.0)),
    ),
    "paper": (
        PLAIN,
        Case("gram", 54, 4, line=Line(12.0)),
        Case("gram", 74, 3, line=Line(15.0)),
        Case("gram", 54, 6, line=Line(60.0)),
        Case("indefinite", 54, 3, noise=0.02, line=Line(30.0)),
        Case("indefinite", 54, 3, noise=0.05, line=Line(30.0)),
    ),
    "large": (
        Case("gram", 150, 3, line=Line(60.0, 0.004)),
        Case("gram", 150, 4, line=Line(60.0, 0.015)),
        Case("gram", 300, 3, time_limit=300.0, seeds=2, line=Line(300.0, 0.02)),
    ),
    "rules": (
        PLAIN,
        *(
            replace(case, line=Line(plain=PLAIN.name, factor=2.0))
            for case in (
                replace(PLAIN, budgets=2),
                replace(PLAIN, budgets=3),
                replace(PLAIN, groups=6),
                replace(PLAIN, implications=8),
                replace(PLAIN, forbidden=8),
            )
        ),
    ),
    "linear": (Case("linear", 200, 8, 3, line=Line(5.0)), Case("linear", 2000, 8, 3, line=Line(5.0))),
    "fronts": (replace(PLAIN, points=30, time_limit=300.0, line=Line(plain=PLAIN.name, factor=10.0)),),
    "measured": tuple(
        Case(kind, model=f"models/{name}.onnx", seeds=1, line=Line(30.0))
        for name in ("digits_cnn", "digits_vit")
        for kind in ("gram", "indefinite")
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One run. ``proof`` says whether the certificate held, ``points`` how many budgets it solved."""

    case: str
    kind: Kind
    units: int
    options: int
    budgets: int
    seed: int
    solver: str
    status: str = "failed"
    value: float = inf
    bound: float = -inf
    gap: float = inf
    cpu_s: float = inf
    wall_s: float = inf
    nodes: int = 0
    proof: bool | None = None
    points: int = 0
    note: str = ""
    above_best: float = inf


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker runs; a short run is one with little time, to see how good its plan is."""

    case: Case
    seed: int
    solver: Solver
    time_limit: float
    proof: bool = False
    short: bool = False


Runner = Callable[[Job, Problem, Row], Row]


@dataclass(slots=True)
class Clock:
    """CPU and wall seconds since the start."""

    cpu: float = field(default_factory=time.process_time)
    wall: float = field(default_factory=time.perf_counter)

    def stop(self, row: Row) -> Row:
        """Note both in a row."""
        return replace(row, cpu_s=time.process_time() - self.cpu, wall_s=time.perf_counter() - self.wall)


def run(job: Job) -> Row:
    """Solve the problem of a job once; what fails becomes a note."""
    problem = job.case.problem(job.seed)
    _warm(job.solver)
    solver: str = job.solver
    if job.short or job.case.points:
        solver += f", {job.time_limit:.0f} s" if job.short else f", front of {job.case.points}"
    most = int(problem.sizes.max())
    row = Row(job.case.name, job.case.kind, len(problem.units), most, len(problem.budgets), job.seed, solver)
    row = replace(row, points=job.case.points)
    try:
        if job.case.points:
            return _front(job, problem, row)
        return _runner(job.solver)(job, problem, row)
    except Exception as error:  # a rival may raise anything
        return replace(row, note=one_line(error, 120))


@cache
def _warm(solver: Solver) -> None:
    """Load what a solver needs, so that no run pays for it."""
    tiny = Case("gram", 12, 3)
    _runner(solver)(Job(tiny, 0, solver, 10.0), tiny.problem(0), Row("", "gram", 12, 3, 1, 0, solver))


def _runner(solver: Solver) -> Runner:
    runners: dict[Solver, Runner] = {"onnxmpq": _ours, "HiGHS": _highs, "SCIP": _scip}
    return runners[solver]


def _ours(job: Job, problem: Problem, row: Row) -> Row:
    clock = Clock()
    found = solve_problem(problem, time_limit=job.time_limit, seed=job.seed)
    row = replace(clock.stop(row), status=found.status, nodes=found.nodes)
    row = replace(row, value=found.objective, bound=found.bound, gap=found.gap)
    if job.proof and problem.quadratic is not None and len(problem.linear) <= VERIFIED:
        again = solve_problem(problem, time_limit=4 * job.time_limit, seed=job.seed, proof=True)
        kept = again.certificate
        whole = kept is not None and kept.complete and relative_gap(again.bound, kept.bound) < PROVEN / 100
        return replace(row, proof=kept is not None and whole and verify(problem, kept))
    return row


def _front(job: Job, problem: Problem, row: Row) -> Row:
    """Solve for limits of the first budget, evenly between a tenth and nine tenths of what it can be."""
    first = problem.budgets[0]
    limits = [limit_at(problem, first.weights, share) for share in np.linspace(0.1, 0.9, job.case.points)]
    clock = Clock()
    front = solve_front(problem, first.name, limits, time_limit=job.time_limit, seed=job.seed)
    row = clock.stop(row)
    proven = sum(point.status == "optimal" for point in front)
    return replace(
        row,
        status="optimal" if proven == len(front) else f"{proven} optimal",
        gap=max(point.gap for point in front),
        nodes=sum(point.nodes for point in front),
    )


def _highs(job: Job, problem: Problem, row: Row) -> Row:
    """Run HiGHS on the presolved problem, with linearised products where it has a quadratic part."""
    presolved = presolve(problem)
    reduced = presolved.reduced
    clock = Clock()
    if reduced.is_linear:
        scale = float(np.abs(reduced.linear).max()) or 1.0
        model = assignment(reduced, reduced.linear / scale)
        model = replace(model, integral=np.ones(reduced.options, dtype=bool), constant=reduced.constant / scale)
        deadline = time.perf_counter() + job.time_limit
        found = solve_exactly(reduced, model, scale, deadline, PROVEN, job.seed)
    else:
        found = linearised(reduced, job.time_limit, PROVEN, job.seed)
    row = replace(clock.stop(row), status=found.status, bound=found.bound * presolved.scale)
    return _rated(row, problem, presolved, found.picked)


def _scip(job: Job, problem: Problem, row: Row) -> Row:
    """Run SCIP on the presolved problem: minimise t where t is at least the quadratic objective."""
    presolved = presolve(problem)
    reduced = presolved.reduced
    model, options = _scip_model(presolved, job)
    clock = Clock()
    model.optimize()
    outcome = {"optimal": "optimal", "gaplimit": "optimal", "timelimit": "time"}.get(model.getStatus(), "failed")
    row = replace(clock.stop(row), status=outcome, nodes=int(model.getNNodes()))
    row = replace(row, bound=max(float(model.getDualbound()), -1e19) * presolved.scale)
    if not model.getNSols():
        return row
    values = np.array([model.getVal(option) for option in options])
    parts = np.split(values, reduced.starts[1:])
    return _rated(row, problem, presolved, reduced.starts + np.array([int(part.argmax()) for part in parts]))


def _scip_model(presolved: Presolved, job: Job) -> tuple[Any, list[Any]]:
    """Return the model and its binary variables."""
    scip, reduced = import_module("pyscipopt"), presolved.reduced
    model = scip.Model()
    model.hideOutput()
    model.setParams({"limits/time": job.time_limit, "timing/clocktype": 1, "limits/gap": PROVEN})
    model.setParam("randomization/randomseedshift", job.seed)
    options = [model.addVar(vtype="B") for _ in range(reduced.options)]
    for start, size in zip(reduced.starts, reduced.sizes, strict=True):
        model.addCons(scip.quicksum(options[start : start + size]) == 1)
    for row, limit, scale in zip(reduced.rows, reduced.limits, reduced.row_scales, strict=True):
        used = scip.quicksum(float(row[i] / scale) * options[i] for i in np.flatnonzero(row))
        model.addCons(used <= float(limit / scale))
    objective = model.addVar(lb=None)
    squares = _squares(presolved)
    if squares is None:
        pairs: Any = [] if reduced.is_linear else np.argwhere(np.triu(reduced.quadratic, 1))
        terms = [2 * float(reduced.quadratic[i, j]) * options[i] * options[j] for i, j in pairs]
        terms += [float(cost) * option for cost, option in zip(reduced.linear, options, strict=True)]
        model.addCons(objective >= scip.quicksum(terms) + float(reduced.constant))
    else:
        images = [model.addVar(lb=None) for _ in squares[0]]
        for image, factor, shift in zip(images, *squares, strict=True):
            sum_of = scip.quicksum(float(x) * option for x, option in zip(factor, options, strict=True))
            model.addCons(image == sum_of + float(shift))
        model.addCons(objective >= scip.quicksum(image * image for image in images))
    model.setObjective(objective)
    return model, options


def _squares(presolved: Presolved) -> tuple[Floats, Floats] | None:
    """Return F and f such that the objective is |F x + f|^2, or None where it is none.

    Presolving zeroes what never meets, so that what it leaves is not convex; SCIP sees convexity in squares only.
    """
    problem, reduced = presolved.problem, presolved.reduced
    if problem.quadratic is None or problem.linear.any() or problem.constant:
        return None
    values, vectors = np.linalg.eigh((problem.quadratic + problem.quadratic.T) / (2 * presolved.scale))
    if values[0] < -1e-9 * values[-1]:
        return None
    kept = values > 1e-12 * values[-1]
    factors = np.sqrt(values[kept])[:, None] * vectors[:, kept].T

    def columns(entries: Integers) -> list[Floats]:
        return [factors[:, list(presolved.members[entry])].sum(1) for entry in entries]

    return np.array(columns(reduced.identity)).T, np.sum([np.zeros(len(factors)), *columns(reduced.fixed)], axis=0)


def _rated(row: Row, problem: Problem, presolved: Presolved, picked: Integers | None) -> Row:
    """Recompute the value of a rival's plan from the problem's own matrices."""
    if picked is None:
        return row
    reduced = presolved.reduced
    choices = presolved.choices(np.concatenate([reduced.fixed, reduced.identity[picked]]))
    if not problem.feasible(choices):
        return replace(row, note="the plan breaks its rules")
    value = problem.value(choices)
    return replace(row, value=value, gap=relative_gap(value, row.bound))


def jobs(
    cases: Sequence[Case], seeds: int, time_limit: float, rivals: Sequence[Solver], incumbents: bool, proofs: bool
) -> Iterator[Job]:
    """List the runs of all cases, problem by problem."""
    for case in cases:
        limit = time_limit or case.time_limit
        for seed in range(min(seeds, case.seeds)):
            yield Job(case, seed, "onnxmpq", limit, proofs)
            if case.points:
                continue
            for solver in rivals:
                yield Job(case, seed, solver, limit)
            if incumbents and case.kind != "linear":
                yield Job(case, seed, "onnxmpq", _short(case.units), short=True)


def _short(units: int) -> float:
    """Return the seconds after which a plan should be good: 5 at 54 units, 20 at 300, and so on between."""
    return 5.0 + 15.0 * max(units - 54, 0) / 246


def compared(rows: Sequence[Row]) -> list[Row]:
    """Add how far each value is above the best of its problem."""
    best: dict[tuple[str, int], float] = defaultdict(lambda: inf)
    for row in rows:
        best[row.case, row.seed] = min(best[row.case, row.seed], row.value)
    return [
        row if row.points or not isfinite(row.value) else replace(row, above_best=_above(row, best)) for row in rows
    ]


def _above(row: Row, best: dict[tuple[str, int], float]) -> float:
    return relative_gap(row.value, best[row.case, row.seed])


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians of all runs of a case by one solver, and whether they keep the line."""

    case: str
    solver: str
    runs: int
    optimal: int
    gap: float
    cpu_s: float
    slowest_s: float
    nodes: float
    above_best: float
    against_plain: float
    proofs: str
    line: str
    kept: bool | None


def summarised(rows: Sequence[Row], cases: Sequence[Case]) -> list[Summary]:
    """Take the medians over seeds."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.case, row.solver].append(row)
    lines = {(case.name, bool(case.points)): case.line for case in cases}
    found = []
    for (case, solver), runs in groups.items():
        gap, seconds = median(run.gap for run in runs), median(run.cpu_s for run in runs)
        own = solver == "onnxmpq" or bool(runs[0].points)
        line = lines[case, bool(runs[0].points)] if own else None
        plain = groups.get((line.plain, "onnxmpq"), []) if line else []
        against = seconds / median(run.cpu_s for run in plain) if plain else inf
        checked = [run.proof for run in runs if run.proof is not None]
        found.append(
            Summary(
                case,
                solver,
                len(runs),
                sum(run.status == "optimal" for run in runs),
                gap,
                seconds,
                max(run.cpu_s for run in runs),
                median(run.nodes for run in runs),
                median(run.above_best for run in runs),
                against,
                f"{sum(checked)} of {len(checked)}" if checked else "",
                str(line) if line else "",
                _kept(line, gap, seconds, against) if line else None,
            )
        )
    return found


def _kept(line: Line, gap: float, seconds: float, against: float) -> bool | None:
    if line.plain:
        return None if not isfinite(against) else gap <= PROVEN and against <= line.factor
    return gap <= line.gap and seconds <= OVERRUN * line.seconds


def parse_suites(text: str) -> tuple[Case, ...]:
    """Read names of suites and sizes such as ``54x3`` or ``indefinite:54x3``, separated by commas."""
    known = {case.name: case for suite in SUITES.values() for case in suite if not case.points}
    cases: dict[Case, None] = {}
    for word in text.split(","):
        match = SIZE.fullmatch(word)
        if word in SUITES:
            cases |= dict.fromkeys(SUITES[word])
        elif match and int(match["options"]) in BITS and int(match["units"]):
            kind: Any = match["kind"] or "gram"
            budgets = len(BUDGETS) if kind == "linear" else 1
            case = Case(kind, int(match["units"]), int(match["options"]), budgets)
            cases[known.get(case.name, case)] = None
        else:
            raise click.BadParameter(
                f"'{word}' is no suite. Expected {', '.join(SUITES)}, or a size such as 54x3 or indefinite:54x3 "
                f"with {', '.join(map(str, BITS))} options."
            )
    return tuple(cases)


@click.command()
@click.option(
    "--suite", default="quick", show_default=True, help=f"{', '.join(SUITES)}, or sizes: 54x3,indefinite:54x3."
)
@click.option("--seeds", default=5, show_default=True, help="Problems of each class.")
@click.option("--time-limit", default=0.0, help="Seconds of wall time per run; that of each class if 0.")
@click.option("--rivals", type=click.Choice(list(RIVALS)), default="none", show_default=True)
@click.option("--incumbents", is_flag=True, help="Run once more with little time, and compare values with the best.")
@click.option("--proofs/--no-proofs", default=True, show_default=True, help="Verify certificates of small problems.")
@click.option("--inline", is_flag=True, help="Run in this process, with the threads that it has.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, too.")
def solve(
    suite: str,
    seeds: int,
    time_limit: float,
    rivals: str,
    incumbents: bool,
    proofs: bool,
    inline: bool,
    file: Path | None,
) -> None:
    """Time the solver on generated and measured problems, beside exact rivals."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=190)
    cases = parse_suites(suite)
    wanted: Sequence[Solver] = RIVALS[rivals]
    if "SCIP" in wanted and not _has_scip():
        log.print("SCIP is left out: PySCIPOpt is not installed.")
        wanted = [solver for solver in wanted if solver != "SCIP"]
    os.environ |= dict.fromkeys(THREADS, "1")  # numpy of a worker that starts from here reads them
    rows: list[Row] = []
    listed = list(jobs(cases, seeds, time_limit, wanted, incumbents, proofs))
    try:
        with InlineExecutor() if inline else open_executor("processes:1") as executor:
            for job in listed:
                rows.append(_result(executor, job))
                log.print(_progress(rows[-1], len(rows), len(listed)), highlight=False, markup=False)
                _write(file, compared(rows), cases)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    rows = compared(rows)
    console.print(_runs(rows))
    console.print(_medians(summarised(rows, cases)))


def _result(executor: Executor, job: Job) -> Row:
    return executor.submit(run, job).result()


def _progress(row: Row, number: int, count: int) -> str:
    return f"{number}/{count} {row.case}, seed {row.seed}, {row.solver}: {row.status} {row.note} {row.cpu_s:.1f} s"


def _has_scip() -> bool:
    try:
        import_module("pyscipopt")
    except ImportError:
        return False
    return True


def _write(file: Path | None, rows: Sequence[Row], cases: Sequence[Case]) -> None:
    """Write what is known so far; numbers that are not finite become null."""
    if file is None:
        return

    def plain(entry: Row | Summary) -> dict[str, Any]:
        return {
            key: None if isinstance(value, float) and not isfinite(value) else value
            for key, value in asdict(entry).items()
        }

    data = {
        "solver": version(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
        "rows": [plain(row) for row in rows],
        "medians": [plain(summary) for summary in summarised(rows, cases)],
    }
    file.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")


def _runs(rows: Sequence[Row]) -> Table:
    """Return the table of all runs."""
    grid = Table("problem", "seed", "solver", title="Every run", title_justify="left")
    for column in ("units x options", "budgets", "value", "bound", "gap %", "above best %", "CPU s", "nodes"):
        grid.add_column(column, justify="right")
    grid.add_column("status")
    grid.add_column("proof")
    for row in rows:
        grid.add_row(
            *(row.case, str(row.seed), row.solver, f"{row.units}x{row.options}", str(row.budgets)),
            *(_number(row.value, ".6g"), _number(row.bound, ".6g")),
            *(_number(100 * row.gap, ".3f"), _number(100 * row.above_best, ".3f")),
            *(_number(row.cpu_s, ".1f"), str(row.nodes), escape(f"{row.status} {row.note}".strip())),
            {None: "", True: "holds", False: "FAILS"}[row.proof],
        )
    return grid


def _medians(summaries: Sequence[Summary]) -> Table:
    """Return the table of medians."""
    grid = Table("class", "solver", title="Medians over seeds", title_justify="left")
    for column in ("runs", "optimal", "gap %", "above best %", "CPU s", "slowest", "nodes", "x plain", "proofs"):
        grid.add_column(column, justify="right")
    grid.add_column("line")
    grid.add_column("kept")
    for summary in summaries:
        grid.add_row(
            *(summary.case, summary.solver, str(summary.runs), str(summary.optimal)),
            *(_number(100 * summary.gap, ".3f"), _number(100 * summary.above_best, ".3f")),
            *(_number(summary.cpu_s, ".1f"), _number(summary.slowest_s, ".1f"), f"{summary.nodes:g}"),
            *(_number(summary.against_plain, ".2f"), summary.proofs, summary.line),
            {None: "", True: "yes", False: "no"}[summary.kept],
        )
    return grid


def _number(value: float, form: str) -> str:
    return format(value, form) if isfinite(value) else ""
