"""What is wrong with a model at an option, or with any quantised file: the damage, local errors, and who is to blame.

    diagnose(model, samples, option="w8a8")            a float model: what the option would do to it
    diagnose(file, samples, float_model=model)         a quantised file, of any tool that writes Q/DQ

Of a file nothing can be lowered again. There the few runs give the file float tensors behind the hops with the largest
local errors, until its outputs are usable.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import FLOAT, Option, Plan, plain
from onnxmpq.data.samples import Data, Samples, open_samples, spread
from onnxmpq.disk.leftovers import temporary_folder
from onnxmpq.errors import InputError
from onnxmpq.guard.boundaries import Hop, Hops, boundaries, force, forced_name
from onnxmpq.guard.culprits import Hunt
from onnxmpq.guard.damage import Damage, Meter, Thresholds, decibels
from onnxmpq.guard.judge import judge
from onnxmpq.guard.probe import LEAST_SAMPLES, MOST_SAMPLES, SHARE
from onnxmpq.metrics.heads import judged_heads
from onnxmpq.metrics.losses import Head
from onnxmpq.model.load import load
from onnxmpq.model.normalise import normalise
from onnxmpq.model.save import save
from onnxmpq.options import Constraints, GraphOptions, Numbers, NumbersAsked
from onnxmpq.runtimes import Runtime, Session, get_runtime
from onnxmpq.search.constraints import uniform_by_hand
from onnxmpq.targets import Target
from onnxmpq.targets import target as find_target
from onnxmpq.workspace.prepare import Model, Prepared, Progress, prepare, silent
from onnxmpq.workspace.workspace import Workspace, workspace

Array = np.ndarray
_UNKNOWN = (
    "None of the tensors between its layers is in the float model: it holds codes there, or other names, so that "
    "layers cannot be told apart."
)
_SUSPECTS = 8


@dataclass(frozen=True, slots=True)
class LayerError:
    """The local error of a unit, or of the layers of a hop, in dB: as it is, and at finer options if there are any."""

    name: str
    option: str
    local_db: float
    finer: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Blamed:
    """Who is to blame: layers, their local error, and what they do to the outputs when nobody else to blame does."""

    name: str
    local_db: float
    alone: Damage | None
    kept: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The damage, local errors from the worst on, and who is to blame, with what finding it took."""

    damage: Damage
    thresholds: Thresholds
    layers: tuple[LayerError, ...]
    blamed: tuple[Blamed, ...]
    after: Damage | None
    runs: int
    share: float
    notes: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[str, ...]:
        """Return the figures that are beyond their thresholds."""
        return self.thresholds.broken(self.damage)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "damage": self.damage.to_json(),
            "broken": list(self.broken),
            "thresholds": self.thresholds.to_json(),
            "layers": [
                {
                    "name": layer.name,
                    "option": layer.option,
                    "local_db": plain(layer.local_db),
                    "finer": {option: plain(value) for option, value in layer.finer.items()},
                }
                for layer in self.layers
            ],
            "blamed": [
                {
                    "name": one.name,
                    "local_db": plain(one.local_db),
                    "kept": one.kept or None,
                    "alone": one.alone.to_json() if one.alone else None,
                }
                for one in self.blamed
            ],
            "after": self.after.to_json() if self.after else None,
            "runs": self.runs,
            "share_of_measuring": self.share,
            "notes": list(self.notes),
        }


def diagnose(
    model: Model,
    calibration: Data,
    *,
    float_model: str | os.PathLike[str] | None = None,
    target: str = "ort-cpu",
    option: str | Option = "w8a8",
    constraints: Constraints = Constraints(),
    guard: Sequence[str] = (),
    numbers: NumbersAsked = None,
    graph: GraphOptions = GraphOptions(),
    progress: Progress = silent,
) -> Diagnosis:
    """Say what quantising does to a model, and which of its layers are to blame.

    With ``float_model`` the model is a quantised file, of any tool that writes Q/DQ, which is looked at as it is;
    otherwise it is a float model, of which every unit would get ``option``. Nothing is written. Like ``quantize`` this
    is called with one argument for each option of the command line, all by name.

    >>> import numpy as np, onnx
    >>> model = onnx.parser.parse_model(
    ...     '<ir_version: 8, opset_import: ["": 17]> g (float[n, 64] x) => (float[n, 64] y) '
    ...     "{ h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }"
    ... )
    >>> weights = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    >>> model.graph.initializer.extend(map(onnx.numpy_helper.from_array, weights, "ab"))
    >>> found = diagnose(model, {"x": weights[0]}, option="w2a8")
    >>> found.broken, len(found.layers), len(found.blamed) > 0
    (('classes', 'loss'), 2, True)
    """
    thresholds = Thresholds.parse(guard)
    if float_model is not None:
        if not isinstance(model, str | os.PathLike):
            raise InputError("A quantised file is looked at where it is: give its path, and that of its float model.")
        return diagnose_file(Path(model), Path(float_model), calibration, find_target(target), thresholds, progress)
    prepared = prepare(model, target, progress, extra_passes=graph.passes)
    wanted = option if isinstance(option, Option) else Option.parse(option)
    settled = Numbers.asked(numbers, Numbers.uniform(wanted, prepared.source.size_bytes))
    return diagnose_plan(prepared, calibration, wanted, constraints, thresholds, settled, progress)


