"""What results in a store depend on, each part under its name: a run shares a store only with one of the same."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from onnxmpq.lower.calibrated import Calibrated
from onnxmpq.metrics.losses import Head
from onnxmpq.options import MeasureOptions
from onnxmpq.runtimes.devices import Device
from onnxmpq.sensitivity.batches import Layout
from onnxmpq.sensitivity.stored.keys import function_name
from onnxmpq.version import __version__
from onnxmpq.workspace.workspace import Workspace


def identity_of(
    workspace: Workspace,
    calibrated: Calibrated,
    layout: Layout,
    heads: Sequence[Head],
    options: MeasureOptions,
    device: Device,
) -> dict[str, str]:
    """Return the identity of results that are measured with all of these."""
    prepared, reference = workspace.prepared, workspace.reference
    samples = f"{workspace.samples.sha256}:{layout.given}"
    made_of = [prepared.source.sha256, *prepared.passes]
    if prepared.smoothed:
        made_of.append(f"smoothed {prepared.smoothed}")  # which stands for how it was done
    ranges = {name: value for name, value in asdict(calibrated.numbers).items() if name != "smooth"}
    blends = layout.samples - layout.plain * layout.rows
    return {
        "model": ", ".join(made_of),
        "samples": hashlib.sha256(samples.encode()).hexdigest(),
        "blends": str(blends),
        "batch size": f"{layout.size}, {layout.first} first, {layout.together} together",
        "target": hashlib.sha256(repr(calibrated.target).encode()).hexdigest(),
        "ranges": json.dumps(ranges, sort_keys=True),
        "loss": json.dumps([asdict(head) for head in heads], sort_keys=True) + function_name(options.function),
        "runtime": f"{reference.name} {reference.version}, {options.threads} threads{device.identity}",
        "engine": f"{__version__}, seed {options.seed}",
    }
