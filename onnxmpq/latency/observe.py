"""Measuring: few files of few plans, each profiled in its runtime, some of them timed as a whole beside float.

Files are written with the nearest codes, since kernels take as long whatever the codes are.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxmpq.artifacts import Option, Plan
from onnxmpq.errors import InputError
from onnxmpq.latency.design import Kernels
from onnxmpq.latency.model import Latency, Observation
from onnxmpq.latency.regions import Regions, borders, regions
from onnxmpq.machine import processor
from onnxmpq.runtimes import PairedTiming, paired
from onnxmpq.runtimes.base import Profiler
from onnxmpq.workspace.export import Exporter

RUNS = 8
"""Runs of a profile that count."""
PAIRS = 5
"""Runs of a whole file, each beside one of the float model."""
TIMED = 4
"""Plans of the design that are timed as a whole, too."""

Keep = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
"""Returns what was measured under a name before, or measures it now."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What times the plans of one workspace: its exporter, and the plan into which kernels are put.

    ``keep`` is asked for everything that takes time, so that what was measured once stays measured.
    """

    exporter: Exporter
    empty: Plan
    kernels: Kernels
    keep: Keep = lambda _, measure: measure()

    def __post_init__(self) -> None:
        """Refuse a runtime that cannot tell how long its kernels take."""
        runtime = self.exporter.runtime
        if "profile" not in runtime.abilities or not isinstance(runtime, Profiler):
            raise InputError(
                f"What is fastest is not known of {runtime.name}: it does not tell here how long each of its kernels "
                "takes. Leave out --fastest, or choose a target whose runtime does: ort-cpu."
            )

    @property
    def about(self) -> dict[str, str]:
        """Return what seconds depend on."""
        place, runtime = self.exporter.workspace, self.exporter.runtime
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in place.input_shapes.items())
        return {
            "machine": processor().brand,
            "runtime": f"{runtime.name} {runtime.version}",
            "threads": str(self.exporter.threads),
            "inputs": shapes,
        }

    def learn(self, seed: int = 0) -> tuple[Latency, list[Observation]]:
        """Observe the plans of the design, and fit what is foreseen of all others to them."""
        designed = list(self.kernels.design(seed))
        seen = []
        for number, kernels in enumerate(designed):
            self.exporter.workspace.progress("time kernels", number, len(designed))
            seen.append(self.observe(kernels, whole=number < TIMED))
        return self.fitted(seen), seen

    def fitted(self, seen: list[Observation]) -> Latency:
        """Fit what is foreseen to what was seen."""
        prepared = self.exporter.prepared
        return Latency.fitted(self.kernels, borders(prepared.model, prepared.space.units), seen, self.about)

    def observe(self, kernels: Mapping[str, Option], *, whole: bool) -> Observation:
        """Return what is seen of one plan."""
        name = json.dumps({"kernels": {u: str(k) for u, k in kernels.items()}, "whole": whole, **self.about})

        def measure() -> dict[str, Any]:
            runtime = self.exporter.runtime
            assert isinstance(runtime, Profiler)
            with self.exporter.rough(self.plan(kernels)) as (path, _):
                steps = runtime.profile(path, self.exporter.feed, runs=RUNS, threads=self.exporter.threads)
                times = self.timed(path, PAIRS) if whole else None
            found = regions(steps, self.exporter.prepared.space.units)
            seconds = (times.a_median_s, times.b_median_s) if times else (None, None)
            return {"seconds": found.seconds, "steps": found.steps, "float_s": seconds[0], "whole_s": seconds[1]}

        told = self.keep(name, measure)
        return Observation(kernels, Regions(told["seconds"], told["steps"]), told["whole_s"], told["float_s"])

    def ratio(self, kernels: Mapping[str, Option], pairs: int) -> float:
        """Return how many times faster than float a plan is."""
        name = json.dumps({"ratio": {u: str(k) for u, k in kernels.items()}, "pairs": pairs, **self.about})

        def measure() -> dict[str, Any]:
            with self.exporter.rough(self.plan(kernels)) as (path, _):
                return {"ratio": self.timed(path, pairs).ratio}

        return float(self.keep(name, measure)["ratio"])

    def timed(self, path: Path, pairs: int) -> PairedTiming:
        """Time a file beside the float model, as both are deployed, in their runtime."""
        place, runtime, threads = self.exporter.workspace, self.exporter.runtime, self.exporter.threads
        after = runtime.session(path, mode="deployed", threads=threads)
        before = runtime.session(place.float_model, mode="deployed", threads=threads)
        feed = self.exporter.feed
        return paired(before.bind(feed), after.bind(feed), budget_s=0.0, min_pairs=pairs)

    def plan(self, kernels: Mapping[str, Option]) -> Plan:
        """Return the plan that shows units on kernels, every other one as it is in the empty plan."""
        return replace(self.empty, choices={**self.empty.choices, **self.kernels.shown(kernels)})