def diagnose_plan(
    prepared: Prepared,
    calibration: Data,
    option: Option,
    constraints: Constraints,
    thresholds: Thresholds,
    numbers: Numbers,
    progress: Progress,
) -> Diagnosis:
    """Say what an option would do to a float model, by its literal simulation."""
    plan = uniform_by_hand(prepared.space, option, constraints)
    with workspace(prepared, calibration, numbers, progress, plan.choices) as opened:
        prepared = opened.prepared
        sha256, ranges = prepared.source.sha256, opened.calibrated.numbers.told()
        plan = replace(plan, model_sha256=sha256, ranges=ranges, passes=prepared.passes)
        heads = _heads(prepared.model)
        damage = _simulated(opened, plan, heads, progress)
        progress("guard: culprits", 0, 0)
        hunt = Hunt.of(opened, plan, heads, thresholds, constraints)
        finding = hunt.finding() if thresholds.broken(damage) else None
    layers = [_layer(unit, hunt) for unit in hunt.errors[0]]
    culprits = finding.culprits if finding else ()
    blamed = tuple(Blamed(one.unit, one.local_db, one.alone, str(one.kept)) for one in culprits)
    return Diagnosis(
        damage,
        thresholds,
        tuple(sorted(layers, key=lambda layer: layer.local_db)),
        blamed,
        finding.after if finding else None,
        finding.runs if finding else 0,
        finding.share if finding else 0.0,
    )


def _layer(unit: str, hunt: Hunt) -> LayerError:
    """Return the local error of a unit as it was asked for, and at the finer options that it has."""
    asked = hunt.levels[0].choices[unit]
    finer = {
        str(level.choices[unit]): decibels(1.0, errors[unit])
        for level, errors in zip(hunt.levels[1:], hunt.errors[1:], strict=True)
        if unit in errors and level.choices[unit] not in (asked, FLOAT)
    }
    return LayerError(unit, str(asked), decibels(1.0, hunt.errors[0][unit]), finer)


def _simulated(opened: Workspace, plan: Plan, heads: Sequence[Head], progress: Progress) -> Damage:
    model = opened.loadable(opened.lowered(plan).model, "diagnosed")
    after = opened.reference.session(model, mode="literal")  # takes more memory to load
    before = opened.reference.session(opened.float_model, mode="deployed")
    return judge(before, after, opened.samples, heads, progress)


def _heads(model: ir.Model) -> tuple[Head, ...]:
    heads = judged_heads(model)
    if not heads:
        raise InputError("The model has no float output, so nothing can be said of what quantising does to it.")
    return heads


# ---- files -----------------------------------------------------------------------------------------------------------


def diagnose_file(
    path: Path, float_model: Path, calibration: Data, target: Target, thresholds: Thresholds, progress: Progress
) -> Diagnosis:
    """Say what is wrong with a quantised file, which its target's runtime runs."""
    source = load(float_model)
    quantised = load(path)
    heads = _heads(normalise(source).model)
    reference, runtime = get_runtime("onnxruntime"), get_runtime(target.runtime, target.stand_in, target.soc)
    before = reference.session(float_model, mode="deployed")
    after = runtime.session(path, mode="deployed")
    missing = [head.name for head in heads if head.name not in after.outputs]
    if missing:
        raise InputError(f"'{path}' has no output '{missing[0]}', as its float model has: it was made of another.")
    samples = open_samples(calibration, before.inputs)
    damage = judge(before, after, samples, heads, progress)
    with temporary_folder() as folder:
        probe = _FileProbe(quantised.model, source.model, float_model, reference, samples, heads, Path(folder))
        progress("guard: local errors", 0, 0)
        hops = sorted(probe.hops(), key=lambda hop: -hop.ratio)
        layers = tuple(LayerError(", ".join(hop.layers), "", decibels(1.0, hop.ratio), {}) for hop in hops)
        blamed: tuple[Blamed, ...] = ()
        healed: Damage | None = None
        if thresholds.broken(damage) and hops:
            progress("guard: culprits", 0, 0)
            blamed, healed = probe.blame(hops, thresholds)
    notes = () if hops else (_UNKNOWN,)
    return Diagnosis(damage, thresholds, layers, blamed, healed, probe.runs, probe.runs / probe.everything, notes)


