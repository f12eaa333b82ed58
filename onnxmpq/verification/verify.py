"""The verify stage: what an export really does, seen in its runtime.

proof       how far the rest goes: run in its runtime, on an emulator, or simulated
loads       the runtime accepts the file
rules       what the target's runtime asks of a file, checked on the file itself, where a target has such rules
size        the tensors in the file take the bytes that were predicted
processors  where its sums are exact: proved on the stored codes, for all inputs and all processors
simulation  the runtime's default session against Q/DQ computed literally; rounding is a step, and in deep nets one
            flipped code becomes many: how far the simulation moves with its scales is the yardstick there. Where a
            machine's own arithmetic now and then gives a neighbouring code, codes of the simulation do so, too
kernels     how many kernels compute in few bits, and how many Q/DQ were left over
speed       CPU time against the float model, in paired runs
accuracy    against labels, where there are any, with the standard error of the difference
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from onnxmpq.artifacts import Check, Verdict
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.filerules.base import file_rules
from onnxmpq.model.mapped import load_mapped, read_mapped
from onnxmpq.model.protos import bytes_on_disk, graphs
from onnxmpq.runtimes import KernelReport, Mode, Runtime, Session, paired
from onnxmpq.runtimes.base import arrays, one_line
from onnxmpq.targets import Rounds, Target
from onnxmpq.verification import processors
from onnxmpq.verification.moved import MOVED

SIMULATION_DB = 40.0
SELF_MARGIN_DB = 6.0
CODE_MARGIN_DB = 3.0
SLOWER_THAN_FLOAT = 0.97
NOT_RUN = "not run here: what shows its numbers is the literal simulation"
NOT_TOLD = "its runtime does not tell here"
NOT_TIMED = "not told: what runs it here is not the machine"
_MOVES: Mapping[Rounds, tuple[float, str]] = {
    "exactly": (SELF_MARGIN_DB, "last bits change"),
    "to-neighbours": (CODE_MARGIN_DB, "one in eight codes is off by one"),
}
_NAMED = 5  # broken rules that a verdict names
Feed = Mapping[str, np.ndarray]
Outputs = list[list[np.ndarray]]
"""All tensors of the outputs of every feed."""


def verify(
    runtime: Runtime,
    reference: Runtime,
    float_model: bytes | Path,
    path: Path,
    feeds: Sequence[Feed],
    *,
    target: Target | None = None,
    predicted_bytes: int | None = None,
    expected_low_bit: Sequence[str] = (),
    speed_budget_s: float = 2.0,
    threads: int = 1,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Verdict:
    """Load ``path`` in ``runtime`` and compare it with its literal simulation in ``reference`` and with float.

    ``target`` tells how its kernels add products. A file of which bytes are predicted is one of ours, which must keep
    the rules of its target. Sessions come one after the other, each gone before the next is made, since each takes as
    much memory as the float model; two are there at once only while their speeds are compared. What may be left out is
    what is known of the file, how its speed is measured, and who is told: each stands for itself.
    """
    rounds = target.rounds if target is not None else "exactly"
    look = _Look(runtime, reference, float_model, path, feeds, threads, rounds)
    count = 5 + (target is not None)
    steps = iter(range(1, count + 1))

    def step(name: str) -> None:
        progress(f"verify: {name}", next(steps), count)

    step("loading")
    loads, used = look.loading()
    checks = [loads, size_check(path, predicted_bytes)]
    if target is not None:
        checks = [proof_check(target, runtime), *checks]
        checks += [rules_check(target, path)] if target.rules else []
        step("processors")
        checks.append(processors_check(target, reference, path, feeds, promised=predicted_bytes is not None))
    step("simulation")
    outputs, simulation = look.simulation(used)
    step("kernels")
    kernels = Check("kernels", None, None, "", NOT_TOLD if "run" in runtime.abilities else NOT_RUN)
    if "kernels" in runtime.abilities:
        kernels = kernels_check(runtime.kernels(path), expected_low_bit)
    step("speed")
    sqnr, *speeds = look.beside_float(outputs, used, speed_budget_s)
    return Verdict(f"{runtime.name} {runtime.version}", (*checks, simulation, sqnr, kernels, *speeds))


@dataclass(frozen=True, slots=True)
class _Look:
    """A file and the sessions that look at it: in its runtime, simulated in the reference, beside the float model."""

    runtime: Runtime
    reference: Runtime
    float_model: bytes | Path
    path: Path
    feeds: Sequence[Feed]
    threads: int
    rounds: Rounds

    def loading(self) -> tuple[Check, Outputs]:
        """Load the file as it is deployed; return what it gives, too."""
        try:
            onnx.checker.check_model(str(self.path))
        except Exception as error:  # the checker's own errors, and those of protobuf
            raise VerifyError(f"'{self.path}' is not a valid ONNX model: {one_line(error)}") from error
        used = run_all(self._session("deployed"), self.feeds)
        runs = "run" in self.runtime.abilities
        told = "" if runs else NOT_RUN
        return Check("loads", True if runs else None, self.runtime.version, "the runtime accepts the file", told), used

    def simulation(self, used: Outputs) -> tuple[Sequence[str], Check]:
        """Compare the runtime in float32 with the literal simulation; return the names of the outputs, too."""
        got = used if self.runtime.float_type == "f32" else run_all(self._session("exact"), self.feeds)
        literal = self.reference.session(self.path, mode="literal", threads=self.threads)
        outputs, simulated = literal.outputs, run_all(literal, self.feeds)
        del literal
        found = simulation_check(self.reference, self.path, self.feeds, simulated, got, self.rounds)
        return outputs, found if "run" in self.runtime.abilities else replace(found, ok=None, detail=NOT_RUN)

    def beside_float(self, outputs: Sequence[str], used: Outputs, speed_budget_s: float) -> tuple[Check, ...]:
        """Compare the file with the float model: its numbers, then its speed."""
        runtime, unit = self.runtime, f"times {self.runtime.float_type}"
        deployed = self._session("deployed")
        before = self.reference.session(self.float_model, mode="deployed", threads=self.threads)
        if outputs != before.outputs:
            raise InputError(
                f"'{self.path}' gives {', '.join(outputs)} and the float model {', '.join(before.outputs)}: it was "
                "made of another. Name the model that it came from."
            )
        noise = worst_sqnr(run_all(before, self.feeds), used)
        sqnr = Check("sqnr", None, noise, "dB", "runtime against the float model")
        if "time" not in runtime.abilities:
            told = NOT_TIMED if "run" in runtime.abilities else NOT_RUN
            return sqnr, Check("speed", None, None, unit, told)
        if runtime != self.reference:
            del before
            before = runtime.session(self.float_model, mode="deployed", threads=self.threads)
        speed = speed_check("speed", unit, before, deployed, self.feeds[0], speed_budget_s)
        if runtime.float_type == "f32":
            return sqnr, speed
        del before, deployed  # the runtime's default narrows floats: show float32 beside it
        exact = self._session("exact")
        before = runtime.session(self.float_model, mode="exact", threads=self.threads)
        return sqnr, speed, speed_check("speed_f32", "times f32", before, exact, self.feeds[0], speed_budget_s)

    def _session(self, mode: Mode) -> Session:
        """Load the file in its runtime."""
        return self.runtime.session(self.path, mode=mode, threads=self.threads)


def proof_check(target: Target, runtime: Runtime) -> Check:
    """Say how far what follows proves that the file is right: less where its runtime is not here."""
    if "run" in runtime.abilities and target.proof in ("run", "emulated"):
        where = "on an emulator of the machine" if target.proof == "emulated" else "in its runtime"
        return Check("proof", None, target.proof, "", f"run {where}: {runtime.name} {runtime.version}")
    checked = "its rules are checked on the file, and its numbers simulated" if target.rules else "it is simulated"
    absent = "not run in its runtime" + (f", {target.runtime}," * (runtime.name != target.runtime) + " here")
    return Check("proof", None, "rules" if target.rules else "simulated", "", f"{absent}: {checked}")


def rules_check(target: Target, path: Path) -> Check:
    """Hold a file against the rules that its target's runtime has for files."""
    known = file_rules(target.rules)
    broken = list(known.check(load_mapped(path)))
    detail = "; ".join(map(str, broken[:_NAMED])) + (f"; and {len(broken) - _NAMED} more" * (len(broken) > _NAMED))
    count = len(known.rules)
    kept = count - len({one.rule.name for one in broken})
    return Check("rules", not broken, f"{kept} of {count}", f"all {count} rules of {known.name}", detail)


