"""Run models in onnxruntime as it is set up by default, on whatever processor this is: alone.py FOLDER.

For every NAME.onnx in the folder, NAME.npz has its inputs and NAME.out.npz is written. It needs numpy and onnxruntime
and nothing else, so that it runs where onnxmpq is not installed: under emulators, or on a device.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np


def run_all(folder: Path) -> None:
    """Run every model on each of its samples."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    for path in sorted(folder.glob("*.onnx")):
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        with np.load(path.with_suffix(".npz")) as given:
            feeds = {name: given[name] for name in given.files}
        count = len(next(iter(feeds.values())))
        found = [session.run(None, {name: array[i : i + 1] for name, array in feeds.items()})[0] for i in range(count)]
        np.savez(path.with_suffix(".out.npz"), outputs=np.concatenate([np.asarray(each) for each in found]))


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