class _FileProbe:
    """Runs of a file on a few samples, whole or with float tensors behind some of its layers."""

    def __init__(
        self,
        model: ir.Model,
        plain: ir.Model,
        float_model: Path,
        reference: Runtime,
        samples: Samples,
        heads: Sequence[Head],
        folder: Path,
    ) -> None:
        self.model, self.plain, self.float_model, self.reference = model, plain, float_model, reference
        self.samples, self.heads, self.folder = samples, heads, folder
        self.runs, self._files = 0, 0
        total = len(samples)
        layers = max(len(boundaries(model)), 1)
        self.everything = max(total * layers / 2, 1.0)
        count = int(SHARE * self.everything / _SUSPECTS / 2)
        chosen = spread(total, min(max(count, LEAST_SAMPLES), MOST_SAMPLES))
        self.feeds = [feed for place, feed in enumerate(samples) if place in chosen]

    def hops(self) -> tuple[Hop, ...]:
        """Return the local errors of all layers."""
        inner = {value.name for node in self.plain.graph for value in node.outputs}
        cut: Hops | None = None
        names = sorted({value.name or "" for value in boundaries(self.model)} & inner)
        session = self._floats(names)
        for feed in self.feeds:
            arrays = session.run(feed)
            if cut is None:
                model = self.model.clone()
                cut = Hops.of(model, arrays)
                cut.open(self.reference, self._loadable(model, "cut"))
            cut.add(feed, arrays)
            self.runs += 2
        return cut.found() if cut is not None else ()

    def blame(self, hops: Sequence[Hop], thresholds: Thresholds) -> tuple[tuple[Blamed, ...], Damage]:
        """Give the file float tensors behind more and more hops until its outputs are usable, then for all but one."""
        suspects = list(hops)[:_SUSPECTS]
        session = self._floats([hop.tensor for hop in suspects])
        arrays = [session.run(feed) for feed in self.feeds]
        self.runs += len(self.feeds)
        count, damage = 0, self._damage((), arrays)
        while thresholds.broken(damage) and count < len(suspects):
            count += 1
            damage = self._damage([hop.tensor for hop in suspects[:count]], arrays)
        blamed = []
        for hop in suspects[:count]:
            rest = [other.tensor for other in suspects[:count] if other is not hop]
            alone = self._damage(rest, arrays)
            if thresholds.broken(alone):
                blamed.append(Blamed(", ".join(hop.layers), decibels(1.0, hop.ratio), alone))
        return tuple(blamed), damage

    def _damage(self, tensors: Sequence[str], arrays: Sequence[Mapping[str, Array]]) -> Damage:
        model = self.model.clone()
        values = {value.name: value for node in model.graph for value in node.outputs}
        ends = {head.name for head in self.heads}
        inner = [name for name in tensors if name not in ends]
        for name in inner:
            force(model, values[name], arrays[0][name])
        session = self.reference.session(self._loadable(model, "forced"), mode="literal")
        meter = Meter(self.heads)
        for feed, found in zip(self.feeds, arrays, strict=True):
            got = session.run({**feed, **{forced_name(name): found[name] for name in inner}}, meter.names)
            meter.add(found, got | {name: found[name] for name in ends if name in tensors})
            self.runs += 1
        return meter.damage()

    def _floats(self, names: Sequence[str]) -> Session:
        wanted = dict.fromkeys([*names, *(head.name for head in self.heads)])
        return self.reference.session(self.float_model, mode="plain", outputs=list(wanted))

    def _loadable(self, model: ir.Model, name: str) -> Path:
        self._files += 1
        path = self.folder / f"{name}{self._files}.onnx"
        save(model, path)
        return path
