"""Building one plan: calibrate what it needs, lower, write to a temporary place, verify there.

Several plans of one model share the float model, its samples and its calibration.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxmpq.artifacts import Plan, Space, Verdict
from onnxmpq.calibrate import Affine, Histogram, Method, QuantisedType, calibrate, choose_range, quantiser
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.graph.load import Source
from onnxmpq.graph.save import save
from onnxmpq.lower import Quantised, lower, pair_key
from onnxmpq.placement import Pair, Placement, place
from onnxmpq.runtime import Runtime
from onnxmpq.samples import Data, Samples, open_samples
from onnxmpq.target import Target
from onnxmpq.verify import verify

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0 where that is not known)."""

VERIFY_SAMPLES = 16
_LARGE_BYTES = 1_500_000_000


@dataclass(frozen=True, slots=True)
class Numbers:
    """How ranges are chosen: for activations and for weights."""

    activations: Method = "mse"
    weights: Literal["mse", "minmax"] = "mse"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that was loaded, normalised and looked at for one target."""

    source: Source
    model: ir.Model
    target: Target
    space: Space


@dataclass(frozen=True, slots=True)
class Export:
    """A plan that was built, written to a temporary place and verified."""

    plan: Plan
    path: Path
    verdict: Verdict

    @property
    def speed(self) -> float:
        """Return how many times faster than float it ran."""
        value = self.verdict["speed"].value
        return value if isinstance(value, float) else 0.0


class Builder:
    """Builds plans of one model, in ``folder``."""

    def __init__(
        self,
        prepared: Prepared,
        runtime: Runtime,
        reference: Runtime,
        folder: Path,
        calibration: Data,
        numbers: Numbers,
        *,
        threads: int,
        speed_budget_s: float,
        progress: Progress,
    ) -> None:
        self.prepared, self.runtime, self.reference, self.folder = prepared, runtime, reference, folder
        self.numbers, self.threads, self.budget, self.progress = numbers, threads, speed_budget_s, progress
        self.float_model = prepared.source.path or self._loadable(prepared.source.model, "float")
        try:
            self.inputs = reference.session(self.float_model, mode="deployed").inputs
        except VerifyError as error:
            raise InputError(
                f"The float model does not load in {reference.name} {reference.version}, which calibrates it: {error} "
                "Mend or re-export the model first."
            ) from error
        self.samples = self.open(calibration, "calibration")
        self.feeds = list(islice(self.samples, VERIFY_SAMPLES))
        self.stats: dict[str, Histogram] = {}

    def open(self, data: Data, what: str) -> Samples:
        """Open samples and read them once, so that every fault is told before any work."""
        self.progress(f"read {what} data", 0, 0)
        samples = open_samples(data, self.inputs)
        len(samples)
        return samples

    def build(self, plan: Plan, name: str) -> Export:
        """Lower a plan, write it as ``name`` into a folder of its own and verify it."""
        quantised = self.lowered(plan)
        path = Path(tempfile.mkdtemp(dir=self.folder)) / name
        save(quantised.model, path)
        verdict = verify(
            self.runtime,
            self.reference,
            self.float_model,
            path,
            self.feeds,
            predicted_bytes=quantised.stored_bytes,
            expected_low_bit=[
                form.layer.node
                for form in quantised.placement.forms
                if form.option.activation_bits and self.prepared.target.integer_kernels
            ],
            speed_budget_s=self.budget,
            threads=self.threads,
            progress=self.progress,
        )
        return Export(plan, path, verdict)

    def lowered(self, plan: Plan) -> Quantised:
        """Lower a plan, with activations calibrated as far as it needs them."""
        model, space, target = self.prepared.model, self.prepared.space, self.prepared.target
        placement = place(model, space, target, plan.choices)
        self._calibrate({tensor for pair in placement.pairs for tensor in pair.group} - set(self.stats))
        affines = {pair_key(pair): self._affine(pair) for pair in placement.pairs}
        self.progress("lower", 0, 0)
        means = self._input_means(placement)
        return lower(model, space, target, plan, affines, means=means, weight_method=self.numbers.weights)

    def _input_means(self, placement: Placement) -> dict[str, np.ndarray]:
        """Return the mean of every input channel of the layers with a bias (hack)."""
        nodes = {n.name: n for n in self.prepared.model.graph}
        want = {f.layer.node: nodes[f.layer.node].inputs[0].name for f in placement.forms if f.layer.bias and not f.layer.in_body and f.layer.op in ("Conv", "MatMul", "Gemm") and f.layer.inputs == (0,)}
        names = sorted(set(want.values()) - {s.name for s in self.inputs})
        session = self.reference.session(self._loadable(self.prepared.model, "normalised"), mode="plain", outputs=names) if names else None
        sums, n = {}, 0
        for feed in self.samples:
            got = (session.run(feed) if names else {}) | feed
            for node, t in want.items():
                x = got[t].astype(np.float64)
                x = x.mean(axis=tuple(i for i in range(x.ndim) if i != 1)) if nodes[node].op_type == "Conv" else x.reshape(-1, x.shape[-1]).mean(0)
                sums[node] = sums.get(node, 0) + x
            n += 1
        return {k: v / n for k, v in sums.items()}

    def _affine(self, pair: Pair) -> Affine:
        """Choose scale and zero point for a pair: from the widest of the tensors that share them."""
        widest = max((self.stats[name] for name in pair.group), key=lambda stats: stats.max - stats.min)
        signed = not pair.type.startswith("u")
        kind = QuantisedType(pair.bits, signed=signed, symmetric=signed)
        return quantiser(choose_range(widest, self.numbers.activations, kind), kind)

    def _calibrate(self, tensors: set[str]) -> None:
        """Run the samples once through the float model and keep the statistics of ``tensors``."""
        if not tensors:
            return
        given = {spec.name for spec in self.inputs}
        inner = sorted(tensors - given)
        session = None
        if inner:
            session = self.reference.session(
                self._loadable(self.prepared.model, "normalised"), mode="plain", threads=self.threads, outputs=inner
            )

        def run(feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            seen = {name: feed[name] for name in tensors & given}
            return seen | session.run(feed) if session else seen

        total = len(self.samples)
        ranges = calibrate(run, self.samples, sorted(tensors), progress=lambda n: self.progress("calibrate", n, total))
        self.stats |= ranges.tensors

    def _loadable(self, model: ir.Model, name: str) -> bytes | Path:
        """Return a model in the form that runtimes load: bytes, or a file when it is large."""
        size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
        if size < _LARGE_BYTES:
            return ir.to_proto(model).SerializeToString()
        path = self.folder / f"{name}.onnx"
        save(model, path, overwrite=True)
        return path