def size_check(path: Path, predicted_bytes: int | None) -> Check:
    """Compare the bytes that tensors take with those that were predicted, if any were."""
    stored = file_tensor_bytes(path)
    return Check(
        "size",
        None if predicted_bytes is None else stored == predicted_bytes,
        stored,
        f"{predicted_bytes:,} bytes of tensors" if predicted_bytes is not None else "bytes of tensors",
        f"file {file_bytes(path):,} bytes",
    )


def processors_check(target: Target, reference: Runtime, path: Path, feeds: Sequence[Feed], *, promised: bool) -> Check:
    """Say on which processors the file's sums are exact; one that was made for all of them must be on all."""
    layers = list(processors.find_layers(load_mapped(path)))
    unsafe = processors.measure(processors.examine(layers, target), target, reference, path, feeds)
    where, detail = processors.told(unsafe, len(layers), target.isa)
    must = promised and target.isa == "any"
    return Check("processors", not unsafe if must else None, where, processors.EXACT if must else "", detail)


def simulation_check(
    reference: Runtime,
    path: Path,
    feeds: Sequence[Feed],
    simulated: Outputs,
    got: Outputs,
    rounds: Rounds = "exactly",
) -> Check:
    """Compare the runtime with the literal simulation: to 40 dB, or as well as the simulation is defined at all.

    How well that is shows when nothing is changed but the last bits: scales one up or down, or float operators computed
    node by node. Which codes flip is chance, so that the worst of the three counts. For a machine that by itself
    ``rounds`` to neighbouring codes one in eight does so, up or down.
    """
    agreement = worst_sqnr(simulated, got)
    limit, detail = SIMULATION_DB, "runtime against literal Q/DQ"
    if agreement < SIMULATION_DB:
        own = worst_sqnr(simulated, run_all(reference.session(path, mode="unoptimised"), feeds))
        for towards in (1, -1):
            with MOVED[rounds](path, towards) as moved:
                if moved is not None:
                    own = min(own, worst_sqnr(simulated, run_all(reference.session(moved, mode="literal"), feeds)))
        margin, what = _MOVES[rounds]
        limit = min(SIMULATION_DB, own - margin)
        detail += f", which itself moves to {own:.1f} dB when {what}"
    return Check("simulation", agreement >= limit, agreement, f"at least {limit:.1f} dB", detail)


