"""AIMET's automatic mixed precision on one model: run by an interpreter that has aimet-onnx, and needs nothing of here.

    python aimet_amp.py order MODEL SAMPLES ORDER         search, and write what gets fewer bits in which order
    python aimet_amp.py export MODEL SAMPLES BITS OUTPUT  write AIMET's own Q/DQ file of a point of that order

SAMPLES is an npz file with an array by each input, BITS a JSON file with the bits of each weight. ORDER tells in JSON
which weights start at 8 bits, the steps in their order with weights, bits and dB, and the seconds of processors that it
took.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

BITS = (8, 4, 2)
_BATCH = 32

Feed = dict[str, np.ndarray]


class Batches:
    """Samples as AIMET reads them: 32 at a time, or as many as the model is fixed to without those left over."""

    def __init__(self, model: onnx.ModelProto, file: str) -> None:
        with np.load(file) as held:
            self._arrays = {name: held[name] for name in held.files}
        shapes = [value.type.tensor_type.shape for value in model.graph.input if value.name in self._arrays]
        fixed = [shape.dim[0].dim_value for shape in shapes if shape.dim and shape.dim[0].dim_value]
        count = min(map(len, self._arrays.values()))
        self.batch_size = min([count, *(fixed or [_BATCH])])
        self.samples = count - count % self.batch_size if fixed else count

    def __iter__(self) -> Iterator[Feed]:
        """Yield feeds."""
        for start in range(0, self.samples, self.batch_size):
            yield {name: array[start : start + self.batch_size] for name, array in self._arrays.items()}


def simulated(model: onnx.ModelProto) -> Any:
    """Return AIMET's simulation with 8 bits throughout, as AIMET makes it when told nothing else."""
    aimet = import_module("aimet_onnx")
    return aimet.QuantizationSimModel(
        model, param_type=aimet.int8, activation_type=aimet.int8, providers=["CPUExecutionProvider"]
    )


def order(model: str, samples: str, output: str) -> None:
    """Search with AIMET's own SQNR on all samples, without an end, and write the order."""
    evaluation = import_module("aimet_onnx.amp.mixed_precision_algo").EvalCallbackFactory
    named = import_module("aimet_onnx.common.defs")
    choose = import_module("aimet_onnx.mixed_precision").choose_mixed_precision
    loaded = onnx.load(model)
    feeds = Batches(loaded, samples)
    integer = named.QuantizationDataType.int
    candidates = [((8, integer), (bits, integer)) for bits in BITS]  # of activations, of weights
    calibrate = named.CallbackFunc(lambda session, _=None: [session.run(None, feed) for feed in feeds])
    began = time.process_time()
    sim = simulated(loaded)
    sim.compute_encodings(list(feeds))
    score = evaluation(feeds, outputs).sqnr(sim, feeds.samples)
    with tempfile.TemporaryDirectory() as folder:
        # No loss of accuracy ends the search, since what a file may take is what decides: the order has every point.
        choose(sim, candidates, score, score, None, folder, True, calibrate, use_all_amp_candidates=True)
        taken = time.process_time() - began
        listed = json.loads((Path(folder) / ".cache" / "accuracy_list.json").read_text("utf-8"))
    steps = [
        {
            "weights": [name for kind, name in group if kind == "weight"],
            "bits": bits_of(candidate),
            "decibels": decibels,
        }
        for group, candidate, decibels, _ in listed
    ]
    first = sorted({name for step in steps for name in step["weights"]})
    told = {"version": version("aimet-onnx"), "cpu_s": taken, "first": first, "steps": steps}
    Path(output).write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def export(model: str, samples: str, bits: str, output: str) -> None:
    """Write the file that AIMET makes of a point."""
    loaded = onnx.load(model)
    sim = simulated(loaded)
    for name, width in json.loads(Path(bits).read_text("utf-8")).items():
        sim.qc_quantize_op_dict[name].set_bitwidth(width)
    sim.compute_encodings(list(Batches(loaded, samples)))
    onnx.save(sim.to_onnx_qdq(prequantize_constants=True), output)


def outputs(session: Any, feed: Feed) -> np.ndarray:
    """Return all outputs as one array, which is what AIMET compares."""
    return np.concatenate([np.asarray(part, np.float32).ravel() for part in session.run(None, feed)])


def bits_of(candidate: str) -> int:
    """Read the bits of weights where AIMET tells a candidate as text.

    >>> bits_of("((8, <QuantizationDataType.int: 1>), (4, <QuantizationDataType.int: 1>))")
    4
    """
    return int(candidate.split("(")[-1].split(",")[0])


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):  # onnxruntime makes one thread then: its seconds are work and no waiting
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    command, *arguments = sys.argv[1:]
    (order if command == "order" else export)(*arguments)