def kernels_check(report: KernelReport, expected_low_bit: Sequence[str]) -> Check:
    """Tell how many kernels compute in few bits, and which layers that should be among them are not."""
    integer = {kernel.node for kernel in report.layers if kernel.low_bit}
    known = bool(integer) or report.whole
    float_layers = [name for name in expected_low_bit if name not in integer] if known else []
    wanted = bool(expected_low_bit)
    return Check(
        "kernels",
        (not float_layers if report.whole else report.low_bit > 0) if wanted else None,
        report.low_bit,
        f"{len(expected_low_bit)} integer layers" if wanted else "",
        f"{report.leftover} Q/DQ left over, {report.float_compute} layers in float"
        + (f"; not seen in integers: {', '.join(float_layers[:5])}" if float_layers else ""),
    )


def speed_check(name: str, unit: str, before: Session, after: Session, feed: Feed, budget_s: float) -> Check:
    """Time the float model and the export in turn on one sample."""
    timing = paired(before.bind(feed), after.bind(feed), budget_s=budget_s)
    low, high = timing.quartiles
    times = f"{timing.a_median_s * 1e3:.3g} ms to {timing.b_median_s * 1e3:.3g} ms"
    noise = " (noisy)" if timing.noisy else ""
    return Check(name, None, timing.ratio, unit, f"quartiles {low:.2f} to {high:.2f}, {times}{noise}")


def run_all(session: Session, feeds: Iterable[Feed]) -> Outputs:
    """Return all tensors of the outputs of every feed."""
    return [arrays(list(session.run(feed).values())) for feed in feeds]


def worst_sqnr(reference: Outputs, got: Outputs) -> float:
    """Return the lowest signal-to-noise ratio over the outputs in dB; powers are summed over all samples first.

    Other shapes, or a noise that is not finite, are -inf; no noise at all is inf. Integers count where they differ.
    """
    worst = np.inf
    if [len(tensors) for tensors in reference] != [len(tensors) for tensors in got]:
        return -np.inf  # a sequence of another length
    for signal, other in _across_feeds(reference, got):
        power = noise = 0.0
        for a, b in zip(signal, other, strict=True):
            if a.shape != b.shape:
                return -np.inf
            if a.dtype.kind not in "fV":  # V: bfloat16 and other narrow floats
                power, noise = power + a.size, noise + float(np.sum(a != b))
                continue
            x, y = a.astype(np.float64), b.astype(np.float64)
            with np.errstate(invalid="ignore"):
                power += float(np.sum(x * x, where=np.isfinite(x)))
                noise += float(np.sum(np.where(x == y, 0.0, x - y) ** 2))
        if not np.isfinite(noise):
            return -np.inf
        if noise > 0:
            worst = min(worst, 10 * np.log10(power / noise) if power else -np.inf)
    return float(worst)


def _across_feeds(reference: Outputs, got: Outputs) -> Iterator[tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]]:
    """Yield each tensor of the outputs over all feeds; the last of a sequence over the feeds where it is so long."""
    for place in range(max(map(len, reference), default=0)):
        there = [k for k, tensors in enumerate(reference) if place < len(tensors)]
        yield tuple(reference[k][place] for k in there), tuple(got[k][place] for k in there)


def file_bytes(path: Path) -> int:
    """Return the bytes of a model file and of the external data beside it."""
    return bytes_on_disk(path, read_mapped(path)[0])


def file_tensor_bytes(path: Path) -> int:
    """Return the bytes that the tensors of a file store, bodies of If, Loop and Scan included."""
    proto, large = read_mapped(path)
    stored = (tensor for graph in graphs(proto.graph) for tensor in graph.initializer)
    return sum(_tensor_bytes(tensor) for tensor in stored) + sum(tensor.nbytes for tensor in large.values())


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    for entry in tensor.external_data:
        if tensor.data_location == onnx.TensorProto.EXTERNAL and entry.key == "length":
            return int(entry.value)
    if tensor.HasField("raw_data"):
        return len(bytes(tensor.raw_data))
    nbytes: int = onnx.numpy_helper.to_array(tensor).nbytes
    return nbytes
